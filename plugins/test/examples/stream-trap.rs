//! `[[stream-trap]]`: lets the first push pass, holds what follows, and panics at the
//! third push, or at the one that the configuration says: `{"at": N}`;
//! `[[stream-trap:N]]`: at the N-th; `[[stream-trap:close]]`: at the end.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};
use test_plugins::stream::llamero::hooks::config;

struct StreamTrap;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamTrap {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-trap");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamTrap {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    #[allow(clippy::panic, reason = "panicking is what this plugin is for")]
    fn push(chunk: Chunk) -> Result<Verdict, HookError> {
        let argument = ASKED.argument().unwrap_or_default();
        if argument != "close" && chunk.seq + 1 >= argument.parse().unwrap_or_else(|_| configured())
        {
            panic!("asked to trap");
        }
        Ok(if chunk.seq == 0 { Verdict::Pass } else { Verdict::Hold })
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        assert!(ASKED.argument().as_deref() != Some("close"), "asked to trap");
        Ok(Tail::Release)
    }
}

/// The push at which the operator wants it.
fn configured() -> u32 {
    config::get("/at").and_then(|json| json.parse().ok()).unwrap_or(3)
}

test_plugins::export!(stream_plugin: StreamTrap);
