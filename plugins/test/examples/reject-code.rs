//! `[[reject-code]]`: rejected with code 1001 and the text `no`;
//! `[[reject-code:CODE]]`: with that code.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::types::Rejection;

struct RejectCode;

impl Guest for RejectCode {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(argument) = test_plugins::argument(&request.content, "reject-code") else {
            return Ok(Verdict::Pass);
        };
        Ok(Verdict::Reject(Rejection {
            code: Some(argument.parse().unwrap_or(1001)),
            reason: "no".to_owned(),
        }))
    }
}

test_plugins::export!(request_plugin: RejectCode);
