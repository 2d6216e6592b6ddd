//! Writes a log line `observed` for every job, whether asked or not: its id, how it
//! ended, with which code or reason, and its tokens.

use test_plugins::observer::exports::llamero::hooks::observer::{Guest, Outcome, Summary};
use test_plugins::observer::llamero::hooks::{call, log};
use test_plugins::request::llamero::hooks::types::{CallContext, FinishReason};

struct ObserveNote;

impl Guest for ObserveNote {
    fn on_complete(context: CallContext, summary: Summary) {
        let (outcome, detail) = match summary.outcome {
            Outcome::Completed(FinishReason::Stop) => ("stop", String::new()),
            Outcome::Completed(FinishReason::Length) => ("length", String::new()),
            Outcome::Completed(FinishReason::Filtered(reason)) => ("filtered", reason),
            Outcome::Completed(FinishReason::Cancelled) => ("cancelled", String::new()),
            Outcome::Completed(FinishReason::Other(reason)) => ("other", reason),
            Outcome::Rejected(rejection) => {
                ("rejected", rejection.code.map_or_else(String::new, |code| code.to_string()))
            }
            Outcome::Failed(failure) => ("failed", failure.code.to_string()),
        };
        // One text, so that a test finds it whatever the log's format is.
        let text = format!(
            "observed job={} outcome={outcome} detail={detail} tokens={} first={} model={}",
            context.job,
            summary.usage.completion_tokens,
            summary.first_token_us.is_some(),
            call::model(),
        );
        log::write(log::Level::Info, &text, &[]);
    }
}

test_plugins::export!(observer_plugin: ObserveNote);
