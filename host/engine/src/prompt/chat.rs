//! A prompt of chat messages, truncated by whole messages.

use std::ops::Range;

use super::budget::content_budget;
use super::escape::{ControlTexts, Escape};
use super::template::ChatTemplate;
use super::{ChatMessage, Content, Encode, Prompt, PromptLimits, with_bos};
use crate::error::PromptError;

/// Longest role, in bytes.
const MAX_ROLE: usize = 64;

impl Content {
    /// Chat content with text that every message list has to begin with:
    /// `system` and `instructions` become one system message, joined by a blank
    /// line with each other and with a system message that already leads.
    pub fn chat(system: &str, instructions: &str, messages: Vec<ChatMessage>) -> Self {
        let mut messages = messages;
        let mut parts: Vec<&str> =
            [system, instructions].into_iter().filter(|part| !part.is_empty()).collect();
        if !parts.is_empty() {
            let leading = match messages.first() {
                Some(first) if first.role == "system" => Some(messages.remove(0).content),
                _ => None,
            };
            parts.extend(leading.as_deref().filter(|text| !text.is_empty()));
            let merged = ChatMessage { role: "system".to_string(), content: parts.join("\n\n") };
            messages.insert(0, merged);
        }
        Content::Chat { messages }
    }
}

/// A chat that was rendered, with its marks, and tokenized.
struct Rendered {
    text: String,
    tokens: Vec<u32>,
}

/// What it takes to render a choice of the messages.
struct Renderer<'a, E> {
    tokenizer: &'a E,
    template: &'a ChatTemplate,
    escape: Escape<'a>,
}

impl<E: Encode> Renderer<'_, E> {
    fn render(&self, messages: &[ChatMessage], generate: bool) -> Result<Rendered, PromptError> {
        let text = self.template.render(messages, generate)?;
        let tokens = self.escape.encode(self.tokenizer, &text)?;
        Ok(Rendered { text, tokens: with_bos(self.tokenizer, tokens) })
    }

    /// What of the rendered text is the template's own.
    fn markup(&self, messages: &[ChatMessage], rendered: &str) -> Vec<Range<usize>> {
        let bracketed: Vec<ChatMessage> = messages
            .iter()
            .map(|m| ChatMessage { role: m.role.clone(), content: self.escape.bracket(&m.content) })
            .collect();
        let n_brackets = messages.iter().zip(&bracketed).filter(|(m, b)| m != b).count();
        // A template that refuses brackets has looked at the text of a message.
        let again = self.template.render(&bracketed, true).ok();
        again
            .and_then(|again| self.escape.around(rendered, &again, n_brackets))
            .unwrap_or_else(|| self.escape.control_tokens(rendered))
    }
}

/// Makes the prompt: system messages, then the last other messages that fit.
///
/// `limits.n_ctx` must be the job's limit, not 0.
pub(crate) fn prepare(
    tokenizer: &impl Encode,
    template: Option<&ChatTemplate>,
    control: &ControlTexts,
    messages: &[ChatMessage],
    limits: &PromptLimits,
) -> Result<Prompt, PromptError> {
    let template = template.ok_or(PromptError::NoChatTemplate)?;
    if messages.is_empty() {
        return Err(PromptError::Empty);
    }
    check_roles(messages)?;

    let texts = messages.iter().map(|m| m.content.as_str());
    let renderer = Renderer {
        tokenizer,
        template,
        escape: Escape::new(control, texts.chain([template.source()]))?,
    };
    let marked: Vec<ChatMessage> = messages
        .iter()
        .map(|m| ChatMessage { role: m.role.clone(), content: renderer.escape.mark(&m.content) })
        .collect();

    let whole = renderer.render(&marked, true)?;
    let keep = kept_tokens(&renderer, &marked)?;
    let room = content_budget(limits.n_ctx, keep, limits.max_tokens)?;
    let fits = |rendered: &Rendered| rendered.tokens.len().saturating_sub(keep) <= room;

    let total = whole.tokens.len();
    let (chosen, messages) = if fits(&whole) {
        (whole, marked)
    } else {
        truncate(&renderer, &marked, &fits, limits.n_ctx)?
    };
    if chosen.tokens.is_empty() {
        return Err(PromptError::Empty);
    }
    let dropped = total.saturating_sub(chosen.tokens.len());
    Ok(Prompt {
        text: renderer.escape.unmark(&chosen.text),
        markup: renderer.markup(&messages, &chosen.text),
        tokens: chosen.tokens,
        truncated_tokens: u32::try_from(dropped).unwrap_or(u32::MAX),
        template: Some(template.source().to_string()),
    })
}

/// Templates put the role between control tokens as it is, so it must not be
/// able to bring its own.
fn check_roles(messages: &[ChatMessage]) -> Result<(), PromptError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match messages
        .iter()
        .position(|m| m.role.is_empty() || m.role.len() > MAX_ROLE || !m.role.chars().all(plain))
    {
        Some(index) => Err(PromptError::Role { index }),
        None => Ok(()),
    }
}

/// How many tokens the system messages take.
fn kept_tokens<E: Encode>(
    renderer: &Renderer<'_, E>,
    messages: &[ChatMessage],
) -> Result<usize, PromptError> {
    let system: Vec<ChatMessage> =
        messages.iter().filter(|m| m.role == "system").cloned().collect();
    if system.is_empty() {
        return Ok(usize::from(renderer.tokenizer.leading_bos().is_some()));
    }
    if let Ok(rendered) = renderer.render(&system, false) {
        return Ok(rendered.tokens.len());
    }
    // Some templates refuse a chat without a user: count the texts instead.
    let mut tokens = usize::from(renderer.tokenizer.leading_bos().is_some());
    for message in &system {
        tokens += renderer.escape.encode(renderer.tokenizer, &message.content)?.len();
    }
    Ok(tokens)
}

/// Drops the oldest messages that are neither system messages nor the last one,
/// as few as possible, until the rest fits. The rest comes with its messages.
fn truncate<E: Encode>(
    renderer: &Renderer<'_, E>,
    messages: &[ChatMessage],
    fits: &impl Fn(&Rendered) -> bool,
    n_ctx: u32,
) -> Result<(Rendered, Vec<ChatMessage>), PromptError> {
    let last = messages.len() - 1;
    let droppable: Vec<usize> = (0..last).filter(|&i| messages[i].role != "system").collect();

    // The chat without its `count` oldest messages. Templates that want user
    // and assistant to alternate refuse every other count; then the next one
    // that they accept stands in.
    let without = |count: usize| -> Result<(Rendered, Vec<ChatMessage>), PromptError> {
        let mut result = Err(PromptError::Overflow { n_ctx });
        for count in count..=droppable.len().min(count + 2) {
            let dropped = &droppable[..count];
            let rest: Vec<ChatMessage> = (0..=last)
                .filter(|i| dropped.binary_search(i).is_err())
                .map(|i| messages[i].clone())
                .collect();
            result = renderer.render(&rest, true).map(|rendered| (rendered, rest));
            if result.is_ok() {
                break;
            }
        }
        result
    };

    // The smallest count that fits: everything below `low` does not.
    let (mut low, mut high) = (1, droppable.len() + 1);
    let mut best = Err(PromptError::Overflow { n_ctx });
    while low < high {
        let middle = low + (high - low) / 2;
        match without(middle) {
            Ok(chosen) if fits(&chosen.0) => {
                best = Ok(chosen);
                high = middle;
            }
            Ok(_) => low = middle + 1,
            Err(refusal) => {
                if best.is_err() {
                    best = Err(refusal);
                }
                low = middle + 1;
            }
        }
    }
    best
}
