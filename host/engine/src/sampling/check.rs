//! Which sampling values can be worked with.

use super::Tokens;
use crate::error::SubmitError;
use crate::job::Sampling;

/// Refuses values that would lead to infinities or nonsense. Finer ranges, with
/// the wire protocol's error texts, are the worker's business.
pub(crate) fn check(options: &Sampling, tokens: &Tokens) -> Result<(), SubmitError> {
    let wrong =
        |name, reason: &str| Err(SubmitError::Sampling { name, reason: reason.to_string() });
    let floats = [
        ("temperature", options.temperature),
        ("top_p", options.top_p),
        ("min_p", options.min_p),
        ("typical_p", options.typical_p),
        ("mirostat_tau", options.mirostat_tau),
        ("mirostat_eta", options.mirostat_eta),
        ("repeat_penalty", options.repeat_penalty),
        ("frequency_penalty", options.frequency_penalty),
        ("presence_penalty", options.presence_penalty),
    ];
    for (name, value) in floats {
        if !value.is_finite() {
            return wrong(name, "must be a finite number");
        }
    }
    if options.repeat_penalty <= 0.0 {
        return wrong("repeat_penalty", "must be greater than 0");
    }
    if options.repeat_last_n < -1 {
        return wrong("repeat_last_n", "must be -1 or more");
    }
    if options.mirostat > 2 {
        return wrong("mirostat", "must be 0, 1 or 2");
    }
    if options.mirostat_tau < 0.0 {
        return wrong("mirostat_tau", "must be 0 or more");
    }
    for (token, bias) in &options.logit_bias {
        if *token >= tokens.n_vocab {
            let n_vocab = tokens.n_vocab;
            return wrong(
                "logit_bias",
                &format!("token {token} is not in the vocabulary of {n_vocab} tokens"),
            );
        }
        if bias.is_nan() || *bias == f32::INFINITY {
            return wrong("logit_bias", "must be a number");
        }
    }
    Ok(())
}
