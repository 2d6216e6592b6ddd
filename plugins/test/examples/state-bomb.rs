//! `[[state-bomb]]`: writes keys of 1 KiB until the store refuses, takes them all away
//! again, and answers with how many there were and why it ended;
//! `[[state-bomb:BYTES]]`: with keys of that size.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::state;

struct StateBomb;

impl Guest for StateBomb {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(argument) = test_plugins::argument(&request.content, "state-bomb") else {
            return Ok(Verdict::Pass);
        };
        let value = vec![1; argument.parse().unwrap_or(1024)];
        // More than any quota that a test sets.
        let mut ended = "nothing refused it".to_owned();
        let mut written = 0;
        while written < 100_000 {
            if let Err(error) = state::set(&format!("bomb-{written}"), &value, None) {
                ended = format!("{error:?}");
                break;
            }
            written += 1;
        }
        for key in 0..written {
            state::delete(&format!("bomb-{key}"))
                .map_err(|error| HookError::Internal(format!("{error:?}")))?;
        }
        Ok(Verdict::Respond(format!("{written} {ended}")))
    }
}

test_plugins::export!(request_plugin: StateBomb);
