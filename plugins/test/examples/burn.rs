//! `[[burn:ROUNDS]]`: so many rounds of arithmetic, and then the request passes. A
//! round takes about a nanosecond; who needs a time measures how many that is.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct Burn;

impl Guest for Burn {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let rounds = test_plugins::argument(&request.content, "burn");
        let rounds: u64 = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(0);
        let mut number: u64 = 1;
        for round in 0..rounds {
            // The optimiser must not find a shorter way to the result.
            number = std::hint::black_box(number.wrapping_mul(3).wrapping_add(round));
        }
        std::hint::black_box(number);
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: Burn);
