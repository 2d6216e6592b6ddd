//! One job inside the engine, from its submission to its end.
//!
//! It knows its tokens and how many of them are computed, passes text on, and
//! keeps the account. It has a slot or waits for one, and may lose it again: its
//! cells are gone then, nothing else is, and it goes on where it was. Which jobs
//! run, and what they share, is not decided here.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::adapter::{AdapterKey, AdapterSet};
use crate::engine::draft::Drafter;
use crate::engine::outlet::Outlet;
use crate::engine::queue::Waits;
use crate::error::GenerationError;
use crate::job::{Event, FinishReason, Finished, GuardPlan, GuardVerdict};
use crate::sampling::Sampler;
use crate::text::TextFilter;

/// A job as it is handed to the engine: checked, with its sampler ready.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) label: String,
    pub(crate) prompt: Vec<u32>,
    /// Context limit of the job; more than the prompt's length.
    pub(crate) n_ctx: usize,
    /// Most tokens to generate; 0 means until the context is full.
    pub(crate) max_tokens: usize,
    pub(crate) sampler: Sampler,
    pub(crate) filter: TextFilter,
    pub(crate) outlet: Outlet,
    pub(crate) submitted: Instant,
    pub(crate) tenant: Arc<str>,
    pub(crate) deadline: Option<Instant>,
    /// How it uses the prefix cache; `None` if it does not.
    pub(crate) caching: Option<Caching>,
    pub(crate) guard: Option<Guard>,
    pub(crate) adapters: AdapterSet,
}

/// How a job uses the prefix cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caching {
    pub(crate) salt: String,
    pub(crate) pin: bool,
}

/// When a job asks, and where the answers come from.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) plan: GuardPlan,
    pub(crate) verdicts: Receiver<GuardVerdict>,
}

/// A question that waits for its answer.
#[derive(Debug)]
pub(crate) struct Question {
    /// Bias, penalties and constraint applied.
    pub(crate) logits: Vec<f32>,
    /// The tokens that were shown.
    pub(crate) shown: Vec<u32>,
}

/// What became of the logits behind the last token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Token(u32),
    /// The guard was asked first.
    Asked,
}

/// What a token means for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Continues,
    Ends(FinishReason),
}

/// A job that waits or computes.
#[derive(Debug)]
pub(crate) struct Sequence {
    job: Submission,
    /// Prompt and output so far.
    tokens: Vec<u32>,
    /// How many of them are in the KV cache.
    n_past: usize,
    n_prompt: usize,
    n_generated: usize,
    /// Prompt tokens that were never computed; known from the first slot on.
    n_cached: Option<usize>,
    arrival: u64,
    /// Whether it has a slot and has not looked for a prefix yet.
    fresh: bool,
    paused: bool,
    question: Option<Question>,
    drafter: Drafter,
    /// Tokens of drafts that were computed, and those of them that saved a step.
    n_drafted: usize,
    n_accepted: usize,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

impl Waits for Sequence {
    fn tenant(&self) -> &Arc<str> {
        &self.job.tenant
    }

    fn arrival(&self) -> u64 {
        self.arrival
    }
}

impl Sequence {
    pub(crate) fn new(mut job: Submission, arrival: u64) -> Self {
        let tokens = std::mem::take(&mut job.prompt);
        // What was computed with other adapters is of no use.
        if let Some(caching) = &mut job.caching {
            caching.salt = job.adapters.key().salt(&caching.salt);
        }
        Self {
            n_prompt: tokens.len(),
            tokens,
            n_past: 0,
            n_generated: 0,
            n_cached: None,
            arrival,
            fresh: true,
            paused: false,
            question: None,
            drafter: Drafter::default(),
            n_drafted: 0,
            n_accepted: 0,
            started: None,
            first_token: None,
            job,
        }
    }

    pub(crate) fn label(&self) -> &str {
        &self.job.label
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.job.outlet.signal.is_cancelled()
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.job.outlet.signal.is_withdrawn()
    }

    pub(crate) fn set_prefilling(&self, value: bool) {
        self.job.outlet.signal.set_prefilling(value);
    }

    /// Takes the job from its submitter's hands, the first time; false if it was
    /// withdrawn.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        if self.started.is_some() {
            return true;
        }
        self.started = Some(now);
        self.job.outlet.signal.begin()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.started.is_some()
    }

    /// When it fails unless it has begun.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.job.deadline.filter(|_| self.started.is_none())
    }

    pub(crate) fn submitted(&self) -> Instant {
        self.job.submitted
    }

    /// What is applied to the model for it.
    pub(crate) fn adapters(&self) -> &AdapterSet {
        &self.job.adapters
    }

    /// Which jobs it can be computed with.
    pub(crate) fn adapter_key(&self) -> &AdapterKey {
        self.job.adapters.key()
    }

    /// How it uses the prefix cache, if it does. Its salt tells the adapters as well.
    pub(crate) fn caching(&self) -> Option<&Caching> {
        self.job.caching.as_ref()
    }

    /// Sends pending text and questions; false if the job has to pause.
    pub(crate) fn flush(&mut self) -> bool {
        self.paused = !self.job.outlet.flush();
        !self.paused
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether it waits for its guard's answer.
    pub(crate) fn is_asking(&self) -> bool {
        self.question.is_some()
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Prompt and output so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    pub(crate) fn n_past(&self) -> usize {
        self.n_past
    }

    pub(crate) fn is_generating(&self) -> bool {
        self.n_generated > 0
    }

    /// Tokens to compute before the next can be chosen.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.n_past
    }

    /// Whether its next step is one token behind its output. A job that lost its
    /// cells computes them again as a prompt.
    pub(crate) fn is_decoding(&self) -> bool {
        self.n_generated > 0 && self.remaining() == 1
    }

    /// Tokens that it can generate yet.
    pub(crate) fn may_generate(&self) -> usize {
        let room = self.job.n_ctx.saturating_sub(self.tokens.len());
        match self.job.max_tokens {
            0 => room,
            max => room.min(max.saturating_sub(self.n_generated)),
        }
    }

    /// The next `n` tokens to compute.
    pub(crate) fn upcoming(&self, n: usize) -> &[u32] {
        let end = (self.n_past + n).min(self.tokens.len());
        &self.tokens[self.n_past..end]
    }

    /// `n` tokens were computed.
    pub(crate) fn advance(&mut self, n: usize) {
        self.n_past = (self.n_past + n).min(self.tokens.len());
    }

    /// At most `n` tokens that may come next, without any that ends the text. A job
    /// with a guard has none: it is asked before tokens are chosen.
    pub(crate) fn draft(&mut self, n: usize, eog: &[u32]) -> Vec<u32> {
        // Behind the last one of a draft one more is chosen.
        let n = n.min(self.may_generate().saturating_sub(1));
        if n == 0 || self.job.guard.is_some() {
            return Vec::new();
        }
        let mut draft = self.drafter.draft(&self.tokens, n);
        let end = draft.iter().position(|token| eog.contains(token));
        draft.truncate(end.unwrap_or(draft.len()));
        draft
    }

    /// A draft of so many tokens was computed.
    pub(crate) fn note_draft(&mut self, n: usize) {
        self.n_drafted += n;
    }

    /// The KV cache holds this token behind those that are computed. If it is the
    /// one that was chosen, it counts as computed; else false.
    pub(crate) fn accept(&mut self, token: u32) -> bool {
        let accepted = self.upcoming(1) == [token];
        if accepted {
            self.advance(1);
            self.n_accepted += 1;
        }
        accepted
    }

    /// See [`Drafter::judge`].
    pub(crate) fn judge_draft(&mut self, drafted: usize, accepted: usize, cost: Option<f64>) {
        self.drafter.judge(&self.tokens, drafted, accepted, cost);
    }

    /// It goes on without drafts for a while.
    pub(crate) fn stop_drafting(&mut self) {
        self.drafter.rest(&self.tokens);
    }

    /// The KV cache holds no more than the first `n` tokens.
    pub(crate) fn rewind(&mut self, n: usize) {
        self.n_past = n.min(self.n_past);
        // What has to be computed once more did not come from a cache.
        self.n_cached = self.n_cached.map(|cached| cached.min(self.n_past));
    }

    /// It begins to compute, with `n` tokens taken from elsewhere.
    pub(crate) fn place(&mut self, n: usize) {
        self.fresh = false;
        self.n_past = n;
        let taken = n.min(self.n_prompt);
        self.n_cached = Some(self.n_cached.map_or(taken, |cached| cached.min(taken)));
    }

    /// It has lost its slot, and all that the KV cache held.
    pub(crate) fn displace(&mut self) {
        self.n_past = 0;
        self.fresh = true;
    }

    /// Whether every token is computed, so that the next one can be chosen.
    pub(crate) fn is_ready(&self) -> bool {
        self.n_past == self.tokens.len() && self.question.is_none()
    }

    /// Chooses the next token, or asks the guard.
    pub(crate) fn choose(&mut self, logits: &mut [f32]) -> Result<Choice, GenerationError> {
        let plan = self.job.guard.as_ref().map(|guard| guard.plan);
        let due = |plan: &GuardPlan| (self.n_generated + 1).is_multiple_of(plan.every as usize);
        let Some(plan) = plan.filter(due) else {
            let token = self.job.sampler.next(logits, &self.tokens)?;
            self.first_token.get_or_insert_with(Instant::now);
            return Ok(Choice::Token(token));
        };
        let sampler = &mut self.job.sampler;
        let candidates = sampler.candidates(logits, &self.tokens, plan.top_k as usize)?;
        self.question = Some(Question {
            // The backend's row is gone after the next step.
            logits: logits.to_vec(),
            shown: candidates.iter().map(|candidate| candidate.0).collect(),
        });
        let previous = self.tokens.last().copied().filter(|_| self.n_generated > 0);
        self.job.outlet.ask(Event::Candidates { previous, candidates });
        Ok(Choice::Asked)
    }

    /// The guard's answer with its question, once it is there.
    pub(crate) fn answered(&mut self) -> Option<(Question, GuardVerdict)> {
        let verdict = self.job.guard.as_ref()?.verdicts.try_recv().ok()?;
        Some((self.question.take()?, verdict))
    }

    /// Chooses from the logits of a question.
    pub(crate) fn choose_from(&mut self, logits: &[f32]) -> Result<u32, GenerationError> {
        let token = self.job.sampler.choose(logits)?;
        self.first_token.get_or_insert_with(Instant::now);
        Ok(token)
    }

    /// Makes the sampler take a token that was not chosen; false if the
    /// constraint refuses it.
    pub(crate) fn force(&mut self, token: u32) -> Result<bool, GenerationError> {
        self.first_token.get_or_insert_with(Instant::now);
        self.job.sampler.force(token)
    }

    /// Appends a token that does not end the text, and passes its bytes on.
    pub(crate) fn append(&mut self, token: u32, bytes: &[u8]) -> Progress {
        self.n_generated += 1;
        self.tokens.push(token);
        self.job.outlet.token(token);
        let stopped = self.job.filter.push(bytes, self.job.outlet.text());
        if stopped || self.job.sampler.is_finished() {
            return Progress::Ends(FinishReason::Stop);
        }
        if self.may_generate() == 0 {
            return Progress::Ends(FinishReason::Length);
        }
        Progress::Continues
    }

    /// Ends the job with what it has.
    pub(crate) fn finish(mut self, reason: FinishReason) {
        let mut reason = reason;
        // After a stop string the filter holds nothing and adds nothing.
        if self.job.filter.finish(self.job.outlet.text()) && reason == FinishReason::Length {
            reason = FinishReason::Stop;
        }
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let finished = Finished {
            reason,
            prompt_tokens: count(self.n_prompt),
            cached_tokens: count(self.n_cached.unwrap_or(0)),
            completion_tokens: count(self.n_generated),
            draft_tokens: count(self.n_drafted),
            accepted_draft_tokens: count(self.n_accepted),
            queue_time: started.saturating_duration_since(self.job.submitted),
            prompt_time: first.saturating_duration_since(started),
            predict_time: now.saturating_duration_since(first),
        };
        self.let_go();
        self.job.outlet.end(Event::Finished(finished));
    }

    /// Its adapters are not in use any more; before its reader hears of the end and
    /// wants others.
    fn let_go(&mut self) {
        self.job.adapters = AdapterSet::default();
    }

    /// Ends the job with an error. Text that is held is not sent.
    pub(crate) fn fail(mut self, error: GenerationError) {
        self.let_go();
        self.job.outlet.end(Event::Failed(error));
    }
}
