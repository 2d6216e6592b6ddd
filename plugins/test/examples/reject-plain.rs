//! `[[reject-plain]]`: rejected without a code, with the text `not like this`.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::types::Rejection;

struct RejectPlain;

impl Guest for RejectPlain {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if !test_plugins::asked_for(&request.content, "reject-plain") {
            return Ok(Verdict::Pass);
        }
        Ok(Verdict::Reject(Rejection { code: None, reason: "not like this".to_owned() }))
    }
}

test_plugins::export!(request_plugin: RejectPlain);
