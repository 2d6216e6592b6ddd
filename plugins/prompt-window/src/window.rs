//! Finds the retrieved context in a prompt and drops as many of its chunks as
//! must go, counting tokens through [`Tokens`].
//!
//! A *block* is what stands between an opening marker and the next closing one;
//! its *chunks* are separated by the configured separator and stand in the order
//! of their worth, the best first, as retrievers deliver them. When something has
//! to go, the oldest block loses first (in a conversation it belongs to the oldest
//! question), and in a block the last chunk.

use std::ops::Range;

use crate::config::Config;

/// What this module needs of a tokenizer.
pub trait Tokens {
    /// How many tokens `text` has.
    ///
    /// # Errors
    /// What the tokenizer says.
    fn count(&self, text: &str) -> Result<u32, String>;

    /// Whether `text` holds something that would become a control token if
    /// control tokens were parsed in it.
    ///
    /// # Errors
    /// What the tokenizer says.
    fn has_control(&self, text: &str) -> Result<bool, String>;
}

/// The prompt, and what is known of the request that it came from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The rendered prompt.
    pub text: &'a str,
    /// Its length, as the worker counted it.
    pub tokens: u32,
    /// Most tokens that prompt and answer may have together.
    pub context_length: u32,
    /// How many tokens the request wants generated, if it says so.
    pub max_tokens: Option<u32>,
    /// What the client wrote, as far as `text` does not show it.
    pub client: Client<'a>,
}

/// What the client wrote. Everything in a replaced prompt is parsed for control
/// tokens, so none of this may look like one.
#[derive(Debug, Clone, Copy)]
pub enum Client<'a> {
    /// The prompt has control tokens of its own (a chat template's); these are the
    /// texts that the client put between them.
    Texts(&'a [String]),
    /// All of the prompt is the client's text (a completion).
    WholePrompt,
    /// The client asked for control tokens to be parsed anyway.
    MayControl,
    /// Not known; so the worst has to be expected.
    Unknown,
}

/// What to do with the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It fits, or has no context to drop.
    Fits,
    /// The shorter prompt.
    Shortened {
        /// The new text.
        text: String,
        /// Chunks taken out.
        dropped: usize,
        /// Chunks that there were.
        chunks: usize,
    },
    /// It does not fit, but replacing it would make control tokens out of a
    /// client's text.
    ControlText,
}

/// One block of context.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Between the markers, as bytes of the prompt.
    body: Range<usize>,
    /// The chunks within, in order, none of them blank.
    chunks: Vec<Range<usize>>,
}

/// Decides what has to go.
///
/// # Errors
/// What the tokenizer says.
pub fn fit(
    config: &Config,
    situation: Situation<'_>,
    tokens: &impl Tokens,
) -> Result<Outcome, String> {
    let blocks = blocks(config, situation.text);
    let chunks: usize = blocks.iter().map(|block| block.chunks.len()).sum();
    if chunks == 0 {
        return Ok(Outcome::Fits);
    }

    let costs = costs(config, situation.text, &blocks, tokens)?;
    let mut context: u32 = costs.iter().flatten().sum();
    let budget = budget(config, &situation, context);
    if context <= budget {
        return Ok(Outcome::Fits);
    }
    if !may_replace(&situation, &blocks, tokens)? {
        return Ok(Outcome::ControlText);
    }

    let mut kept: Vec<usize> = costs.iter().map(Vec::len).collect();
    for (block, kept) in kept.iter_mut().enumerate() {
        while context > budget && *kept > 0 {
            *kept -= 1;
            context -= costs[block][*kept];
        }
    }
    Ok(Outcome::Shortened {
        text: rebuild(config, situation.text, &blocks, &kept),
        dropped: chunks - kept.iter().sum::<usize>(),
        chunks,
    })
}

/// How many tokens the context may have: what the rest of the prompt and the
/// answer leave, and not more than configured.
fn budget(config: &Config, situation: &Situation<'_>, context: u32) -> u32 {
    let rest = situation.tokens.saturating_sub(context);
    let answer = situation.max_tokens.unwrap_or(config.reserve_tokens);
    let room = situation.context_length.saturating_sub(rest).saturating_sub(answer);
    config.max_context_tokens.map_or(room, |most| most.min(room))
}

/// The blocks of `text`. An opening marker that another one follows before any
/// closing one opens nothing, and a closing marker alone closes nothing.
fn blocks(config: &Config, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut position = 0;
    while let Some(offset) = text[position..].find(&config.close) {
        let close = position + offset;
        if let Some(open) = text[position..close].rfind(&config.open) {
            let body = position + open + config.open.len()..close;
            let chunks = chunks(config, text, body.clone());
            blocks.push(Block { body, chunks });
        }
        position = close + config.close.len();
    }
    blocks
}

fn chunks(config: &Config, text: &str, body: Range<usize>) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = body.start;
    for piece in text[body].split(&config.separator) {
        let blank_before = piece.len() - piece.trim_start().len();
        let chunk = piece.trim();
        if !chunk.is_empty() {
            let begin = start + blank_before;
            chunks.push(begin..begin + chunk.len());
        }
        start += piece.len() + config.separator.len();
    }
    chunks
}

/// The tokens of each chunk with the separator behind it. Counting the pieces on
/// their own gives a little more than they have together, never noticeably less.
fn costs(
    config: &Config,
    text: &str,
    blocks: &[Block],
    tokens: &impl Tokens,
) -> Result<Vec<Vec<u32>>, String> {
    let separator = tokens.count(&config.separator)?;
    let cost = |chunk: &Range<usize>| Ok(tokens.count(&text[chunk.clone()])? + separator);
    blocks.iter().map(|block| block.chunks.iter().map(cost).collect()).collect()
}

/// Whether the prompt may be replaced without giving a client control tokens.
fn may_replace(
    situation: &Situation<'_>,
    blocks: &[Block],
    tokens: &impl Tokens,
) -> Result<bool, String> {
    match situation.client {
        Client::MayControl => return Ok(true),
        Client::Unknown => return Ok(false),
        Client::WholePrompt => return Ok(!tokens.has_control(situation.text)?),
        Client::Texts(texts) => {
            for text in texts {
                if tokens.has_control(text)? {
                    return Ok(false);
                }
            }
        }
    }
    // Context may have been put in after this plugin saw the request. And a block
    // whose markers are in two messages has the template's tokens in it: taking
    // those away would join the messages.
    for block in blocks {
        if tokens.has_control(&situation.text[block.body.clone()])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The text with the first `kept` chunks of each block. Blank space at either end
/// of a block stays, so that markers keep their lines; a block that loses nothing
/// stays as it is.
fn rebuild(config: &Config, text: &str, blocks: &[Block], kept: &[usize]) -> String {
    let mut output = String::with_capacity(text.len());
    let mut position = 0;
    for (block, &kept) in blocks.iter().zip(kept) {
        let (Some(first), Some(last)) = (block.chunks.first(), block.chunks.last()) else {
            continue;
        };
        if kept == block.chunks.len() {
            continue;
        }
        output.push_str(&text[position..first.start]);
        let chunks: Vec<&str> =
            block.chunks[..kept].iter().map(|chunk| &text[chunk.clone()]).collect();
        output.push_str(&chunks.join(&config.separator));
        position = last.end;
    }
    output.push_str(&text[position..]);
    output
}

/// Shortens a known prompt, counting words.
///
/// # Errors
/// A text with the outcome that should not have been.
pub fn self_test(config: &Config) -> Result<(), String> {
    let Config { open, close, separator, .. } = config;
    let prompt = |chunks: &str| format!("{open}{chunks}{close}");
    let text = prompt(&format!("one{separator}two"));
    let situation = Situation {
        text: &text,
        tokens: 1_000,
        context_length: 1_001,
        max_tokens: Some(2),
        client: Client::MayControl,
    };
    let fewer = Config { max_context_tokens: None, ..config.clone() };
    match fit(&fewer, situation, &OnePerText)? {
        Outcome::Shortened { text, .. } if text == prompt("one") => Ok(()),
        other => Err(format!("prompt-window: self-test failed: {other:?}")),
    }
}

/// Counts every text as one token; for the self-test only.
struct OnePerText;

impl Tokens for OnePerText {
    fn count(&self, _text: &str) -> Result<u32, String> {
        Ok(1)
    }

    fn has_control(&self, _text: &str) -> Result<bool, String> {
        Ok(false)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
