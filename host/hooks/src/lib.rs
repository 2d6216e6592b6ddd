//! The plugin host of Llamero: WebAssembly components that look at a request
//! before the model does, and may change it, answer it, or refuse it.
//!
//! A [`HookHost`] owns the engine, its threads and every limit. It opens a folder as
//! a [`Registry`], which has one [`Chain`] in service and replaces it when the folder
//! changes; a chain begins a [`JobHooks`] for each job, which calls the plugins in the
//! operator's order, phase by phase, each in an instance of its own. A plugin can harm its own call only: whatever it does ends as a
//! [`Failure`] with a kind, within its limits.
//!
//! This crate knows nothing of NATS, of llama.cpp, or of the wire protocol. The
//! worker translates: requests into [`Request`], failures into error codes, and
//! a tokenizer into [`TokenizerService`].

mod artifact;
mod bindings;
mod breaker;
mod calls;
mod chain;
mod chores;
mod classify;
mod clock;
mod compile;
mod config;
mod data;
mod engine;
mod error;
mod folder;
mod golden;
mod guest;
mod host;
mod imports;
mod inspect;
mod instance;
mod job;
mod last_good;
pub mod ledger;
mod load;
mod outgoing;
mod overview;
mod plugin;
mod policy;
mod probation;
mod ready;
mod registry;
mod run;
mod schema;
mod services;
mod slice;
mod state;
mod stats;
mod ticker;
mod tokenizer;
mod verdict;
mod watch;

pub use breaker::BreakerState;
pub use chain::{Chain, PluginInfo};
pub use config::{HostConfig, LimitOverrides, Limits, OptionCheck, PluginSettings};
pub use data::{
    Candidate, Change, Completion, Content, FieldChange, FinishReason, GuardPlan, GuardVerdict,
    JobContext, Message, Outgoing, Prompt, PromptOutcome, Request, RequestOutcome, Summary, Usage,
    Verdict,
};
pub use error::{Failure, FailureKind, HostError, LoadCause, LoadError, Phase};
pub use golden::golden_cases;
pub use host::HookHost;
pub use job::{HookCanceller, JobHooks};
pub use outgoing::{OutgoingPipe, Room};
pub use overview::Overview;
pub use policy::{
    FailPolicies, FailPolicy, GoldenCase, GoldenInput, Grant, Match, Mode, Policy, WholeOutput,
};
pub use registry::{
    PluginState, PluginStatus, Registry, RegistryError, Rollback, SettingsSource, SyncReport,
};
pub use services::{
    DROPPED_METRICS, Measurement, MetricsService, NoMetrics, RESERVED_METRICS, ServiceFuture,
    Services, StateError, StateQuota, StateService,
};
pub use state::{MAX_STATE_KEY_BYTES, MemoryState, check_state_key};
pub use stats::{InstanceStats, Latency, PhaseStats, PluginStats};
pub use tokenizer::{ModelInfo, NoTokenizer, TokenizerError, TokenizerService};
