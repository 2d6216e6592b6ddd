//! A job on its way through the engine, as its submitter sees it.
//!
//! The other end of the channel, the sequence that computes, lives in
//! [`crate::engine`].

use std::time::{Duration, Instant};

use crate::adapter::Adapter;
use crate::constraint::CompiledConstraint;
use crate::error::GenerationError;

/// One prompt to continue.
#[derive(Debug, Clone)]
pub struct Job {
    /// A name for logs only; never shown to anyone else.
    pub label: String,
    /// The tokens to continue, BOS included where the model wants one.
    pub prompt: Vec<u32>,
    /// Context limit, prompt and output together. 0 takes the model's.
    pub n_ctx: u32,
    /// Most tokens to generate; 0 means until the context is full.
    pub max_tokens: u32,
    /// Texts that end the output; empty ones are ignored.
    pub stop: Vec<String>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// What the output must match.
    pub constraint: Option<CompiledConstraint>,
    /// Whom the job is computed for: slots and computing time are shared fairly
    /// between tenants. Jobs of nobody (empty, the default) are one tenant, too.
    pub tenant: String,
    /// A job that has not begun by then fails with
    /// [`GenerationError::Expired`], before anything is computed for it.
    pub deadline: Option<Instant>,
    /// Whether the job may take the beginning of its prompt from the prefix
    /// cache, and leave its own there. Default true.
    pub cache: bool,
    /// Only jobs of the same salt share anything: what one of them computed can
    /// be told by another from how fast it begins. Default empty, which is a
    /// salt like others.
    pub cache_salt: String,
    /// Keep this prompt (without the output) in the cache before all that is not
    /// pinned, within [`crate::ModelConfig::cache_pin_cells`]. Without effect if
    /// [`Self::cache`] is false. Default false.
    pub cache_pin: bool,
    /// Ask before tokens are chosen. Experimental.
    pub guard: Option<GuardPlan>,
    /// What is applied to the model for this job, each with its scale; at most
    /// [`crate::MAX_JOB_ADAPTERS`]. Jobs of other sets are computed in steps of
    /// their own and share no prefix with this one. Default none.
    pub adapters: Vec<(Adapter, f32)>,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            label: String::new(),
            prompt: Vec::new(),
            n_ctx: 0,
            max_tokens: 0,
            stop: Vec::new(),
            sampling: Sampling::default(),
            constraint: None,
            tenant: String::new(),
            deadline: None,
            cache: true,
            cache_salt: String::new(),
            cache_pin: false,
            guard: None,
            adapters: Vec::new(),
        }
    }
}

/// When a job asks its submitter about the next token, and what it shows.
///
/// The job sends [`Event::Candidates`] and sits out until
/// [`crate::Generation::decide`] answers; other jobs go on. How long an answer
/// may take is the submitter's business: a job that waits keeps its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardPlan {
    /// How many candidates are shown, 1 to [`GuardPlan::MAX_TOP_K`].
    pub top_k: u32,
    /// Ask at every n-th token of the output, from the n-th on; at least 1.
    pub every: u32,
}

impl GuardPlan {
    /// The most candidates that can be shown.
    pub const MAX_TOP_K: u32 = 64;
}

/// What becomes of a token that a guard was asked about. Token ids that are not
/// in the vocabulary fail the job.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardVerdict {
    /// Choose as if nobody had been asked.
    Pass,
    /// Do not choose these. If that leaves none of the candidates that were
    /// shown, the job fails: what comes after them was never looked at.
    Ban(Vec<u32>),
    /// Choose one of these; the job fails if its constraint allows none.
    Only(Vec<u32>),
    /// Add to the logits of these tokens; minus infinity bans.
    Bias(Vec<(u32, f32)>),
    /// Append these tokens, at least one, without choosing. The job fails if its
    /// constraint refuses one.
    Force(Vec<u32>),
    /// End the output here, with [`FinishReason::Stop`].
    End,
}

/// How the next token is chosen from the logits.
///
/// Order: penalties with logit bias, constraint, then for `temperature <= 0`
/// the likeliest token; else mirostat if it is on; else top-k, typical, top-p,
/// min-p, temperature and a draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Randomness; 0 or less takes the likeliest token. Default 0.8.
    pub temperature: f32,
    /// Only the K likeliest tokens; 0 or less takes all. Default 40.
    pub top_k: i32,
    /// Only the likeliest tokens whose probabilities add up to this. Default 0.9.
    pub top_p: f32,
    /// Only tokens at least this much as likely as the likeliest. Default 0.
    pub min_p: f32,
    /// Locally typical sampling; 1 turns it off. Default 1.
    pub typical_p: f32,
    /// 0 off, 1 first version, 2 second version. Default 0.
    pub mirostat: u8,
    /// Mirostat's target entropy. Default 5.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate. Default 0.1.
    pub mirostat_eta: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1
    /// turns it off. Default 1.1.
    pub repeat_penalty: f32,
    /// Taken from a recent token's logit once per occurrence. Default 0.
    pub frequency_penalty: f32,
    /// Taken from a recent token's logit once. Default 0.
    pub presence_penalty: f32,
    /// How many recent tokens, prompt included, the penalties look at; 0 none,
    /// -1 all. Default 64.
    pub repeat_last_n: i32,
    /// Whether the penalties apply to the newline token. Default true.
    pub penalize_newline: bool,
    /// Seed of the draws; 0 takes a new one. Default 0.
    pub seed: u32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Never choose a token that ends the text. Default false.
    pub ignore_eos: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            repeat_penalty: 1.1,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            penalize_newline: true,
            seed: 0,
            logit_bias: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// What a job reports. The last event is `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A piece of output.
    Text(Piece),
    /// A job with a [`GuardPlan`] asks what it may choose, and waits.
    Candidates {
        /// The last token of the output, if there is one yet.
        previous: Option<u32>,
        /// The likeliest tokens that penalties and constraint leave, best first,
        /// with the natural logarithms of their probabilities at temperature 1.
        candidates: Vec<(u32, f32)>,
    },
    /// The end of the job; nothing follows.
    Finished(Finished),
    /// The failure of the job; nothing follows.
    Failed(GenerationError),
}

/// A piece of output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Whole characters, never empty, without anything that may still turn out to
    /// be a stop string.
    pub text: String,
    /// The tokens that were sampled since the piece before. Their text need not be
    /// exactly this one: what may be part of a stop string is held back, and a
    /// character can be several tokens.
    pub tokens: Vec<u32>,
}

/// Why a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token, a stop string, or a finished grammar.
    Stop,
    /// `max_tokens` was reached or the context is full.
    Length,
    /// The job was cancelled.
    Cancelled,
}

/// The account of a job that ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that came from a cache instead of being computed. A job that
    /// was preempted counts what it never had to compute at all.
    pub cached_tokens: u32,
    /// Tokens sampled, without an end-of-generation token.
    pub completion_tokens: u32,
    /// Tokens computed ahead ([`crate::ModelConfig::speculate_tokens`]).
    pub draft_tokens: u32,
    /// Those of them that were right, and saved a step each.
    pub accepted_draft_tokens: u32,
    /// From submission to the first time it had a slot.
    pub queue_time: Duration,
    /// From then to the first sampled token, waiting for another job's prefix included.
    pub prompt_time: Duration,
    /// From the first sampled token to the end.
    pub predict_time: Duration,
}
