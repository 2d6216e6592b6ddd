//! Text of which control tokens are parsed in some parts only.
//!
//! Those parts are its *markup*: spans of bytes that ascend, do not overlap, and
//! begin and end between two characters. A control token is parsed where all of it
//! is in one span, and broken by a cut everywhere else. The text is not cut at every
//! border of a span, because a tokenizer joins a template's space and the first word
//! of a message.

use std::ops::Range;

use super::Encode;
use super::escape::{ControlTexts, breaks, encode_pieces};
use crate::error::PromptError;

/// The tokens of `text`, without BOS.
pub(crate) fn encode(
    tokenizer: &impl Encode,
    control: &ControlTexts,
    text: &str,
    markup: &[Range<usize>],
) -> Result<Vec<u32>, PromptError> {
    if markup.is_empty() && !text.is_empty() {
        // As a completion is tokenized: there is nothing to be kept apart.
        return tokenizer.encode(text, false);
    }
    let cuts = cuts(control, text, markup);
    encode_pieces(tokenizer, text, &cuts, |piece| overlaps(markup, piece))
}

/// Where the text has to be cut, so that there is no control token but in a span.
fn cuts(control: &ControlTexts, text: &str, markup: &[Range<usize>]) -> Vec<usize> {
    let mut cuts = Vec::new();
    for found in control.find(text) {
        if is_inside(markup, &found) {
            continue;
        }
        match border(markup, &found) {
            // Not elsewhere, so that a control token of the span stays whole.
            Some(border) => cuts.push(border),
            None => cuts.extend(breaks(text, found)),
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Whether all of `part` is in one span.
fn is_inside(markup: &[Range<usize>], part: &Range<usize>) -> bool {
    let span = markup.get(markup.partition_point(|span| span.end < part.end));
    span.is_some_and(|span| span.start <= part.start)
}

/// Whether some of `part` is in a span.
fn overlaps(markup: &[Range<usize>], part: &Range<usize>) -> bool {
    let span = markup.get(markup.partition_point(|span| span.end <= part.start));
    span.is_some_and(|span| span.start < part.end)
}

/// A border of a span within `part`, which is not all in one span.
fn border(markup: &[Range<usize>], part: &Range<usize>) -> Option<usize> {
    let span = markup.get(markup.partition_point(|span| span.end <= part.start))?;
    let within = |at: &usize| part.start < *at && *at < part.end;
    [span.start, span.end].into_iter().find(within)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use std::slice::from_ref;

    use super::*;

    #[test]
    fn a_control_token_of_a_span_stays_whole() {
        let texts = ["<s>", "s>x", "a<s", "x"].map(str::to_string).to_vec();
        let control = ControlTexts::new(texts).unwrap();
        let check = |text: &str, markup: &[Range<usize>], expected: &[usize]| {
            assert_eq!(cuts(&control, text, markup), expected, "{text} {markup:?}");
        };
        // `s>x` and `a<s` reach over the borders of the span, and are cut there.
        let (inner, last) = (1..4, 2..3);
        check("a<s>x", from_ref(&inner), &[1, 4, 5]);
        check("b<s>y", from_ref(&inner), &[]);
        // In no span: after the first character, and around a single one.
        check("b<s>y", &[], &[2]);
        check("b<s>y", &[1..2, 2..4], &[2]);
        check("xyx", from_ref(&last), &[0, 1]);
    }
}
