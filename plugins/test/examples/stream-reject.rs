//! `[[stream-reject]]`: lets two pushes pass and rejects the output with code 1003 at
//! the third one; `[[stream-reject:N]]`: at the N-th.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Rejection, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};

struct StreamReject;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamReject {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-reject");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamReject {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(chunk: Chunk) -> Result<Verdict, HookError> {
        let last = ASKED.argument().and_then(|argument| argument.parse().ok()).unwrap_or(3);
        if chunk.seq + 1 < last {
            return Ok(Verdict::Pass);
        }
        Ok(Verdict::Reject(Rejection { code: Some(1003), reason: "not that".to_owned() }))
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(Tail::Release)
    }
}

test_plugins::export!(stream_plugin: StreamReject);
