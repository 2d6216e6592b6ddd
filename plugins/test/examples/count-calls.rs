//! `[[count-calls]]`: answers with how many calls this instance has had. It must
//! always be 1: an instance that served two jobs could show one the other's data.

use std::sync::atomic::{AtomicU32, Ordering};
use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

static CALLS: AtomicU32 = AtomicU32::new(0);

struct CountCalls;

impl Guest for CountCalls {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        if test_plugins::asked_for(&request.content, "count-calls") {
            return Ok(Verdict::Respond(calls.to_string()));
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: CountCalls);
