//! What is said of a job: the fields of its log line and the labels and values of
//! its metrics.

use crate::bindings::exports::llamero::hooks::observer::{Outcome, Summary};
use crate::bindings::llamero::hooks::types::{CallContext, FinishReason};
use crate::config::{Config, Label};

/// Longest value of a label in bytes; the worker drops measurements with longer
/// ones.
const MAX_LABEL: usize = 128;

/// A field or a label, and its value.
pub type Pair = (&'static str, String);

/// How the job ended, in one word: `stop`, `length`, `filtered`, `rejected`,
/// `failed` and so on.
pub fn outcome(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Completed(FinishReason::Stop) => "stop",
        Outcome::Completed(FinishReason::Length) => "length",
        Outcome::Completed(FinishReason::Filtered(_)) => "filtered",
        Outcome::Completed(FinishReason::Cancelled) => "cancelled",
        Outcome::Completed(FinishReason::Other(_)) => "other",
        Outcome::Rejected(_) => "rejected",
        Outcome::Failed(_) => "failed",
    }
}

/// The fields of the log line. The worker adds the plugin and the job.
pub fn fields(config: &Config, context: &CallContext, model: &str, summary: &Summary) -> Vec<Pair> {
    let mut fields = vec![
        ("outcome", outcome(&summary.outcome).to_owned()),
        ("model", model.to_owned()),
        ("subject", context.subject.clone()),
    ];
    if let Some(account) = &context.account {
        fields.push(("account", account.clone()));
    }
    let (code, reason) = match &summary.outcome {
        Outcome::Completed(FinishReason::Filtered(reason)) => (None, Some(reason)),
        Outcome::Completed(_) => (None, None),
        Outcome::Rejected(rejection) => (rejection.code, Some(&rejection.reason)),
        Outcome::Failed(failure) => (Some(failure.code), Some(&failure.reason)),
    };
    if let Some(code) = code {
        fields.push(("code", code.to_string()));
    }
    if let Some(reason) = reason.filter(|_| config.reasons) {
        fields.push(("reason", reason.clone()));
    }
    let usage = summary.usage;
    fields.push(("prompt_tokens", usage.prompt_tokens.to_string()));
    fields.push(("cached_tokens", usage.cached_tokens.to_string()));
    fields.push(("completion_tokens", usage.completion_tokens.to_string()));
    fields.push(("queue_ms", milliseconds(summary.queue_us)));
    if let Some(first) = summary.first_token_us {
        fields.push(("first_token_ms", milliseconds(first)));
    }
    fields.push(("total_ms", milliseconds(summary.total_us)));
    fields
}

/// The labels that the operator wants, in the order of the configuration.
pub fn labels(config: &Config, context: &CallContext, model: &str) -> Vec<Pair> {
    config
        .labels
        .iter()
        .map(|label| match label {
            Label::Account => ("account", context.account.as_deref().unwrap_or("unknown")),
            Label::Model => ("model", model),
            Label::Subject => ("subject", context.subject.as_str()),
        })
        .map(|(name, value)| (name, value[..value.floor_char_boundary(MAX_LABEL)].to_owned()))
        .collect()
}

/// Milliseconds with three decimals.
fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03}", microseconds / 1000, microseconds % 1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test should panic")]
    use super::*;
    use crate::bindings::exports::llamero::hooks::observer::Failure;
    use crate::bindings::llamero::hooks::types::{Rejection, Usage};

    fn context() -> CallContext {
        CallContext {
            job: "j".to_owned(),
            subject: "llm.worker".to_owned(),
            worker: "w".to_owned(),
            account: Some("acme".to_owned()),
            budget_ms: 100,
            traceparent: None,
            headers: Vec::new(),
        }
    }

    fn summary(outcome: Outcome) -> Summary {
        Summary {
            outcome,
            usage: Usage { prompt_tokens: 7, cached_tokens: 3, completion_tokens: 5 },
            queue_us: 1_005,
            first_token_us: Some(20_000),
            total_us: 1_234_567,
        }
    }

    fn text(fields: &[Pair]) -> String {
        fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_line_says_what_happened() {
        let config = Config::default();
        let completed = summary(Outcome::Completed(FinishReason::Stop));
        assert_eq!(
            text(&fields(&config, &context(), "m", &completed)),
            "outcome=stop model=m subject=llm.worker account=acme prompt_tokens=7 cached_tokens=3 \
             completion_tokens=5 queue_ms=1.005 first_token_ms=20.000 total_ms=1234.567"
        );
    }

    #[test]
    fn reasons_are_left_out_unless_asked_for() {
        let secret = "the client said so";
        let outcomes = [
            (Outcome::Completed(FinishReason::Filtered(secret.to_owned())), "filtered", None),
            (
                Outcome::Rejected(Rejection { code: Some(1403), reason: secret.to_owned() }),
                "rejected",
                Some("code=1403"),
            ),
            (
                Outcome::Failed(Failure { code: 9, reason: secret.to_owned() }),
                "failed",
                Some("code=9"),
            ),
        ];
        for (outcome, word, code) in outcomes {
            let summary = summary(outcome);
            let quiet = text(&fields(&Config::default(), &context(), "m", &summary));
            assert!(quiet.contains(&format!("outcome={word}")), "{quiet}");
            assert!(code.is_none_or(|code| quiet.contains(code)), "{quiet}");
            assert!(!quiet.contains(secret), "{quiet}");
            let config = Config { reasons: true, ..Config::default() };
            let loud = text(&fields(&config, &context(), "m", &summary));
            assert!(loud.contains(secret), "{loud}");
        }
    }

    #[test]
    fn labels_are_those_of_the_configuration_and_not_too_long() {
        let config = Config::parse(r#"{"labels": ["subject", "account", "model"]}"#).unwrap();
        let unknown = CallContext { account: None, ..context() };
        let model = "é".repeat(100);
        let labels = labels(&config, &unknown, &model);
        assert_eq!(labels[0], ("subject", "llm.worker".to_owned()));
        assert_eq!(labels[1], ("account", "unknown".to_owned()));
        assert_eq!(labels[2], ("model", "é".repeat(64)));
    }
}
