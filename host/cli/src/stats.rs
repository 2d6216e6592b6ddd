//! One line about a finished job: tokens and times.

use std::time::Duration;

use llamero_protocol::PredictResponse;

/// For people: `stop; 12 prompt tokens (10 cached), 40 tokens at 61.3 tok/s; …`.
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
