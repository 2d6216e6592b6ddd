//! `[[loop]]`: works for ever, without a call that the host could refuse.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct Loop;

impl Guest for Loop {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let mut rounds: u64 = 0;
        while test_plugins::asked_for(&request.content, "loop") {
            // The optimiser must not find out that the condition never changes.
            rounds = std::hint::black_box(rounds.wrapping_add(1));
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: Loop);
