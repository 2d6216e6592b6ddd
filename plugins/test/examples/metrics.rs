//! `[[metrics]]`: records one of each kind, and some that a host must drop: names and
//! labels that are none, too many labels, numbers that are not finite. Answers
//! `recorded`.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::metrics::{self, Label};

struct Metrics;

impl Guest for Metrics {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if !test_plugins::asked_for(&request.content, "metrics") {
            return Ok(Verdict::Pass);
        }
        let label = |key: &str, value: &str| Label { key: key.to_owned(), value: value.to_owned() };
        metrics::counter_add("test_calls", 2, &[label("kind", "good")]);
        metrics::counter_add("test_calls", 3, &[label("kind", "good")]);
        metrics::gauge_set("test_gauge", 1.5, &[]);
        metrics::histogram_record("test_ms", 12.0, &[]);

        for name in ["", "Upper", "with space", "per-cent", &"x".repeat(65)] {
            metrics::counter_add(name, 1, &[]);
        }
        let many: Vec<Label> = (0..9).map(|n| label(&format!("l{n}"), "x")).collect();
        metrics::counter_add("test_calls", 1, &many);
        metrics::counter_add("test_calls", 1, &[label("", "x")]);
        metrics::counter_add("test_calls", 1, &[label("kind", &"x".repeat(1000))]);
        metrics::gauge_set("test_gauge", f64::NAN, &[]);
        metrics::histogram_record("test_ms", f64::INFINITY, &[]);
        Ok(Verdict::Respond("recorded".to_owned()))
    }
}

test_plugins::export!(request_plugin: Metrics);
