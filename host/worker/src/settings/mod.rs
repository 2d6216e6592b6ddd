//! The configuration of a worker: read from four layers, checked as a whole,
//! typed, and printable without secrets.
//!
//! [`Settings::load`] either gives a complete configuration or the list of
//! everything that is wrong, and touches nothing but its [`Source`]: no
//! connection, no model, no folder. Whether folders exist is found out by those
//! who open them (`models`, `llamero-hooks`). The files beside the hooks are read
//! when hooks are loaded, by [`settings_for`].
//!
//! ```text
//! table of settings (spec) ─┐
//! flags > variables > file  ├─▶ layers ─▶ JSON value + origin ─▶ Settings (typed)
//!                   default ┘                  └──────────────▶ effective() for people
//! ```

mod layers;
mod list;
mod nats;
mod plugins;
mod source;
mod spec;
mod typed;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use llamero_engine::{ConstraintLimits, EmbeddingConfig, KvType};
use llamero_hooks::{LimitOverrides, PluginSettings};
use llamero_protocol::OptionDefaults;
use serde::Serialize;
use serde_json::Value;

pub use layers::{DEFAULT_FILE, FILE_VARIABLE};
pub use nats::{NatsAuth, NatsSettings};
pub use plugins::{PluginTables, settings_for};
pub use source::{Flags, MapSource, Origin, Problem, Problems, ProcessSource, Source};
pub use spec::{Kind, Spec, SpecDefault, all as specs};
pub use value::parse_duration;

/// The whole configuration of a worker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where and as whom to connect.
    pub nats: NatsSettings,
    /// Which models are served, and how they are loaded.
    pub models: ModelSettings,
    /// How many jobs run and wait, and how long they may go on at the end.
    pub jobs: JobSettings,
    /// How answers are sent.
    pub answers: AnswerSettings,
    /// The hooks and their limits.
    pub hooks: HookSettings,
    /// Defaults for the options of requests.
    pub options: OptionDefaults,
    /// What is logged, and how.
    pub log: LogSettings,
    effective: Vec<Effective>,
}

/// Which models are served, and how they are loaded.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The folder of the model files.
    pub dir: PathBuf,
    /// Whether links that lead out of the folder are followed.
    pub follow_links: bool,
    /// Largest context a request may ask for, in tokens; 0: the larger of the
    /// configured `ctx_size` and what the model was trained with.
    pub max_ctx_size: u32,
    /// Models kept loaded.
    pub max_loaded: usize,
    /// For how long a model stays loaded that no job uses; nothing: for good.
    pub keep_alive: Option<Duration>,
    /// Bytes that all loaded models may take together; nothing: no limit.
    pub ram: Option<u64>,
    /// Whether the default model is loaded at start.
    pub preload: bool,
    /// Compute threads; 0: one for each core.
    pub threads: u32,
    /// Layers on a GPU.
    pub gpu_layers: u32,
    /// Most tokens in one step.
    pub n_batch: u32,
    /// How jobs share the KV cache and the time of the model.
    pub kv: KvSettings,
    /// Most tokens computed ahead of a job in a step.
    pub speculate_tokens: u32,
    /// How vectors are computed.
    pub embedding: EmbeddingConfig,
    /// What grammars and JSON schemas may cost.
    pub constraints: ConstraintLimits,
    /// LoRA adapters kept loaded for each model.
    pub max_adapters: usize,
    /// Whether the memory of models lies in huge pages.
    pub huge_pages: bool,
    /// Whether model files are mapped.
    pub use_mmap: bool,
    /// Whether model memory is locked.
    pub use_mlock: bool,
}

/// How jobs share a model; what each means and may be is said at
/// [`llamero_engine::ModelConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvSettings {
    /// Tokens in the KV cache; 0: the context of each slot.
    pub cells: u32,
    /// Tokens kept free when a job begins.
    pub reserve: u32,
    /// How keys are stored.
    pub type_k: KvType,
    /// How values are stored.
    pub type_v: KvType,
    /// Milliseconds that prompts may hold up running jobs at a time.
    pub stall_target_ms: u32,
    /// Milliseconds after which a tenant without a running job takes a slot.
    pub fair_preempt_ms: u32,
    /// Whether equal beginnings of prompts are computed once.
    pub prefix_cache: bool,
    /// Kept prompts.
    pub cache_leaves: u32,
    /// Tokens of kept prompts; 0: a quarter of the KV cache.
    pub cache_cells: u32,
    /// Tokens of pinned prompts.
    pub cache_pin_cells: u32,
    /// Tokens in a block.
    pub cache_block: u32,
}

/// How many jobs run and wait.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// Jobs served at once.
    pub slots: u32,
    /// Jobs that may wait.
    pub queue: usize,
    /// How long other workers are asked about a job that is to be interrupted and is
    /// not here; nothing: they are not.
    pub interrupt_peers: Duration,
    /// Whether clients may send a grammar.
    pub allow_grammar: bool,
    /// Which embed requests are served.
    pub embed: EmbedRules,
    /// How long running jobs may go on after the first signal to stop.
    pub shutdown_grace: Duration,
}

/// Which embed requests are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedRules {
    /// Whether any is.
    pub policy: EmbedPolicy,
    /// Most texts in one request.
    pub max_inputs: usize,
}

/// Whether embed requests are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbedPolicy {
    /// They are.
    Served,
    /// The operator has turned them off.
    Off,
    /// There are hooks, which do not see them, and the operator has not said that
    /// they may pass all the same.
    UnseenByHooks,
}

/// How answers are sent.
#[derive(Debug, Clone)]
pub struct AnswerSettings {
    /// Whether the protocol's extensions are sent.
    pub extras: bool,
    /// From the acknowledgement to the first message of a stream.
    pub ack_delay: Duration,
    /// For how long text is joined.
    pub flush_interval: Duration,
    /// How much text is sent at once, in bytes.
    pub flush_bytes: usize,
    /// Where requests may stream to.
    pub stream_subjects: Vec<String>,
}

/// The hooks and their limits.
#[derive(Debug, Clone)]
pub struct HookSettings {
    /// The folder; nothing: no hooks.
    pub dir: Option<PathBuf>,
    /// Where compiled hooks are kept, if a place is known.
    pub cache_dir: Option<PathBuf>,
    /// Limits of every hook.
    pub limits: LimitOverrides,
    /// Hook calls at once.
    pub concurrency: usize,
    /// Hook instances at once.
    pub instances: u32,
    /// Instances that may be kept ready, over all hooks.
    pub max_ready: u32,
    /// Threads that run hooks.
    pub threads: usize,
    /// Largest hook file, in bytes.
    pub max_component_bytes: u64,
    /// Most hooks.
    pub max_plugins: usize,
    /// Wall time of each step of a trial.
    pub trial_wall: Duration,
    /// Where they keep their state.
    pub state: HookState,
    /// Series of metrics that they may have, all together.
    pub metric_series: usize,
    /// Names of the request headers that hooks may see.
    pub headers: Vec<String>,
    /// Whether the texts that hooks change are logged.
    pub log_text: bool,
    /// Whether a hook that keeps failing is set aside.
    pub breaker: bool,
    /// Whether the folder is watched.
    pub reload: bool,
    /// Whether hooks may be commanded over NATS.
    pub control: bool,
    /// What the configuration file alone says about each hook.
    pub plugins: BTreeMap<String, PluginSettings>,
    /// The same as it is written. [`settings_for`] lays the files beside the hooks
    /// underneath, which is what hooks are loaded with.
    pub plugin_tables: PluginTables,
}

/// Where hooks keep their state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookState {
    /// In the worker, until it ends.
    Memory,
    /// In a key-value bucket of NATS.
    Nats {
        /// Its name.
        bucket: String,
    },
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The filter, in the syntax of `RUST_LOG`.
    pub filter: String,
    /// The form of lines.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

/// One line of the listing of all settings, fit to be printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effective {
    /// The setting's name.
    pub name: String,
    /// What it is for.
    #[serde(rename = "use")]
    pub use_text: String,
    /// The value in effect; secrets are replaced by `[redacted]`.
    pub value: Value,
    /// The default.
    pub default: Value,
    /// Where the value comes from.
    pub origin: String,
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All problems at once, each with key, origin and reason.
    pub fn load(source: &dyn Source, flags: &Flags) -> Result<Self, Problems> {
        typed::load(source, flags)
    }

    /// Every setting with its value, default and origin, in the order of the
    /// table, without secrets.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }
}
