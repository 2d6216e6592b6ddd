//! `[[metrics-bomb]]`: records 20,000 series, more than a host keeps, and answers
//! `recorded`.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::metrics::{self, Label};

struct MetricsBomb;

impl Guest for MetricsBomb {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if !test_plugins::asked_for(&request.content, "metrics-bomb") {
            return Ok(Verdict::Pass);
        }
        for series in 0..20_000 {
            let label = Label { key: "n".to_owned(), value: series.to_string() };
            metrics::counter_add("bomb", 1, &[label]);
        }
        Ok(Verdict::Respond("recorded".to_owned()))
    }
}

test_plugins::export!(request_plugin: MetricsBomb);
