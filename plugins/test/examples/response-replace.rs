//! `[[response-replace]]`: puts the answer in brackets; `[[response-replace:TEXT]]`:
//! puts TEXT in its place.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::response::exports::llamero::hooks::response_hook::{Response, Verdict};
use test_plugins::response::exports::llamero::hooks::{request_hook, response_hook};

struct ResponseReplace;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for ResponseReplace {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "response-replace");
        Ok(request_hook::Verdict::Pass)
    }
}

impl response_hook::Guest for ResponseReplace {
    fn on_response(_context: CallContext, response: Response) -> Result<Verdict, HookError> {
        Ok(match ASKED.argument() {
            None => Verdict::Pass,
            Some(text) if text.is_empty() => Verdict::Replace(format!("[{}]", response.text)),
            Some(text) => Verdict::Replace(text),
        })
    }
}

test_plugins::export!(response_plugin: ResponseReplace);
