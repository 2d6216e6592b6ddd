//! How many tokens of the input fit beside what must be kept.

use crate::error::PromptError;

/// The room for content, in tokens, in a context of `n_ctx` of which `keep` are
/// taken by BOS and kept text.
///
/// Two thirds of what is left; more if the job has said that it will generate
/// less than the remaining third. May be 0, which only an empty content fits.
///
/// # Errors
/// [`PromptError::Overflow`] when the kept text fills the context.
pub(crate) fn content_budget(
    n_ctx: u32,
    keep: usize,
    max_tokens: u32,
) -> Result<usize, PromptError> {
    let overflow = PromptError::Overflow { n_ctx };
    let n_ctx = n_ctx as usize;
    if keep >= n_ctx {
        return Err(overflow);
    }
    let free = n_ctx - keep;
    let budget = free * 2 / 3;
    if max_tokens == 0 {
        return Ok(budget);
    }
    Ok(budget.max(free.saturating_sub(max_tokens as usize)))
}
