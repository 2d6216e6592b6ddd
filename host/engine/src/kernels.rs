//! Where a portable build finds its kernels, and which of them it took.
//!
//! Such a build has no kernels in the program: those for each kind of CPU, and
//! for GPUs, are shared libraries, and ggml takes the best that the machine can
//! run. Having it do so is [`crate::ffi`]'s.
//!
//! A library that is loaded runs as the program itself, so only folders that
//! belong to the program, or that the operator names, are looked at. ggml's own
//! search would take libraries out of the working directory, too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variable that names the folder of the libraries. No other is looked at then.
const VARIABLE: &str = "LLAMERO_BACKENDS";

/// What llama.cpp computes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInfo {
    /// Backends with their instruction sets and options, as llama.cpp prints them.
    pub features: String,
    /// The kernels that were chosen for this CPU; `None` where those of the build
    /// are a part of the program.
    pub kernels: Option<Kernels>,
}

/// Kernels that were made for one kind of CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernels {
    /// The kind of CPU: ggml's name, such as `haswell`.
    pub variant: String,
    /// The library.
    pub file: PathBuf,
}

impl Kernels {
    /// The kernels in this library.
    pub(crate) fn in_library(file: PathBuf) -> Self {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { variant: variant(&name).unwrap_or(&name).to_owned(), file }
    }
}

/// A folder that has kernels for CPUs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// Its libraries of such kernels; at least one.
    pub(crate) libraries: Vec<PathBuf>,
}

/// The folders in which libraries may be, the one to be preferred first.
pub(crate) fn places() -> Vec<PathBuf> {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    places_for(named, std::env::current_exe().ok())
}

fn places_for(named: Option<OsString>, program: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![PathBuf::from(named)];
    }
    let beside = program.as_deref().and_then(Path::parent);
    beside.map_or_else(Vec::new, |folder| vec![folder.join("lib"), folder.to_owned()])
}

/// The first of these folders that has kernels for CPUs.
pub(crate) fn find(places: &[PathBuf]) -> Option<Folder> {
    places.iter().find_map(|place| {
        let is_kernels = |path: &PathBuf| {
            path.file_name().is_some_and(|name| variant(&name.to_string_lossy()).is_some())
        };
        let mut libraries: Vec<PathBuf> = std::fs::read_dir(place)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(is_kernels)
            .collect();
        libraries.sort();
        (!libraries.is_empty()).then(|| Folder { path: place.clone(), libraries })
    })
}

/// The kind of CPU that a library of this name is for.
fn variant(name: &str) -> Option<&str> {
    name.strip_prefix("libggml-cpu-")?.strip_suffix(".so")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;

    #[test]
    fn libraries_lie_beside_the_program_or_where_the_operator_says() {
        let program = || Some(PathBuf::from("/opt/llamero/llamero"));
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(places_for(None, program()), paths(&["/opt/llamero/lib", "/opt/llamero"]));
        assert_eq!(places_for(Some("/srv/k".into()), program()), paths(&["/srv/k"]));
        assert_eq!(places_for(None, None), paths(&[]));
    }

    #[test]
    fn the_first_folder_with_kernels_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, files: &[&str]| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            for file in files {
                std::fs::write(path.join(file), "").unwrap();
            }
            path
        };
        let none = dir.path().join("none");
        // These are no kernels for CPUs.
        let other = folder("other", &["libggml-base.so", "libggml-cuda.so", "libggml-cpu-x64.txt"]);
        let right = folder("right", &["libggml-cpu-x64.so", "libggml-cpu-haswell.so"]);
        let later = folder("later", &["libggml-cpu-x64.so"]);
        let libraries =
            ["libggml-cpu-haswell.so", "libggml-cpu-x64.so"].map(|name| right.join(name)).into();
        let found = find(&[none.clone(), other.clone(), right.clone(), later]);
        assert_eq!(found, Some(Folder { path: right, libraries }));
        assert_eq!(find(&[none, other]), None);
    }

    #[test]
    fn a_library_is_named_after_its_kind_of_cpu() {
        let kernels = |path: &str| Kernels::in_library(PathBuf::from(path)).variant;
        assert_eq!(kernels("/opt/lib/libggml-cpu-sapphirerapids.so"), "sapphirerapids");
        assert_eq!(kernels("/opt/lib/own.so"), "own.so");
    }
}
