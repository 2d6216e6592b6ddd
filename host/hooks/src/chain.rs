//! The chain: an immutable list of plugins that a job takes once and keeps.
//!
//! Their order is the operator's `order`, and where that is equal the one in which
//! they are given. Running one is `run`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::data::JobContext;
use crate::error::Phase;
use crate::host::Shared;
use crate::job::JobHooks;
use crate::plugin::Plugin;
use crate::ready;

/// Facts about a loaded plugin.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PluginInfo {
    /// The plugin's id: the stem of its file.
    pub id: String,
    /// Name that it gives itself; empty when it gives none. This and the next two
    /// are the plugin's own words, with control characters taken out.
    pub name: String,
    /// Version that it gives itself; empty when it gives none.
    pub version: String,
    /// Description that it gives itself; empty when it gives none.
    pub description: String,
    /// JSON Schema of its configuration, when it gives one. It is well-formed
    /// JSON, and the configuration has been checked against it.
    pub config_schema: Option<String>,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub digest: String,
    /// Phases that it exports and that the operator lets it be called in. With
    /// [`crate::Mode::Off`] it is called in none of them.
    pub phases: Vec<Phase>,
    /// Size of the file.
    pub size_bytes: u64,
    /// How long compiling, or loading from the cache, took.
    pub compile: Duration,
    /// Whether the compiled code came from the cache.
    pub cached: bool,
    /// Bytes of memories and tables that its trial instance had.
    pub memory_bytes: usize,
}

/// An immutable list of plugins, cheap to clone. A job keeps the chain that it
/// began with.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<ChainInner>,
}

pub(crate) struct ChainInner {
    pub(crate) host: Arc<Shared>,
    pub(crate) plugins: Vec<Arc<Plugin>>,
    infos: Vec<PluginInfo>,
}

impl Chain {
    /// `plugins` in the order of their ids, which the operator's `order` goes before.
    pub(crate) fn new(host: Arc<Shared>, mut plugins: Vec<Arc<Plugin>>) -> Self {
        plugins.sort_by_key(|plugin| plugin.shared.policy.order);
        for plugin in &plugins {
            plugin.ready.revive();
            ready::fill(&host, plugin);
        }
        let infos = plugins.iter().map(|plugin| plugin.info.clone()).collect();
        Self { inner: Arc::new(ChainInner { host, plugins, infos }) }
    }

    pub(crate) fn from_inner(inner: Arc<ChainInner>) -> Self {
        Self { inner }
    }

    pub(crate) fn into_inner(self) -> Arc<ChainInner> {
        self.inner
    }

    /// The plugins, in the order in which they are called.
    pub fn plugins(&self) -> &[PluginInfo] {
        &self.inner.infos
    }

    /// Whether any plugin is called in `phase`. A phase without plugins costs
    /// nothing.
    pub fn has(&self, phase: Phase) -> bool {
        self.inner.has(phase)
    }

    /// Begins a job. Instances are made when a phase first needs them.
    pub fn begin(&self, context: JobContext) -> JobHooks {
        JobHooks::new(Arc::clone(&self.inner), context)
    }
}

impl ChainInner {
    pub(crate) fn has(&self, phase: Phase) -> bool {
        self.plugins.iter().any(|plugin| plugin.called_in(phase))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.inner.infos.iter().map(|info| &info.id);
        f.debug_list().entries(ids).finish()
    }
}
