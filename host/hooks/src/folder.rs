//! The folder of plugins: which files it holds, whether they are at rest, and
//! their bytes.
//!
//! It knows files and no plugins: what is loaded, kept or removed is decided by
//! `registry`. Nobody is told here that something changed either; who watches the
//! folder asks again.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, warn};

use crate::artifact;
use crate::error::LoadCause;

/// How long a file must stay the same to count as written. Writers pause for
/// less; a copy that pauses for longer is refused as damaged and looked at again
/// when it grows.
const SETTLE: Duration = Duration::from_millis(100);

/// How long files that go on changing are waited for.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
    /// Changes with a rename, even where the clock is too coarse to tell.
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok(), inode: metadata.ino() }
    }
}

/// A file that is meant to be a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginFile {
    /// The stem of its name.
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
}

/// The folder as it is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// By id.
    pub(crate) files: Vec<PluginFile>,
    /// Ids of files that did not come to rest; they are not in `files`.
    pub(crate) changing: Vec<String>,
}

/// The `*.wasm` files of a folder, by id. Subfolders are not looked into.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PluginFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension() != Some(OsStr::new("wasm")) {
            continue;
        }
        // A link to a file counts: that is how mounted configuration looks. A
        // file that has gone since, or a link to nothing, is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            continue;
        }
        // A name that is no UTF-8 becomes one that is no id, and is refused.
        let stem = path.file_stem().unwrap_or_default();
        let id = stem.to_string_lossy().into_owned();
        files.push(PluginFile { id, path, stamp: Stamp::of(&metadata) });
    }
    files.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(files)
}

/// Tells the operator of files that look like plugins and are none.
pub(crate) fn warn_of_strangers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("wasm" | "toml") => {}
            Some("cwasm" | "wat") => warn!(
                path = %path.display(),
                "not loaded: a plugin is a WebAssembly component in a .wasm file"
            ),
            _ => debug!(path = %path.display(), "not a plugin"),
        }
    }
}

/// Waits until two looks in a row find the same, so that many files that are put
/// there one after the other are seen together, and none that is half written.
/// `first` is what the caller has just seen.
pub(crate) fn settled(dir: &Path, first: Vec<PluginFile>) -> io::Result<Listing> {
    let began = Instant::now();
    let mut before = first;
    loop {
        thread::sleep(SETTLE);
        let now = list(dir)?;
        if now == before {
            return Ok(Listing { files: now, changing: Vec::new() });
        }
        if began.elapsed() >= SETTLE_LIMIT {
            let (files, changing): (Vec<_>, Vec<_>) =
                now.into_iter().partition(|file| before.contains(file));
            let changing = changing.into_iter().map(|file| file.id).collect();
            return Ok(Listing { files, changing });
        }
        before = now;
    }
}

/// Reads a file of at most `limit` bytes that is still the one that was listed.
pub(crate) fn read(listed: &PluginFile, limit: u64) -> Result<Vec<u8>, LoadCause> {
    let io = |source| LoadCause::Io { path: listed.path.clone(), source };
    let mut file = File::open(&listed.path).map_err(io)?;
    artifact::check_size(file.metadata().map_err(io)?.len(), limit)?;
    let mut content = Vec::new();
    // It may grow between the two looks at it, hence the cap on reading.
    file.by_ref().take(limit.saturating_add(1)).read_to_end(&mut content).map_err(io)?;
    artifact::check_size(content.len() as u64, limit)?;
    if Stamp::of(&file.metadata().map_err(io)?) != listed.stamp {
        return Err(LoadCause::Changing);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::Write;

    use super::*;

    fn ids(files: &[PluginFile]) -> Vec<&str> {
        files.iter().map(|file| file.id.as_str()).collect()
    }

    #[test]
    fn only_plugin_files_are_listed_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| fs::write(dir.path().join(name), name).unwrap();
        for name in ["b.wasm", "a.wasm", "a-b.wasm", ".hidden.wasm", "a.toml", "c.cwasm"] {
            put(name);
        }
        fs::create_dir(dir.path().join("folder.wasm")).unwrap();
        std::os::unix::fs::symlink("b.wasm", dir.path().join("link.wasm")).unwrap();
        std::os::unix::fs::symlink("nothing", dir.path().join("lost.wasm")).unwrap();
        assert_eq!(ids(&list(dir.path()).unwrap()), ["a", "a-b", "b", "link"]);
        assert!(list(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn every_way_of_changing_a_file_changes_its_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        fs::write(&path, "one").unwrap();
        let stamp = || list(dir.path()).unwrap()[0].stamp;
        let first = stamp();
        assert_eq!(stamp(), first);
        // The same size at the same time: only the inode tells.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(dir.path().join("new"), "two").unwrap();
        File::options()
            .write(true)
            .open(dir.path().join("new"))
            .unwrap()
            .set_modified(modified)
            .unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let renamed = stamp();
        assert_ne!(renamed, first);
        // The same inode and size: only the time tells.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(modified + Duration::from_secs(1)).unwrap();
        let touched = stamp();
        assert_ne!(touched, renamed);
        fs::write(&path, "three").unwrap();
        assert_ne!(stamp(), touched);
    }

    #[test]
    fn a_file_that_changed_since_it_was_listed_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        fs::write(&path, "one").unwrap();
        let listed = list(dir.path()).unwrap().remove(0);
        assert_eq!(read(&listed, 3).unwrap(), b"one");
        assert!(matches!(read(&listed, 2), Err(LoadCause::TooLarge { .. })));
        fs::write(&path, "other").unwrap();
        assert!(matches!(read(&listed, 10), Err(LoadCause::Changing)));
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        fs::write(&path, "").unwrap();
        let first = list(dir.path()).unwrap();
        let writer = thread::spawn(move || {
            let mut file = File::options().append(true).open(path).unwrap();
            for _ in 0..20 {
                file.write_all(b"x").unwrap();
                thread::sleep(SETTLE / 10);
            }
        });
        let found = settled(dir.path(), first).unwrap();
        writer.join().unwrap();
        // On a machine so busy that the writer pauses, an early end is legal; what
        // was found is then found again, and changed.
        let file = found.files.first().unwrap();
        let whole = file.stamp.size == 20;
        assert!(whole || list(dir.path()).unwrap()[0] != *file);
    }
}
