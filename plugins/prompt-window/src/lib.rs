//! `prompt-window`: a prompt hook that drops retrieved context, chunk by chunk,
//! until prompt and answer fit the context of the model.
//!
//! This file is the glue between the WIT interfaces and the logic in `window`.
//! It does not retrieve anything, and it does not rank: the client (or a request
//! hook before it) puts the best chunk first.
//!
//! **Why it listens to the request too.** Everything in a prompt that a prompt
//! hook replaces is parsed for control tokens, while the worker does not parse
//! them in a client's text. So replacing a prompt that quotes a client would let
//! that client write control tokens. The prompt alone does not show which text is
//! whose; the request does.

mod config;
mod window;

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
            package llamero:prompt-window;
            world plugin {
                import llamero:hooks/call@0.1.0;
                import llamero:hooks/config@0.1.0;
                import llamero:hooks/log@0.1.0;
                import llamero:hooks/tokenizer@0.1.0;
                export llamero:hooks/lifecycle@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
                export llamero:hooks/prompt-hook@0.1.0;
            }
        ",
        generate_all,
    });

    use super::Plugin;
    export!(Plugin);
}

use std::sync::{Mutex, OnceLock, PoisonError};

use bindings::exports::llamero::hooks::{lifecycle, prompt_hook, request_hook};
use bindings::llamero::hooks::types::{
    CallContext, Content, HookError, OptionValue, Rejection, Request,
};
use bindings::llamero::hooks::{call, config as host_config, log, tokenizer};

use config::{Config, OnControlText};
use window::{Client, Outcome, Situation, Tokens};

/// The plugin; its state is in the statics below, because an instance serves one
/// job.
struct Plugin;

static CONFIG: OnceLock<Result<Config, String>> = OnceLock::new();

/// What the request phase leaves for the prompt phase.
static JOB: Mutex<Option<Job>> = Mutex::new(None);

/// What has to be known of the request once its prompt is there.
struct Job {
    /// The texts of a chat's messages; empty for a completion.
    messages: Vec<String>,
    /// The option `max_tokens`.
    max_tokens: Option<u32>,
    /// The option `parse_special`.
    parse_special: bool,
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

    fn self_test() -> Result<(), String> {
        window::self_test(config()?)
    }
}

impl request_hook::Guest for Plugin {
    /// Always passes; it only takes notes.
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        let job = Job {
            messages: match request.content {
                Content::Completion(_) => Vec::new(),
                Content::Chat(messages) => {
                    messages.into_iter().map(|message| message.content).collect()
                }
            },
            max_tokens: option(&request.options, "max_tokens")
                .and_then(|value| value.as_f64())
                .filter(|tokens| *tokens >= 1.0)
                // Saturates, which is what "more than fits" should do.
                .map(|tokens| tokens as u32),
            parse_special: option(&request.options, "parse_special")
                .is_some_and(|value| value == serde_json::Value::Bool(true)),
        };
        *JOB.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        Ok(request_hook::Verdict::Pass)
    }
}

impl prompt_hook::Guest for Plugin {
    fn on_prompt(
        _context: CallContext,
        prompt: prompt_hook::Prompt,
    ) -> Result<prompt_hook::Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let job = JOB.lock().unwrap_or_else(PoisonError::into_inner);
        let situation = Situation {
            text: &prompt.text,
            tokens: prompt.tokens,
            context_length: prompt.context_length,
            max_tokens: job.as_ref().and_then(|job| job.max_tokens),
            client: match (&*job, &prompt.template) {
                (Some(job), None) if job.parse_special => Client::MayControl,
                (_, None) => Client::WholePrompt,
                (Some(job), Some(_)) => Client::Texts(&job.messages),
                (None, Some(_)) => Client::Unknown,
            },
        };
        let model = ModelTokens(call::model());
        match window::fit(config, situation, &model).map_err(HookError::Internal)? {
            Outcome::Fits => Ok(prompt_hook::Verdict::Pass),
            Outcome::Shortened { text, dropped, chunks } => {
                call::note("dropped", &format!("{dropped} of {chunks} chunks"));
                Ok(prompt_hook::Verdict::Replace(text))
            }
            Outcome::ControlText => Ok(control_text(config)),
        }
    }
}

/// The verdict on a prompt that must not be shortened.
fn control_text(config: &Config) -> prompt_hook::Verdict {
    match config.on_control_text {
        OnControlText::Pass => {
            let message = "context not shortened: the request has text that looks like \
                           control tokens";
            log::write(log::Level::Warn, message, &[]);
            prompt_hook::Verdict::Pass
        }
        OnControlText::Reject => prompt_hook::Verdict::Reject(Rejection {
            code: None,
            reason: "the context is too long, and cannot be shortened because the request has \
                     text that looks like control tokens: remove that text or shorten the context"
                .to_owned(),
        }),
    }
}

/// An option's value. One that is not JSON cannot come from a worker.
fn option(options: &[OptionValue], name: &str) -> Option<serde_json::Value> {
    let option = options.iter().find(|option| option.name == name)?;
    serde_json::from_str(&option.json).ok()
}

/// The tokenizer of one model.
struct ModelTokens(String);

impl Tokens for ModelTokens {
    fn count(&self, text: &str) -> Result<u32, String> {
        tokenizer::count(&self.0, text).map_err(describe)
    }

    fn has_control(&self, text: &str) -> Result<bool, String> {
        let plain = tokenizer::encode(&self.0, text, false).map_err(describe)?;
        let parsed = tokenizer::encode(&self.0, text, true).map_err(describe)?;
        Ok(plain != parsed)
    }
}

/// A tokenizer's error as text for the operator's log.
fn describe(error: tokenizer::Error) -> String {
    match error {
        tokenizer::Error::UnknownModel(name) => format!("tokenizer: no model {name:?}"),
        tokenizer::Error::TooLarge(limit) => {
            format!("tokenizer: more in one call than allowed ({limit})")
        }
        tokenizer::Error::Other(text) => format!("tokenizer: {text}"),
    }
}
