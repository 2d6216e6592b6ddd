//! From the content of a request to the tokens of a prompt.
//!
//! [`budget`] says how much room there is, [`completion`] fills it with text,
//! [`chat`] with messages: [`template`] renders them and [`escape`] sees to it
//! that no message becomes control tokens. A text that somebody made of a prompt
//! becomes one by its [`markup`]. What a prompt may contain is the
//! wire protocol's decision; these modules carry it out. Options are resolved
//! by the worker before.

pub(crate) mod budget;
pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod escape;
pub(crate) mod markup;
pub(crate) mod template;

use std::ops::Range;

use self::escape::ControlTexts;
use crate::error::PromptError;

/// What a request asks to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text to continue.
    Completion {
        /// Kept whole, in front.
        system: String,
        /// Kept whole, behind `system`.
        instructions: String,
        /// May lose elements from its beginning.
        input: Vec<String>,
        /// Put between the elements of `input`.
        separator: String,
    },
    /// Messages for the model's chat template.
    Chat {
        /// In order of the conversation.
        messages: Vec<ChatMessage>,
    },
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// The text; it never becomes control tokens.
    pub content: String,
}

/// The room a prompt may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PromptLimits {
    /// Context limit of the job, in tokens; 0 takes the model's.
    pub n_ctx: u32,
    /// Most tokens the job will generate; 0 means no limit of its own.
    pub max_tokens: u32,
    /// Whether control-token text in a completion becomes control tokens.
    pub parse_special: bool,
}

/// A prompt that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens, BOS included where the model wants one.
    pub tokens: Vec<u32>,
    /// The text they were made from, without BOS.
    pub text: String,
    /// The parts of `text` in which control tokens were parsed, in bytes: what the
    /// chat template wrote (of a template that does not show it, its control tokens),
    /// or all of a completion that may have them. They ascend and do not overlap.
    /// Nothing of a chat's messages is in them but white space at their ends.
    pub markup: Vec<Range<usize>>,
    /// Tokens dropped from the beginning of the input to make it fit.
    pub truncated_tokens: u32,
    /// The source of the chat template that made it; `None` for a completion.
    pub template: Option<String>,
}

/// What these modules need of a tokenizer; the tests have one of their own.
pub(crate) trait Encode {
    /// The tokens of one piece of text, without BOS.
    fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, PromptError>;
    /// The text of tokens.
    fn decode(&self, tokens: &[u32]) -> Result<String, PromptError>;
    /// The token that has to begin a prompt, if the vocabulary asks for one.
    fn leading_bos(&self) -> Option<u32>;
}

/// One finished text as a prompt: control tokens are parsed in its markup, and
/// nothing is dropped. It has to leave room for at least one token of output.
pub(crate) fn whole_text(
    tokenizer: &impl Encode,
    control: &ControlTexts,
    text: &str,
    markup: &[Range<usize>],
    n_ctx: u32,
) -> Result<Prompt, PromptError> {
    let tokens = text_tokens(tokenizer, control, text, markup)?;
    if tokens.is_empty() {
        return Err(PromptError::Empty);
    }
    if tokens.len() >= n_ctx as usize {
        return Err(PromptError::Overflow { n_ctx });
    }
    let (text, markup) = (text.to_string(), markup.to_vec());
    Ok(Prompt { tokens, text, markup, truncated_tokens: 0, template: None })
}

/// The tokens of [`whole_text`], however many they are.
pub(crate) fn text_tokens(
    tokenizer: &impl Encode,
    control: &ControlTexts,
    text: &str,
    markup: &[Range<usize>],
) -> Result<Vec<u32>, PromptError> {
    Ok(with_bos(tokenizer, markup::encode(tokenizer, control, text, markup)?))
}

/// Puts BOS in front unless the text already brought it, as chat templates do.
fn with_bos(tokenizer: &impl Encode, mut tokens: Vec<u32>) -> Vec<u32> {
    if let Some(bos) = tokenizer.leading_bos()
        && tokens.first() != Some(&bos)
    {
        tokens.insert(0, bos);
    }
    tokens
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
