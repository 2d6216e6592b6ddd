//! One line about a finished job: tokens and times.

use std::time::Duration;

use llamero_protocol::PredictResponse;

/// For people: `finish stop; 12 prompt tokens; 40 output tokens at 61.3 tok/s; ...`.
/// `first_text` is the time to the first fragment as this client saw it. Workers
/// that send no numbers (Go workers, or `response_extras = false`) get the
/// client's own clock only.
pub fn summary(
    response: &PredictResponse,
    first_text: Option<Duration>,
    total: Duration,
) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = &response.finish_reason {
        parts.push(format!("finish {reason}"));
    }
    if let Some(usage) = &response.usage {
        let mut prompt = format!("{} prompt tokens", usage.prompt_tokens);
        if usage.cached_tokens > 0 {
            prompt.push_str(&format!(" ({} cached)", usage.cached_tokens));
        }
        if usage.truncated_tokens > 0 {
            prompt.push_str(&format!(" ({} cut off)", usage.truncated_tokens));
        }
        parts.push(prompt);
        let mut output = format!("{} output tokens", usage.completion_tokens);
        if let Some(rate) = tokens_per_second(response) {
            output.push_str(&format!(" at {rate:.1} tok/s"));
        }
        parts.push(output);
    }
    if let Some(timings) = &response.timings {
        parts.push(format!(
            "queue {:.1} ms, hooks {:.1} ms, prompt {:.0} ms, output {:.0} ms",
            timings.queue_ms, timings.hooks_ms, timings.prompt_ms, timings.predict_ms
        ));
    }
    if let Some(first_text) = first_text {
        parts.push(format!("first text after {:.0} ms", millis(first_text)));
    }
    parts.push(format!("{:.0} ms in all", millis(total)));
    parts.join("; ")
}

/// Output tokens per second of generation. The first token belongs to prompt
/// evaluation, so n tokens take n-1 decode steps.
pub fn tokens_per_second(response: &PredictResponse) -> Option<f64> {
    let usage = response.usage.as_ref()?;
    let timings = response.timings.as_ref()?;
    let steps = usage.completion_tokens.checked_sub(1).filter(|n| *n > 0)?;
    (timings.predict_ms > 0.0).then(|| f64::from(steps) * 1000.0 / timings.predict_ms)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use llamero_protocol::{FinishReason, Timings, Usage};

    fn response() -> PredictResponse {
        PredictResponse {
            output: "x".to_owned(),
            finish_reason: Some(FinishReason::Length),
            usage: Some(Usage {
                prompt_tokens: 12,
                cached_tokens: 10,
                completion_tokens: 41,
                truncated_tokens: 3,
            }),
            timings: Some(Timings {
                queue_ms: 1.0,
                hooks_ms: 2.0,
                prompt_ms: 30.0,
                predict_ms: 500.0,
                ..Timings::default()
            }),
        }
    }

    #[test]
    fn everything_that_is_known_is_told() {
        let first = Some(Duration::from_millis(45));
        assert_eq!(
            summary(&response(), first, Duration::from_millis(560)),
            "finish length; 12 prompt tokens (10 cached) (3 cut off); 41 output tokens at 80.0 \
             tok/s; queue 1.0 ms, hooks 2.0 ms, prompt 30 ms, output 500 ms; first text after 45 \
             ms; 560 ms in all"
        );
    }

    #[test]
    fn a_worker_without_numbers_leaves_the_clients_clock() {
        let bare = PredictResponse::default();
        assert_eq!(summary(&bare, None, Duration::from_millis(9)), "9 ms in all");
        assert_eq!(tokens_per_second(&bare), None);
    }

    #[test]
    fn a_single_token_has_no_rate() {
        let mut short = response();
        short.usage = Some(Usage { completion_tokens: 1, ..Usage::default() });
        assert_eq!(tokens_per_second(&short), None);
    }
}
