//! Finds what the tests need from outside: binaries, the model, the built
//! plugins, a Python with nats-py.
//!
//! Nothing here builds or fetches anything, and nothing skips: a missing
//! prerequisite fails the test with the `make` target that provides it, because
//! a test that passes by not running proves nothing.

use std::env;
use std::path::{Path, PathBuf};

/// File name of the model that every test uses: small enough to generate on a
/// two-core machine, with a chat template of its own.
pub const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The `llamero` binary: `LLAMERO_BIN`, else the one that was built beside this
/// test's own executable (`target/PROFILE/llamero`).
pub fn llamero() -> PathBuf {
    let path = from_env("LLAMERO_BIN").unwrap_or_else(|| {
        let test = env::current_exe().expect("path of this test");
        // The test lies in `target/PROFILE/deps/`.
        test.ancestors().nth(2).expect("target folder").join("llamero")
    });
    required(path, "LLAMERO_BIN", "make build")
}

/// The nats-server binary: `NATS_SERVER_BIN`, else the first on `PATH`, else
/// where Debian installs it, which is not on everybody's `PATH`.
pub fn nats_server() -> PathBuf {
    let path = from_env("NATS_SERVER_BIN").unwrap_or_else(|| {
        env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .map(|folder| folder.join("nats-server"))
            .find(|candidate| candidate.is_file())
            .unwrap_or_else(|| "/usr/sbin/nats-server".into())
    });
    required(path, "NATS_SERVER_BIN", "make setup")
}

/// The model file, in `LLAMERO_MODEL_DIR` or the cache folder.
pub fn model_file() -> PathBuf {
    let folder = from_env("LLAMERO_MODEL_DIR").unwrap_or_else(|| cache().join("models"));
    required(folder.join(MODEL), "LLAMERO_MODEL_DIR", "make model")
}

/// A Python interpreter that can import nats-py.
pub fn python() -> PathBuf {
    let path = from_env("LLAMERO_TEST_PYTHON").unwrap_or_else(|| cache().join("venv/bin/python"));
    required(path, "LLAMERO_TEST_PYTHON", "make plugins")
}

/// A built example plugin, by its name.
pub fn example_plugin(name: &str) -> PathBuf {
    plugin(Path::new(&format!("{name}.wasm")))
}

/// A built plugin that exists for the tests only, by its name.
pub fn test_plugin(name: &str) -> PathBuf {
    plugin(&Path::new("test").join(format!("{name}.wasm")))
}

/// A built plugin that no worker may load, by its name.
pub fn refused_plugin(name: &str) -> PathBuf {
    plugin(&Path::new("refused").join(format!("{name}.wasm")))
}

/// The repository's `tests` folder.
pub fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn plugin(relative: &Path) -> PathBuf {
    let dist =
        from_env("LLAMERO_PLUGINS_DIST").unwrap_or_else(|| tests_folder().join("../plugins/dist"));
    required(dist.join(relative), "LLAMERO_PLUGINS_DIST", "make plugins")
}

fn cache() -> PathBuf {
    from_env("XDG_CACHE_HOME")
        .unwrap_or_else(|| from_env("HOME").expect("HOME is set").join(".cache"))
        .join("llamero")
}

fn from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn required(path: PathBuf, variable: &str, target: &str) -> PathBuf {
    assert!(
        path.is_file(),
        "{} is missing: run `{target}`, or point {variable} at it",
        path.display()
    );
    path
}
