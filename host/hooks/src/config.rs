//! What the operator decides: limits, concurrency, the cache of compiled code,
//! and each plugin's own settings.
//!
//! This module holds values only. Reading them from files and the environment
//! is the worker's task; enforcing them is spread over [`crate::HookHost`] and
//! the modules behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::data::Request;
use crate::policy::Policy;

/// Checks a request that a plugin changed, before the next plugin sees it.
///
/// The worker gives one that knows the protocol's options table, because this
/// crate does not. The text of the error goes to the operator's log; the client
/// sees failure kind `invalid-output`.
pub type OptionCheck = Arc<dyn Fn(&Request) -> Result<(), String> + Send + Sync>;

/// Settings of a [`crate::HookHost`].
#[derive(Clone)]
pub struct HostConfig {
    /// Limits of every plugin; [`PluginSettings::limits`] may change them one by
    /// one.
    pub limits: Limits,
    /// Plugin calls that may be in progress at once, over all jobs and plugins
    /// (default 16). A call that finds none free waits for at most the plugin's
    /// wall limit and then fails with kind `busy`.
    pub concurrency: usize,
    /// Plugin instances that may exist at once (default 128). A job takes one
    /// for each plugin of the chain and gives them back when its
    /// [`crate::JobHooks`] is dropped; a job that gets none in time fails with
    /// kind `busy`. All of them together may use this many times
    /// [`Limits::memory_bytes`].
    pub max_instances: u32,
    /// Instances that may be kept ready, over all plugins (default 64), beside
    /// [`Self::max_instances`]. Plugins that find none left of it make theirs when
    /// a job needs them.
    pub max_ready: u32,
    /// Threads of the runtime that runs plugins (default 2; 1 and 2 make sense).
    pub threads: usize,
    /// Where compiled code and the last good versions of plugins are kept. The
    /// directory is made with mode 0700 if it does not exist, and refused unless it
    /// belongs to this user and nobody else can enter it: whoever can write there
    /// can run code in this process.
    ///
    /// `None` compiles at every start, in the serving engine, which then keeps
    /// the compiler's memory for its whole life and takes every core also while
    /// jobs run; and a damaged file refuses the start.
    pub cache_dir: Option<PathBuf>,
    /// Size of the largest file that is read as a plugin (default 64 MiB).
    pub max_component_bytes: u64,
    /// Most plugins in one chain (default 32).
    pub max_plugins: usize,
    /// Wall time for each step of a plugin's trial at load (default 10 s). It is
    /// longer than [`Limits::wall`] because loading happens while compilers use
    /// every core; [`Limits::cpu`] applies to a trial unchanged.
    pub trial_wall: Duration,
    /// Whether a plugin that fails again and again is set aside for a while (default
    /// true): calls then fail at once with kind `quarantined`, or pass where its
    /// fail policy is open.
    pub breaker: bool,
    /// Checks every request that a plugin changed. See [`OptionCheck`].
    pub option_check: Option<OptionCheck>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            concurrency: 16,
            max_instances: 128,
            max_ready: 64,
            threads: 2,
            cache_dir: None,
            max_component_bytes: 64 << 20,
            max_plugins: 32,
            trial_wall: Duration::from_secs(10),
            breaker: true,
            option_check: None,
        }
    }
}

impl fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConfig")
            .field("limits", &self.limits)
            .field("concurrency", &self.concurrency)
            .field("max_instances", &self.max_instances)
            .field("max_ready", &self.max_ready)
            .field("threads", &self.threads)
            .field("cache_dir", &self.cache_dir)
            .field("max_component_bytes", &self.max_component_bytes)
            .field("max_plugins", &self.max_plugins)
            .field("trial_wall", &self.trial_wall)
            .field("breaker", &self.breaker)
            .field("option_check", &self.option_check.is_some())
            .finish()
    }
}

macro_rules! limits {
    ($( $(#[$doc:meta])* $name:ident: $ty:ty = $default:expr, )*) => {
        /// What one plugin may use. Every field is enforced; the failure kind of
        /// exceeding it is named in its documentation.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $( $(#[$doc])* pub $name: $ty, )*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $( $name: $default, )* }
            }
        }

        /// The limits that the operator changes for one plugin; `None` keeps the
        /// value of [`HostConfig::limits`].
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct LimitOverrides {
            $(
                #[doc = concat!("Replaces [`Limits::", stringify!($name), "`].")]
                pub $name: Option<$ty>,
            )*
        }

        impl LimitOverrides {
            /// The limits of a plugin: these values over `base`.
            pub fn over(&self, base: &Limits) -> Limits {
                Limits { $( $name: self.$name.unwrap_or(base.$name), )* }
            }
        }
    };
}

limits! {
    /// Wall time of one call, host calls and making the instance included (default
    /// 250 ms). Kind `wall`. Waiting for an instance or a call slot may take as long
    /// again; kind `busy`.
    wall: Duration = Duration::from_millis(250),
    /// CPU time of one call, measured with the thread's CPU clock (default
    /// 50 ms), so that a plugin which the system did not run is not charged.
    /// Checked every millisecond. Kind `cpu`.
    cpu: Duration = Duration::from_millis(50),
    /// Wall time of one `push` of a stream filter (default 20 ms). Kind `wall`.
    push_wall: Duration = Duration::from_millis(20),
    /// CPU time of one `push` of a stream filter (default 5 ms). Kind `cpu`.
    push_cpu: Duration = Duration::from_millis(5),
    /// Wall time of an observer's call (default 100 ms). Kind `wall`.
    observer_wall: Duration = Duration::from_millis(100),
    /// CPU time of an observer's call (default 20 ms). Kind `cpu`.
    observer_cpu: Duration = Duration::from_millis(20),
    /// Bytes of text that a stream filter may hold back (default 4 KiB). Kind
    /// `hold`.
    hold_bytes: usize = 4 << 10,
    /// How long a stream filter may hold text back (default 30 s). Kind `hold`. It
    /// counts while the filter waits for the model, too: the prompts of other jobs
    /// held up a stream for 4.5 s in the load generator (four clients, two cores),
    /// and with 2 s a filter that waits for the end of a word failed there.
    hold_time: Duration = Duration::from_secs(30),
    /// Bytes of keys and values that a plugin may keep in `state` (default
    /// 1 MiB). The plugin gets `quota-exceeded`, which is no failure.
    state_bytes: usize = 1 << 20,
    /// Keys that a plugin may keep in `state` (default 10,000). The plugin gets
    /// `quota-exceeded`, which is no failure.
    state_keys: usize = 10_000,
    /// Calls of one plugin that may be in progress at once (default 16). Kind
    /// `busy`.
    calls: usize = 16,
    /// Instances of a plugin that are kept ready, made and configured ahead of
    /// need (default 4). A job that finds none makes its own.
    ready: usize = 4,
    /// Bytes of all linear memories and tables of one instance together, a table
    /// element counting as one pointer (default 64 MiB). Kind `memory`.
    memory_bytes: usize = 64 << 20,
    /// Bytes of text and JSON in everything that one call returns (default
    /// 4 MiB). Kind `invalid-output`.
    output_bytes: usize = 4 << 20,
    /// Bytes that a plugin may hand to the host in one host call (default
    /// 8 MiB). It also caps what is copied out of a plugin as the result of a
    /// call. Kind `quota` for a host call, `invalid-output` for a result.
    host_call_bytes: usize = 8 << 20,
    /// Handles that one instance may hold at once (default 1,000). Kind `quota`.
    handles: usize = 1_000,
    /// Bytes of the reason of a rejection (default 4 KiB): it becomes the
    /// client's error message. Kind `invalid-output`.
    reason_bytes: usize = 4 << 10,
    /// Bytes of text that one tokenizer call may carry, and four times the number
    /// of tokens (default 1 MiB). The plugin gets `too-large`, which is no
    /// failure.
    tokenizer_bytes: usize = 1 << 20,
    /// Bytes of log messages a second, over all instances of a plugin, with one
    /// second's worth as burst (default 64 KiB). What is above it is dropped and
    /// counted, which is no failure.
    log_bytes_per_s: usize = 64 << 10,
    /// Notes that one plugin may leave on one job (default 32). Further ones are
    /// dropped with a warning.
    notes: usize = 32,
}

impl Limits {
    /// The first limit that cannot work, as a text for the operator.
    pub(crate) fn problem(&self) -> Option<String> {
        let zero = |name: &str| Some(format!("limit `{name}` is 0; nothing could run under it"));
        for (name, value) in [
            ("wall", self.wall),
            ("cpu", self.cpu),
            ("push_wall", self.push_wall),
            ("push_cpu", self.push_cpu),
            ("observer_wall", self.observer_wall),
            ("observer_cpu", self.observer_cpu),
            ("hold_time", self.hold_time),
        ] {
            if value.is_zero() {
                return zero(name);
            }
        }
        for (name, value) in [
            ("memory_bytes", self.memory_bytes),
            ("output_bytes", self.output_bytes),
            ("host_call_bytes", self.host_call_bytes),
            ("handles", self.handles),
            ("reason_bytes", self.reason_bytes),
            ("hold_bytes", self.hold_bytes),
            ("calls", self.calls),
        ] {
            if value == 0 {
                return zero(name);
            }
        }
        if self.memory_bytes > MAX_MEMORY_BYTES {
            return Some(format!(
                "limit `memory_bytes` is {}, the largest possible is {MAX_MEMORY_BYTES}",
                self.memory_bytes
            ));
        }
        for (name, value) in [
            ("wall", self.wall),
            ("push_wall", self.push_wall),
            ("observer_wall", self.observer_wall),
            ("hold_time", self.hold_time),
        ] {
            if value > MAX_WALL {
                return Some(format!(
                    "limit `{name}` is {value:?}, the largest possible is {MAX_WALL:?}"
                ));
            }
        }
        None
    }
}

/// Largest linear memory of a plugin; the size of a slot of the memory pool.
pub(crate) const MAX_MEMORY_BYTES: usize = 512 << 20;

/// Longest possible call. A job waits for its plugins before it is acknowledged,
/// so more than this is a mistake in the configuration.
const MAX_WALL: Duration = Duration::from_secs(600);

/// What the operator says about one plugin, by its id (the file's stem).
#[derive(Clone, Default, PartialEq)]
pub struct PluginSettings {
    /// The configuration document that the plugin reads through the import
    /// `config`: a JSON object, or `null` for none.
    pub config: serde_json::Value,
    /// Limits of this plugin.
    pub limits: LimitOverrides,
    /// Secrets that the plugin may read by name. Everything else is answered
    /// with `not-granted`.
    pub secrets: BTreeMap<String, String>,
    /// Whether and where it runs, and what its failures mean.
    pub policy: Policy,
    /// Why these settings cannot be used, if they cannot: whoever read them found
    /// mistakes in them. Loading the plugin is then refused with this text, and no
    /// other plugin suffers.
    pub unusable: Option<String>,
}

impl fmt::Debug for PluginSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginSettings")
            .field("config", &self.config)
            .field("limits", &self.limits)
            // Names only: settings are printed and logged.
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .field("policy", &self.policy)
            .field("unusable", &self.unusable)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn overrides_replace_only_what_they_name() {
        let base = Limits::default();
        let overrides = LimitOverrides { memory_bytes: Some(1 << 20), ..Default::default() };
        let limits = overrides.over(&base);
        assert_eq!(limits.memory_bytes, 1 << 20);
        assert_eq!(limits, Limits { memory_bytes: 1 << 20, ..base });
    }

    #[test]
    fn impossible_limits_are_named() {
        assert_eq!(Limits::default().problem(), None);
        let cases: [(Limits, &str); 4] = [
            (Limits { wall: Duration::ZERO, ..Default::default() }, "wall"),
            (Limits { handles: 0, ..Default::default() }, "handles"),
            (Limits { memory_bytes: MAX_MEMORY_BYTES + 1, ..Default::default() }, "memory_bytes"),
            (Limits { wall: MAX_WALL * 2, ..Default::default() }, "wall"),
        ];
        for (limits, name) in cases {
            let text = limits.problem().unwrap();
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = PluginSettings {
            secrets: [("token".to_owned(), "hunter2".to_owned())].into(),
            ..Default::default()
        };
        let text = format!("{settings:?}");
        assert!(text.contains("token") && !text.contains("hunter2"), "{text}");
    }
}
