//! Lets a log line through at most once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts nothing, forgets nothing: it only says whether it is time again.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Lets one through in this time.
    pub const fn new(every: Duration) -> Self {
        Self { every, last: Mutex::new(None) }
    }

    /// True for the first call, and again once the time has passed.
    pub fn pass(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = last.is_none_or(|last| now.duration_since(last) >= self.every);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while() {
        let throttle = Throttle::new(Duration::from_secs(3600));
        assert!(throttle.pass());
        assert!(!throttle.pass());
        let always = Throttle::new(Duration::ZERO);
        assert!(always.pass() && always.pass());
    }
}
