//! `redact`: a guardrail that masks e-mail addresses, phone numbers and payment
//! card numbers, in the request before the model sees it and in the generated text
//! before the client does.
//!
//! This file is the glue between the WIT interfaces and the logic: it reads the
//! configuration once per instance and hands texts to `redact` and `output`. What
//! counts as an address or a number is decided in `detect`, what the operator may
//! choose in `config`.

mod config;
mod detect;
mod output;
mod redact;

#[allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package llamero:redact;
            world plugin {
                import llamero:hooks/call@0.1.0;
                import llamero:hooks/config@0.1.0;
                export llamero:hooks/lifecycle@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
                export llamero:hooks/response-hook@0.1.0;
                export llamero:hooks/stream-filter@0.1.0;
            }
        ",
        generate_all,
    });

    use super::Plugin;
    export!(Plugin);
}

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bindings::exports::llamero::hooks::{lifecycle, request_hook, response_hook, stream_filter};
use bindings::llamero::hooks::types::{
    CallContext, Content, HookError, OptionValue, Request, Role,
};
use bindings::llamero::hooks::{call, config as host_config};
use request_hook::{Patch, Verdict};

use config::Config;
use output::{MAX_HOLD, Output, Step};
use redact::{Counts, redact_parts, redact_text};

/// The plugin; its state is the configuration and the output of the one job that
/// an instance serves.
struct Plugin;

static CONFIG: OnceLock<Result<Config, String>> = OnceLock::new();
static OUTPUT: Mutex<Option<Output>> = Mutex::new(None);

fn output() -> MutexGuard<'static, Option<Output>> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The configuration, parsed at the first use: the worker calls `configure`
/// before any request, but nothing here relies on it.
fn config() -> Result<&'static Config, String> {
    CONFIG.get_or_init(|| Config::parse(&host_config::document())).as_ref().map_err(String::clone)
}

impl lifecycle::Guest for Plugin {
    fn describe() -> lifecycle::PluginInfo {
        lifecycle::PluginInfo {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: env!("CARGO_PKG_DESCRIPTION").to_owned(),
            config_schema: Some(config::SCHEMA.to_owned()),
        }
    }

    fn configure() -> Result<(), String> {
        config().map(|_| ())
    }

    /// One known text through the configured masks: a build whose detectors do
    /// nothing must not take traffic.
    fn self_test() -> Result<(), String> {
        redact::self_test(config()?)
    }
}

impl request_hook::Guest for Plugin {
    fn on_request(_context: CallContext, mut request: Request) -> Result<Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let mut counts = Counts::default();

        match &mut request.content {
            Content::Completion(completion) => {
                if config.system {
                    redact_text(config, &mut completion.system, &mut counts);
                }
                let separator = input_separator(&request.options);
                redact_parts(config, &mut completion.input, &separator, &mut counts);
            }
            Content::Chat(messages) => {
                for message in messages {
                    if config.system || !matches!(message.role, Role::System) {
                        redact_text(config, &mut message.content, &mut counts);
                    }
                }
            }
        }
        let content_changed = counts.total() > 0;

        let mut options = Vec::new();
        if config.system {
            options.extend(redact_instructions(config, &request.options, &mut counts));
        }

        if counts.total() == 0 {
            return Ok(Verdict::Pass);
        }
        // The log line of the job then shows how much was masked, never what.
        call::note("masked", &counts.to_string());
        Ok(Verdict::Patch(Patch {
            model: None,
            content: content_changed.then_some(request.content),
            options,
        }))
    }
}

impl stream_filter::Guest for Plugin {
    fn open(_context: CallContext) -> Result<Option<stream_filter::Plan>, HookError> {
        let config = config().map_err(HookError::Config)?;
        if !config.output {
            return Ok(None);
        }
        *output() = Some(Output::default());
        Ok(Some(stream_filter::Plan {
            granularity: stream_filter::Granularity::Token,
            max_hold_bytes: u32::try_from(MAX_HOLD).unwrap_or(u32::MAX),
            wants_tokens: false,
        }))
    }

    fn push(chunk: stream_filter::Chunk) -> Result<stream_filter::Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let mut output = output();
        let output = output.as_mut().ok_or_else(not_open)?;
        check_held(output, chunk.held_bytes)?;
        Ok(match output.push(config, &chunk.text) {
            Step::Pass => stream_filter::Verdict::Pass,
            Step::Hold => stream_filter::Verdict::Hold,
            Step::Release(bytes) => {
                stream_filter::Verdict::Release(u32::try_from(bytes).unwrap_or(u32::MAX))
            }
            Step::Rewrite(emit, hold) => {
                stream_filter::Verdict::Rewrite(stream_filter::Rewrite { emit, hold })
            }
        })
    }

    fn close(ending: stream_filter::Ending) -> Result<stream_filter::Tail, HookError> {
        let config = config().map_err(HookError::Config)?;
        let mut output = output().take().ok_or_else(not_open)?;
        check_held(&output, ending.held_bytes)?;
        let tail = match output.close(config) {
            Some(text) => stream_filter::Tail::Replace(text),
            None => stream_filter::Tail::Release,
        };
        note_output(output.counts);
        Ok(tail)
    }
}

impl response_hook::Guest for Plugin {
    fn on_response(
        _context: CallContext,
        mut response: response_hook::Response,
    ) -> Result<response_hook::Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        if !config.output {
            return Ok(response_hook::Verdict::Pass);
        }
        let mut counts = Counts::default();
        redact_text(config, &mut response.text, &mut counts);
        note_output(counts);
        Ok(if counts.total() == 0 {
            response_hook::Verdict::Pass
        } else {
            response_hook::Verdict::Replace(response.text)
        })
    }
}

/// The log line of the job then shows how much was masked, never what.
fn note_output(counts: Counts) {
    if counts.total() > 0 {
        call::note("masked-output", &counts.to_string());
    }
}

fn not_open() -> HookError {
    HookError::Internal("redact: a chunk of an output that was never opened".to_owned())
}

/// The worker owns the text that is held, and this plugin reads it from its own
/// copy: if the two were not the same, a match could slip through between them.
fn check_held(output: &Output, held: u32) -> Result<(), HookError> {
    if usize::try_from(held) == Ok(output.held()) {
        return Ok(());
    }
    Err(HookError::Internal(format!(
        "redact: the worker holds {held} bytes, this plugin {}",
        output.held()
    )))
}

/// What the worker will put between the elements of `input`; nothing, unless the
/// client asked for something.
fn input_separator(options: &[OptionValue]) -> String {
    option_text(options, "input_separator").unwrap_or_default()
}

/// The option `instructions` is prompt text as `system` is, so it is masked
/// together with it.
fn redact_instructions(
    config: &Config,
    options: &[OptionValue],
    counts: &mut Counts,
) -> Option<OptionValue> {
    let mut text = option_text(options, "instructions")?;
    let before = counts.total();
    redact_text(config, &mut text, counts);
    (counts.total() > before).then(|| OptionValue {
        name: "instructions".to_owned(),
        json: serde_json::Value::String(text).to_string(),
    })
}

/// An option that is a JSON string. Another type is the client's mistake, and
/// the worker says so to the client; here it is as good as absent.
fn option_text(options: &[OptionValue], name: &str) -> Option<String> {
    let option = options.iter().find(|option| option.name == name)?;
    serde_json::from_str(&option.json).ok()
}
