//! Where settings come from: the environment, files and flags.
//!
//! Everything outside the process is reached through [`Source`], so that a
//! test describes a whole environment as data and never touches the real one.
//! What the values mean is decided in [`super::layers`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The outside world, as far as settings need it.
pub trait Source {
    /// The value of an environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// The contents of a file.
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// The real environment and file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessSource;

impl Source for ProcessSource {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// A world that consists of what was put into it.
#[derive(Debug, Clone, Default)]
pub struct MapSource {
    /// Environment variables.
    pub variables: BTreeMap<String, OsString>,
    /// Files and their contents.
    pub files: BTreeMap<PathBuf, String>,
}

impl Source for MapSource {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// The top layer: what the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The configuration file named by the user. Without one, `llamero.toml`
    /// in the working directory is read if it exists.
    pub config: Option<PathBuf>,
    values: BTreeMap<String, (String, String)>,
}

impl Flags {
    /// Sets the setting `name` to `text`, read by the same rules as a variable.
    /// `flag` is what error messages call the origin, such as `--slots`.
    pub fn set(&mut self, name: &str, text: impl Into<String>, flag: impl Into<String>) {
        self.values.insert(name.to_owned(), (text.into(), flag.into()));
    }

    pub(super) fn get(&self, name: &str) -> Option<(&str, &str)> {
        self.values.get(name).map(|(text, flag)| (text.as_str(), flag.as_str()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or the part of the file.
    pub key: String,
    /// Where the value stands.
    pub origin: Origin,
    /// What is wrong and, where it is not obvious, what to do.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.origin, self.reason)
    }
}

/// Everything that is wrong with the configuration, never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
