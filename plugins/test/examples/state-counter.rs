//! `[[state-counter]]`: answers with how often that was asked for;
//! `[[state-counter:KEY]]`: with a counter of that name; `[[state-counter:KEY:MS]]`:
//! with one that is made with so many milliseconds to live.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::state;

struct StateCounter;

impl Guest for StateCounter {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(argument) = test_plugins::argument(&request.content, "state-counter") else {
            return Ok(Verdict::Pass);
        };
        let (key, ttl) = match argument.rsplit_once(':') {
            Some((key, ttl)) => (key, ttl.parse().ok()),
            None if argument.is_empty() => ("calls", None),
            None => (argument.as_str(), None),
        };
        Ok(Verdict::Respond(match state::increment(key, 1, ttl) {
            Ok(count) => count.to_string(),
            Err(error) => format!("{error:?}"),
        }))
    }
}

test_plugins::export!(request_plugin: StateCounter);
