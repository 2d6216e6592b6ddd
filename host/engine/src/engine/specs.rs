//! Jobs as the engine's tests describe them, and what they must give.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use tokio::sync::mpsc::Receiver;

use super::fake::{EOG, N_VOCAB, POISON, next_token_with, piece};
use super::outlet::{Outlet, Place, Signal};
use super::sequence::{Caching, Guard, Submission};
use crate::adapter::AdapterSet;
use crate::job::{Event, FinishReason, GuardPlan, GuardVerdict, Sampling};
use crate::sampling::{Sampler, Tokens};
use crate::text::TextFilter;

/// Events a reader may have unread.
pub(super) const CAPACITY: usize = 3;

/// A job as the tests describe it.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) prompt: Vec<u32>,
    pub(super) max_tokens: usize,
    pub(super) n_ctx: usize,
    pub(super) stop: Vec<String>,
    pub(super) tenant: &'static str,
    pub(super) caching: Option<Caching>,
    pub(super) deadline: Option<Instant>,
    pub(super) guard: Option<GuardPlan>,
    /// The number of its set of adapters; 0 is none.
    pub(super) adapters: u64,
    /// Greedy, or there is no reference.
    pub(super) sampling: Sampling,
}

impl Spec {
    pub(super) fn new(prompt: &[u32], max_tokens: usize) -> Self {
        Self {
            prompt: prompt.to_vec(),
            max_tokens,
            n_ctx: 10_000,
            stop: Vec::new(),
            tenant: "",
            caching: Some(Caching { salt: String::new(), pin: false }),
            deadline: None,
            guard: None,
            adapters: 0,
            sampling: greedy(),
        }
    }

    pub(super) fn of(self, tenant: &'static str) -> Self {
        Self { tenant, ..self }
    }

    pub(super) fn uncached(self) -> Self {
        Self { caching: None, ..self }
    }

    pub(super) fn salted(self, salt: &str) -> Self {
        Self { caching: Some(Caching { salt: salt.to_string(), pin: false }), ..self }
    }

    pub(super) fn pinned(self) -> Self {
        Self { caching: Some(Caching { salt: String::new(), pin: true }), ..self }
    }

    pub(super) fn with(self, adapters: u64) -> Self {
        Self { adapters, ..self }
    }

    pub(super) fn drawn(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    pub(super) fn guarded(self, top_k: u32, every: u32) -> Self {
        Self { guard: Some(GuardPlan { top_k, every }), ..self }
    }

    /// A job whose output is exactly `n` tokens when it is alone. `n` has to be
    /// small, or every text would have ended before.
    pub(super) fn lasting(prefix: &[u32], n: usize) -> Self {
        Self::many_lasting(prefix, n).next().expect("one of them lasts")
    }

    /// All such jobs with a last prompt token of their own.
    pub(super) fn many_lasting(prefix: &[u32], n: usize) -> impl Iterator<Item = Self> + use<> {
        Self::many_lasting_with(0, prefix, n)
    }

    /// The same with a set of adapters.
    pub(super) fn many_lasting_with(
        adapters: u64,
        prefix: &[u32],
        n: usize,
    ) -> impl Iterator<Item = Self> + use<> {
        let prefix = prefix.to_vec();
        let tails = (1..POISON - 1).flat_map(|a| (1..POISON - 1).map(move |b| [a, b]));
        let prompts = tails.map(move |tail| [prefix.as_slice(), &tail].concat());
        prompts
            .map(move |prompt| Self::new(&prompt, n).with(adapters))
            .filter(move |s| s.reference().1 == n)
    }

    /// What the job gives when it is alone and nothing goes wrong: text, tokens
    /// and reason.
    pub(super) fn reference(&self) -> (String, usize, FinishReason) {
        let mut tokens = self.prompt.clone();
        let mut filter = TextFilter::new(&self.stop);
        let mut text = String::new();
        let mut n = 0;
        let reason = loop {
            let token = next_token_with(self.adapters, &tokens);
            if token == EOG {
                break FinishReason::Stop;
            }
            tokens.push(token);
            n += 1;
            if filter.push(&piece(token), &mut text) {
                return (text, n, FinishReason::Stop);
            }
            if tokens.len() >= self.n_ctx || (self.max_tokens > 0 && n >= self.max_tokens) {
                break FinishReason::Length;
            }
        };
        let stopped = filter.finish(&mut text);
        (text, n, if stopped { FinishReason::Stop } else { reason })
    }
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, repeat_penalty: 1.0, ..Sampling::default() }
}

pub(super) fn submission(
    spec: &Spec,
    signal: Arc<Signal>,
    place: Place,
) -> (Submission, Receiver<Event>, SyncSender<GuardVerdict>) {
    let tokens = Tokens { n_vocab: N_VOCAB, eog: vec![EOG], newline: None };
    let (outlet, events) = Outlet::new(CAPACITY, signal, place);
    let (answers, verdicts) = sync_channel(1);
    let submission = Submission {
        label: String::new(),
        prompt: spec.prompt.clone(),
        n_ctx: spec.n_ctx,
        max_tokens: spec.max_tokens,
        sampler: Sampler::new(&spec.sampling, &tokens, None),
        filter: TextFilter::new(&spec.stop),
        outlet,
        submitted: Instant::now(),
        tenant: Arc::from(spec.tenant),
        deadline: spec.deadline,
        caching: spec.caching.clone(),
        guard: spec.guard.map(|plan| Guard { plan, verdicts }),
        adapters: AdapterSet::fake(spec.adapters),
    };
    (submission, events, answers)
}
