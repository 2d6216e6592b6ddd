//! Looking at a plugin without a worker: what it is made of, and whether a worker
//! with these settings would take it.
//!
//! It reads a file and prints nothing; the words are the command line's.

use std::path::Path;
use std::sync::Arc;

use llamero_hooks::{HookHost, HostConfig, NoTokenizer, Services};
pub use llamero_hooks::{LoadCause, LoadError, Overview, Phase, PluginInfo};

use crate::settings::HookSettings;
use crate::startup::host_config;

/// Why a plugin was not checked to the end.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is larger than the settings allow.
    #[error("{bytes} bytes; the limit is {limit} (hook_max_component_bytes)")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The plugin host cannot be set up.
    #[error(transparent)]
    Host(#[from] llamero_hooks::HostError),
    /// A worker would refuse the plugin.
    #[error("{0}")]
    Refused(LoadError),
}

/// What a file is made of. It is not run, and not compiled.
///
/// # Errors
/// It cannot be read, or is no component.
pub fn inspect(path: &Path) -> Result<Overview, OfflineError> {
    let bytes = read(path, HostConfig::default().max_component_bytes)?;
    Overview::of(&bytes).map_err(|cause| OfflineError::Refused(error(path, cause)))
}

/// Does everything that a worker does with a plugin before it serves it, with the
/// settings of the plugin `id`: compiles it, tries it under its limits, lets it
/// read its configuration, and runs its own test. Blocks.
///
/// # Errors
/// What a worker would refuse it for.
pub fn check(path: &Path, id: &str, settings: &HookSettings) -> Result<PluginInfo, OfflineError> {
    let bytes = read(path, settings.max_component_bytes)?;
    // Compiled code is left for the worker that may come to load the plugin.
    let config = HostConfig { cache_dir: settings.cache_dir.clone(), ..host_config(settings) };
    let host = HookHost::new(config, Services::new(Arc::new(NoTokenizer)))?;
    let of_plugin = settings.plugins.get(id).cloned().unwrap_or_default();
    let loaded = host.load_bytes(&[(id, bytes.as_slice(), of_plugin)]);
    let chain = loaded.map_err(|errors| {
        // One plugin has one error.
        let first = errors.into_iter().next();
        let missing = || error(path, LoadCause::Compile("it was refused without a reason".into()));
        OfflineError::Refused(first.unwrap_or_else(missing))
    })?;
    let info = chain.plugins().first().cloned();
    info.ok_or_else(|| {
        OfflineError::Refused(error(path, LoadCause::Compile("it is not in its own chain".into())))
    })
}

fn error(path: &Path, cause: LoadCause) -> LoadError {
    let plugin = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    LoadError { plugin, cause }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, OfflineError> {
    use std::io::Read;
    let failed = |source| OfflineError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > limit {
        return Err(OfflineError::TooLarge { bytes, limit });
    }
    let mut content = Vec::new();
    // A device or a growing file has more than its metadata says.
    file.take(limit).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}
