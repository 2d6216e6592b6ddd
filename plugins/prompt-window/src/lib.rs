//! `prompt-window`: a prompt hook that drops retrieved context, chunk by chunk,
//! until prompt and answer fit the context of the model.
//!
//! This file is the glue between the WIT interfaces and the logic in `window`.
//! It does not retrieve anything, and it does not rank: the client (or a request
//! hook before it) puts the best chunk first.
//!
//! It listens to the request as well, for the one number that a prompt does not
//! show: how long the answer may become.

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

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use bindings::exports::llamero::hooks::{lifecycle, prompt_hook, request_hook};
use bindings::llamero::hooks::types::{CallContext, HookError, OptionValue, Request};
use bindings::llamero::hooks::{call, config as host_config, tokenizer};

use config::Config;
use window::{Outcome, Situation};

/// The plugin; its state is in the statics below, because an instance serves one
/// job.
struct Plugin;

static CONFIG: OnceLock<Result<Config, String>> = OnceLock::new();

/// The option `max_tokens`, which the request phase leaves for the prompt phase.
static MAX_TOKENS: Mutex<Option<u32>> = Mutex::new(None);

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
    /// Always passes; it only takes a note.
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        let max_tokens = option(&request.options, "max_tokens")
            .and_then(|value| value.as_f64())
            .filter(|tokens| *tokens >= 1.0)
            // Saturates, which is what "more than fits" should do.
            .map(|tokens| tokens as u32);
        *MAX_TOKENS.lock().unwrap_or_else(PoisonError::into_inner) = max_tokens;
        Ok(request_hook::Verdict::Pass)
    }
}

impl prompt_hook::Guest for Plugin {
    fn on_prompt(
        _context: CallContext,
        prompt: prompt_hook::Prompt,
    ) -> Result<prompt_hook::Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let markup: Vec<Range<usize>> =
            prompt.markup.iter().map(|span| span.start as usize..span.end as usize).collect();
        let situation = Situation {
            text: &prompt.text,
            markup: &markup,
            tokens: prompt.tokens,
            context_length: prompt.context_length,
            max_tokens: *MAX_TOKENS.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let model = call::model();
        let count = |text: &str| tokenizer::count(&model, text).map_err(describe);
        match window::fit(config, situation, &count).map_err(HookError::Internal)? {
            Outcome::Fits => Ok(prompt_hook::Verdict::Pass),
            Outcome::Shortened { text, markup, dropped, chunks } => {
                call::note("dropped", &format!("{dropped} of {chunks} chunks"));
                // No larger than they were.
                let span = |span: Range<usize>| prompt_hook::Span {
                    start: span.start as u32,
                    end: span.end as u32,
                };
                let markup = markup.into_iter().map(span).collect();
                Ok(prompt_hook::Verdict::Replace(prompt_hook::Replacement { text, markup }))
            }
        }
    }
}

/// An option's value. One that is not JSON cannot come from a worker.
fn option(options: &[OptionValue], name: &str) -> Option<serde_json::Value> {
    let option = options.iter().find(|option| option.name == name)?;
    serde_json::from_str(&option.json).ok()
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
