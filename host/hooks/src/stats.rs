//! What one plugin version did so far, in numbers: calls, verdicts, failures by
//! kind, latencies, instances, held text.
//!
//! Recording is on the way of every request: one uncontended lock and two array
//! increments. Latencies are kept as histograms of fixed size, so that a quantile
//! covers the version's whole life in some ten kilobytes a phase, and is within
//! 1 % of the true value.
//!
//! It only counts. The line and the span of a single call are `watch`'s, what
//! plugins count themselves goes through the metrics service, and conclusions from
//! the numbers are drawn by `breaker` and `probation`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::breaker::Settled;
use crate::data::Verdict;
use crate::error::{FailureKind, Phase};
use crate::probation::Rate;

/// Longest time that is told from a longer one, in microseconds: the largest wall
/// limit of a call.
const LONGEST_US: u64 = 600_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 2;

/// What a plugin version did since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginStats {
    /// The phases in which it was called or skipped, in the order of a job.
    pub phases: Vec<PhaseStats>,
    /// The instances that jobs used.
    pub instances: InstanceStats,
    /// Pieces of streams that it judged. A whole stream is one call of its phase.
    pub pushes: u64,
    /// Wall time of one piece.
    pub push_wall: Latency,
    /// Most bytes of text that a stream filter held back at once.
    pub held_bytes_max: usize,
}

/// What a plugin version did in one phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseStats {
    /// The phase.
    pub phase: Phase,
    /// Calls that are over, failed ones included. Where the plugin was not entered
    /// at all, because it is quarantined or no instance came free, there was none.
    pub calls: u64,
    /// Jobs that went on without it: it was not called because it is quarantined,
    /// or its failure was let pass, as its fail policy says.
    pub skipped: u64,
    /// Calls by verdict, those that occurred; `Failed` stands for all failures.
    pub verdicts: Vec<(Verdict, u64)>,
    /// Failures by kind, those that occurred; `Busy` and `Quarantined` among them,
    /// which are no calls.
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
    /// Made while a request waited, because none was ready.
    pub inline: u64,
    /// How long it took to get a ready one.
    pub ready_wait: Latency,
    /// How long it took to make one.
    pub inline_wait: Latency,
}

/// Quantiles of a time in microseconds, rounded up by at most 1 %; 0 when there is
/// nothing to tell.
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
    /// By place in [`Phase::ALL`].
    phases: [Mutex<PhaseRecord>; Phase::ALL.len()],
    instances: Mutex<InstanceRecord>,
    pushes: Mutex<(u64, Times)>,
    held_bytes_max: AtomicUsize,
}

#[derive(Default)]
struct PhaseRecord {
    rate: Rate,
    calls: u64,
    skipped: u64,
    verdicts: Vec<(Verdict, u64)>,
    failures: Vec<(FailureKind, u64)>,
    wall: Times,
    cpu: Times,
}

#[derive(Default)]
struct InstanceRecord {
    ready: u64,
    inline: u64,
    ready_wait: Times,
    inline_wait: Times,
}

/// A histogram of microseconds that takes no memory before it is used: most
/// plugins have one phase of the five.
#[derive(Default)]
struct Times(Option<Histogram<u64>>);

impl Times {
    fn record(&mut self, time: Duration) {
        if self.0.is_none() {
            // It fails for impossible bounds only, and these are constants.
            self.0 = Histogram::new_with_bounds(1, LONGEST_US, DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn latency(&self) -> Latency {
        self.0.as_ref().map_or_else(Latency::default, |histogram| Latency {
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        })
    }
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            phases: Default::default(),
            instances: Mutex::default(),
            pushes: Mutex::default(),
            held_bytes_max: AtomicUsize::new(0),
        }
    }

    /// Counts a call that is over, or one that could not be made.
    pub(crate) fn called(
        &self,
        phase: Phase,
        verdict: Verdict,
        failure: Option<FailureKind>,
        wall: Duration,
        cpu: Duration,
    ) {
        let mut record = lock(&self.phases[phase as usize]);
        if let Some(kind) = failure {
            count(&mut record.failures, kind);
        }
        if matches!(failure, Some(FailureKind::Busy | FailureKind::Quarantined)) {
            // The plugin was not entered: its latencies are not about waiting, nor
            // about being refused in no time.
            return;
        }
        record.calls += 1;
        match Settled::of(failure) {
            Settled::Good => record.rate.calls += 1,
            Settled::Failed => {
                record.rate.calls += 1;
                record.rate.failures += 1;
            }
            Settled::Void => {}
        }
        count(&mut record.verdicts, verdict);
        record.wall.record(wall);
        record.cpu.record(cpu);
    }

    /// Counts an instance that a job got: a `ready` one, or one made for it.
    pub(crate) fn instance(&self, ready: bool, took: Duration) {
        let mut record = lock(&self.instances);
        if ready {
            record.ready += 1;
            record.ready_wait.record(took);
        } else {
            record.inline += 1;
            record.inline_wait.record(took);
        }
    }

    /// Counts one piece of a stream.
    pub(crate) fn pushed(&self, took: Duration) {
        let mut record = lock(&self.pushes);
        record.0 += 1;
        record.1.record(took);
    }

    /// Notes how much text a stream filter holds back.
    pub(crate) fn held(&self, bytes: usize) {
        self.held_bytes_max.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Counts a job that went on without the plugin.
    pub(crate) fn skipped(&self, phase: Phase) {
        lock(&self.phases[phase as usize]).skipped += 1;
    }

    /// How many calls failed, of those that say something about the plugin.
    pub(crate) fn rate(&self) -> Rate {
        self.phases.iter().fold(Rate::default(), |sum, phase| {
            let rate = lock(phase).rate;
            Rate { calls: sum.calls + rate.calls, failures: sum.failures + rate.failures }
        })
    }

    pub(crate) fn snapshot(&self) -> PluginStats {
        let phases = Phase::ALL.into_iter().zip(&self.phases).filter_map(|(phase, record)| {
            let record = lock(record);
            let used = record.calls + record.skipped > 0 || !record.failures.is_empty();
            used.then(|| PhaseStats {
                phase,
                calls: record.calls,
                skipped: record.skipped,
                verdicts: record.verdicts.clone(),
                failures: record.failures.clone(),
                wall: record.wall.latency(),
                cpu: record.cpu.latency(),
            })
        });
        let phases = phases.collect();
        let instances = lock(&self.instances);
        let pushes = lock(&self.pushes);
        PluginStats {
            phases,
            pushes: pushes.0,
            push_wall: pushes.1.latency(),
            instances: InstanceStats {
                ready: instances.ready,
                inline: instances.inline,
                ready_wait: instances.ready_wait.latency(),
                inline_wait: instances.inline_wait.latency(),
            },
            held_bytes_max: self.held_bytes_max.load(Ordering::Relaxed),
        }
    }
}

/// One more of `key`. There are a handful of keys, and the most frequent one comes
/// early, so that a scan beats a map.
fn count<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K) {
    match counts.iter_mut().find(|(known, _)| *known == key) {
        Some((_, n)) => *n += 1,
        None => counts.push((key, 1)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A counter that missed one call is better than none.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn passed(stats: &Stats, phase: Phase, wall: Duration) {
        stats.called(phase, Verdict::Pass, None, wall, wall / 2);
    }

    fn failed(stats: &Stats, kind: FailureKind) {
        stats.called(Phase::Request, Verdict::Failed, Some(kind), US, US);
    }

    #[test]
    fn nothing_happened_yet() {
        let stats = Stats::new();
        assert_eq!(stats.snapshot(), PluginStats::default());
        assert_eq!(stats.rate(), Rate::default());
    }

    #[test]
    fn phases_are_kept_apart_and_come_in_order() {
        let stats = Stats::new();
        for (n, phase) in Phase::ALL.into_iter().enumerate().rev() {
            // Each has its own number, so that none can stand for another.
            for _ in 0..=n {
                passed(&stats, phase, US);
            }
        }
        let snapshot = stats.snapshot();
        let seen: Vec<_> = snapshot.phases.iter().map(|stats| (stats.phase, stats.calls)).collect();
        assert_eq!(seen, Phase::ALL.into_iter().zip(1..).collect::<Vec<_>>());
    }

    #[test]
    fn verdicts_add_up_to_the_calls() {
        let stats = Stats::new();
        for verdict in [Verdict::Pass, Verdict::Patch, Verdict::Pass, Verdict::Reject] {
            stats.called(Phase::Request, verdict, None, US, US);
        }
        failed(&stats, FailureKind::Trap);
        failed(&stats, FailureKind::Cancelled);
        failed(&stats, FailureKind::Trap);
        let snapshot = stats.snapshot();
        let [phase] = snapshot.phases.as_slice() else {
            panic!("{snapshot:?}");
        };
        let verdicts =
            [(Verdict::Pass, 2), (Verdict::Patch, 1), (Verdict::Reject, 1), (Verdict::Failed, 3)];
        assert_eq!(phase.verdicts, verdicts);
        assert_eq!(phase.failures, [(FailureKind::Trap, 2), (FailureKind::Cancelled, 1)]);
        assert_eq!(phase.calls, 7);
    }

    #[test]
    fn the_rate_leaves_out_what_says_nothing_about_the_plugin() {
        let stats = Stats::new();
        passed(&stats, Phase::Request, US);
        passed(&stats, Phase::Stream, US);
        // A rejection is a good call.
        stats.called(Phase::Response, Verdict::Reject, None, US, US);
        failed(&stats, FailureKind::Cpu);
        for kind in [FailureKind::Cancelled, FailureKind::Busy, FailureKind::Host] {
            failed(&stats, kind);
        }
        assert_eq!(stats.rate(), Rate { calls: 4, failures: 1 });
    }

    #[test]
    fn what_never_reached_the_plugin_is_a_failure_and_no_call() {
        let stats = Stats::new();
        for kind in [FailureKind::Busy, FailureKind::Quarantined, FailureKind::Quarantined] {
            failed(&stats, kind);
        }
        let phase = stats.snapshot().phases.remove(0);
        assert_eq!(phase.failures, [(FailureKind::Busy, 1), (FailureKind::Quarantined, 2)]);
        assert_eq!((phase.calls, phase.verdicts, phase.wall), (0, Vec::new(), Latency::default()));
    }

    #[test]
    fn skips_are_no_calls() {
        let stats = Stats::new();
        stats.skipped(Phase::Prompt);
        let snapshot = stats.snapshot();
        let [phase] = snapshot.phases.as_slice() else {
            panic!("{snapshot:?}");
        };
        assert_eq!((phase.phase, phase.calls, phase.skipped), (Phase::Prompt, 0, 1));
        assert_eq!(phase.wall, Latency::default());
        assert_eq!(stats.rate(), Rate::default());
    }

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let stats = Stats::new();
        for us in 1..=10_000 {
            passed(&stats, Phase::Request, US * us);
        }
        let phase = stats.snapshot().phases.remove(0);
        for (measured, exact) in [
            (phase.wall.p50_us, 5_000),
            (phase.wall.p99_us, 9_900),
            (phase.wall.max_us, 10_000),
            (phase.cpu.p50_us, 2_500),
        ] {
            assert!((exact..=exact + exact / 100).contains(&measured), "{measured} for {exact}");
        }
    }

    #[test]
    fn times_beyond_the_range_count_as_the_longest() {
        let stats = Stats::new();
        passed(&stats, Phase::Request, Duration::ZERO);
        passed(&stats, Phase::Request, Duration::MAX);
        let phase = stats.snapshot().phases.remove(0);
        assert_eq!(phase.calls, 2);
        assert_eq!(phase.wall.p50_us, 0);
        assert!(phase.wall.max_us >= LONGEST_US, "{:?}", phase.wall);
    }

    #[test]
    fn instances_by_where_they_came_from() {
        let stats = Stats::new();
        stats.instance(true, US);
        stats.instance(true, 3 * US);
        stats.instance(false, 700 * US);
        let instances = stats.snapshot().instances;
        assert_eq!((instances.ready, instances.inline), (2, 1));
        assert_eq!(instances.ready_wait.max_us, 3);
        assert!(instances.inline_wait.p50_us >= 700);
    }

    #[test]
    fn the_most_that_was_ever_held() {
        let stats = Stats::new();
        for bytes in [10, 300, 0] {
            stats.held(bytes);
        }
        assert_eq!(stats.snapshot().held_bytes_max, 300);
    }

    #[test]
    fn counting_from_many_threads_loses_nothing() {
        let stats = Stats::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        passed(&stats, Phase::Stream, US);
                        failed(&stats, FailureKind::Wall);
                    }
                });
            }
        });
        assert_eq!(stats.rate(), Rate { calls: 8_000, failures: 4_000 });
        let calls: u64 = stats.snapshot().phases.iter().map(|phase| phase.calls).sum();
        assert_eq!(calls, 8_000);
    }
}
