//! A prompt of kept text and input elements, truncated by whole elements.
//!
//! Each element is tokenized on its own, because it is the unit of truncation;
//! those that are dropped are counted as one text.

use super::budget::content_budget;
use super::{Encode, Prompt, PromptLimits};
use crate::error::PromptError;

/// Most bytes of all the separators of an input. With a long one between very many
/// elements, a small request would be a text of gigabytes.
const MAX_SEPARATORS: usize = 4 * 1024 * 1024;

/// The parts of [`super::Content::Completion`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Completion<'a> {
    pub(crate) system: &'a str,
    pub(crate) instructions: &'a str,
    pub(crate) input: &'a [String],
    pub(crate) separator: &'a str,
}

/// One element of the input with the separator that follows it.
struct Element {
    text: String,
    tokens: Vec<u32>,
}

/// Makes the prompt: BOS, kept text, then the last elements that fit.
///
/// `limits.n_ctx` must be the job's limit, not 0.
pub(crate) fn prepare(
    tokenizer: &impl Encode,
    content: Completion<'_>,
    limits: &PromptLimits,
) -> Result<Prompt, PromptError> {
    let encode = |text: &str| {
        if text.is_empty() {
            // Some vocabularies make a space of nothing.
            Ok(Vec::new())
        } else {
            tokenizer.encode(text, limits.parse_special)
        }
    };

    let separators = content.separator.len().saturating_mul(content.input.len().saturating_sub(1));
    if separators > MAX_SEPARATORS {
        return Err(PromptError::Separators { bytes: separators, limit: MAX_SEPARATORS });
    }

    let mut tokens: Vec<u32> = tokenizer.leading_bos().into_iter().collect();
    tokens.extend(encode(content.system)?);
    tokens.extend(encode(content.instructions)?);

    let budget = content_budget(limits.n_ctx, tokens.len(), limits.max_tokens)?;
    let last = content.input.len().saturating_sub(1);
    let element = |index: usize| {
        let separator = if index < last { content.separator } else { "" };
        format!("{}{separator}", content.input[index])
    };

    // From the end, and no further than the budget goes: the elements of a long
    // input that are dropped anyway are not tokenized one by one.
    let mut kept: Vec<Element> = Vec::new();
    let mut room = budget;
    let mut truncated = 0;
    let mut rest = content.input.len();
    while rest > 0 {
        let text = element(rest - 1);
        let mut element_tokens = encode(&text)?;
        if element_tokens.len() <= room {
            room -= element_tokens.len();
            kept.push(Element { text, tokens: element_tokens });
            rest -= 1;
            continue;
        }
        if budget < 1 {
            return Err(PromptError::Overflow { n_ctx: limits.n_ctx });
        }
        if rest - 1 == last {
            // The last element is cut from the front instead of being dropped.
            truncated += element_tokens.len() - budget;
            let tail = element_tokens.split_off(element_tokens.len() - budget);
            kept.push(Element { text: tokenizer.decode(&tail)?, tokens: tail });
            rest -= 1;
        }
        break;
    }
    let dropped: String = (0..rest).map(element).collect();
    truncated += encode(&dropped)?.len();

    let mut text = format!("{}{}", content.system, content.instructions);
    for element in kept.iter().rev() {
        tokens.extend_from_slice(&element.tokens);
        text.push_str(&element.text);
    }

    if tokens.is_empty() {
        return Err(PromptError::Empty);
    }
    let all_parsed = (limits.parse_special && !text.is_empty()).then_some(0..text.len());
    Ok(Prompt {
        tokens,
        text,
        markup: all_parsed.into_iter().collect(),
        truncated_tokens: u32::try_from(truncated).unwrap_or(u32::MAX),
        template: None,
    })
}
