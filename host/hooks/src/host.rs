//! The host: one engine, its threads, and the door through which plugins are
//! loaded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::artifact;
use crate::chain::Chain;
use crate::compile::{Compiler, open_cache};
use crate::config::{HostConfig, PluginSettings};
use crate::engine::serving;
use crate::error::{HostError, LoadCause, LoadError};
use crate::guest::GuestState;
use crate::imports::add_to_linker;
use crate::load::{MAX_TRIAL_WALL, load};
use crate::services::Services;
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
        let ticker = Ticker::start(engine.weak()).map_err(HostError::Threads)?;
        let runtime = HookRuntime::start(config.threads).map_err(HostError::Threads)?;
        let shared = Shared {
            compiler: Compiler::new(engine.clone(), allocation, cache),
            linker,
            ticker,
            runtime,
            services,
            calls: Arc::new(Semaphore::new(config.concurrency)),
            ready: Arc::new(Semaphore::new(config.max_ready as usize)),
            instances: Arc::new(Semaphore::new(config.max_instances as usize)),
            engine,
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Loads every `*.wasm` file of a folder into a chain, in the order of the
    /// file names. A plugin's id is the stem of its file.
    ///
    /// Blocks, for seconds per large plugin that is not in the cache. It is all or
    /// nothing: one plugin that cannot be loaded refuses the whole folder, since a
    /// chain with a hole is not the chain that the operator asked for. The errors
    /// name every problem, not only the first.
    pub fn load_dir(
        &self,
        dir: &Path,
        settings: &BTreeMap<String, PluginSettings>,
    ) -> Result<Chain, Vec<LoadError>> {
        let files = match plugin_files(dir) {
            Ok(files) => files,
            Err(source) => {
                let cause = LoadCause::Io { path: dir.to_owned(), source };
                return Err(vec![refused(&dir.display().to_string(), cause)]);
            }
        };
        let mut errors = Vec::new();
        for id in settings.keys() {
            if !files.iter().any(|file| file.id == *id) {
                let path = dir.join(format!("{id}.wasm"));
                let text = format!("there are settings for it, and no file {}", path.display());
                errors.push(refused(id, LoadCause::Settings(text)));
            }
        }
        let limit = self.shared.config.max_component_bytes;
        let given = files.iter().map(|file| Given {
            id: &file.id,
            bytes: Box::new(|| artifact::read(&file.path, limit)),
            settings: settings.get(&file.id).cloned().unwrap_or_default(),
        });
        self.load_all(given.collect(), errors)
    }

    /// Loads plugins from memory, in the order given: id, bytes, settings. As
    /// [`Self::load_dir`] otherwise.
    pub fn load_bytes(
        &self,
        plugins: &[(&str, &[u8], PluginSettings)],
    ) -> Result<Chain, Vec<LoadError>> {
        let given = plugins.iter().map(|(id, bytes, settings)| Given {
            id,
            bytes: Box::new(|| Ok(bytes.to_vec())),
            settings: settings.clone(),
        });
        self.load_all(given.collect(), Vec::new())
    }

    /// A chain without plugins: every phase passes at once.
    pub fn empty_chain(&self) -> Chain {
        Chain::new(Arc::clone(&self.shared), Vec::new())
    }

    /// The directory of compiled code, when there is one.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.shared.compiler.directory()
    }

    fn load_all(
        &self,
        given: Vec<Given<'_>>,
        mut errors: Vec<LoadError>,
    ) -> Result<Chain, Vec<LoadError>> {
        let config = &self.shared.config;
        let limit = config.max_plugins.min(config.max_instances as usize);
        if given.len() > limit {
            let found = given.len();
            errors.push(refused("(all)", LoadCause::TooMany { found, limit }));
            return Err(errors);
        }
        let mut plugins = Vec::with_capacity(given.len());
        for Given { id, bytes, settings } in given {
            let loaded = bytes().and_then(|bytes| load(&self.shared, id, bytes, &settings));
            match loaded {
                Ok(plugin) => {
                    let info = &plugin.info;
                    info!(
                        plugin = info.id,
                        version = info.version,
                        digest = info.digest.get(..12).unwrap_or_default(),
                        phases = ?info.phases,
                        bytes = info.size_bytes,
                        memory_bytes = info.memory_bytes,
                        "plugin loaded"
                    );
                    plugins.push(Arc::new(plugin));
                }
                Err(cause) => errors.push(refused(id, cause)),
            }
        }
        if errors.is_empty() {
            Ok(Chain::new(Arc::clone(&self.shared), plugins))
        } else {
            Err(errors)
        }
    }
}

impl fmt::Debug for HookHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookHost").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// A plugin to load.
struct Given<'a> {
    id: &'a str,
    bytes: Box<dyn FnOnce() -> Result<Vec<u8>, LoadCause> + 'a>,
    settings: PluginSettings,
}

fn refused(plugin: &str, cause: LoadCause) -> LoadError {
    LoadError { plugin: plugin.to_owned(), cause }
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

struct PluginFile {
    id: String,
    path: PathBuf,
}

/// The `*.wasm` files of a folder, by name. Subfolders are not looked into.
fn plugin_files(dir: &Path) -> std::io::Result<Vec<PluginFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // A link to a file counts: that is how mounted configuration looks.
        if hidden || path.is_dir() {
            continue;
        }
        match path.extension().and_then(OsStr::to_str) {
            Some("wasm") => {
                // A name that is no UTF-8 becomes one that is no id, and is refused.
                let stem = path.file_stem().unwrap_or_default();
                files.push(PluginFile { id: stem.to_string_lossy().into_owned(), path });
            }
            Some("cwasm" | "wat") => warn!(
                path = %path.display(),
                "not loaded: a plugin is a WebAssembly component in a .wasm file"
            ),
            _ => debug!(path = %path.display(), "not a plugin"),
        }
    }
    files.sort_by(|a, b| a.path.file_name().cmp(&b.path.file_name()));
    Ok(files)
}

/// The hooks' own runtime, so that a runaway plugin occupies these threads and no
/// others.
pub(crate) struct HookRuntime {
    handle: Handle,
    /// Only gone while it is dropped.
    runtime: Option<Runtime>,
}

impl HookRuntime {
    fn start(threads: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            // For tokenizing long texts.
            .max_blocking_threads(2)
            .thread_name("hooks")
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
