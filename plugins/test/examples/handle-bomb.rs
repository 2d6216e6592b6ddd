//! `[[handle-bomb]]`: takes 5,000 handles of the host and gives none of them back.

use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::wasi::exports::llamero::hooks::request_hook::{Guest, Verdict};
use test_plugins::wasi::wasi::clocks::monotonic_clock::subscribe_duration;

struct HandleBomb;

impl Guest for HandleBomb {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if test_plugins::asked_for(&request.content, "handle-bomb") {
            for _ in 0..5_000 {
                std::mem::forget(subscribe_duration(0));
            }
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(wasi_plugin: HandleBomb);
