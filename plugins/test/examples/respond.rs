//! `[[respond]]`: the answer `canned answer`; `[[respond:TEXT]]`: that text.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct Respond;

impl Guest for Respond {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        match test_plugins::argument(&request.content, "respond") {
            None => Ok(Verdict::Pass),
            Some(text) if text.is_empty() => Ok(Verdict::Respond("canned answer".to_owned())),
            Some(text) => Ok(Verdict::Respond(text)),
        }
    }
}

test_plugins::export!(request_plugin: Respond);
