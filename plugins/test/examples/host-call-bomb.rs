//! `[[host-call-bomb]]`: hands 16 MiB to the host in one call.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::log;

struct HostCallBomb;

impl Guest for HostCallBomb {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if test_plugins::asked_for(&request.content, "host-call-bomb") {
            log::write(log::Level::Warn, &"x".repeat(16 << 20), &[]);
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: HostCallBomb);
