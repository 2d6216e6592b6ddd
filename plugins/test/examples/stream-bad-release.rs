//! `[[stream-bad-release]]`: holds a text of two-byte characters and then releases one
//! byte of it; `[[stream-bad-release:beyond]]`: releases a byte more than there is.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Rewrite, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};

struct StreamBadRelease;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamBadRelease {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-bad-release");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamBadRelease {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(chunk: Chunk) -> Result<Verdict, HookError> {
        let there = chunk.held_bytes + u32::try_from(chunk.text.len()).unwrap_or(u32::MAX - 1);
        if ASKED.argument().as_deref() == Some("beyond") {
            return Ok(Verdict::Release(there + 1));
        }
        if chunk.seq == 0 {
            let hold = "é".repeat(4);
            return Ok(Verdict::Rewrite(Rewrite { emit: String::new(), hold }));
        }
        Ok(Verdict::Release(1))
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(Tail::Release)
    }
}

test_plugins::export!(stream_plugin: StreamBadRelease);
