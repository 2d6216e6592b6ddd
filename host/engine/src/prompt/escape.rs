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
//!
//! Whoever changes the rendered text has to know which of it is the template's
//! own, its [`markup`](super::markup). The template says so itself, by rendering
//! the messages once more in brackets, which are two more such characters. That
//! counts only if they changed nothing; otherwise the control tokens that were not
//! broken are all that is known to be the template's.

use std::collections::HashMap;
use std::ops::Range;

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

    /// Where `text` reads like a control token; these places may overlap.
    pub(crate) fn find(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        self.search.find_overlapping_iter(text).map(|found| found.range())
    }
}

/// The cuts that break what reads like a control token. A single character cannot
/// be broken: it becomes a piece of its own, to be tokenized as plain text.
pub(crate) fn breaks(text: &str, found: Range<usize>) -> impl Iterator<Item = usize> {
    let first = text[found.clone()].chars().next().map_or(0, char::len_utf8);
    let before = (first == found.len()).then_some(found.start);
    before.into_iter().chain([found.start + first])
}

/// The tokens of a text that is cut at these places, which ascend. `parsed` says
/// of which pieces the control tokens are parsed.
pub(crate) fn encode_pieces(
    tokenizer: &impl Encode,
    text: &str,
    cuts: &[usize],
    parsed: impl Fn(&Range<usize>) -> bool,
) -> Result<Vec<u32>, PromptError> {
    let mut tokens = Vec::new();
    // A message that is full of control tokens' texts has the same pieces over and
    // over, and tokenizing one costs more by the call than by its length.
    let mut known: HashMap<(&str, bool), Range<usize>> = HashMap::new();
    for piece in pieces(text, cuts) {
        let key = (&text[piece.clone()], parsed(&piece));
        if let Some(same) = known.get(&key) {
            tokens.extend_from_within(same.clone());
            continue;
        }
        let from = tokens.len();
        tokens.extend(tokenizer.encode(key.0, key.1)?);
        known.insert(key, from..tokens.len());
    }
    Ok(tokens)
}

fn pieces(text: &str, cuts: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([text.len()]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|piece| !piece.is_empty())
}

/// Marks messages and tokenizes what was rendered from them.
#[derive(Debug)]
pub(crate) struct Escape<'a> {
    mark: char,
    open: char,
    close: char,
    control: &'a ControlTexts,
}

impl<'a> Escape<'a> {
    /// For texts that become one prompt.
    pub(crate) fn new<'t>(
        control: &'a ControlTexts,
        texts: impl Iterator<Item = &'t str> + Clone,
    ) -> Result<Self, PromptError> {
        let mut unused = MARKS.filter(|mark| texts.clone().all(|text| !text.contains(*mark)));
        let mut next = || {
            unused.next().ok_or_else(|| {
                PromptError::Template("messages contain too many Unicode noncharacters".to_string())
            })
        };
        Ok(Self { mark: next()?, open: next()?, close: next()?, control })
    }

    /// The message with its marks.
    pub(crate) fn mark(&self, text: &str) -> String {
        let mut cuts: Vec<usize> =
            self.control.find(text).flat_map(|found| breaks(text, found)).collect();
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
        let (text, cuts) = self.cut(rendered);
        encode_pieces(tokenizer, &text, &cuts, |piece| is_parsed(&text, &cuts, piece))
    }

    /// Rendered text without its marks.
    pub(crate) fn unmark(&self, rendered: &str) -> String {
        self.cut(rendered).0
    }

    /// Rendered text without its marks, and where they were.
    fn cut(&self, rendered: &str) -> (String, Vec<usize>) {
        let mut text = String::with_capacity(rendered.len());
        let mut cuts = Vec::new();
        for piece in rendered.split(self.mark) {
            text.push_str(piece);
            cuts.push(text.len());
        }
        // No mark is behind the last piece.
        cuts.pop();
        (text, cuts)
    }

    /// The marked message in brackets. They are inside the white space around it,
    /// as its own marks are; one of nothing but white space has none.
    pub(crate) fn bracket(&self, marked: &str) -> String {
        let text = marked.trim();
        if text.is_empty() {
            return marked.to_string();
        }
        let start = marked.len() - marked.trim_start().len();
        let (before, after) = (&marked[..start], &marked[start + text.len()..]);
        format!("{before}{}{text}{}{after}", self.open, self.close)
    }

    /// What the template put around the messages, from the rendering of them with
    /// marks and of the same in brackets; `None` if that cannot be said for certain.
    pub(crate) fn around(
        &self,
        rendered: &str,
        bracketed: &str,
        n_brackets: usize,
    ) -> Option<Vec<Range<usize>>> {
        if bracketed.replace([self.open, self.close], "") != rendered {
            return None;
        }
        let mut markup = Vec::new();
        let (mut at, mut from) = (0, Some(0));
        let mut n_closed = 0;
        for c in bracketed.chars() {
            if c == self.open {
                markup.push(from.take()?..at);
            } else if c == self.close {
                if from.replace(at).is_some() {
                    return None;
                }
                n_closed += 1;
            } else if c != self.mark {
                at += c.len_utf8();
            } else if from.is_some() {
                // Of a message that has lost its brackets.
                return None;
            }
        }
        markup.push(from?..at);
        markup.retain(|span| !span.is_empty());
        (n_closed == n_brackets).then_some(markup)
    }

    /// The control tokens of rendered text.
    pub(crate) fn control_tokens(&self, rendered: &str) -> Vec<Range<usize>> {
        let (text, cuts) = self.cut(rendered);
        let mut found: Vec<Range<usize>> = pieces(&text, &cuts)
            .filter(|piece| is_parsed(&text, &cuts, piece))
            .flat_map(|piece| {
                let inside = self.control.find(&text[piece.clone()]);
                inside.map(move |found| piece.start + found.start..piece.start + found.end)
            })
            .collect();
        found.sort_unstable_by_key(|found| found.start);
        let mut markup: Vec<Range<usize>> = Vec::new();
        for found in found {
            match markup.last_mut() {
                Some(last) if found.start < last.end => last.end = last.end.max(found.end),
                _ => markup.push(found),
            }
        }
        markup
    }
}

/// Whether control tokens are parsed in a piece of marked text. Marks on both sides
/// of a single character keep it from being one.
fn is_parsed(text: &str, cuts: &[usize], piece: &Range<usize>) -> bool {
    cuts.is_empty() || text[piece.clone()].chars().nth(1).is_some()
}
