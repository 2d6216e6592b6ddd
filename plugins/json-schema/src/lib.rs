//! `json-schema`: a guardrail that makes chosen models answer by a JSON Schema of
//! the operator's, and turns an answer that was cut off into an error.
//!
//! This file is the glue between the WIT interfaces and the logic: which schema a
//! request gets is decided in `config`, what is a complete answer in `check`. A
//! client that sends a schema or a grammar of its own keeps it, and its answer is
//! not looked at.

mod check;
mod config;

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
            package llamero:json-schema;
            world plugin {
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
use bindings::llamero::hooks::config as host_config;
use bindings::llamero::hooks::types::{
    CallContext, FinishReason, HookError, OptionValue, Rejection, Request,
};

use check::{Answer, End};
use config::Config;

/// This plugin's own error code: the answer cannot be used.
const NOT_JSON: u32 = 1422;

/// The plugin; its state is the configuration and, when it has set the schema of
/// the one job that an instance serves, that job's answer.
struct Plugin;

static CONFIG: OnceLock<Result<Config, String>> = OnceLock::new();
static ANSWER: Mutex<Option<Answer>> = Mutex::new(None);

fn answer() -> MutexGuard<'static, Option<Answer>> {
    ANSWER.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A build that takes half a value for a whole one must not take traffic.
    fn self_test() -> Result<(), String> {
        config()?;
        match (check::problem("{\"a\": 1}", End::Other), check::problem("{\"a\": ", End::Other)) {
            (None, Some(_)) => Ok(()),
            other => Err(format!("json-schema: self-test failed: {other:?}")),
        }
    }
}

impl request_hook::Guest for Plugin {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let Some(schema) = config.schema_for(&request.model) else {
            return Ok(request_hook::Verdict::Pass);
        };
        if request.options.iter().any(is_own_constraint) {
            return Ok(request_hook::Verdict::Pass);
        }
        let json = serde_json::to_string(schema)
            .map_err(|error| HookError::Internal(format!("json-schema: {error}")))?;
        if config.check {
            *answer() = Some(Answer::default());
        }
        Ok(request_hook::Verdict::Patch(request_hook::Patch {
            model: None,
            content: None,
            options: vec![OptionValue { name: "json_schema".to_owned(), json }],
        }))
    }
}

/// Whether the client constrains the answer itself.
fn is_own_constraint(option: &OptionValue) -> bool {
    matches!(option.name.as_str(), "json_schema" | "grammar") && option.json.trim() != "null"
}

/// Lets every chunk pass as it comes; only the end of an incomplete answer becomes
/// an error.
impl stream_filter::Guest for Plugin {
    fn open(_context: CallContext) -> Result<Option<stream_filter::Plan>, HookError> {
        Ok(answer().is_some().then_some(stream_filter::Plan {
            granularity: stream_filter::Granularity::Token,
            max_hold_bytes: 0,
            wants_tokens: false,
        }))
    }

    fn push(chunk: stream_filter::Chunk) -> Result<stream_filter::Verdict, HookError> {
        if let Some(answer) = answer().as_mut() {
            answer.push(&chunk.text).map_err(HookError::Internal)?;
        }
        Ok(stream_filter::Verdict::Pass)
    }

    fn close(ending: stream_filter::Ending) -> Result<stream_filter::Tail, HookError> {
        let problem = answer().take().and_then(|answer| answer.problem(end(&ending.finish)));
        Ok(match problem {
            None => stream_filter::Tail::Release,
            Some(reason) => stream_filter::Tail::Reject(rejection(reason)),
        })
    }
}

impl response_hook::Guest for Plugin {
    fn on_response(
        _context: CallContext,
        response: response_hook::Response,
    ) -> Result<response_hook::Verdict, HookError> {
        if answer().take().is_none() {
            return Ok(response_hook::Verdict::Pass);
        }
        Ok(match check::problem(&response.text, end(&response.finish)) {
            None => response_hook::Verdict::Pass,
            Some(reason) => response_hook::Verdict::Reject(rejection(reason)),
        })
    }
}

fn end(finish: &FinishReason) -> End {
    match finish {
        FinishReason::Length => End::Length,
        FinishReason::Filtered(_) | FinishReason::Cancelled => End::Stopped,
        FinishReason::Stop | FinishReason::Other(_) => End::Other,
    }
}

fn rejection(reason: &str) -> Rejection {
    Rejection { code: Some(NOT_JSON), reason: reason.to_owned() }
}
