//! `[[trap]]`: a panic, which is a trap once it has left Rust.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct Trap;

impl Guest for Trap {
    #[allow(clippy::panic, reason = "panicking is what this plugin is for")]
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if test_plugins::asked_for(&request.content, "trap") {
            panic!("asked to trap");
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: Trap);
