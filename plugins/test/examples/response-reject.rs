//! `[[response-reject]]`: rejects the answer with code 1004.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Rejection, Request};
use test_plugins::response::exports::llamero::hooks::response_hook::{Response, Verdict};
use test_plugins::response::exports::llamero::hooks::{request_hook, response_hook};

struct ResponseReject;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for ResponseReject {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "response-reject");
        Ok(request_hook::Verdict::Pass)
    }
}

impl response_hook::Guest for ResponseReject {
    fn on_response(_context: CallContext, response: Response) -> Result<Verdict, HookError> {
        if ASKED.argument().is_none() {
            return Ok(Verdict::Pass);
        }
        Ok(Verdict::Reject(Rejection {
            code: Some(1004),
            reason: format!("{} tokens of no use", response.usage.completion_tokens),
        }))
    }
}

test_plugins::export!(response_plugin: ResponseReject);
