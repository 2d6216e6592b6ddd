//! Counters of an engine that other threads may read at any time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::config::EngineStats;

/// Written by the engine's thread only. The numbers are not taken at one moment.
#[derive(Debug, Default)]
pub(crate) struct SharedStats {
    pub(super) running: AtomicU32,
    pub(super) queued: AtomicU32,
    pub(super) paused: AtomicU32,
    pub(super) kv_used: AtomicU64,
    pub(super) kv_total: AtomicU64,
    pub(super) cache_cells: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_tokens: AtomicU64,
    pub(super) preemptions: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) completion_tokens: AtomicU64,
    pub(super) draft_tokens: AtomicU64,
    pub(super) accepted_draft_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) jobs_done: AtomicU64,
}

impl SharedStats {
    pub(crate) fn read(&self) -> EngineStats {
        EngineStats {
            running: self.running.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed),
            kv_used: self.kv_used.load(Ordering::Relaxed),
            kv_total: self.kv_total.load(Ordering::Relaxed),
            cache_cells: self.cache_cells.load(Ordering::Relaxed),
            cache_hits: self.cache_hits.load(Ordering::Relaxed),
            cache_tokens: self.cache_tokens.load(Ordering::Relaxed),
            preemptions: self.preemptions.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens: self.completion_tokens.load(Ordering::Relaxed),
            draft_tokens: self.draft_tokens.load(Ordering::Relaxed),
            accepted_draft_tokens: self.accepted_draft_tokens.load(Ordering::Relaxed),
            steps: self.steps.load(Ordering::Relaxed),
            jobs_done: self.jobs_done.load(Ordering::Relaxed),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
