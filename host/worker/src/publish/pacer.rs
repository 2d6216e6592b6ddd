//! When joined text is sent. Pure: time comes in with each call.

use std::time::{Duration, Instant};

/// The pace of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// For how long text is joined after a fragment.
    pub interval: Duration,
    /// How much text, in bytes, is sent without waiting.
    pub bytes: usize,
}

/// Joins the text of one stream and says when it is due.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    text: String,
    /// Nothing before this: the acknowledgement's delay, then the interval.
    earliest: Instant,
    is_first: bool,
}

impl Pacer {
    /// A stream whose first message may go out at `first_at`.
    pub fn new(pace: Pace, first_at: Instant) -> Self {
        Self { pace, text: String::new(), earliest: first_at, is_first: true }
    }

    /// Adds text. It waits until it is taken.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// When what waits is to be sent; a moment in the past means now. Nothing
    /// waits, nothing is due.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.text.is_empty() {
            return None;
        }
        // The client subscribes its stream during the first delay, so that one
        // holds however much text there is.
        if !self.is_first && self.text.len() >= self.pace.bytes {
            return Some(now.min(self.earliest));
        }
        Some(self.earliest)
    }

    /// The earliest moment for the last message, whatever text waits.
    pub fn last_due(&self) -> Option<Instant> {
        self.is_first.then_some(self.earliest)
    }

    /// Takes what waits, to be sent at `now`.
    pub fn take(&mut self, now: Instant) -> String {
        self.is_first = false;
        self.earliest = now + self.pace.interval;
        std::mem::take(&mut self.text)
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        self.text.clear();
    }
}

/// The longest beginning of `text` of at most `bytes` bytes that ends at the
/// border of a character; at least one character.
pub fn split_at_char(text: &str, bytes: usize) -> (&str, &str) {
    let end = text.floor_char_boundary(bytes);
    let end = if end == 0 { text.chars().next().map_or(0, char::len_utf8) } else { end };
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const PACE: Pace = Pace { interval: ms(25), bytes: 8 };

    #[test]
    fn the_first_fragment_waits_for_the_delay_only() {
        let now = Instant::now();
        let mut pacer = Pacer::new(PACE, now + ms(10));
        assert_eq!(pacer.due(now), None);
        pacer.push("much more than eight bytes");
        assert_eq!(pacer.due(now), Some(now + ms(10)));
        assert_eq!(pacer.last_due(), Some(now + ms(10)));
        assert_eq!(pacer.take(now + ms(10)), "much more than eight bytes");
        assert_eq!(pacer.last_due(), None);
    }

    #[test]
    fn later_text_is_joined_for_the_interval_or_until_there_is_enough() {
        let now = Instant::now();
        let mut pacer = Pacer::new(PACE, now);
        pacer.push("a");
        pacer.take(now);
        pacer.push("bc");
        assert_eq!(pacer.due(now + ms(5)), Some(now + ms(25)));
        pacer.push("defghi");
        assert_eq!(pacer.due(now + ms(5)), Some(now + ms(5)));
        assert_eq!(pacer.take(now + ms(5)), "bcdefghi");
        assert_eq!(pacer.due(now + ms(6)), None);
        // After a pause longer than the interval, text is due at once.
        pacer.push("j");
        assert!(pacer.due(now + ms(100)).is_some_and(|due| due <= now + ms(100)));
    }

    #[test]
    fn texts_are_split_at_characters() {
        assert_eq!(split_at_char("abc", 2), ("ab", "c"));
        assert_eq!(split_at_char("aöb", 2), ("a", "öb"));
        assert_eq!(split_at_char("öb", 1), ("ö", "b"));
        assert_eq!(split_at_char("abc", 99), ("abc", ""));
        assert_eq!(split_at_char("", 1), ("", ""));
    }
}
