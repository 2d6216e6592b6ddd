//! The chain: an immutable list of plugins that a job takes once and keeps.
//!
//! Their order is the operator's, and decided by who makes the chain: `registry` for
//! those of a folder. Running one is `run`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::data::JobContext;
use crate::error::Phase;
use crate::host::Shared;
use crate::job::JobHooks;
use crate::plugin::Plugin;

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
    /// JSON; configurations are not checked against it yet.
    pub config_schema: Option<String>,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub digest: String,
    /// Phases that it is called in.
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
    pub(crate) fn new(host: Arc<Shared>, plugins: Vec<Arc<Plugin>>) -> Self {
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
        self.in_phase(phase).next().is_some()
    }

    /// The plugins of a phase, with their places in the chain.
    pub(crate) fn in_phase(&self, phase: Phase) -> impl Iterator<Item = (usize, &Arc<Plugin>)> {
        self.plugins.iter().enumerate().filter(move |(_, plugin)| plugin.exports.has(phase))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.inner.infos.iter().map(|info| &info.id);
        f.debug_list().entries(ids).finish()
    }
}
