//! What one plugin version did so far, in numbers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::data::Verdict;
use crate::error::{FailureKind, Phase};
use crate::probation::Rate;

/// What a plugin version did since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginStats {
    /// The phases in which it was called or skipped, in the order of a job.
    pub phases: Vec<PhaseStats>,
    /// The instances that jobs used.
    pub instances: InstanceStats,
    /// Most bytes of text that a stream filter held back at once.
    pub held_bytes_max: usize,
}

/// What a plugin version did in one phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseStats {
    /// The phase.
    pub phase: Phase,
    /// Calls that are over, failed ones included.
    pub calls: u64,
    /// Jobs that went on without it.
    pub skipped: u64,
    /// Calls by verdict, those that occurred.
    pub verdicts: Vec<(Verdict, u64)>,
    /// Failures by kind, those that occurred.
    pub failures: Vec<(FailureKind, u64)>,
    /// Wall time of its calls.
    pub wall: Latency,
    /// CPU time of its calls.
    pub cpu: Latency,
}

/// Where the instances came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceStats {
    /// Taken from those made ahead of need.
    pub ready: u64,
    /// Made while a request waited.
    pub inline: u64,
    /// How long it took to get a ready one.
    pub ready_wait: Latency,
    /// How long it took to make one.
    pub inline_wait: Latency,
}

/// Quantiles of a time in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// The median.
    pub p50_us: u64,
    /// Of 100 calls, 99 took at most this.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// One plugin version's counters.
pub(crate) struct Stats {
    rate: Mutex<Rate>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self { rate: Mutex::default() }
    }

    #[allow(dead_code, reason = "the chain calls it")]
    pub(crate) fn called(
        &self,
        _phase: Phase,
        _verdict: Verdict,
        failure: Option<FailureKind>,
        _wall: Duration,
        _cpu: Duration,
    ) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.calls += 1;
        rate.failures += u64::from(failure.is_some());
    }

    pub(crate) fn rate(&self) -> Rate {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> PluginStats {
        PluginStats::default()
    }
}
