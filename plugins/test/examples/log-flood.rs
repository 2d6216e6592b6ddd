//! `[[log-flood]]`: writes 10,000 log lines of 100 bytes, far more than a host lets
//! through, and passes.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::log;

struct LogFlood;

impl Guest for LogFlood {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if test_plugins::asked_for(&request.content, "log-flood") {
            for number in 0..10_000 {
                log::write(log::Level::Warn, &format!("{number:0100}"), &[]);
            }
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: LogFlood);
