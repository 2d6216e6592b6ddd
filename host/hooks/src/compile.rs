//! Compiling, and the directory that keeps compiled code between starts.
//!
//! Code is compiled in an engine that is thrown away, which fills wasmtime's own
//! cache; the serving engine then finds it there. The cache holds native code, so
//! the directory must be out of everybody else's reach. Before jobs run, compiling
//! may take every core; beside them it is one thread of the lowest priority.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use wasmtime::component::Component;
use wasmtime::{Cache, CacheConfig, Engine};

use crate::engine::{self, Allocation, Cores};
use crate::error::{HostError, LoadCause};

/// Stack of the compiling thread; deeply nested functions need more than the
/// system's default.
const STACK_BYTES: usize = 16 << 20;

/// Niceness of a compiling thread beside running jobs: the lowest priority there
/// is.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// Folder of wasmtime's cache inside the cache directory. It has one of its own
/// because wasmtime's clean-up removes every file beside its own.
const COMPILED: &str = "compiled";

/// Components from this size on take seconds, which is worth a line in the log
/// before it happens.
const SLOW_BYTES: usize = 1 << 20;

/// Compiles for one serving engine.
pub(crate) struct Compiler {
    serving: Engine,
    allocation: Allocation,
    cache: Option<Cache>,
    /// One at a time: compilers use every core by themselves, and the cache's
    /// counters are read around each.
    busy: Mutex<()>,
    /// Whether jobs run beside it.
    beside_jobs: AtomicBool,
}

/// What compiling gave.
pub(crate) struct Compiled {
    pub(crate) component: Component,
    pub(crate) took: Duration,
    pub(crate) cached: bool,
}

/// Opens the cache in a directory that nobody else can touch.
pub(crate) fn open_cache(dir: &Path) -> Result<Cache, HostError> {
    let compiled = private_dir(dir)?.join(COMPILED);
    let mut config = CacheConfig::new();
    config.with_directory(compiled);
    Cache::new(config)
        .map_err(|error| HostError::CacheDir { path: dir.to_owned(), reason: format!("{error:#}") })
}

/// Makes a directory that nobody else can touch, or checks that it is one.
pub(crate) fn private_dir(dir: &Path) -> Result<PathBuf, HostError> {
    let failed = |reason: String| HostError::CacheDir { path: dir.to_owned(), reason };
    let dir = std::path::absolute(dir).map_err(|error| failed(error.to_string()))?;
    make_private(&dir).map_err(|error| failed(error.to_string()))?;
    let dir = fs::canonicalize(&dir).map_err(|error| failed(error.to_string()))?;
    check_private(&dir).map_err(failed)?;
    Ok(dir)
}

fn make_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Whoever can write to this directory, or put another in its place, runs code in
/// this process.
fn check_private(dir: &Path) -> Result<(), String> {
    let me = rustix::process::geteuid().as_raw();
    let metadata = fs::metadata(dir).map_err(|error| error.to_string())?;
    if !metadata.is_dir() {
        return Err("it is not a directory".to_owned());
    }
    if metadata.uid() != me {
        return Err(format!(
            "it belongs to user {}, not to user {me} who runs this; choose another",
            metadata.uid()
        ));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "its mode is {mode:03o}, so others can reach the compiled code in it; use `chmod 700`"
        ));
    }
    for ancestor in dir.ancestors().skip(1) {
        let metadata = fs::metadata(ancestor).map_err(|error| error.to_string())?;
        let sticky = metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o002 != 0 && !sticky {
            return Err(format!(
                "everybody can write to {}, and so replace the directory; choose another",
                ancestor.display()
            ));
        }
    }
    Ok(())
}

impl Compiler {
    pub(crate) fn new(serving: Engine, allocation: Allocation, cache: Option<Cache>) -> Self {
        let beside_jobs = AtomicBool::new(false);
        Self { serving, allocation, cache, busy: Mutex::new(()), beside_jobs }
    }

    /// From now on jobs run beside the compiler.
    pub(crate) fn jobs_begin(&self) {
        self.beside_jobs.store(true, Ordering::Relaxed);
    }

    /// Directory of the cache.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(|cache| cache.directory().clone())
    }

    /// Compiles a component, or takes it from the cache. Blocks for as long as
    /// that takes.
    pub(crate) fn compile(&self, id: &str, bytes: &[u8]) -> Result<Compiled, LoadCause> {
        let _one = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() >= SLOW_BYTES {
            info!(plugin = id, bytes = bytes.len(), "compiling a large plugin");
        }
        let began = Instant::now();
        // A thread of its own: for its stack, and because a panic of a compiler
        // that stumbles over a strange file must not take the caller with it.
        let compiled = thread::scope(|scope| {
            thread::Builder::new()
                .name("hooks-compile".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.compile_here(bytes))
                .map_err(|error| LoadCause::Compile(error.to_string()))?
                .join()
                .unwrap_or_else(|_| Err(LoadCause::Compile("the compiler panicked".to_owned())))
        });
        let (component, cached) = compiled?;
        let took = began.elapsed();
        info!(plugin = id, took_ms = took.as_millis() as u64, cached, "plugin compiled");
        Ok(Compiled { component, took, cached })
    }

    fn compile_here(&self, bytes: &[u8]) -> Result<(Component, bool), LoadCause> {
        let cores = if self.beside_jobs.load(Ordering::Relaxed) {
            step_back();
            Cores::One
        } else {
            Cores::All
        };
        let failed = |error: wasmtime::Error| LoadCause::Compile(format!("{error:#}"));
        let Some(cache) = &self.cache else {
            let component = Component::from_binary(&self.serving, bytes).map_err(failed)?;
            return Ok((component, false));
        };
        let misses = cache.cache_misses();
        let engine = engine::compiling(&self.serving, self.allocation, cache, cores);
        let engine = engine.map_err(failed)?;
        drop(Component::from_binary(&engine, bytes).map_err(failed)?);
        drop(engine);
        let after = cache.cache_misses();
        let component = Component::from_binary(&self.serving, bytes).map_err(failed)?;
        if cache.cache_misses() != after {
            // It works, at the price of the compiler's memory.
            warn!(
                directory = %cache.directory().display(),
                "compiled code could not be kept in the cache directory; is the disk full?"
            );
        }
        Ok((component, after == misses))
    }
}

/// Gives the calling thread the lowest priority. It ends with its compilation.
#[cfg(target_os = "linux")]
fn step_back() {
    // On Linux a priority belongs to a thread, whatever the function is called.
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        warn!(%error, "the compiling thread cannot be given a lower priority");
    }
}

/// Elsewhere only the process has a priority; one thread has to do.
#[cfg(not(target_os = "linux"))]
fn step_back() {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(dir: &Path, mode: u32) {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[track_caller]
    fn refused(dir: &Path, expected: &str) {
        let text = open_cache(dir).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_new_cache_directory_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("deep").join("cache");
        open_cache(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        // And it is good enough for the next start.
        open_cache(&dir).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_the_thread_steps_back() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = nice();
        let inside = thread::spawn(move || {
            step_back();
            nice()
        });
        assert_eq!(inside.join().unwrap(), NICE);
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_cache_directory_that_others_can_reach_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("cache");
        fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o750);
        refused(&dir, "mode is 750");
        set_mode(&dir, 0o700);
        set_mode(temp.path(), 0o777);
        refused(&dir, "everybody can write to");
    }

    #[test]
    fn a_cache_directory_must_be_a_directory() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, b"").unwrap();
        set_mode(&file, 0o600);
        refused(&file, "not a directory");
    }
}
