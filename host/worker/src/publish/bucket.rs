//! How many messages a stream subject may get: a token bucket for each subject,
//! shared by all jobs that stream to it.
//!
//! A Go client reads all its streams through two buffers of 16 messages and
//! drops what does not fit, the final message too. 8 messages at once and 50 in a
//! second stay below that whatever the number of jobs (protocol.md 7).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages that may be sent at once after a pause.
const BURST: u32 = 8;

/// Time in which one more message is allowed: 50 in a second.
const REFILL: Duration = Duration::from_millis(20);

/// From this many subjects on, those that have been idle are forgotten.
const SWEEP_AT: usize = 256;

/// The buckets of all stream subjects.
///
/// A bucket is the moment at which it will be full again. Taking a token moves
/// that moment on by [`REFILL`]; the token is there as soon as the moment is no
/// further away than a full bucket. So a token that is not there yet can be
/// reserved, and several jobs get theirs in the order in which they asked.
#[derive(Debug, Default)]
pub struct Buckets {
    full_at: Mutex<HashMap<String, Instant>>,
}

impl Buckets {
    /// Takes the next token of the subject and says when it may be used.
    pub fn reserve(&self, subject: &str, now: Instant) -> Instant {
        // Nothing panics while the lock is held.
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SWEEP_AT && !buckets.contains_key(subject) {
            // A full bucket is as good as none. Others belong to running jobs,
            // so there are few.
            buckets.retain(|_, full_at| *full_at > now);
        }
        let full_at = buckets.entry(subject.to_owned()).or_insert(now);
        *full_at = (*full_at).max(now) + REFILL;
        let wait = full_at.saturating_duration_since(now).saturating_sub(REFILL * BURST);
        now + wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn eight_at_once_then_fifty_in_a_second() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        let waits: Vec<_> =
            (0..12).map(|_| buckets.reserve("s", now).duration_since(now)).collect();
        assert_eq!(waits[..8], [Duration::ZERO; 8]);
        assert_eq!(waits[8..], [ms(20), ms(40), ms(60), ms(80)]);
    }

    #[test]
    fn a_pause_fills_the_bucket_but_not_beyond() {
        let (buckets, start) = (Buckets::default(), Instant::now());
        for _ in 0..8 {
            buckets.reserve("s", start);
        }
        let later = start + ms(40);
        assert_eq!(buckets.reserve("s", later), later);
        assert_eq!(buckets.reserve("s", later), later);
        assert_eq!(buckets.reserve("s", later), later + ms(20));
        let much_later = start + ms(60_000);
        let at_once = (0..20).filter(|_| buckets.reserve("s", much_later) == much_later).count();
        assert_eq!(at_once, 8);
    }

    #[test]
    fn subjects_do_not_share_a_bucket() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        for _ in 0..20 {
            buckets.reserve("a", now);
        }
        assert_eq!(buckets.reserve("b", now), now);
    }

    #[test]
    fn no_window_of_a_second_has_more_than_burst_and_refill() {
        let (buckets, start) = (Buckets::default(), Instant::now());
        // Two jobs that each reserve again as soon as they have sent.
        let (mut sent, mut next) = (Vec::new(), [start; 2]);
        for _ in 0..400 {
            let job = usize::from(next[1] < next[0]);
            let at = buckets.reserve("s", next[job]);
            sent.push(at);
            next[job] = at;
        }
        sent.sort();
        for (index, from) in sent.iter().enumerate() {
            let in_window = sent[index..].iter().take_while(|at| **at < *from + ms(1000));
            assert!(in_window.count() <= 58);
        }
    }

    #[test]
    fn idle_subjects_are_forgotten() {
        let (buckets, start) = (Buckets::default(), Instant::now());
        for index in 0..10_000 {
            buckets.reserve(&index.to_string(), start + ms(index));
        }
        let kept = buckets.full_at.lock().map(|map| map.len()).unwrap_or(0);
        assert!(kept <= SWEEP_AT, "{kept}");
    }
}
