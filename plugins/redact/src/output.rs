//! Masks generated text while it is generated.
//!
//! A match may be cut by the borders between chunks, so the end of the text that
//! could still become part of one is held back, and everything before it is
//! released at once. What `detect` calls settled is settled for good: whatever the
//! borders, the pieces released add up to the whole text redacted in one piece.

use crate::config::Config;
use crate::detect::{self, LOOK_BEHIND};
use crate::redact::{Counts, replace_within};

/// Most bytes that are ever held: more than the longest match of each kind and
/// what must be seen behind it.
pub const MAX_HOLD: usize = 1024;

/// One output, from its first chunk to its end.
#[derive(Debug, Default)]
pub struct Output {
    /// The last characters that were released, as they were generated, and behind
    /// them the text that is held.
    text: String,
    /// Where the held text begins.
    held: usize,
    /// How much was masked so far.
    pub counts: Counts,
}

/// What to do with the text held and one more chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Release all of it.
    Pass,
    /// Release nothing yet.
    Hold,
    /// Release so many bytes as they are.
    Release(usize),
    /// Release the first text in place of what was there, hold the second.
    Rewrite(String, String),
}

impl Output {
    /// Bytes held.
    pub fn held(&self) -> usize {
        self.text.len() - self.held
    }

    /// Takes the next chunk.
    pub fn push(&mut self, config: &Config, chunk: &str) -> Step {
        self.text.push_str(chunk);
        let scan = detect::scan(&self.text, self.held, true, &config.mask);
        let range = self.held..scan.settled;
        let step = if !scan.matches.is_empty() {
            let emit =
                replace_within(config, &self.text, range.clone(), &scan.matches, &mut self.counts);
            Step::Rewrite(emit, self.text[range.end..].to_owned())
        } else if range.is_empty() {
            Step::Hold
        } else if range.end == self.text.len() {
            Step::Pass
        } else {
            Step::Release(range.len())
        };
        self.held = range.end;
        self.forget();
        step
    }

    /// The text held, redacted, as nothing follows; `None` if that is what it is
    /// already.
    pub fn close(&mut self, config: &Config) -> Option<String> {
        let scan = detect::scan(&self.text, self.held, false, &config.mask);
        let range = self.held..self.text.len();
        self.held = range.end;
        (!scan.matches.is_empty())
            .then(|| replace_within(config, &self.text, range, &scan.matches, &mut self.counts))
    }

    /// Drops what lies further back than any rule looks.
    fn forget(&mut self) {
        let behind = self.text[..self.held].char_indices().rev().take(LOOK_BEHIND);
        let keep = behind.last().map_or(0, |(at, _)| at);
        self.text.drain(..keep);
        self.held -= keep;
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
