//! Text to tokens and back, for callers of this crate.

use std::ops::Range;
use std::sync::Arc;

use crate::error::PromptError;
use crate::prompt::{Encode, text_tokens};
use crate::vocabulary::Vocabulary;

/// The tokenizer of a loaded model; may be used from any thread, and keeps the
/// model's weights (not its context) in memory.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
}

impl Tokenizer {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary }
    }

    /// How many tokens the text has, without BOS; control-token text counts as
    /// text.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`]: the text is longer than 64 MiB.
    pub fn count(&self, text: &str) -> Result<usize, PromptError> {
        self.encode(text, false).map(|tokens| tokens.len())
    }

    /// The tokens of the text, without BOS.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`]: the text is longer than 64 MiB.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, PromptError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        self.vocabulary.encode(text, parse_special)
    }

    /// How many tokens [`crate::Model::prepare_text`] makes of the text.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`]: the text is longer than 64 MiB.
    pub fn count_text(&self, text: &str, markup: &[Range<usize>]) -> Result<usize, PromptError> {
        let control = self.vocabulary.control();
        text_tokens(self.vocabulary.as_ref(), control, text, markup).map(|tokens| tokens.len())
    }

    /// The text of the tokens, control tokens included. Bytes that are no UTF-8
    /// become U+FFFD.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`]: a token is not in the vocabulary.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, PromptError> {
        self.vocabulary.decode(tokens)
    }
}
