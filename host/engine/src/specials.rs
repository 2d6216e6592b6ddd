//! Cuts long texts where their tokens cannot tell.
//!
//! llama.cpp keeps what it has found of a vocabulary's special tokens in a list, and
//! walks that from its beginning for each one that it finds: a text with a hundred
//! thousand of them, which fits into a request, takes it minutes. The text is cut into
//! parts with few of them each. A special token ends what stands before it, so that the
//! parts have the tokens of the whole, if the cut is behind one that nothing else could
//! be found in place of.
//!
//! Which special tokens there are is [`crate::vocabulary`]'s business.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, Match};

/// Special tokens of a part, about. Fewer would make parts for nothing.
const PER_PART: usize = 256;

/// The texts of special tokens.
#[derive(Debug)]
pub(crate) struct SpecialTexts {
    search: AhoCorasick,
    /// For each of them, whether it takes away white space that follows: a cut would keep
    /// that from it.
    strips: Vec<bool>,
    longest: usize,
}

impl SpecialTexts {
    /// Texts of tokens, each with whether it strips what follows.
    ///
    /// # Errors
    /// The message of the search automaton, which has limits of its own.
    pub(crate) fn new(texts: impl IntoIterator<Item = (String, bool)>) -> Result<Self, String> {
        // Two tokens can have one text.
        let mut distinct = BTreeMap::<String, bool>::new();
        for (text, strips) in texts {
            if !text.is_empty() {
                *distinct.entry(text).or_default() |= strips;
            }
        }
        let (texts, strips): (Vec<String>, Vec<bool>) = distinct.into_iter().unzip();
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        let search = AhoCorasick::new(&texts).map_err(|error| error.to_string())?;
        Ok(Self { search, strips, longest })
    }

    /// The parts of a text, at least one.
    pub(crate) fn parts<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut parts = Vec::new();
        let (mut from, mut found) = (0, 0);
        for special in self.search.find_iter(text) {
            found += 1;
            if found >= PER_PART && self.is_end(text, special) {
                parts.push(&text[from..special.end()]);
                (from, found) = (special.end(), 0);
            }
        }
        if from < text.len() || parts.is_empty() {
            parts.push(&text[from..]);
        }
        parts
    }

    /// Whether this one is found whatever else stands around it, and leaves what follows
    /// as it is.
    fn is_end(&self, text: &str, special: Match) -> bool {
        if self.strips[special.pattern().as_usize()] {
            return false;
        }
        let from = special.start().saturating_sub(self.longest);
        let to = special.end().saturating_add(self.longest).min(text.len());
        let (start, end) = (special.start() - from, special.end() - from);
        let around = self.search.find_overlapping_iter(&text.as_bytes()[from..to]);
        let mut overlapping = around.filter(|other| other.start() < end && other.end() > start);
        // Itself, and no other.
        overlapping.next().is_some() && overlapping.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use proptest::prelude::*;

    use super::*;

    fn specials(texts: &[(&str, bool)]) -> SpecialTexts {
        SpecialTexts::new(texts.iter().map(|(text, strips)| (text.to_string(), *strips))).unwrap()
    }

    #[test]
    fn parts_end_with_special_tokens() {
        let specials = specials(&[("<a>", false), ("<b>", false), ("<a>", false), ("", true)]);
        let text = "<a>word <b>\n".repeat(1000);
        let parts = specials.parts(&text);
        assert_eq!(parts.concat(), text);
        assert_eq!(parts.len(), 2000 / PER_PART + 1);
        for part in &parts[..parts.len() - 1] {
            assert!(part.ends_with("<a>") || part.ends_with("<b>"));
            assert_eq!(part.matches('<').count(), PER_PART);
        }
    }

    #[test]
    fn short_texts_and_those_without_special_tokens_are_whole() {
        let some = specials(&[("<a>", false)]);
        let none = specials(&[]);
        let long = "word ".repeat(100_000);
        for text in ["", "<a>", "a<a>b", &long] {
            assert_eq!(some.parts(text), [text]);
            assert_eq!(none.parts(text), [text]);
        }
    }

    #[test]
    fn nothing_is_cut_that_could_be_found_otherwise() {
        let whole = |texts: &[(&str, bool)], text: &str| {
            let text = text.repeat(1000);
            specials(texts).parts(&text).len() == 1
        };
        assert!(whole(&[("<a>", true)], "<a> "), "it strips what follows");
        assert!(whole(&[("<a>", false), ("<a><a>", false)], "<a>"));
        assert!(whole(&[("aa", false)], "a"), "from an even place or an odd one");
        assert!(whole(&[("<a>", false), (">x", false)], "<a>x"));
        assert!(!whole(&[("<a>", false), (">x", false)], "<a>y"));
        assert!(!whole(&[("<a>", true), ("<b>", false)], "<a> <b>"));
    }

    proptest! {
        /// No text of a special token crosses a cut, and cuts are behind one.
        #[test]
        fn no_special_token_is_cut(pieces in prop::collection::vec(0usize..6, 0..3000)) {
            let texts = [("<a>", false), ("<ab>", false), ("b><", false), ("  ", true)];
            let pieces = pieces.iter().map(|n| ["<a>", "<ab>", "b><", " ", "<", "ü"][*n]);
            let text = pieces.collect::<String>();
            let parts = specials(&texts).parts(&text);
            prop_assert_eq!(parts.concat(), text.as_str());
            let mut at = 0;
            for part in &parts[..parts.len() - 1] {
                at += part.len();
                prop_assert!(["<a>", "<ab>", "b><"].iter().any(|special| part.ends_with(special)));
                for (special, _) in texts {
                    for n in 1..special.len() {
                        let crosses = at >= n
                            && text.as_bytes()[at - n..].starts_with(special.as_bytes());
                        prop_assert!(!crosses, "{} at {}", special, at);
                    }
                }
            }
        }
    }
}
