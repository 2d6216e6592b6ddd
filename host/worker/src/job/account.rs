//! What is known of a job while it runs, for the observers among its hooks.
//!
//! It outlives the stages, which an interrupt ends at any point. What observers
//! do with it is theirs; what the client gets is decided elsewhere.

use std::time::{Duration, Instant};

use llamero_hooks::{Completion, FinishReason, JobHooks, Summary, Usage};
use llamero_protocol::{ErrorBody, ErrorCode, HookFailureKind, PredictResponse};

use super::convert;
use super::trace;

/// The account of one job.
pub struct Account {
    arrived: Instant,
    /// The hooks of the job, once it has them.
    pub hooks: Option<JobHooks>,
    /// From its arrival to its first stage.
    pub queued: Duration,
    /// When the first text came out of the model.
    pub first_text: Option<Instant>,
    /// Tokens so far.
    pub usage: Usage,
    /// The reason of a hook that ended the output.
    pub halted: Option<String>,
}

impl Account {
    /// The account of a job that arrived just now.
    pub fn new(arrived: Instant) -> Self {
        Self {
            arrived,
            hooks: None,
            queued: Duration::ZERO,
            first_text: None,
            usage: Usage::default(),
            halted: None,
        }
    }

    /// How a job ended, as observers are told.
    pub fn outcome(&self, result: &Result<PredictResponse, ErrorBody>) -> Completion {
        match result {
            Ok(predict) => Completion::Completed(match &self.halted {
                Some(reason) => FinishReason::Filtered(reason.clone()),
                None => convert::finish_to_hooks(predict.finish_reason.as_ref()),
            }),
            Err(error) if error.code == ErrorCode::Interrupted.number() && error.hook.is_none() => {
                Completion::Completed(FinishReason::Cancelled)
            }
            Err(error) => {
                let (code, reason) = (error.code, error.error.clone());
                let kind = error.hook.as_ref().map(|hook| &hook.kind);
                if kind == Some(&HookFailureKind::Rejected) {
                    Completion::Rejected { code, reason }
                } else {
                    Completion::Failed { code, reason }
                }
            }
        }
    }

    /// Logs what the hooks did and hands the job to its observers.
    pub fn close(self, job: &str, outcome: Completion, texts: bool) {
        let Some(hooks) = self.hooks else {
            return;
        };
        trace::log(job, &hooks, texts);
        hooks.observe(Summary {
            outcome,
            usage: self.usage,
            queued: self.queued,
            first_token: self.first_text.map(|at| at.saturating_duration_since(self.arrived)),
            total: self.arrived.elapsed(),
        });
    }
}
