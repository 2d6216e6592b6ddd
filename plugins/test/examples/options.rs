//! `[[options]]`: sets `max_tokens` to 8 and `json_schema` to one of a boolean;
//! `[[options:{"NAME": VALUE}]]`: sets those options.

use test_plugins::request::exports::llamero::hooks::request_hook::Patch;
use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::types::OptionValue;

struct Options;

impl Guest for Options {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(argument) = test_plugins::argument(&request.content, "options") else {
            return Ok(Verdict::Pass);
        };
        let wanted = match argument.as_str() {
            "" => r#"{"max_tokens": 8, "json_schema": {"type": "boolean"}}"#,
            given => given,
        };
        let wanted: serde_json::Map<String, serde_json::Value> = serde_json::from_str(wanted)
            .map_err(|error| HookError::Internal(format!("[[options:...]]: {error}")))?;
        Ok(Verdict::Patch(Patch {
            model: None,
            content: None,
            options: wanted
                .into_iter()
                .map(|(name, value)| OptionValue { name, json: value.to_string() })
                .collect(),
        }))
    }
}

test_plugins::export!(request_plugin: Options);
