//! Cuts generated text into the pieces that a stream filter asked for.
//!
//! What is not yet a whole piece waits here, unseen by the filter; it is not the
//! text that the filter holds, which is in `held`.

use crate::bindings::v0_1::stream_filter::Granularity;

/// The text of one push, and the tokens that came with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Chunker {
    granularity: Granularity,
    waiting: Chunk,
}

impl Chunker {
    pub(crate) fn new(granularity: Granularity) -> Self {
        Self { granularity, waiting: Chunk::default() }
    }

    /// Adds text, of which [`Self::next`] then gives what is complete.
    pub(crate) fn add(&mut self, text: &str, tokens: &[u32]) {
        self.waiting.text.push_str(text);
        self.waiting.tokens.extend_from_slice(tokens);
    }

    /// The next whole piece. The tokens of the text that was added last go with
    /// the first piece that it completes.
    pub(crate) fn next(&mut self) -> Option<Chunk> {
        let end = self.end()?;
        let rest = self.waiting.text.split_off(end);
        Some(Chunk {
            text: std::mem::replace(&mut self.waiting.text, rest),
            tokens: std::mem::take(&mut self.waiting.tokens),
        })
    }

    /// What is left, whole or not.
    pub(crate) fn rest(&mut self) -> Option<Chunk> {
        let chunk = std::mem::take(&mut self.waiting);
        (!chunk.text.is_empty()).then_some(chunk)
    }

    /// Where the next piece ends.
    fn end(&self) -> Option<usize> {
        let text = &self.waiting.text;
        if text.is_empty() {
            return None;
        }
        match self.granularity {
            Granularity::Token => Some(text.len()),
            Granularity::Bytes(n) => {
                let n = (n as usize).max(1);
                if text.len() < n {
                    return None;
                }
                let end = text.floor_char_boundary(n);
                // A character that is larger than a piece is a piece.
                Some(if end == 0 { text.ceil_char_boundary(1) } else { end })
            }
            Granularity::Line => text.find('\n').map(|at| at + 1),
            Granularity::Sentence => sentence_end(text),
            Granularity::Whole => None,
        }
    }
}

/// Where the first sentence ends: behind the white space that follows its stop,
/// or behind a newline, or behind a full-width stop, which no space follows.
fn sentence_end(text: &str) -> Option<usize> {
    let mut stopped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\n' | '。' | '！' | '？' => return Some(at + c.len_utf8()),
            c if stopped && c.is_whitespace() => return Some(at + c.len_utf8()),
            '.' | '!' | '?' => stopped = true,
            // A closing quote or bracket belongs to the sentence.
            '"' | '\'' | ')' | ']' | '”' | '’' => {}
            _ => stopped = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(granularity: Granularity, text: &str, expected: &[&str], rest: &str) {
        // Whatever the pieces in which the text comes, the chunks are the same,
        // unless they are those pieces.
        for step in [1, 2, 3, 1000] {
            if matches!(granularity, Granularity::Token) && step != 1000 {
                continue;
            }
            let mut chunker = Chunker::new(granularity);
            let mut chunks = Vec::new();
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(step) {
                chunker.add(&piece.iter().collect::<String>(), &[]);
                while let Some(chunk) = chunker.next() {
                    chunks.push(chunk.text);
                }
            }
            assert_eq!(chunks, expected, "{granularity:?}, step {step}");
            let left = chunker.rest().map_or_else(String::new, |chunk| chunk.text);
            assert_eq!(left, rest, "{granularity:?}, step {step}");
        }
    }

    #[test]
    fn text_is_cut_as_asked() {
        check(Granularity::Token, "a b", &["a b"], "");
        check(Granularity::Bytes(2), "abcde", &["ab", "cd"], "e");
        check(Granularity::Line, "one\ntwo\nthree", &["one\n", "two\n"], "three");
        check(Granularity::Whole, "one\ntwo", &[], "one\ntwo");
    }

    #[test]
    fn sentences_end_behind_their_space() {
        check(
            Granularity::Sentence,
            "It is 3.14 today. \"Really?\" Yes!\nGut",
            &["It is 3.14 today. ", "\"Really?\" ", "Yes!\n"],
            "Gut",
        );
        check(Granularity::Sentence, "你好。再见", &["你好。"], "再见");
    }

    #[test]
    fn pieces_never_split_a_character() {
        check(Granularity::Bytes(3), "aäöb", &["aä", "öb"], "");
        check(Granularity::Bytes(0), "aä", &["a", "ä"], "");
        check(Granularity::Bytes(1), "€x", &["€", "x"], "");
    }

    #[test]
    fn tokens_go_with_the_first_piece_that_they_complete() {
        let mut chunker = Chunker::new(Granularity::Line);
        chunker.add("on", &[1]);
        assert_eq!(chunker.next(), None);
        chunker.add("e\ntwo\nx", &[2, 3]);
        assert_eq!(chunker.next(), Some(Chunk { text: "one\n".into(), tokens: vec![1, 2, 3] }));
        assert_eq!(chunker.next(), Some(Chunk { text: "two\n".into(), tokens: vec![] }));
        assert_eq!(chunker.rest(), Some(Chunk { text: "x".into(), tokens: vec![] }));
        assert_eq!(chunker.rest(), None);
    }
}
