//! `[[oversized-output]]`: an answer of 5 MiB, one more than the default limit;
//! `[[oversized-output:BYTES]]`: one of that length.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct OversizedOutput;

impl Guest for OversizedOutput {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(argument) = test_plugins::argument(&request.content, "oversized-output") else {
            return Ok(Verdict::Pass);
        };
        Ok(Verdict::Respond("x".repeat(argument.parse().unwrap_or(5 << 20))))
    }
}

test_plugins::export!(request_plugin: OversizedOutput);
