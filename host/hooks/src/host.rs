//! The host: one engine, its threads, and the door through which plugins are
//! loaded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, watch};
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::chain::Chain;
use crate::chores::Chores;
use crate::compile::{Compiler, open_cache};
use crate::config::{HostConfig, PluginSettings};
use crate::engine::serving;
use crate::error::{HostError, LoadError};
use crate::guest::GuestState;
use crate::imports::add_to_linker;
use crate::load::{MAX_TRIAL_WALL, load};
use crate::registry::{Registry, SettingsSource, check_count, log_loaded};
use crate::services::Services;
use crate::slice::Slices;
use crate::ticker::Ticker;

/// Runs plugins. Making one starts the engine, its ticker, and a small runtime of
/// its own; they end when it and everything made from it is gone.
pub struct HookHost {
    shared: Arc<Shared>,
}

/// What chains and jobs need of the host.
pub(crate) struct Shared {
    pub(crate) config: HostConfig,
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<GuestState>,
    pub(crate) compiler: Compiler,
    pub(crate) ticker: Ticker,
    pub(crate) runtime: HookRuntime,
    /// Where instances are made ahead and taken down. Among the calls, which it takes as
    /// long as several of, it would keep those that come right behind waiting.
    pub(crate) maker: HookRuntime,
    pub(crate) slices: Slices,
    /// Jobs whose observers have not been told yet.
    pub(crate) observing: watch::Sender<usize>,
    pub(crate) services: Services,
    /// Calls that may be in progress.
    pub(crate) calls: Arc<Semaphore>,
    /// Instances that may be kept ready.
    pub(crate) ready: Arc<Semaphore>,
    /// Instances that jobs may have.
    pub(crate) instances: Arc<Semaphore>,
}

impl HookHost {
    /// Starts a host.
    pub fn new(config: HostConfig, services: Services) -> Result<Self, HostError> {
        check(&config)?;
        let cache = match &config.cache_dir {
            Some(dir) => Some(open_cache(dir)?),
            None => None,
        };
        let failed = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        // One more than jobs and pools can have, for the trial of a plugin that is
        // loaded.
        let instances = config.max_instances + config.max_ready + 1;
        let (engine, allocation) = serving(instances, cache.as_ref())?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker).map_err(failed)?;
        let runtime = HookRuntime::start("hooks", config.threads).map_err(HostError::Threads)?;
        let maker = HookRuntime::start("hooks-maker", 1).map_err(HostError::Threads)?;
        let chores = Chores::new(maker.handle().clone());
        let ticker = Ticker::start(engine.weak(), chores).map_err(HostError::Threads)?;
        let shared = Shared {
            compiler: Compiler::new(engine.clone(), allocation, cache),
            linker,
            ticker,
            runtime,
            maker,
            slices: Slices::default(),
            observing: watch::Sender::new(0),
            services,
            calls: Arc::new(Semaphore::new(config.concurrency)),
            ready: Arc::new(Semaphore::new(config.max_ready as usize)),
            instances: Arc::new(Semaphore::new(config.max_instances as usize)),
            engine,
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Loads every `*.wasm` file of a folder, and keeps the folder's plugins as the
    /// folder and the settings say from then on; see [`Registry`]. A plugin's id is
    /// the stem of its file.
    ///
    /// Blocks, for seconds per large plugin that is not in the cache.
    ///
    /// # Errors
    /// All or nothing: one plugin that cannot be loaded refuses the whole folder,
    /// since a chain with a hole is not the chain that the operator asked for. Only
    /// a plugin whose last good version is in the cache directory starts with that,
    /// with a warning. The errors name every problem, not only the first.
    pub fn open(&self, dir: &Path, settings: SettingsSource) -> Result<Registry, Vec<LoadError>> {
        Registry::open(Arc::clone(&self.shared), dir, settings)
    }

    /// A registry without a folder: no plugins, ever.
    pub fn without_folder(&self) -> Registry {
        Registry::empty(Arc::clone(&self.shared))
    }

    /// The chain of a folder that is looked at once. As [`Self::open`] otherwise.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load_dir(
        &self,
        dir: &Path,
        settings: &BTreeMap<String, PluginSettings>,
    ) -> Result<Chain, Vec<LoadError>> {
        let settings = settings.clone();
        Ok(self.open(dir, Box::new(move || Ok(settings.clone())))?.chain())
    }

    /// Loads plugins from memory, in the order given: id, bytes, settings.
    ///
    /// # Errors
    /// Every problem; then nothing is loaded.
    pub fn load_bytes(
        &self,
        plugins: &[(&str, &[u8], PluginSettings)],
    ) -> Result<Chain, Vec<LoadError>> {
        check_count(&self.shared, plugins.len()).map_err(|error| vec![error])?;
        let (mut loaded, mut errors) = (Vec::with_capacity(plugins.len()), Vec::new());
        for (id, bytes, settings) in plugins {
            match load(&self.shared, id, bytes.to_vec(), settings) {
                Ok(plugin) => {
                    log_loaded(&plugin);
                    loaded.push(Arc::new(plugin));
                }
                Err(cause) => errors.push(LoadError { plugin: (*id).to_owned(), cause }),
            }
        }
        if errors.is_empty() {
            Ok(Chain::new(Arc::clone(&self.shared), loaded))
        } else {
            Err(errors)
        }
    }

    /// A chain without plugins: every phase passes at once.
    pub fn empty_chain(&self) -> Chain {
        Chain::new(Arc::clone(&self.shared), Vec::new())
    }

    /// Waits until the observers of every job that was handed to them have been
    /// told. Their limits bound how long that takes.
    pub async fn observers_done(&self) {
        // The sender is here, so that the channel cannot close.
        let _ = self.shared.observing.subscribe().wait_for(|jobs| *jobs == 0).await;
    }

    /// The directory of compiled code, when there is one.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.shared.compiler.directory()
    }
}

impl fmt::Debug for HookHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookHost").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

fn check(config: &HostConfig) -> Result<(), HostError> {
    let problem = if let Some(problem) = config.limits.problem() {
        problem
    } else if config.concurrency == 0 || config.concurrency > Semaphore::MAX_PERMITS {
        format!("`concurrency` is {}", config.concurrency)
    } else if !(1..=4096).contains(&config.max_instances) {
        // Each one reserves some gigabytes of address space.
        format!("`max_instances` is {}, and must be 1 to 4096", config.max_instances)
    } else if config.max_ready > 4096 {
        format!("`max_ready` is {}, and must be at most 4096", config.max_ready)
    } else if !(1..=64).contains(&config.threads) {
        format!("`threads` is {}, and must be 1 to 64", config.threads)
    } else if config.trial_wall.is_zero() || config.trial_wall > MAX_TRIAL_WALL {
        format!(
            "`trial_wall` is {:?}, and must be more than 0 and at most {MAX_TRIAL_WALL:?}",
            config.trial_wall
        )
    } else {
        return Ok(());
    };
    Err(HostError::Config(problem))
}

/// Counts a job as handed to its observers for as long as it lives.
pub(crate) struct Observing(Arc<Shared>);

impl Observing {
    pub(crate) fn begin(host: &Arc<Shared>) -> Self {
        host.observing.send_modify(|jobs| *jobs += 1);
        Self(Arc::clone(host))
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.0.observing.send_modify(|jobs| *jobs -= 1);
    }
}

/// The hooks' own runtime, so that a runaway plugin occupies these threads and no
/// others for longer than a tick (see `slice`).
pub(crate) struct HookRuntime {
    handle: Handle,
    /// Only gone while it is dropped.
    runtime: Option<Runtime>,
}

impl HookRuntime {
    fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            // For tokenizing long texts.
            .max_blocking_threads(2)
            .thread_name(name)
            .enable_time()
            // The first entry into a guest on a thread sets up signal stacks,
            // which takes longer than most calls.
            .on_thread_start(Engine::tls_eager_initialize)
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for HookRuntime {
    fn drop(&mut self) {
        // Waiting for the threads would panic inside another runtime, and the last
        // owner may well be a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
