//! The span of one call, and the line that says how it ended.
//!
//! Neither holds any text of the client, except that the detail of a failure may:
//! it is a plugin's own words or its backtrace.

use std::time::{Duration, Instant};

use tracing::{Span, debug, debug_span, field, warn};

use crate::classify::CallError;
use crate::data::Verdict;
use crate::error::{FailureKind, Phase};
use crate::job::JobShared;
use crate::plugin::Plugin;

/// The span and the time of one call.
pub(crate) struct Watch {
    pub(crate) span: Span,
    pub(crate) phase: Phase,
    pub(crate) began: Instant,
}

impl Watch {
    pub(crate) fn start(plugin: &Plugin, phase: Phase, job: &JobShared) -> Self {
        let digest = plugin.info.digest.get(..12).unwrap_or_default();
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
            ),
            phase,
            began: Instant::now(),
        }
    }

    /// Logs how the call ended. A failure's line names everything by itself,
    /// because the span is only there at level debug.
    pub(crate) fn report(
        &self,
        plugin: &Plugin,
        job: &JobShared,
        verdict: Verdict,
        wall: Duration,
        error: Option<&CallError>,
    ) {
        let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        self.span.record("verdict", verdict.as_str());
        self.span.record("wall_us", wall_us);
        let Some(error) = error else {
            debug!(parent: &self.span, verdict = verdict.as_str(), wall_us, "plugin called");
            return;
        };
        let kind = error.kind.as_str();
        self.span.record("kind", kind);
        if error.kind == FailureKind::Cancelled {
            debug!(parent: &self.span, kind, wall_us, "plugin stopped");
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
}
