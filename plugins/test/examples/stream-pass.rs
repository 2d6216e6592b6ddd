//! `[[stream-pass]]`: looks at every token of the output and lets it pass: the filter
//! that costs what any filter costs at least.

use bindings::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Tail, Verdict,
};
use bindings::exports::llamero::hooks::{request_hook, stream_filter};
use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};

struct StreamPass;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamPass {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-pass");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamPass {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(_chunk: Chunk) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(Tail::Release)
    }
}

test_plugins::plugin!(stream: StreamPass);
