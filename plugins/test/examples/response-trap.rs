//! `[[response-trap]]`: panics when it sees the answer.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::response::exports::llamero::hooks::response_hook::{Response, Verdict};
use test_plugins::response::exports::llamero::hooks::{request_hook, response_hook};

struct ResponseTrap;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for ResponseTrap {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "response-trap");
        Ok(request_hook::Verdict::Pass)
    }
}

impl response_hook::Guest for ResponseTrap {
    #[allow(clippy::panic, reason = "panicking is what this plugin is for")]
    fn on_response(_context: CallContext, _response: Response) -> Result<Verdict, HookError> {
        if ASKED.argument().is_some() {
            panic!("asked to trap");
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(response_plugin: ResponseTrap);
