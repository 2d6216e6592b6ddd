//! `[[set-model:NAME]]`: lets the model NAME answer.

use test_plugins::request::exports::llamero::hooks::request_hook::Patch;
use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct SetModel;

impl Guest for SetModel {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        match test_plugins::argument(&request.content, "set-model") {
            None => Ok(Verdict::Pass),
            model => Ok(Verdict::Patch(Patch { model, content: None, options: Vec::new() })),
        }
    }
}

test_plugins::export!(request_plugin: SetModel);
