//! `[[stream-hold]]`: holds everything until the end, and then lets it go;
//! `[[stream-hold:BYTES]]`: holds so many bytes of its own from the first push on, which
//! may be more than a host allows; `[[stream-hold:discard]]` and
//! `[[stream-hold:reject]]`: does that at the end, with code 1005.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Rejection, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Rewrite, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};

struct StreamHold;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamHold {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-hold");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamHold {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(chunk: Chunk) -> Result<Verdict, HookError> {
        match ASKED.argument().and_then(|argument| argument.parse().ok()) {
            Some(bytes) if chunk.seq == 0 => {
                Ok(Verdict::Rewrite(Rewrite { emit: String::new(), hold: "x".repeat(bytes) }))
            }
            _ => Ok(Verdict::Hold),
        }
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(match ASKED.argument().as_deref() {
            Some("discard") => Tail::Discard,
            Some("reject") => Tail::Reject(Rejection {
                code: Some(1005),
                reason: "the whole was not good".to_owned(),
            }),
            _ => Tail::Release,
        })
    }
}

test_plugins::export!(stream_plugin: StreamHold);
