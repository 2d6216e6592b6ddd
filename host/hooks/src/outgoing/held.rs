//! The text that a stream filter holds back, and what its verdicts do to it.
//!
//! The host owns this text, so that whatever is held when a filter fails can be
//! dropped without asking it. Everything here is pure; calling the filter is
//! `stage`'s task.

use std::time::Instant;

use crate::bindings::v0_1::stream_filter::{Halt, Tail, Verdict};
use crate::bindings::v0_1::types::Rejection;
use crate::config::Limits;
use crate::verdict::check_rejection;

/// Longest reason of a halt: it becomes part of the finish reason.
const HALT_REASON_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Held {
    text: String,
    since: Option<Instant>,
}

/// What a verdict lets go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// This text, possibly empty.
    Text(String),
    /// This text as the last one, and the generation stops.
    Halt { text: String, reason: String },
    /// Nothing any more.
    Reject { code: Option<u32>, reason: String },
}

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Since when the oldest of it is held.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Applies the verdict on `chunk`. An error says why the verdict cannot be
    /// used.
    pub(crate) fn apply(
        &mut self,
        chunk: &str,
        verdict: Verdict,
        limits: &Limits,
        now: Instant,
    ) -> Result<Released, String> {
        let released = match verdict {
            Verdict::Pass => {
                let mut text = self.drain();
                text.push_str(chunk);
                text
            }
            Verdict::Hold => {
                self.hold(chunk, now);
                String::new()
            }
            Verdict::Release(n) => {
                // Who lets nothing go still holds what it held, and for as long.
                let since = self.since.filter(|_| n == 0);
                let mut text = self.drain();
                text.push_str(chunk);
                let n = n as usize;
                if n > text.len() {
                    return Err(format!(
                        "`release({n})` of {} bytes that are held or pushed",
                        text.len()
                    ));
                }
                if !text.is_char_boundary(n) {
                    return Err(format!("`release({n})` falls inside a character"));
                }
                let rest = text.split_off(n);
                self.since = since.filter(|_| !rest.is_empty());
                self.hold(&rest, now);
                text
            }
            Verdict::Rewrite(rewrite) => {
                let size = rewrite.emit.len() + rewrite.hold.len();
                if size > limits.output_bytes {
                    return Err(format!(
                        "the rewritten text has {size} bytes, limit `output_bytes` is {}",
                        limits.output_bytes
                    ));
                }
                // A filter that holds a suffix rewrites it with every push. As
                // long as it lets nothing go, the text in front is as old as it
                // was.
                let since = if rewrite.emit.is_empty() { self.since } else { None };
                self.drain();
                self.since = since.filter(|_| !rewrite.hold.is_empty());
                self.hold(&rewrite.hold, now);
                rewrite.emit
            }
            Verdict::Halt(halt) => return self.halt(halt, limits),
            Verdict::Reject(rejection) => return self.reject(rejection, limits),
        };
        Ok(Released::Text(released))
    }

    /// Applies what the filter decides at the end of the text.
    pub(crate) fn end(&mut self, tail: Tail, limits: &Limits) -> Result<Released, String> {
        let held = self.drain();
        match tail {
            Tail::Release => Ok(Released::Text(held)),
            Tail::Replace(text) if text.len() > limits.output_bytes => Err(format!(
                "the last text has {} bytes, limit `output_bytes` is {}",
                text.len(),
                limits.output_bytes
            )),
            Tail::Replace(text) => Ok(Released::Text(text)),
            Tail::Discard => Ok(Released::Text(String::new())),
            Tail::Reject(rejection) => self.reject(rejection, limits),
        }
    }

    fn halt(&mut self, halt: Halt, limits: &Limits) -> Result<Released, String> {
        self.drain();
        if halt.text.len() > limits.output_bytes {
            return Err(format!(
                "the last text has {} bytes, limit `output_bytes` is {}",
                halt.text.len(),
                limits.output_bytes
            ));
        }
        if halt.reason.len() > HALT_REASON_BYTES {
            return Err(format!(
                "the reason of the halt has {} bytes, the limit is {HALT_REASON_BYTES}",
                halt.reason.len()
            ));
        }
        Ok(Released::Halt { text: halt.text, reason: halt.reason })
    }

    fn reject(&mut self, rejection: Rejection, limits: &Limits) -> Result<Released, String> {
        self.drain();
        check_rejection(&rejection, limits)?;
        Ok(Released::Reject { code: rejection.code, reason: rejection.reason })
    }

    fn hold(&mut self, text: &str, now: Instant) {
        if text.is_empty() {
            return;
        }
        self.since.get_or_insert(now);
        self.text.push_str(text);
    }

    fn drain(&mut self) -> String {
        self.since = None;
        std::mem::take(&mut self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::bindings::v0_1::stream_filter::Rewrite;

    fn text(released: Released) -> String {
        match released {
            Released::Text(text) => text,
            other => panic!("text expected: {other:?}"),
        }
    }

    fn apply(held: &mut Held, chunk: &str, verdict: Verdict) -> Result<Released, String> {
        held.apply(chunk, verdict, &Limits::default(), Instant::now())
    }

    #[test]
    fn verdicts_apply_to_what_is_held_and_the_chunk() {
        let mut held = Held::default();
        assert_eq!(text(apply(&mut held, "ab", Verdict::Hold).unwrap()), "");
        assert_eq!(held.len(), 2);
        assert_eq!(text(apply(&mut held, "cd", Verdict::Release(3)).unwrap()), "abc");
        assert_eq!(held.len(), 1);
        assert_eq!(text(apply(&mut held, "ef", Verdict::Pass).unwrap()), "def");
        assert_eq!(held.since(), None);
        let rewrite = Rewrite { emit: "X".into(), hold: "Y".into() };
        assert_eq!(text(apply(&mut held, "gh", Verdict::Rewrite(rewrite)).unwrap()), "X");
        assert_eq!(text(held.end(Tail::Release, &Limits::default()).unwrap()), "Y");
    }

    #[test]
    fn a_release_must_be_possible() {
        let mut held = Held::default();
        let error = apply(&mut held, "ä", Verdict::Release(3)).unwrap_err();
        assert!(error.contains("of 2 bytes"), "{error}");
        let error = apply(&mut held, "ä", Verdict::Release(1)).unwrap_err();
        assert!(error.contains("inside a character"), "{error}");
    }

    #[test]
    fn text_that_is_only_rewritten_does_not_get_younger() {
        let mut held = Held::default();
        let start = Instant::now();
        let limits = Limits::default();
        held.apply("a", Verdict::Hold, &limits, start).unwrap();
        let later = start + Duration::from_secs(1);
        let rewrite = Rewrite { emit: String::new(), hold: "b".into() };
        held.apply("c", Verdict::Rewrite(rewrite), &limits, later).unwrap();
        assert_eq!(held.since(), Some(start));
        let rewrite = Rewrite { emit: "b".into(), hold: "c".into() };
        held.apply("c", Verdict::Rewrite(rewrite), &limits, later).unwrap();
        assert_eq!(held.since(), Some(later));
    }

    #[test]
    fn releasing_nothing_does_not_make_text_younger() {
        let mut held = Held::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let limits = Limits::default();
        held.apply("ab", Verdict::Hold, &limits, start).unwrap();
        held.apply("c", Verdict::Release(0), &limits, later).unwrap();
        assert_eq!((held.len(), held.since()), (3, Some(start)));
        held.apply("d", Verdict::Release(1), &limits, later).unwrap();
        assert_eq!((held.len(), held.since()), (3, Some(later)));
    }

    #[test]
    fn ends_without_release_let_nothing_go() {
        for tail in [
            Tail::Discard,
            Tail::Reject(Rejection { code: Some(1000), reason: "no".into() }),
            Tail::Reject(Rejection { code: Some(11), reason: "no".into() }),
        ] {
            let mut held = Held::default();
            apply(&mut held, "secret", Verdict::Hold).unwrap();
            let end = held.end(tail, &Limits::default());
            assert!(!format!("{end:?}").contains("secret"), "{end:?}");
            assert_eq!(held.len(), 0);
        }
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![Just(Verdict::Pass), Just(Verdict::Hold), (0_u32..8).prop_map(Verdict::Release),]
    }

    proptest! {
        /// Whatever is held and released: nothing is lost, doubled or reordered.
        #[test]
        fn released_and_held_text_is_the_whole_text(
            steps in prop::collection::vec(("[aä€]{0,3}", verdict()), 0..30)
        ) {
            let mut held = Held::default();
            let (mut given, mut released) = (String::new(), String::new());
            for (chunk, verdict) in steps {
                let before = Held { text: held.text.clone(), since: held.since };
                match apply(&mut held, &chunk, verdict) {
                    Ok(Released::Text(text)) => {
                        given.push_str(&chunk);
                        released.push_str(&text);
                    }
                    Ok(other) => panic!("{other:?}"),
                    // An impossible release; the filter would be gone.
                    Err(_) => held = before,
                }
                prop_assert_eq!(held.since.is_some(), held.len() > 0);
            }
            released.push_str(&text(held.end(Tail::Release, &Limits::default()).unwrap()));
            prop_assert_eq!(released, given);
        }
    }
}
