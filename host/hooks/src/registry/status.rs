//! What a registry tells: what a look at the folder led to, how each plugin is
//! doing, and why an operator's command cannot be carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::PluginSettings;
use crate::error::{LoadError, Phase};
use crate::stats::PluginStats;

/// Reads the settings of all plugins, by id, as they are now. An error is text for
/// the operator, and leaves everything as it was.
pub type SettingsSource =
    Box<dyn Fn() -> Result<BTreeMap<String, PluginSettings>, String> + Send + Sync>;

/// What a look at the folder led to.
#[derive(Debug, Default)]
pub struct SyncReport {
    /// Plugins of which a new version is in service, by id.
    pub loaded: Vec<String>,
    /// Plugins that are not there any more.
    pub removed: Vec<String>,
    /// Files that are not in service as they are, by id, and why. If there was a
    /// version before, it goes on. An empty id means the folder or the settings as
    /// a whole.
    pub kept: Vec<(String, LoadError)>,
    /// Plugins that are as they were.
    pub unchanged: Vec<String>,
    /// Number of the chain that is in service now; 1 is the one of the start.
    pub generation: u64,
}

/// How a plugin is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginState {
    /// It is called.
    Serving,
    /// It is called, and watched: it may be replaced by its older version.
    Probation,
    /// It has failed so often that it is not called for a while.
    Quarantined {
        /// Until it is tried again.
        retry_in: Duration,
    },
    /// An operator has taken it out of the chain.
    Disabled,
    /// Its policy says that it is never called.
    Off,
    /// There is a file, and no version of it that could be loaded.
    Refused,
    /// Its first version is being compiled and tried.
    Loading,
}

impl PluginState {
    /// Its name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Probation => "probation",
            Self::Quarantined { .. } => "quarantined",
            Self::Disabled => "disabled",
            Self::Off => "off",
            Self::Refused => "refused",
            Self::Loading => "loading",
        }
    }
}

/// One plugin of a registry.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PluginStatus {
    /// The plugin's id.
    pub id: String,
    /// Name that the version in service gives itself; may be empty.
    pub name: String,
    /// Version that the version in service gives itself; may be empty.
    pub version: String,
    /// SHA-256 of the version in service; empty when there is none.
    pub digest: String,
    /// Phases that it is called in.
    pub phases: Vec<Phase>,
    /// How it is doing.
    pub state: PluginState,
    /// The operator's order.
    pub order: i32,
    /// Whether the worker refuses to run without it.
    pub required: bool,
    /// The chain with which this version came into service; 0 when there is none.
    pub generation: u64,
    /// What it did so far.
    pub stats: PluginStats,
    /// Why its file is not in service as it is.
    pub last_error: Option<String>,
    /// SHA-256 of the version that a rollback would bring back.
    pub previous: Option<String>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// There is no such plugin.
    #[error("there is no plugin `{id}`{}", those(.known))]
    Unknown {
        /// What was asked for.
        id: String,
        /// What there is.
        known: Vec<String>,
    },
    /// There is no version to go back to.
    #[error(
        "plugin `{0}` has no earlier version: the one before is kept while this worker runs, \
         until it is brought back"
    )]
    NoPrevious(String),
    /// The operator's policy forbids it.
    #[error("plugin `{0}` is `required` by its policy; take that out of the settings first")]
    Required(String),
}

fn those(ids: &[String]) -> String {
    match ids {
        [] => "; none is loaded".to_owned(),
        ids => format!(" (there is {})", ids.join(", ")),
    }
}
