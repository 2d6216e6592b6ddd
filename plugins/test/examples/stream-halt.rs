//! `[[stream-halt]]`: ends the output with `[stopped]` at the third push;
//! `[[stream-halt:N]]`: at the N-th.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Halt, Plan, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};

struct StreamHalt;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamHalt {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-halt");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamHalt {
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
        Ok(Verdict::Halt(Halt { text: "[stopped]".to_owned(), reason: "enough".to_owned() }))
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(Tail::Release)
    }
}

test_plugins::export!(stream_plugin: StreamHalt);
