//! The circuit breaker: a plugin that keeps failing is not called for a while.
//!
//! ```text
//!            5 failures in a row, or half of the last 20
//!   Closed ───────────────────────────────────────────────▶ Open (1 s, doubling to 60 s)
//!     ▲                                                      │  ▲
//!     │ a good probe                            time is over │  │ a failed probe
//!     └───────────────────────── HalfOpen ◀──────────────────┘  │
//!                                   └───────────────────────────┘
//! ```
//!
//! Closed calls everything. Open calls nothing, so that a broken plugin costs a
//! request microseconds instead of a timeout. Half open lets one call through at a
//! time, the probe, and its end decides.
//!
//! There is one breaker per plugin version, so that a reload starts with a clean
//! one. It owns no clock: the time comes in with each call. What a refusal means
//! for the request is the fail policy's business and not decided here, and whether
//! a new version is worse than the one before it is `probation`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::FailureKind;

/// Failures in a row that open the breaker.
const IN_A_ROW: u32 = 5;
/// How many of the latest calls are remembered. Half of them failing opens it,
/// once there are that many.
const WINDOW: u32 = 20;
/// How long it is open the first time.
const FIRST_OPEN: Duration = Duration::from_secs(1);
/// How long it is open at most.
const LONGEST_OPEN: Duration = Duration::from_secs(60);
/// After this a probe of which nothing was heard counts as lost, and the next one
/// may go. A job that is dropped in the middle of a call settles nothing, and must
/// not keep the plugin out for good.
const PROBE_LOST: Duration = Duration::from_secs(60);

/// What a circuit breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Every call: the plugin works.
    Closed,
    /// No call: the plugin has failed too often.
    Open {
        /// Until it is tried again.
        retry_in: Duration,
    },
    /// One call at a time, to see whether the plugin works again.
    HalfOpen,
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Yes.
    Call,
    /// Yes, and much depends on it.
    Probe,
    /// No.
    Refused {
        /// When asking again makes sense.
        retry_in: Duration,
    },
}

/// How a call ended, as far as the breaker cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The plugin did its work; a rejection is work too.
    Good,
    /// The plugin failed.
    Failed,
    /// It says nothing about the plugin.
    Void,
}

impl Settled {
    /// What a call that ended with this failure, or with none, says about its
    /// plugin.
    pub(crate) fn of(failure: Option<FailureKind>) -> Self {
        match failure {
            None => Self::Good,
            // The job went away, there was no room, nothing was called, or the
            // host itself is broken: another plugin would have fared the same.
            Some(
                FailureKind::Cancelled
                | FailureKind::Busy
                | FailureKind::Quarantined
                | FailureKind::Host,
            ) => Self::Void,
            Some(_) => Self::Failed,
        }
    }
}

/// One plugin version's breaker, shared by all its calls.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// `None` if the operator wants none: then every call is made.
    inner: Option<Mutex<Inner>>,
}

#[derive(Debug)]
enum Inner {
    Closed(Recent),
    Open {
        until: Instant,
        /// How long it is open this time.
        length: Duration,
    },
    HalfOpen {
        /// Since when a probe is on its way.
        probe: Option<Instant>,
        /// How long it was open before.
        length: Duration,
    },
}

/// The latest calls.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    /// A bit a call, the latest lowest; set for a failure.
    failed: u32,
    /// How many bits mean something.
    seen: u32,
    in_a_row: u32,
}

impl Recent {
    fn add(&mut self, failed: bool) {
        self.failed = ((self.failed << 1) | u32::from(failed)) & ((1 << WINDOW) - 1);
        self.seen = (self.seen + 1).min(WINDOW);
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
    }

    fn too_many(self) -> bool {
        let half = self.seen == WINDOW && self.failed.count_ones() * 2 >= WINDOW;
        half || self.in_a_row >= IN_A_ROW
    }
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { inner: Some(Mutex::new(Inner::Closed(Recent::default()))) }
    }

    /// One that lets everything through.
    pub(crate) fn off() -> Self {
        Self { inner: None }
    }

    /// Asks for a call. Whoever gets `Call` or `Probe` settles it once it is over.
    pub(crate) fn admit(&self, now: Instant) -> Admission {
        let Some(mut inner) = self.lock() else {
            return Admission::Call;
        };
        inner.pass_time(now);
        match &mut *inner {
            Inner::Closed(_) => Admission::Call,
            Inner::Open { until, .. } => {
                Admission::Refused { retry_in: until.saturating_duration_since(now) }
            }
            Inner::HalfOpen { probe: Some(_), .. } => {
                // Nobody knows how long the probe takes; most take milliseconds.
                Admission::Refused { retry_in: FIRST_OPEN }
            }
            Inner::HalfOpen { probe, .. } => {
                *probe = Some(now);
                Admission::Probe
            }
        }
    }

    /// Says how an admitted call ended. Returns the new state if that changed it.
    pub(crate) fn settle(
        &self,
        admission: &Admission,
        how: Settled,
        now: Instant,
    ) -> Option<BreakerState> {
        let mut inner = self.lock()?;
        inner.pass_time(now);
        match (admission, &mut *inner) {
            (Admission::Call, Inner::Closed(recent)) => {
                match how {
                    Settled::Good => recent.add(false),
                    Settled::Failed => recent.add(true),
                    Settled::Void => return None,
                }
                if !recent.too_many() {
                    return None;
                }
                Some(inner.open(FIRST_OPEN, now))
            }
            (Admission::Probe, Inner::HalfOpen { probe, length }) => match how {
                Settled::Good => {
                    *inner = Inner::Closed(Recent::default());
                    Some(BreakerState::Closed)
                }
                Settled::Failed => {
                    let length = (*length * 2).min(LONGEST_OPEN);
                    Some(inner.open(length, now))
                }
                Settled::Void => {
                    *probe = None;
                    None
                }
            },
            // A call from before it opened, or a probe that was taken for lost and
            // comes back after another one has decided: the state has outlived it.
            _ => None,
        }
    }

    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        let Some(mut inner) = self.lock() else {
            return BreakerState::Closed;
        };
        inner.pass_time(now);
        match *inner {
            Inner::Closed(_) => BreakerState::Closed,
            Inner::Open { until, .. } => {
                BreakerState::Open { retry_in: until.saturating_duration_since(now) }
            }
            Inner::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Inner>> {
        // Nothing in here panics half way through a change.
        self.inner.as_ref().map(|inner| inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    /// Makes the changes that happen by themselves.
    fn pass_time(&mut self, now: Instant) {
        match self {
            Self::Open { until, length } if now >= *until => {
                *self = Self::HalfOpen { probe: None, length: *length };
            }
            Self::HalfOpen { probe: probe @ Some(_), .. }
                if probe.is_some_and(|sent| now.saturating_duration_since(sent) >= PROBE_LOST) =>
            {
                *probe = None;
            }
            _ => {}
        }
    }

    fn open(&mut self, length: Duration, now: Instant) -> BreakerState {
        *self = Self::Open { until: now + length, length };
        BreakerState::Open { retry_in: length }
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
