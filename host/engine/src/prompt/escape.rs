//! Keeps the text of messages from becoming control tokens.
//!
//! A chat template mixes its own control tokens with what a client wrote, and
//! the tokenizer cannot tell one from the other afterwards. So every place in a
//! message where a control token could begin or end gets a mark: a character
//! that no message and no template contains. The rendered text is cut at the
//! marks, and each piece is tokenized by itself. A mark inside a control
//! token's text breaks it; marks at the ends of a message keep it from
//! combining with its neighbour into one.
//!
//! Marks are only put where they are needed, because a template may look at
//! what it renders (trim it, search it, take its length).

use aho_corasick::AhoCorasick;

use super::Encode;
use crate::error::PromptError;

/// Unicode noncharacters: never part of interchanged text.
const MARKS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// Finds the texts of a vocabulary's control tokens; built once per model.
#[derive(Debug)]
pub(crate) struct ControlTexts {
    texts: Vec<String>,
    search: AhoCorasick,
}

impl ControlTexts {
    /// # Errors
    /// The message of the search automaton, which has limits of its own.
    pub(crate) fn new(texts: Vec<String>) -> Result<Self, String> {
        let texts: Vec<String> = texts.into_iter().filter(|t| !t.is_empty()).collect();
        let search = AhoCorasick::new(&texts).map_err(|e| e.to_string())?;
        Ok(Self { texts, search })
    }
}

/// Marks messages and tokenizes what was rendered from them.
#[derive(Debug)]
pub(crate) struct Escape<'a> {
    mark: char,
    control: &'a ControlTexts,
}

impl<'a> Escape<'a> {
    /// For texts that become one prompt.
    pub(crate) fn new<'t>(
        control: &'a ControlTexts,
        texts: impl Iterator<Item = &'t str> + Clone,
    ) -> Result<Self, PromptError> {
        let mark = MARKS
            .into_iter()
            .find(|mark| texts.clone().all(|text| !text.contains(*mark)))
            .ok_or_else(|| {
            PromptError::Template("messages contain every Unicode noncharacter".to_string())
        })?;
        Ok(Self { mark, control })
    }

    /// The message with its marks.
    pub(crate) fn mark(&self, text: &str) -> String {
        let mut cuts = Vec::new();
        for found in self.control.search.find_overlapping_iter(text) {
            let first = text[found.start()..].chars().next().map_or(0, char::len_utf8);
            cuts.push(found.start() + first);
            if first == found.len() {
                // A single character cannot be broken; its own piece is
                // tokenized as plain text instead.
                cuts.push(found.start());
            }
        }
        if self.may_combine(text) {
            // Inside the white space around the text, so that a template's
            // `trim` still finds it.
            cuts.push(text.len() - text.trim_start().len());
            cuts.push(text.trim_end().len());
        }
        if cuts.is_empty() {
            return text.to_string();
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut out = String::with_capacity(text.len() + cuts.len() * self.mark.len_utf8());
        let mut from = 0;
        for cut in cuts {
            out.push_str(&text[from..cut]);
            out.push(self.mark);
            from = cut;
        }
        out.push_str(&text[from..]);
        out
    }

    /// Whether the text could be a part of a control token with what the
    /// template puts beside it.
    fn may_combine(&self, text: &str) -> bool {
        let text = text.trim();
        !text.is_empty()
            && self.control.texts.iter().any(|control| {
                control.contains(text)
                    || control.char_indices().skip(1).any(|(at, _)| {
                        text.starts_with(&control[at..]) || text.ends_with(&control[..at])
                    })
            })
    }

    /// The tokens of rendered text.
    pub(crate) fn encode(
        &self,
        tokenizer: &impl Encode,
        rendered: &str,
    ) -> Result<Vec<u32>, PromptError> {
        let mut tokens = Vec::new();
        for piece in rendered.split(self.mark) {
            if piece.is_empty() {
                continue;
            }
            let single = piece.chars().nth(1).is_none() && rendered != piece;
            tokens.extend(tokenizer.encode(piece, !single)?);
        }
        Ok(tokens)
    }

    /// Rendered text without its marks.
    pub(crate) fn unmark(&self, rendered: &str) -> String {
        rendered.replace(self.mark, "")
    }
}
