//! `[[slow-host-call]]`: waits in a host call for an hour.

use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::wasi::exports::llamero::hooks::request_hook::{Guest, Verdict};
use test_plugins::wasi::wasi::clocks::monotonic_clock::subscribe_duration;

struct SlowHostCall;

impl Guest for SlowHostCall {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if test_plugins::asked_for(&request.content, "slow-host-call") {
            subscribe_duration(3600 * 1_000_000_000).block();
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(wasi_plugin: SlowHostCall);
