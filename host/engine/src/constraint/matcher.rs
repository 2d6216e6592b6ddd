//! One job's way through its constraint.

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use crate::error::GenerationError;

/// Where an output stands in its grammar or schema.
pub(crate) struct OutputMatcher {
    matcher: Matcher,
}

impl OutputMatcher {
    pub(crate) fn new(matcher: Matcher) -> Self {
        Self { matcher }
    }

    /// Whether the token may come next. Much cheaper than [`Self::mask`].
    pub(crate) fn allows(&mut self, token: u32) -> Result<bool, GenerationError> {
        self.matcher.validate_tokens(&[token]).map(|n| n == 1).map_err(|e| failed(&e.to_string()))
    }

    /// Whether the output may end here.
    pub(crate) fn may_end(&mut self) -> Result<bool, GenerationError> {
        if self.is_finished() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|e| failed(&e.to_string()))
    }

    /// Which tokens may come next.
    pub(crate) fn mask(&mut self) -> Result<SimpleVob, GenerationError> {
        self.matcher.compute_mask_or_eos().map_err(|e| failed(&e.to_string()))
    }

    /// Takes a token that came.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), GenerationError> {
        self.matcher.consume_token(token).map_err(|e| failed(&e.to_string()))
    }

    /// Whether nothing more can follow.
    pub(crate) fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }
}

impl std::fmt::Debug for OutputMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputMatcher").finish_non_exhaustive()
    }
}

fn failed(text: &str) -> GenerationError {
    let line = text.lines().next().unwrap_or_default();
    GenerationError::Constraint(line.chars().take(300).collect())
}
