//! What hooks did to a job, for the operator's log.
//!
//! One line for each plugin that was called, one more for each part of the
//! request that it changed. Texts are in them only if the operator asked for
//! that (`log_hook_text`); otherwise there are sizes, and the lines are quiet.

use std::ops::{Deref, DerefMut};

use llamero_hooks::{Change, JobHooks};

/// A job's hooks, whose doings are logged when they are given back, whichever
/// way the job leaves the phases.
pub struct Traced<'a> {
    hooks: JobHooks,
    job: &'a str,
    texts: bool,
}

impl<'a> Traced<'a> {
    /// Watches `hooks`, with the texts of changes if `texts` is set.
    pub fn new(hooks: JobHooks, job: &'a str, texts: bool) -> Self {
        let hooks = if texts { hooks.keep_text() } else { hooks };
        Self { hooks, job, texts }
    }
}

impl Deref for Traced<'_> {
    type Target = JobHooks;

    fn deref(&self) -> &JobHooks {
        &self.hooks
    }
}

impl DerefMut for Traced<'_> {
    fn deref_mut(&mut self) -> &mut JobHooks {
        &mut self.hooks
    }
}

impl Drop for Traced<'_> {
    fn drop(&mut self) {
        for change in self.hooks.changes() {
            log(self.job, change, self.texts);
        }
    }
}

// The level of an event is part of its call site, hence the two branches.
fn log(job: &str, change: &Change, texts: bool) {
    let Change { plugin, phase, verdict, fields, wall } = change;
    let (phase, verdict) = (phase.as_str(), verdict.as_str());
    let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
    if !texts {
        tracing::debug!(target: "llamero", job, plugin, phase, verdict, wall_us, "hook");
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
    tracing::info!(target: "llamero", job, plugin, phase, verdict, wall_us, "hook");
    for field in fields {
        let (before, after) = field.text.clone().unwrap_or_default();
        let field = &field.field;
        tracing::info!(target: "llamero", job, plugin, phase, field, before, after, "hook changed");
    }
}
