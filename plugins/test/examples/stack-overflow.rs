//! `[[stack-overflow]]`: recursion without an end.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct StackOverflow;

impl Guest for StackOverflow {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if test_plugins::asked_for(&request.content, "stack-overflow") {
            std::hint::black_box(descend(0));
        }
        Ok(Verdict::Pass)
    }
}

/// The black box keeps the optimiser from turning the recursion into a loop.
#[allow(unconditional_recursion, reason = "recursing is what this plugin is for")]
fn descend(depth: u32) -> u32 {
    std::hint::black_box(descend(depth.wrapping_add(1))).wrapping_mul(3)
}

test_plugins::export!(request_plugin: StackOverflow);
