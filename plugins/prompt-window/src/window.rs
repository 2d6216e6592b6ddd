//! Finds the retrieved context in a prompt and drops as many of its chunks as
//! must go.
//!
//! A *block* is what stands between an opening marker and the next closing one;
//! its *chunks* are separated by the configured separator and stand in the order
//! of their worth, the best first, as retrievers deliver them. When something has
//! to go, the oldest block loses first (in a conversation it belongs to the oldest
//! question), and in a block the last chunk.
//!
//! Text is only ever taken away, and never across a border between the markup of
//! the chat template and what is beside it. So the markup of what remains is the same,
//! some bytes further to the front.

use std::ops::Range;

use crate::config::Config;

/// The prompt, and what is known of the request that it came from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The rendered prompt.
    pub text: &'a str,
    /// The parts of it in which control tokens are parsed, in order.
    pub markup: &'a [Range<usize>],
    /// Its length, as the worker counted it.
    pub tokens: u32,
    /// Most tokens that prompt and answer may have together.
    pub context_length: u32,
    /// How many tokens the request wants generated, if it says so.
    pub max_tokens: Option<u32>,
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
        /// Its markup.
        markup: Vec<Range<usize>>,
        /// Chunks taken out.
        dropped: usize,
        /// Chunks that there were.
        chunks: usize,
    },
}

/// The chunks of one block of context as bytes of the prompt, in order, none of
/// them blank.
type Block = Vec<Range<usize>>;

/// Decides what has to go. `count` says how many tokens a text has.
///
/// # Errors
/// What `count` says.
pub fn fit(
    config: &Config,
    situation: Situation<'_>,
    count: &impl Fn(&str) -> Result<u32, String>,
) -> Result<Outcome, String> {
    let Situation { text, markup, .. } = situation;
    let blocks: Vec<Block> =
        parts(text, markup).into_iter().flat_map(|part| blocks(config, text, part)).collect();
    let chunks: usize = blocks.iter().map(Vec::len).sum();
    if chunks == 0 {
        return Ok(Outcome::Fits);
    }

    let costs = costs(config, text, &blocks, count)?;
    let mut context: u32 = costs.iter().flatten().sum();
    let budget = budget(config, &situation, context);
    if context <= budget {
        return Ok(Outcome::Fits);
    }

    let mut kept: Vec<usize> = costs.iter().map(Vec::len).collect();
    for (block, kept) in kept.iter_mut().enumerate() {
        while context > budget && *kept > 0 {
            *kept -= 1;
            context -= costs[block][*kept];
        }
    }
    let gone = gone(&blocks, &kept);
    Ok(Outcome::Shortened {
        text: without(text, &gone),
        markup: markup
            .iter()
            .map(|span| moved(span.start, &gone)..moved(span.end, &gone))
            .collect(),
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

/// The text, cut where markup begins or ends.
fn parts(text: &str, markup: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut position = 0;
    for span in markup {
        parts.push(position..span.start);
        parts.push(span.clone());
        position = span.end;
    }
    parts.push(position..text.len());
    parts
}

/// The blocks in one part of `text`. An opening marker that another one follows
/// before any closing one opens nothing, and a closing marker alone closes nothing.
fn blocks(config: &Config, text: &str, part: Range<usize>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut position = part.start;
    while let Some(offset) = text[position..part.end].find(&config.close) {
        let close = position + offset;
        if let Some(open) = text[position..close].rfind(&config.open) {
            let body = position + open + config.open.len()..close;
            blocks.push(chunks(config, text, body));
        }
        position = close + config.close.len();
    }
    blocks
}

fn chunks(config: &Config, text: &str, body: Range<usize>) -> Block {
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
    count: &impl Fn(&str) -> Result<u32, String>,
) -> Result<Vec<Vec<u32>>, String> {
    let separator = count(&config.separator)?;
    let cost = |chunk: &Range<usize>| Ok(count(&text[chunk.clone()])? + separator);
    blocks.iter().map(|block| block.iter().map(cost).collect()).collect()
}

/// What goes if each block keeps its first `kept` chunks. Blank space at either end
/// of a block stays, so that markers keep their lines.
fn gone(blocks: &[Block], kept: &[usize]) -> Vec<Range<usize>> {
    let mut gone = Vec::new();
    for (block, &kept) in blocks.iter().zip(kept) {
        let (Some(first), Some(last)) = (block.get(kept), block.last()) else {
            continue;
        };
        // With the separator in front of it, if there is a chunk before it.
        let start = block[..kept].last().map_or(first.start, |before| before.end);
        gone.push(start..last.end);
    }
    gone
}

fn without(text: &str, gone: &[Range<usize>]) -> String {
    let mut output = String::with_capacity(text.len());
    let mut position = 0;
    for range in gone {
        output.push_str(&text[position..range.start]);
        position = range.end;
    }
    output.push_str(&text[position..]);
    output
}

/// Where a place of the text is once all that is gone; it is in none of that.
fn moved(place: usize, gone: &[Range<usize>]) -> usize {
    let before = gone.iter().take_while(|range| range.end <= place);
    place - before.map(Range::len).sum::<usize>()
}

/// Shortens a known prompt, counting each text as one token.
///
/// # Errors
/// A text with the outcome that should not have been.
pub fn self_test(config: &Config) -> Result<(), String> {
    let Config { open, close, separator, .. } = config;
    let prompt = |chunks: &str| format!("{open}{chunks}{close}");
    let text = prompt(&format!("one{separator}two"));
    let situation = Situation {
        text: &text,
        markup: &[],
        tokens: 1_000,
        context_length: 1_001,
        max_tokens: Some(2),
    };
    let fewer = Config { max_context_tokens: None, ..config.clone() };
    match fit(&fewer, situation, &|_| Ok(1))? {
        Outcome::Shortened { text, .. } if text == prompt("one") => Ok(()),
        other => Err(format!("prompt-window: self-test failed: {other:?}")),
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
