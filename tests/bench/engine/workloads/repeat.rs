//! Texts that go on with what stands in them, and one that does not: what drafts
//! are for, and what they cost where they are of no use.

use std::fmt::Write as _;

use llamero_tests::stats::median;

use super::{Context, Seen};
use crate::drivers::{Answer, Request};

const OUT: usize = 128;

/// Requests for each kind of text.
const REQUESTS: usize = 3;

/// Words of the text to repeat, and those of its second copy in the prompt. The
/// answer is shorter than what is left of it.
const TEXT: usize = 160;
const BEGUN: usize = 16;

/// Fields of the class to go on with.
const FIELDS: usize = 6;

/// Words before the free text.
const FREE: usize = 64;

/// Makes a request of one kind.
type Kind = fn(&mut Context<'_>) -> Request;

pub async fn run(context: &mut Context<'_>) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let client = context.running.client("repeat").await?;
    let kinds: [(&str, Kind); 3] =
        [("repeated text", repeated), ("code", code), ("free text", free)];
    for (name, request) in kinds {
        let mut speeds = Vec::new();
        for _ in 0..if context.is_quick { 1 } else { REQUESTS } {
            let answer: Answer = client.run(&request(context)).await;
            seen.count(&answer);
            speeds.extend(answer.decode_speed());
        }
        seen.add(format!("{name} (tok/s)"), median(&speeds));
    }
    Ok(seen)
}

/// A text and the beginning of its repetition.
fn repeated(context: &mut Context<'_>) -> Request {
    let text = context.words.text(&mut context.random, TEXT);
    let begun: String = text.split_inclusive(' ').take(BEGUN).collect();
    Request::new(format!("{text}\n\n{}", begun.trim_end()), OUT)
}

/// A class whose methods resemble each other.
fn code(context: &mut Context<'_>) -> Request {
    let names = context.words.text(&mut context.random, FIELDS);
    let mut text = String::from("class Record:\n");
    for name in names.split_whitespace() {
        let _ = write!(
            text,
            "    def get_{name}(self):\n        return self._{name}\n\n    \
             def set_{name}(self, value):\n        self._{name} = value\n\n"
        );
    }
    Request::new(text, OUT)
}

/// Text that is drawn: a greedy one would go in circles before long.
fn free(context: &mut Context<'_>) -> Request {
    let prompt = context.words.text(&mut context.random, FREE);
    Request { temperature: 1.0, ..Request::new(prompt, OUT) }
}
