//! What hooks did to a job, for the operator's log.
//!
//! One line for each plugin that was called, one more for each part of the
//! request that it changed. Texts are in them only if the operator asked for
//! that (`log_hook_text`); otherwise there are sizes, and the lines are quiet.

use llamero_hooks::{Change, JobHooks};

/// Asks the hooks of a job to keep the texts of their changes, if they are to be
/// logged.
pub fn watched(hooks: JobHooks, texts: bool) -> JobHooks {
    if texts { hooks.keep_text() } else { hooks }
}

/// Logs what the hooks of a job did.
pub fn log(job: &str, hooks: &JobHooks, texts: bool) {
    for change in hooks.changes() {
        log_change(job, &change, texts);
    }
}

// The level of an event is part of its call site, hence the two branches.
fn log_change(job: &str, change: &Change, texts: bool) {
    let Change { plugin, phase, verdict, shadow, fields, wall } = change;
    let (phase, verdict) = (phase.as_str(), verdict.as_str());
    let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
    if !texts {
        tracing::debug!(target: "llamero", job, plugin, phase, verdict, shadow, wall_us, "hook");
        for field in fields {
            let (before_bytes, after_bytes) = (field.before_bytes, field.after_bytes);
            let field = &field.field;
            tracing::debug!(
                target: "llamero",
                job, plugin, phase, field, before_bytes, after_bytes,
                "hook changed"
            );
        }
        return;
    }
    tracing::info!(target: "llamero", job, plugin, phase, verdict, shadow, wall_us, "hook");
    for field in fields {
        let (before, after) = field.text.clone().unwrap_or_default();
        let field = &field.field;
        tracing::info!(target: "llamero", job, plugin, phase, field, before, after, "hook changed");
    }
}
