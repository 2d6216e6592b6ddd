//! `[[stream-loop]]`: never comes back from its second push.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};

struct StreamLoop;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamLoop {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-loop");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamLoop {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(chunk: Chunk) -> Result<Verdict, HookError> {
        let mut rounds: u64 = 0;
        while chunk.seq >= 1 && ASKED.argument().is_some() {
            // The optimiser must not find out that the condition never changes.
            rounds = std::hint::black_box(rounds.wrapping_add(1));
        }
        Ok(Verdict::Pass)
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(Tail::Release)
    }
}

test_plugins::export!(stream_plugin: StreamLoop);
