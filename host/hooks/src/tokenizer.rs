//! The tokenizer that plugins may ask, as a trait.
//!
//! This crate enforces sizes and calls the service on threads of its own; how a
//! text becomes tokens is the business of whoever implements the trait.

use std::ops::Range;

/// Look-ups in the vocabulary of a loaded model. Calls may take CPU time, but
/// must not wait for anything.
pub trait TokenizerService: Send + Sync {
    /// Facts about a model.
    fn describe(&self, model: &str) -> Result<ModelInfo, TokenizerError>;

    /// How many tokens `text` is, control tokens not parsed.
    fn count(&self, model: &str, text: &str) -> Result<u32, TokenizerError>;

    /// The tokens of `text`. With `parse_special`, text such as `<|im_start|>`
    /// becomes a control token.
    fn encode(
        &self,
        model: &str,
        text: &str,
        parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError>;

    /// How many tokens a prompt is, with control tokens parsed in its markup (see
    /// [`crate::Prompt::markup`]).
    fn count_prompt(
        &self,
        model: &str,
        text: &str,
        markup: &[Range<usize>],
    ) -> Result<u32, TokenizerError>;

    /// The text of `tokens`.
    fn decode(&self, model: &str, tokens: &[u32]) -> Result<String, TokenizerError>;
}

/// Facts about a model's vocabulary and context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// Largest context of one job, in tokens.
    pub context_length: u32,
    /// Number of tokens in the vocabulary.
    pub vocabulary_size: u32,
    /// Begin-of-text token.
    pub bos: Option<u32>,
    /// End-of-text token.
    pub eos: Option<u32>,
}

/// Why a look-up was refused. A plugin gets it as the result of its call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// No such model is loaded.
    #[error("model `{0}` is not loaded")]
    UnknownModel(String),
    /// More bytes or tokens than one call may carry; the value is the most that
    /// is allowed.
    #[error("more than {0} bytes or tokens in one call")]
    TooLarge(u64),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A service without models: every look-up says so. For programs that run
/// plugins without a model, such as a check of a plugin's file.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTokenizer;

impl TokenizerService for NoTokenizer {
    fn describe(&self, model: &str) -> Result<ModelInfo, TokenizerError> {
        Err(TokenizerError::UnknownModel(model.to_owned()))
    }

    fn count(&self, model: &str, _text: &str) -> Result<u32, TokenizerError> {
        Err(TokenizerError::UnknownModel(model.to_owned()))
    }

    fn encode(&self, model: &str, _: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
        Err(TokenizerError::UnknownModel(model.to_owned()))
    }

    fn count_prompt(
        &self,
        model: &str,
        _text: &str,
        _markup: &[Range<usize>],
    ) -> Result<u32, TokenizerError> {
        Err(TokenizerError::UnknownModel(model.to_owned()))
    }

    fn decode(&self, model: &str, _tokens: &[u32]) -> Result<String, TokenizerError> {
        Err(TokenizerError::UnknownModel(model.to_owned()))
    }
}
