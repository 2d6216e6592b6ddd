//! A loaded plugin: what was compiled, which phases it has, what it may use.
//!
//! It is immutable and shared by all jobs. Loading makes it (`load`); one job's
//! instance of it is `instance`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;
use wasmtime::component::InstancePre;

use crate::bindings::experimental::token_guard;
use crate::bindings::v0_1::{
    lifecycle, observer, prompt_hook, request_hook, response_hook, stream_filter,
};
use crate::breaker::Breaker;
use crate::chain::PluginInfo;
use crate::config::Limits;
use crate::error::Phase;
use crate::guest::GuestState;
use crate::imports::LogBudget;
use crate::policy::{Mode, Policy};
use crate::ready::ReadyPool;
use crate::services::Services;
use crate::slice::Slow;
use crate::stats::Stats;

pub(crate) struct Plugin {
    pub(crate) info: PluginInfo,
    pub(crate) shared: Arc<PluginShared>,
    pub(crate) pre: InstancePre<GuestState>,
    pub(crate) exports: Exports,
    /// Instances that wait for a job.
    pub(crate) ready: ReadyPool,
    /// Calls that may be in progress.
    pub(crate) calls: Arc<Semaphore>,
}

impl Plugin {
    /// Whether it is called in `phase`: it exports it, and the operator lets it.
    pub(crate) fn called_in(&self, phase: Phase) -> bool {
        let policy = &self.shared.policy;
        policy.mode != Mode::Off && self.exports.has(phase) && policy.includes(phase)
    }
}

/// What every instance of a plugin needs to know.
pub(crate) struct PluginShared {
    pub(crate) id: String,
    pub(crate) limits: Limits,
    pub(crate) config: Value,
    pub(crate) config_text: String,
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) log: LogBudget,
    pub(crate) services: Services,
    pub(crate) policy: Policy,
    pub(crate) stats: Stats,
    pub(crate) breaker: Breaker,
    pub(crate) slow: Slow,
}

/// The interfaces of the WIT package that a component exports.
#[derive(Clone)]
pub(crate) struct Exports {
    pub(crate) lifecycle: Option<lifecycle::GuestIndices>,
    pub(crate) request: Option<request_hook::GuestIndices>,
    pub(crate) prompt: Option<prompt_hook::GuestIndices>,
    pub(crate) guard: Option<token_guard::GuestIndices>,
    pub(crate) stream: Option<stream_filter::GuestIndices>,
    pub(crate) response: Option<response_hook::GuestIndices>,
    pub(crate) observer: Option<observer::GuestIndices>,
}

impl Exports {
    pub(crate) fn has(&self, phase: Phase) -> bool {
        match phase {
            Phase::Request => self.request.is_some(),
            Phase::Prompt => self.prompt.is_some(),
            Phase::Token => self.guard.is_some(),
            Phase::Stream => self.stream.is_some(),
            Phase::Response => self.response.is_some(),
            Phase::Observer => self.observer.is_some(),
        }
    }

    pub(crate) fn phases(&self) -> Vec<Phase> {
        Phase::ALL.into_iter().filter(|phase| self.has(*phase)).collect()
    }
}
