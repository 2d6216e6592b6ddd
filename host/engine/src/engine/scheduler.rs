//! The slots of one model, and what happens in a step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crate::config::EngineStats;
use crate::engine::backend::{Backend, Chunk};
use crate::engine::plan::{Candidate, Share, plan};
use crate::engine::sequence::{Progress, Sequence, Submission};
use crate::error::GenerationError;
use crate::ffi::Decoded;
use crate::job::FinishReason;

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// Something was computed; go on.
    Worked,
    /// Nothing can be done before a job comes, is cancelled, or is read.
    Idle,
}

/// Counters that other threads may read at any time.
#[derive(Debug, Default)]
pub(crate) struct SharedStats {
    running: AtomicU32,
    queued: AtomicU32,
    paused: AtomicU32,
    kv_used: AtomicU64,
    kv_total: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    steps: AtomicU64,
    jobs_done: AtomicU64,
}

impl SharedStats {
    pub(crate) fn read(&self) -> EngineStats {
        EngineStats {
            running: self.running.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed),
            kv_used: self.kv_used.load(Ordering::Relaxed),
            kv_total: self.kv_total.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens: self.completion_tokens.load(Ordering::Relaxed),
            steps: self.steps.load(Ordering::Relaxed),
            jobs_done: self.jobs_done.load(Ordering::Relaxed),
        }
    }
}

/// Everything the engine thread owns.
#[derive(Debug)]
pub(crate) struct Engine<B> {
    backend: B,
    slots: Vec<Option<Sequence>>,
    waiting: VecDeque<Submission>,
    /// Tokens that end a generation.
    eog: Vec<u32>,
    stats: Arc<SharedStats>,
    /// Ends the step in progress.
    abort: Arc<AtomicBool>,
    /// A step that follows an aborted one runs to its end, so that cancelling
    /// over and over cannot keep the others from getting on.
    may_abort: bool,
    arrivals: u64,
}

impl<B: Backend> Engine<B> {
    pub(crate) fn new(
        backend: B,
        eog: Vec<u32>,
        abort: Arc<AtomicBool>,
        stats: Arc<SharedStats>,
    ) -> Self {
        let limits = backend.limits();
        stats.kv_total.store(limits.n_cells as u64, Ordering::Relaxed);
        Self {
            slots: std::iter::repeat_with(|| None).take(limits.n_slots).collect(),
            backend,
            waiting: VecDeque::new(),
            eog,
            stats,
            abort,
            may_abort: true,
            arrivals: 0,
        }
    }

    pub(crate) fn submit(&mut self, job: Submission) {
        self.waiting.push_back(job);
    }

    /// One round: cancelled jobs out, waiting ones in, one batch computed.
    pub(crate) fn step(&mut self) -> Stepped {
        self.sweep();
        self.admit();

        let mut candidates = Vec::new();
        let mut paused = 0;
        for (slot, sequence) in self.slots.iter_mut().enumerate() {
            let Some(sequence) = sequence else { continue };
            if sequence.flush() {
                candidates.push(sequence.candidate(slot));
            } else {
                paused += 1;
            }
        }
        self.stats.paused.store(paused, Ordering::Relaxed);
        let stepped = self.work(&candidates);
        self.publish();
        stepped
    }

    /// Fails every job that runs, after something went wrong that leaves no
    /// other way. Jobs that wait are not concerned.
    pub(crate) fn fail_running(&mut self, reason: &str) {
        self.backend.clear();
        for slot in 0..self.slots.len() {
            self.fail(slot, GenerationError::Engine(reason.to_string()));
        }
        self.publish();
    }

    fn sweep(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(Sequence::is_cancelled) {
                self.finish(slot, FinishReason::Cancelled);
            }
        }
        let before = self.waiting.len();
        self.waiting.retain(|job| !job.outlet.signal.is_withdrawn());
        let withdrawn = before - self.waiting.len();
        self.stats.jobs_done.fetch_add(withdrawn as u64, Ordering::Relaxed);
    }

    fn admit(&mut self) {
        for slot in &mut self.slots {
            while slot.is_none() {
                let Some(job) = self.waiting.pop_front() else {
                    return;
                };
                if job.outlet.signal.begin() {
                    self.arrivals += 1;
                    *slot = Some(Sequence::new(job, self.arrivals, Instant::now()));
                }
            }
        }
    }

    fn work(&mut self, candidates: &[Candidate]) -> Stepped {
        let n_batch = self.backend.limits().n_batch;
        let shares = plan(candidates, n_batch, n_batch);
        if shares.is_empty() {
            return Stepped::Idle;
        }

        self.abort.store(false, Ordering::SeqCst);
        let guarded = self.may_abort;
        self.may_abort = true;
        if guarded {
            self.mark_prefilling(&shares, candidates, true);
        }
        // A job that was cancelled before the mark did not set the abort flag.
        let cancelled = shares
            .iter()
            .any(|share| self.slots[share.slot].as_ref().is_some_and(Sequence::is_cancelled));
        let decoded = if cancelled { None } else { Some(self.decode(&shares)) };
        if guarded {
            self.mark_prefilling(&shares, candidates, false);
        }

        match decoded {
            None => {}
            Some(Decoded::Ok) => self.collect(&shares),
            Some(Decoded::Aborted) => {
                self.rewind(&shares);
                self.may_abort = false;
            }
            Some(failure) => {
                self.rewind(&shares);
                self.one_by_one(&shares, failure);
            }
        }
        Stepped::Worked
    }

    fn mark_prefilling(&self, shares: &[Share], candidates: &[Candidate], value: bool) {
        for share in shares {
            let prompt = candidates.iter().any(|c| c.slot == share.slot && !c.generating);
            if prompt && let Some(sequence) = &self.slots[share.slot] {
                sequence.set_prefilling(value);
            }
        }
    }

    fn decode(&mut self, shares: &[Share]) -> Decoded {
        let chunks: Vec<Chunk<'_>> = shares
            .iter()
            .filter_map(|share| {
                let sequence = self.slots[share.slot].as_ref()?;
                let all = sequence.candidate(share.slot).remaining;
                Some(Chunk {
                    slot: share.slot,
                    from: sequence.n_past(),
                    tokens: sequence.upcoming(share.n_tokens),
                    output: share.n_tokens == all,
                })
            })
            .collect();
        self.stats.steps.fetch_add(1, Ordering::Relaxed);
        self.backend.decode(&chunks)
    }

    /// After a step: positions move on, and whoever is complete gets a token.
    fn collect(&mut self, shares: &[Share]) {
        for (chunk, share) in shares.iter().enumerate() {
            let Some(sequence) = self.slots[share.slot].as_mut() else {
                continue;
            };
            if !sequence.is_generating() {
                self.stats.prompt_tokens.fetch_add(share.n_tokens as u64, Ordering::Relaxed);
            }
            sequence.advance(share.n_tokens);
            if sequence.is_ready() {
                self.sample(chunk, share.slot);
            }
        }
    }

    fn sample(&mut self, chunk: usize, slot: usize) {
        let Some(sequence) = self.slots[slot].as_mut() else {
            return;
        };
        let chosen = match self.backend.logits(chunk) {
            Some(logits) => sequence.choose(logits),
            None => Err(GenerationError::Engine("no logits".to_string())),
        };
        let token = match chosen {
            Ok(token) => token,
            Err(error) => return self.fail(slot, error),
        };
        if self.eog.contains(&token) {
            return self.finish(slot, FinishReason::Stop);
        }
        self.stats.completion_tokens.fetch_add(1, Ordering::Relaxed);
        let bytes = self.backend.piece(token);
        match sequence.take(token, &bytes) {
            // What does not fit is sent before the next step.
            Progress::Continues => {
                sequence.flush();
            }
            Progress::Ends(reason) => self.finish(slot, reason),
        }
    }

    /// Puts the jobs of a step that did not succeed back to where they were.
    fn rewind(&mut self, shares: &[Share]) {
        for share in shares {
            let Some(sequence) = self.slots[share.slot].as_mut() else {
                continue;
            };
            let n_past = sequence.n_past();
            if !self.backend.forget(share.slot, n_past) {
                // This model's memory cannot drop a part: begin again.
                self.backend.forget(share.slot, 0);
                sequence.rewind(0);
            }
        }
    }

    /// Repeats a failed step job by job, so that only the one at fault fails.
    fn one_by_one(&mut self, shares: &[Share], failure: Decoded) {
        tracing::warn!(?failure, jobs = shares.len(), "engine step failed");
        if let [only] = shares {
            return self.fail(only.slot, describe(failure));
        }
        for share in shares {
            if self.slots[share.slot].is_none() {
                continue;
            }
            let alone = [*share];
            match self.decode(&alone) {
                Decoded::Ok => self.collect(&alone),
                Decoded::Aborted => self.rewind(&alone),
                failure => {
                    self.rewind(&alone);
                    self.fail(share.slot, describe(failure));
                }
            }
        }
    }

    fn finish(&mut self, slot: usize, reason: FinishReason) {
        if let Some(sequence) = self.release(slot) {
            sequence.finish(reason);
        }
    }

    fn fail(&mut self, slot: usize, error: GenerationError) {
        if let Some(sequence) = self.release(slot) {
            tracing::warn!(job = sequence.label(), %error, "job failed");
            sequence.fail(error);
        }
    }

    fn release(&mut self, slot: usize) -> Option<Sequence> {
        let sequence = self.slots[slot].take()?;
        self.backend.forget(slot, 0);
        // Before its reader hears of the end and asks.
        self.stats.jobs_done.fetch_add(1, Ordering::Relaxed);
        self.publish();
        Some(sequence)
    }

    fn publish(&self) {
        let running = self.slots.iter().flatten().count();
        let used: usize = self.slots.iter().flatten().map(Sequence::n_past).sum();
        let stats = &self.stats;
        stats.running.store(running as u32, Ordering::Relaxed);
        stats.queued.store(self.waiting.len() as u32, Ordering::Relaxed);
        stats.kv_used.store(used as u64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }
}

fn describe(failure: Decoded) -> GenerationError {
    match failure {
        Decoded::NoSpace => GenerationError::NoSpace,
        Decoded::Invalid => GenerationError::Engine("batch was refused".to_string()),
        Decoded::Failed(code) => {
            GenerationError::Engine(format!("computation failed with code {code}"))
        }
        Decoded::Ok | Decoded::Aborted => GenerationError::Engine("step was lost".to_string()),
    }
}
