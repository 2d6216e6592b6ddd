//! Ends the step in progress, if that is worth it.
//!
//! A step that is aborted is lost for everybody in it, so only a cancelled job
//! whose own prompt is in work may end any step; one that merely waits for the
//! end of it may do so only if there is long to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A step that ends sooner than this by estimate is waited for.
const WORTH: Duration = Duration::from_millis(20);

/// Shared by an engine and all who can cancel one of its jobs.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// The flag that the backend looks at.
    abort: Arc<AtomicBool>,
    origin: Instant,
    /// When the step ends, in microseconds after `origin`; 0 if no step runs
    /// that may be aborted.
    ends_at: AtomicU64,
}

impl Alarm {
    pub(crate) fn new(abort: Arc<AtomicBool>) -> Self {
        Self { abort, origin: Instant::now(), ends_at: AtomicU64::new(0) }
    }

    /// Nobody has asked for an end of what comes next.
    pub(crate) fn reset(&self) {
        self.abort.store(false, Ordering::SeqCst);
    }

    /// A step begins that takes so long by estimate.
    pub(crate) fn begin(&self, estimate: Duration) {
        let ends_at = Instant::now().checked_add(estimate);
        let ends_at = ends_at.map_or(u64::MAX, |ends_at| self.micros(ends_at));
        self.ends_at.store(ends_at, Ordering::SeqCst);
    }

    /// The step has ended.
    pub(crate) fn end(&self) {
        self.ends_at.store(0, Ordering::SeqCst);
    }

    /// Ends the step.
    pub(crate) fn ring(&self) {
        self.abort.store(true, Ordering::SeqCst);
    }

    /// Ends the step if it would go on for long.
    pub(crate) fn ring_if_long(&self) {
        if self.ends_at.load(Ordering::SeqCst) > self.micros(Instant::now() + WORTH) {
            self.ring();
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    #[cfg(test)]
    pub(crate) fn is_ringing(&self) -> bool {
        self.abort.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_steps_are_ended() {
        let alarm = Alarm::new(Arc::new(AtomicBool::new(false)));
        let rings = |alarm: &Alarm| {
            alarm.reset();
            alarm.ring_if_long();
            alarm.is_ringing()
        };
        assert!(!rings(&alarm), "no step runs");
        alarm.begin(Duration::from_millis(1));
        assert!(!rings(&alarm));
        alarm.begin(Duration::from_secs(3600));
        assert!(rings(&alarm));
        alarm.end();
        assert!(!rings(&alarm));
    }
}
