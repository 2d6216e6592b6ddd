//! Builders for the two folders a worker reads: models and hooks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::prerequisites::{self, MODEL};

/// A folder of models. The real one is a symbolic link, so that a test costs no
/// disk space.
pub struct ModelsDir {
    folder: TempDir,
}

impl ModelsDir {
    /// A folder without any file.
    pub fn empty() -> Self {
        Self {
            folder: tempfile::Builder::new().prefix("llamero-models-").tempdir().expect("folder"),
        }
    }

    /// A folder with the real model, under its own name.
    pub fn real() -> Self {
        Self::empty().link(MODEL)
    }

    /// Adds the real model under a name of the test's choice.
    pub fn link(self, name: &str) -> Self {
        symlink(prerequisites::model_file(), self.path().join(name)).expect("link the model");
        self
    }

    /// Adds a file with the given content: a damaged model, or none at all.
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        fs::write(self.path().join(name), content).expect("write a file");
        self
    }

    /// Adds the first `len` bytes of the real model.
    pub fn truncated(self, name: &str, len: usize) -> Self {
        let model = fs::read(prerequisites::model_file()).expect("read the model");
        self.file(name, &model[..len])
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A folder of plugins, copied from where they were built. The file name decides
/// the order of the chain, and its stem is the plugin's id.
pub struct HooksDir {
    folder: TempDir,
}

impl HooksDir {
    /// A folder without any plugin.
    pub fn empty() -> Self {
        Self {
            folder: tempfile::Builder::new().prefix("llamero-hooks-").tempdir().expect("folder"),
        }
    }

    /// Adds an example plugin under its own name.
    pub fn example(self, name: &str) -> Self {
        self.copy(prerequisites::example_plugin(name), name)
    }

    /// Adds a test plugin under its own name.
    pub fn test(self, name: &str) -> Self {
        self.copy(prerequisites::test_plugin(name), name)
    }

    /// Adds a test plugin under another id, for its place in the chain.
    pub fn test_as(self, name: &str, id: &str) -> Self {
        self.copy(prerequisites::test_plugin(name), id)
    }

    /// Adds a plugin that no worker may load, under its own name.
    pub fn refused(self, name: &str) -> Self {
        self.copy(prerequisites::refused_plugin(name), name)
    }

    /// Adds a file that need not be a plugin at all.
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        fs::write(self.path().join(name), content).expect("write a file");
        self
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn copy(self, from: PathBuf, id: &str) -> Self {
        fs::copy(&from, self.path().join(format!("{id}.wasm"))).expect("copy a plugin");
        self
    }
}
