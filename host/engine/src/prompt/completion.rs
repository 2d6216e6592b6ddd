//! A prompt of kept text and input elements, truncated by whole elements.
//!
//! Each element is tokenized on its own, because it is the unit of truncation.

use super::budget::content_budget;
use super::{Encode, Prompt, PromptLimits};
use crate::error::PromptError;

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

    let mut tokens: Vec<u32> = tokenizer.leading_bos().into_iter().collect();
    tokens.extend(encode(content.system)?);
    tokens.extend(encode(content.instructions)?);

    let last = content.input.len().saturating_sub(1);
    let mut elements = Vec::with_capacity(content.input.len());
    for (index, element) in content.input.iter().enumerate() {
        let separator = if index < last { content.separator } else { "" };
        let text = format!("{element}{separator}");
        let tokens = encode(&text)?;
        elements.push(Element { text, tokens });
    }

    let budget = content_budget(limits.n_ctx, tokens.len(), limits.max_tokens)?;
    let mut total: usize = elements.iter().map(|e| e.tokens.len()).sum();
    if total > 0 && budget < 1 {
        return Err(PromptError::Overflow { n_ctx: limits.n_ctx });
    }

    let mut text = format!("{}{}", content.system, content.instructions);
    let mut truncated = 0;
    let mut rest = elements.as_slice();
    while total > budget {
        let Some((first, others)) = rest.split_first() else {
            break;
        };
        if others.is_empty() {
            // The last element is cut from the front instead of being dropped.
            let cut = first.tokens.len() - budget;
            let tail = &first.tokens[cut..];
            truncated += cut;
            tokens.extend_from_slice(tail);
            text.push_str(&tokenizer.decode(tail)?);
            rest = &[];
            break;
        }
        truncated += first.tokens.len();
        total -= first.tokens.len();
        rest = others;
    }
    for element in rest {
        tokens.extend_from_slice(&element.tokens);
        text.push_str(&element.text);
    }

    if tokens.is_empty() {
        return Err(PromptError::Empty);
    }
    Ok(Prompt {
        tokens,
        text,
        truncated_tokens: u32::try_from(truncated).unwrap_or(u32::MAX),
        template: None,
    })
}
