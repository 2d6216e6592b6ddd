//! One job that has a slot.

use std::time::Instant;

use crate::engine::outlet::Outlet;
use crate::engine::plan::Candidate;
use crate::error::GenerationError;
use crate::job::{Event, FinishReason, Finished};
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
}

/// A job that computes.
#[derive(Debug)]
pub(crate) struct Sequence {
    job: Submission,
    /// Prompt and output so far.
    tokens: Vec<u32>,
    /// How many of them are in the KV cache.
    n_past: usize,
    n_prompt: usize,
    n_generated: usize,
    arrival: u64,
    started: Instant,
    first_token: Option<Instant>,
}

/// What a sampled token means for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Continues,
    Ends(FinishReason),
}

impl Sequence {
    pub(crate) fn new(mut job: Submission, arrival: u64, now: Instant) -> Self {
        let tokens = std::mem::take(&mut job.prompt);
        Self {
            n_prompt: tokens.len(),
            tokens,
            n_past: 0,
            n_generated: 0,
            arrival,
            started: now,
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

    pub(crate) fn set_prefilling(&self, value: bool) {
        self.job.outlet.signal.set_prefilling(value);
    }

    /// Sends pending text; false if the job has to pause.
    pub(crate) fn flush(&mut self) -> bool {
        self.job.outlet.flush()
    }

    pub(crate) fn candidate(&self, slot: usize) -> Candidate {
        let remaining = self.tokens.len() - self.n_past;
        Candidate {
            slot,
            remaining,
            // A job that lost its cells computes them again as a prompt.
            generating: self.n_generated > 0 && remaining == 1,
            arrival: self.arrival,
        }
    }

    pub(crate) fn is_generating(&self) -> bool {
        self.n_generated > 0
    }

    pub(crate) fn n_past(&self) -> usize {
        self.n_past
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

    /// The KV cache holds no more than the first `n` tokens.
    pub(crate) fn rewind(&mut self, n: usize) {
        self.n_past = n.min(self.n_past);
    }

    /// Whether every token is computed, so that the next one can be sampled.
    pub(crate) fn is_ready(&self) -> bool {
        self.n_past == self.tokens.len()
    }

    /// Samples the next token.
    pub(crate) fn choose(&mut self, logits: &mut [f32]) -> Result<u32, GenerationError> {
        let token = self.job.sampler.next(logits, &self.tokens)?;
        self.first_token.get_or_insert_with(Instant::now);
        Ok(token)
    }

    /// Takes a sampled token that does not end the text, and passes its bytes on.
    pub(crate) fn take(&mut self, token: u32, bytes: &[u8]) -> Progress {
        self.n_generated += 1;
        self.tokens.push(token);
        self.job.outlet.token(token);
        let stopped = self.job.filter.push(bytes, self.job.outlet.text());
        if stopped || self.job.sampler.is_finished() {
            return Progress::Ends(FinishReason::Stop);
        }
        let full = self.tokens.len() >= self.job.n_ctx;
        let enough = self.job.max_tokens > 0 && self.n_generated >= self.job.max_tokens;
        if full || enough {
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
        let first = self.first_token.unwrap_or(now);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let finished = Finished {
            reason,
            prompt_tokens: count(self.n_prompt),
            cached_tokens: 0,
            completion_tokens: count(self.n_generated),
            queue_time: self.started.saturating_duration_since(self.job.submitted),
            prompt_time: first.saturating_duration_since(self.started),
            predict_time: now.saturating_duration_since(first),
        };
        self.job.outlet.end(Event::Finished(finished));
    }

    /// Ends the job with an error. Text that is held is not sent.
    pub(crate) fn fail(self, error: GenerationError) {
        self.job.outlet.end(Event::Failed(error));
    }
}
