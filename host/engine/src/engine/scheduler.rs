//! The slots of one model, and what happens in a step.
//!
//! A step lets jobs in ([`super::admission`]), gives them what others have
//! computed already ([`super::sharing`]), follows guards' answers
//! ([`super::guard`]), sees whose adapters it has ([`super::turns`]), plans
//! ([`super::plan`]), makes room if there is none ([`super::preempt`]), adds drafts
//! ([`super::speculate`]), computes, and passes on what came of it. This module runs
//! the step, deals with its failures and ends jobs; the decisions are in the modules
//! named.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::adapter::{AdapterKey, AdapterSet};
use crate::engine::alarm::Alarm;
use crate::engine::backend::{Backend, Chunk};
use crate::engine::cache::{CacheLimits, Found};
use crate::engine::cost::CostModel;
use crate::engine::kv::Kv;
use crate::engine::plan::{Candidate, Part, Share, part, plan};
use crate::engine::queue::{FairQueue, Waits};
use crate::engine::sequence::{Choice, Progress, Sequence, Submission};
use crate::engine::stats::{SharedStats, add};
use crate::engine::tenants::Tenants;
use crate::engine::turns::{self, Turns};
use crate::error::GenerationError;
use crate::ffi::Decoded;
use crate::job::FinishReason;

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// Something was computed or changed; go on.
    Worked,
    /// Nothing can be done before a job comes, is cancelled, is read or is
    /// answered, or before [`Engine::next_wake`].
    Idle,
}

/// How an engine decides.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// How long prompts may hold up those who generate.
    pub(crate) stall_target: Duration,
    /// Cells that must be free beyond a job's prompt for it to enter.
    pub(crate) reserve: usize,
    /// After how long a tenant may take a slot from another; `None`: never.
    pub(crate) fair_preempt: Option<Duration>,
    /// `None`: nothing is shared.
    pub(crate) cache: Option<CacheLimits>,
    /// The longest draft, in tokens. More than 0 only if a part of a sequence can be
    /// dropped.
    pub(crate) speculate: usize,
}

/// Everything the engine thread owns.
#[derive(Debug)]
pub(crate) struct Engine<B> {
    pub(super) kv: Kv<B>,
    pub(super) slots: Vec<Option<Sequence>>,
    /// For each slot that waits for another one's prefix: whose, and how much.
    pub(super) flights: Vec<Option<Found>>,
    pub(super) queue: FairQueue<Sequence>,
    pub(super) tenants: Tenants,
    turns: Turns,
    pub(super) policy: Policy,
    pub(super) stats: Arc<SharedStats>,
    pub(super) cost: CostModel,
    pub(super) n_batch: usize,
    n_together: usize,
    /// What the last step was of its plan.
    last_part: Part,
    /// Tokens that end a generation.
    pub(super) eog: Vec<u32>,
    alarm: Arc<Alarm>,
    /// A step that follows an aborted one runs to its end, so that cancelling
    /// over and over cannot keep the others from getting on.
    may_abort: bool,
    arrivals: u64,
}

impl<B: Backend> Engine<B> {
    pub(crate) fn new(
        backend: B,
        eog: Vec<u32>,
        policy: Policy,
        alarm: Arc<Alarm>,
        stats: Arc<SharedStats>,
    ) -> Self {
        let limits = backend.limits();
        stats.kv_total.store(limits.n_cells as u64, Ordering::Relaxed);
        Self {
            slots: std::iter::repeat_with(|| None).take(limits.n_slots).collect(),
            flights: vec![None; limits.n_slots],
            kv: Kv::new(backend, policy.cache),
            queue: FairQueue::default(),
            tenants: Tenants::default(),
            turns: Turns::default(),
            policy,
            stats,
            cost: CostModel::default(),
            n_batch: limits.n_batch,
            n_together: limits.n_together,
            last_part: Part::default(),
            eog,
            alarm,
            may_abort: true,
            arrivals: 0,
        }
    }

    pub(crate) fn submit(&mut self, job: Submission) {
        self.arrivals += 1;
        let sequence = Sequence::new(job, self.arrivals);
        self.tenants.enter(sequence.tenant());
        self.queue.insert(sequence);
    }

    /// One round: cancelled jobs out, waiting ones in, one batch computed.
    pub(crate) fn step(&mut self) -> Stepped {
        let now = Instant::now();
        self.sweep(now);
        self.follow_guards();
        self.admit(now);
        let mut paused = 0;
        for sequence in self.slots.iter_mut().flatten() {
            paused += u32::from(!sequence.flush());
        }
        self.stats.paused.store(paused, Ordering::Relaxed);
        self.share();
        let stepped = self.work();
        self.publish();
        stepped
    }

    /// When to step again although nothing has happened.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let fair = self.policy.fair_preempt;
        let wakes = |job: &Sequence| {
            let yields = fair.and_then(|wait| job.submitted().checked_add(wait));
            [job.deadline(), yields].into_iter().flatten().filter(|at| *at > now).min()
        };
        self.queue.iter().filter_map(wakes).min()
    }

    /// Fails every job that runs, after something went wrong that leaves no
    /// other way. Jobs that wait are not concerned.
    pub(crate) fn fail_running(&mut self, reason: &str) {
        self.kv.clear();
        for slot in 0..self.slots.len() {
            self.fail(slot, GenerationError::Engine(reason.to_string()));
        }
        self.publish();
    }

    /// Ends jobs that were cancelled or are too late.
    fn sweep(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(Sequence::is_cancelled) {
                self.finish(slot, FinishReason::Cancelled);
            }
        }
        let expired = |job: &Sequence| job.deadline().is_some_and(|deadline| deadline <= now);
        let left = |job: &Sequence| job.is_withdrawn() || (job.has_begun() && job.is_cancelled());
        for mut job in self.queue.take_if(|job| left(job) || expired(job)) {
            self.leave(&job);
            if job.has_begun() {
                job.finish(FinishReason::Cancelled);
            } else if job.begin(now) {
                job.fail(GenerationError::Expired);
            }
        }
    }

    fn work(&mut self) -> Stepped {
        let mut candidates = self.candidates();
        let present = self.present(&candidates);
        let (round, n_sets) = (self.policy.stall_target, present.len());
        let Some(set) = self.turns.next(&present, round) else {
            return Stepped::Idle;
        };
        let oldest = self.oldest(&candidates);
        let anyone_decodes = candidates.iter().any(|c| c.generating);
        candidates.retain(|c| self.adapter_key(c.slot) == Some(&set));
        let n_decoding = candidates.iter().filter(|c| c.generating).count();
        // Those who generate with other adapters wait for this step as well, and
        // for those of the other sets after it.
        let target = turns::share(round, n_sets);
        let n_waiting = n_decoding.max(usize::from(anyone_decodes));
        let budget = self.cost.prefill_budget(target, n_waiting, self.n_batch);
        let shares = plan(&candidates, self.n_batch, budget);
        if shares.is_empty() {
            return Stepped::Idle;
        }
        let (shares, n_decoding, step) = part(shares, n_decoding, self.n_together, self.last_part);
        // Those who are not in the step have to get on as well: what is left of a step
        // may not push the oldest job of all out.
        let oldest = oldest.filter(|_| n_sets > 1 || step != Part::Whole);
        let n_tokens: usize = shares.iter().map(|share| share.n_tokens).sum();
        if !self.make_room(&shares, n_tokens, oldest) {
            // Somebody had to go: what fits has to be planned anew.
            return Stepped::Worked;
        }
        let drafts = self.draft(&shares, n_tokens);
        let n_tokens = n_tokens + drafts.iter().map(Vec::len).sum::<usize>();

        self.alarm.reset();
        let guarded = std::mem::replace(&mut self.may_abort, true);
        if guarded {
            self.mark_prefilling(&shares[n_decoding..], true);
            self.alarm.begin(self.cost.estimate(n_tokens).unwrap_or_default());
        }
        // A job that was cancelled before the mark did not set the abort flag.
        let cancelled = self.slots.iter().flatten().any(Sequence::is_cancelled);
        let decoded = if cancelled { None } else { Some(self.decode(&shares, &drafts)) };
        if guarded {
            self.alarm.end();
            self.mark_prefilling(&shares[n_decoding..], false);
        }

        if decoded.is_some() {
            self.turns.record(self.kv.backend().last_step());
        }
        match decoded {
            None => {}
            Some(Decoded::Ok) => {
                self.last_part = step;
                self.cost.record(n_tokens, self.kv.backend().last_step());
                self.collect(&shares, &drafts);
            }
            Some(Decoded::Aborted) => {
                self.rewind(&shares);
                self.may_abort = false;
            }
            Some(failure) => {
                self.rewind(&shares);
                let is_repeated = self.drop_drafts(&shares, &drafts)
                    || (failure == Decoded::NoSpace && self.give_way(&shares, oldest));
                if !is_repeated {
                    self.one_by_one(&shares, failure);
                }
            }
        }
        Stepped::Worked
    }

    /// What every slot could compute.
    fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = Vec::with_capacity(self.slots.len());
        for (slot, sequence) in self.slots.iter().enumerate() {
            let Some(sequence) = sequence else { continue };
            let turn = self.tenants.turn(sequence.tenant());
            let arrival = sequence.arrival();
            if let Some(wanted) = self.flight(slot) {
                candidates.extend(self.lend(wanted, turn, arrival));
            } else if !sequence.is_paused() && !sequence.is_asking() {
                candidates.push(Candidate {
                    slot,
                    remaining: sequence.remaining(),
                    generating: sequence.is_decoding(),
                    turn,
                    arrival,
                });
            }
        }
        candidates
    }

    /// The sets of adapters with something to compute, each once, in the order in
    /// which their jobs came.
    fn present(&self, candidates: &[Candidate]) -> Vec<AdapterKey> {
        let mut jobs: Vec<(u64, &AdapterKey)> = candidates
            .iter()
            .filter_map(|c| self.slots[c.slot].as_ref())
            .map(|job| (job.arrival(), job.adapter_key()))
            .collect();
        jobs.sort_unstable_by_key(|(arrival, _)| *arrival);
        let mut present: Vec<AdapterKey> = Vec::new();
        for (_, key) in jobs {
            if !present.contains(key) {
                present.push(key.clone());
            }
        }
        present
    }

    fn adapter_key(&self, slot: usize) -> Option<&AdapterKey> {
        self.slots[slot].as_ref().map(Sequence::adapter_key)
    }

    /// The arrival of the oldest job that can compute.
    fn oldest(&self, candidates: &[Candidate]) -> Option<u64> {
        candidates.iter().filter_map(|c| Some(self.slots[c.slot].as_ref()?.arrival())).min()
    }

    /// Marks the jobs whose prompts are in the step.
    fn mark_prefilling(&self, shares: &[Share], value: bool) {
        for share in shares {
            if let Some(sequence) = &self.slots[share.slot] {
                sequence.set_prefilling(value);
            }
        }
    }

    fn decode(&mut self, shares: &[Share], drafts: &[Vec<u32>]) -> Decoded {
        let chunks: Vec<Chunk<'_>> = shares
            .iter()
            .enumerate()
            .filter_map(|(n, share)| {
                let sequence = self.slots[share.slot].as_ref()?;
                Some(Chunk {
                    slot: share.slot,
                    from: sequence.n_past(),
                    tokens: sequence.upcoming(share.n_tokens),
                    draft: draft_of(drafts, n),
                    output: share.n_tokens == sequence.remaining(),
                })
            })
            .collect();
        add(&self.stats.steps, 1);
        let first = shares.first().and_then(|share| self.slots[share.slot].as_ref());
        match first.map(Sequence::adapters) {
            Some(adapters) => self.kv.decode(&chunks, adapters),
            None => self.kv.decode(&chunks, &AdapterSet::default()),
        }
    }

    /// After a step: positions move on, and whoever is complete gets a token, or
    /// several.
    fn collect(&mut self, shares: &[Share], drafts: &[Vec<u32>]) {
        for (chunk, share) in shares.iter().enumerate() {
            let Some(sequence) = self.slots[share.slot].as_mut() else {
                continue;
            };
            let draft = draft_of(drafts, chunk);
            self.tenants.charge(sequence.tenant(), share.n_tokens + draft.len());
            if !sequence.is_generating() {
                add(&self.stats.prompt_tokens, share.n_tokens);
            }
            sequence.advance(share.n_tokens);
            if !sequence.is_ready() {
                continue;
            }
            if draft.is_empty() {
                self.sample(chunk, 0, share.slot);
            } else {
                self.verify(chunk, share.slot, draft);
            }
        }
    }

    /// Chooses the token behind a chunk, or behind so many tokens of its draft.
    pub(super) fn sample(&mut self, chunk: usize, ahead: usize, slot: usize) {
        let Some(sequence) = self.slots[slot].as_mut() else {
            return;
        };
        let chosen = match self.kv.backend().logits(chunk, ahead) {
            Some(logits) => sequence.choose(logits),
            None => Err(GenerationError::Engine("no logits".to_string())),
        };
        match chosen {
            Ok(Choice::Token(token)) => self.deliver(slot, token),
            // What does not fit is sent before the next step.
            Ok(Choice::Asked) => {
                sequence.flush();
            }
            Err(error) => self.fail(slot, error),
        }
    }

    /// Gives a job its next token.
    pub(super) fn deliver(&mut self, slot: usize, token: u32) {
        if self.eog.contains(&token) {
            return self.finish(slot, FinishReason::Stop);
        }
        let bytes = self.kv.backend().piece(token);
        let Some(sequence) = self.slots[slot].as_mut() else {
            return;
        };
        add(&self.stats.completion_tokens, 1);
        match sequence.append(token, &bytes) {
            Progress::Continues => {
                sequence.flush();
            }
            Progress::Ends(reason) => self.finish(slot, reason),
        }
    }

    /// Puts the jobs of a step that did not succeed back to where they were.
    fn rewind(&mut self, shares: &[Share]) {
        for share in shares {
            if let Some(sequence) = self.slots[share.slot].as_mut() {
                let n = self.kv.rewind(share.slot, sequence.n_past());
                sequence.rewind(n);
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
            match self.decode(&alone, &[]) {
                Decoded::Ok => self.collect(&alone, &[]),
                Decoded::Aborted => self.rewind(&alone),
                failure => {
                    self.rewind(&alone);
                    self.fail(share.slot, describe(failure));
                }
            }
        }
    }

    pub(super) fn finish(&mut self, slot: usize, reason: FinishReason) {
        if let Some(sequence) = self.slots[slot].take() {
            self.keep(slot, &sequence);
            self.release(slot, &sequence);
            sequence.finish(reason);
        }
    }

    pub(super) fn fail(&mut self, slot: usize, error: GenerationError) {
        if let Some(sequence) = self.slots[slot].take() {
            tracing::warn!(job = sequence.label(), %error, "job failed");
            self.release(slot, &sequence);
            sequence.fail(error);
        }
    }

    fn release(&mut self, slot: usize, sequence: &Sequence) {
        self.kv.release(slot);
        // Before its reader hears of the end and asks.
        self.leave(sequence);
        self.publish();
    }

    /// A job is about to end.
    pub(super) fn leave(&mut self, sequence: &Sequence) {
        self.tenants.leave(sequence.tenant());
        add(&self.stats.jobs_done, 1);
    }

    fn publish(&self) {
        let stats = &self.stats;
        let running = self.slots.iter().flatten().count();
        stats.running.store(running as u32, Ordering::Relaxed);
        stats.queued.store(self.queue.len() as u32, Ordering::Relaxed);
        stats.kv_used.store(self.kv.cells().busy() as u64, Ordering::Relaxed);
        stats.cache_cells.store(self.kv.cached() as u64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn served<const N: usize>(&self, tenants: [&str; N]) -> [u64; N] {
        tenants.map(|tenant| self.tenants.served(tenant))
    }

    #[cfg(test)]
    pub(crate) fn kv_mut(&mut self) -> &mut Kv<B> {
        &mut self.kv
    }
}

/// The draft of a step's n-th share.
fn draft_of(drafts: &[Vec<u32>], n: usize) -> &[u32] {
    drafts.get(n).map_or(&[], Vec::as_slice)
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
