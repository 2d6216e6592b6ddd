//! Probation: whether a plugin's new version fails more often than its old one.
//!
//! It ends after 100 calls or 60 s; a version that is worse by more than 5 points
//! has failed it, early once it has failed 5 times.

use std::time::{Duration, Instant};

const CALLS: u64 = 100;
const TIME: Duration = Duration::from_secs(60);
const MARGIN: f64 = 0.05;
const OBVIOUS: u64 = 5;

/// How many calls failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
}

impl Rate {
    fn share(self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.failures as f64 / self.calls as f64 }
    }
}

/// What has become of a probation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Judgement {
    /// It is not over.
    Going,
    /// The new version stays.
    Passed,
    /// The new version is worse; the shares of failed calls, 0 to 1.
    Failed { old: f64, new: f64 },
}

/// One new version's probation, from the moment at which it began to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probation {
    old: Option<Rate>,
    began: Instant,
}

impl Probation {
    /// Begins. `old` is what the old version did in its whole life.
    pub(crate) fn new(old: Option<Rate>, now: Instant) -> Self {
        Self { old, began: now }
    }

    /// Judges what the new version did since the beginning.
    pub(crate) fn judge(&self, new: Rate, now: Instant) -> Judgement {
        let Some(old) = self.old.map(Rate::share) else {
            return Judgement::Passed;
        };
        let over = new.calls >= CALLS || now.saturating_duration_since(self.began) >= TIME;
        if (over || new.failures >= OBVIOUS) && new.share() > old + MARGIN {
            return Judgement::Failed { old, new: new.share() };
        }
        if over { Judgement::Passed } else { Judgement::Going }
    }
}
