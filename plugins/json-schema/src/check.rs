//! Whether an answer is one complete JSON value, and what the client is told when
//! it is not.
//!
//! The worker generates nothing that the schema does not allow, so what is left to
//! find is an answer that was cut off, or one that did not come from the model.

use serde::de::IgnoredAny;

/// Longest answer that is kept for the check, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// What ended the answer, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The token limit, or the end of the context.
    Length,
    /// The end of the text, a stop string, or anything else.
    Other,
    /// A plugin or the client: not what the model would have said, nor its fault.
    Stopped,
}

/// The answer so far.
#[derive(Debug, Default)]
pub struct Answer {
    text: String,
}

impl Answer {
    /// Takes the next piece.
    ///
    /// # Errors
    /// A text for the operator when the answer becomes too long to be checked.
    pub fn push(&mut self, piece: &str) -> Result<(), String> {
        if self.text.len() + piece.len() > MAX_ANSWER {
            return Err(format!(
                "json-schema: the answer is longer than {MAX_ANSWER} bytes, which is the \
                 longest that is checked: set `check` to false or `max_tokens` lower"
            ));
        }
        self.text.push_str(piece);
        Ok(())
    }

    /// What the client is told of an answer that is not complete JSON; `None` for
    /// one that is.
    pub fn problem(&self, end: End) -> Option<&'static str> {
        problem(&self.text, end)
    }
}

/// What the client is told of an answer that is not complete JSON; `None` for one
/// that is.
pub fn problem(text: &str, end: End) -> Option<&'static str> {
    if end == End::Stopped {
        return None;
    }
    let error = serde_json::from_str::<IgnoredAny>(text).err()?;
    let was_cut = error.is_eof() || ends_in_a_number(text);
    Some(match end {
        End::Length if was_cut => {
            "the answer is incomplete JSON, because it reached the token limit: allow more \
             tokens with max_tokens"
        }
        _ if was_cut => "the answer is incomplete JSON",
        _ => "the answer is not JSON",
    })
}

/// Whether the text ends inside a number, such as `-` or `1.5e`. For the parser
/// that is a wrong number and no early end.
fn ends_in_a_number(text: &str) -> bool {
    let digits = text.trim_end_matches(['+', '-', '.', 'e', 'E']);
    text.ends_with('-')
        || (digits.len() < text.len() && digits.ends_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test should panic")]
    use super::*;

    #[test]
    fn complete_json_passes_however_it_ended() {
        for text in ["true", " {\"a\": [1, 2.5, null]}\n", "\"é\"", "[]"] {
            for end in [End::Length, End::Other, End::Stopped] {
                assert_eq!(problem(text, end), None, "{text}");
            }
        }
    }

    #[test]
    fn every_beginning_of_a_value_is_incomplete() {
        let text = r#"{"name": "Zoë", "tags": ["a", {"b": -1.5e3}], "ok": true}"#;
        for (at, _) in text.char_indices() {
            let cut = &text[..at];
            assert!(problem(cut, End::Length).unwrap().contains("token limit"), "{cut}");
            assert_eq!(problem(cut, End::Other), Some("the answer is incomplete JSON"), "{cut}");
            assert_eq!(problem(cut, End::Stopped), None, "{cut}");
        }
    }

    #[test]
    fn other_text_is_not_json() {
        for text in ["yes", "{} {}", "{'a': 1}", "true."] {
            assert_eq!(problem(text, End::Length), Some("the answer is not JSON"), "{text}");
        }
    }

    #[test]
    fn pieces_add_up_and_end_somewhere() {
        let mut answer = Answer::default();
        answer.push("[1,").unwrap();
        assert!(answer.problem(End::Other).is_some());
        answer.push("2]").unwrap();
        assert_eq!(answer.problem(End::Other), None);
        let error = answer.push(&" ".repeat(MAX_ANSWER)).unwrap_err();
        assert!(error.contains("longer than 4194304 bytes"), "{error}");
    }
}
