//! One call under observation: its span, whether the circuit breaker lets it
//! happen, what the statistics hear of it, and the line that says how it ended.
//!
//! Nothing here holds any text of the client, except that the detail of a failure
//! may: it is a plugin's own words or its backtrace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{Span, debug, debug_span, field, info, warn};

use crate::breaker::{Admission, BreakerState, Settled};
use crate::classify::CallError;
use crate::data::Verdict;
use crate::error::{FailureKind, Phase};
use crate::job::JobShared;
use crate::plugin::Plugin;

/// A call from its start to its end. Dropping it says nothing about the plugin:
/// the job went away.
pub(crate) struct Watch {
    pub(crate) span: Span,
    pub(crate) phase: Phase,
    began: Instant,
    plugin: Arc<Plugin>,
    /// Gone once the breaker has heard how the call ended.
    admission: Option<Admission>,
}

impl Watch {
    pub(crate) fn start(plugin: &Arc<Plugin>, phase: Phase, job: &JobShared) -> Self {
        let digest = plugin.info.digest.get(..12).unwrap_or_default();
        let began = Instant::now();
        Self {
            span: debug_span!(
                "hook",
                plugin = plugin.info.id,
                digest,
                phase = phase.as_str(),
                job = job.context.job,
                verdict = field::Empty,
                kind = field::Empty,
                wall_us = field::Empty,
                cpu_us = field::Empty,
            ),
            phase,
            began,
            admission: Some(plugin.shared.breaker.admit(began)),
            plugin: Arc::clone(plugin),
        }
    }

    /// Whether the breaker lets the call happen.
    pub(crate) fn admission(&self) -> &Admission {
        self.admission.as_ref().unwrap_or(&Admission::Call)
    }

    /// A part of a longer call went well: if it is the one that tries out a plugin
    /// in quarantine, others need not wait for its end.
    pub(crate) fn proved(&mut self) {
        if matches!(self.admission, Some(Admission::Probe)) {
            self.tell_breaker(Settled::Good);
            self.admission = Some(self.plugin.shared.breaker.admit(Instant::now()));
        }
    }

    /// Records how the call ended, and returns how long it took. A failure's line
    /// names everything by itself, because the span is only there at level debug.
    pub(crate) fn settle(
        self,
        job: &JobShared,
        verdict: Verdict,
        cpu: Duration,
        error: Option<&CallError>,
    ) -> Duration {
        let wall = self.began.elapsed();
        self.settle_after(job, verdict, wall, cpu, error);
        wall
    }

    /// As [`Self::settle`], for a call that was made in several parts.
    pub(crate) fn settle_after(
        mut self,
        job: &JobShared,
        verdict: Verdict,
        wall: Duration,
        cpu: Duration,
        error: Option<&CallError>,
    ) {
        let kind = error.map(|error| error.kind);
        let plugin = Arc::clone(&self.plugin);
        plugin.shared.stats.called(self.phase, verdict, kind, wall, cpu);
        self.tell_breaker(Settled::of(kind));
        let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        let cpu_us = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
        self.span.record("verdict", verdict.as_str());
        self.span.record("wall_us", wall_us);
        self.span.record("cpu_us", cpu_us);
        let Some(error) = error else {
            debug!(parent: &self.span, verdict = verdict.as_str(), wall_us, "plugin called");
            return;
        };
        let kind = error.kind.as_str();
        self.span.record("kind", kind);
        if matches!(error.kind, FailureKind::Cancelled | FailureKind::Quarantined) {
            // The breaker has said once that it opened; saying it for every job
            // would fill the log when the plugin is at its worst.
            debug!(parent: &self.span, kind, wall_us, "plugin not called, or stopped");
            return;
        }
        warn!(
            plugin = plugin.info.id,
            phase = self.phase.as_str(),
            job = job.context.job,
            kind,
            wall_us,
            detail = error.detail,
            "plugin failed"
        );
    }

    fn tell_breaker(&mut self, how: Settled) {
        let Some(admission) = self.admission.take() else {
            return;
        };
        let plugin = self.plugin.info.id.as_str();
        match self.plugin.shared.breaker.settle(&admission, how, Instant::now()) {
            Some(BreakerState::Open { retry_in }) => warn!(
                plugin,
                retry_ms = retry_in.as_millis() as u64,
                "plugin quarantined: it fails too often"
            ),
            Some(BreakerState::Closed) => info!(plugin, "plugin out of quarantine"),
            Some(BreakerState::HalfOpen) | None => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tell_breaker(Settled::Void);
    }
}
