//! The last good version of each plugin, kept beside the compiled code, so that a
//! worker that starts on a damaged file still has something to serve, and does
//! not start on a version that it took out of service before.
//!
//! ```text
//! CACHE/last-good/files/SHA256.wasm   the files, by their content
//! CACHE/last-good/FOLDER.json         which of them belong to the plugins of one
//!                                     hooks folder; FOLDER is a digest of its path
//! ```
//!
//! Workers of several folders may share a cache, and their plugins may share ids;
//! hence a list for each folder. Files are written beside their place and renamed,
//! and checked against their digest when they are read: damage means that there is
//! no last good version, and nothing else. When one is used is decided by
//! `registry`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use crate::artifact;
use crate::compile::private_dir;
use crate::error::HostError;

/// How long a list outlives its hooks folder, which may only be unmounted.
const KEEP_LISTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a file is kept that no list names: the worker that has just written it
/// names it when its probation is over, which is after a minute at most.
const KEEP_FILES: Duration = Duration::from_secs(10 * 60);

/// How often a worker looks for files that can go. A folder whose plugins change all
/// the time would otherwise fill the disk: most versions never become a good one.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

/// What is remembered of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Digest of the last good version.
    pub(crate) good: Option<String>,
    /// Digest of the one before it.
    previous: Option<String>,
    /// A version that was taken out of service.
    pub(crate) bad: Option<BadDigest>,
}

/// A version that was taken out of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadDigest {
    pub(crate) digest: String,
    pub(crate) reason: String,
}

/// The last good versions of one hooks folder. Without a cache it keeps nothing.
pub(crate) struct LastGood {
    place: Option<Place>,
}

struct Place {
    base: PathBuf,
    files: PathBuf,
    list: PathBuf,
    /// The hooks folder.
    folder: String,
    /// Reading, changing and writing the list is one step.
    writing: Mutex<()>,
    /// The last look for files that can go.
    cleaned: Mutex<Option<Instant>>,
}

impl LastGood {
    /// Keeps nothing.
    pub(crate) fn nowhere() -> Self {
        Self { place: None }
    }

    /// Opens the place for a hooks folder inside the cache directory, which is
    /// checked as the directory of compiled code is: who can write there decides
    /// which plugins run.
    pub(crate) fn open(cache: &Path, folder: &Path) -> Result<Self, HostError> {
        let base = private_dir(&private_dir(cache)?.join("last-good"))?;
        let files = private_dir(&base.join("files"))?;
        // A folder keeps its list when it is reached by another path. One that is
        // not there is none that a plugin was ever loaded from.
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let folder = folder.to_string_lossy().into_owned();
        let key = artifact::digest(folder.as_bytes());
        let key = key.get(..16).unwrap_or_default();
        let list = base.join(format!("{key}.json"));
        clean_up(&base, &files);
        let (writing, cleaned) = (Mutex::new(()), Mutex::new(Some(Instant::now())));
        let place = Place { base, files, list, folder, writing, cleaned };
        Ok(Self { place: Some(place) })
    }

    /// What is remembered of a plugin.
    pub(crate) fn of(&self, id: &str) -> Record {
        let place = self.place.as_ref();
        place.and_then(|place| place.read_list().remove(id)).unwrap_or_default()
    }

    /// The file of this digest, if it is there and whole.
    pub(crate) fn read(&self, digest: &str, limit: u64) -> Option<Vec<u8>> {
        let path = self.place.as_ref()?.file(digest);
        let mut content = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut content));
        if let Err(error) = read {
            debug!(path = %path.display(), %error, "no last good version");
            return None;
        }
        if artifact::digest(&content) != digest {
            warn!(path = %path.display(), "the last good version is damaged, and not used");
            return None;
        }
        Some(content)
    }

    /// Whether the file of this digest has to be stored. One that is there is as
    /// good as new from now on: somebody else may have stored it long ago.
    pub(crate) fn lacks(&self, digest: &str) -> bool {
        self.place.as_ref().is_some_and(|place| !renew(&place.file(digest)))
    }

    /// Stores a file. It counts for nothing until a plugin's record names it.
    pub(crate) fn store(&self, digest: &str, bytes: &[u8]) {
        let Some(place) = &self.place else { return };
        place.clean_up();
        if let Err(error) = write(&place.file(digest), bytes) {
            place.complain("a last good version", &error);
        }
    }

    /// This version has proved itself.
    pub(crate) fn keep(&self, id: &str, digest: &str) {
        self.change(id, |record| {
            if record.good.as_deref() != Some(digest) {
                record.previous = record.good.take();
                record.good = Some(digest.to_owned());
            }
        });
    }

    /// The version `bad` was taken out of service, and `good` serves again.
    pub(crate) fn rolled_back(&self, id: &str, bad: BadDigest, good: &str) {
        self.change(id, |record| {
            record.previous = None;
            record.good = Some(good.to_owned());
            record.bad = Some(bad);
        });
    }

    /// No version counts as bad any more.
    pub(crate) fn forgive(&self, id: &str) {
        self.change(id, |record| record.bad = None);
    }

    /// The operator has removed the plugin.
    pub(crate) fn forget(&self, id: &str) {
        self.change(id, |record| *record = Record::default());
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Record)) {
        let Some(place) = &self.place else { return };
        let _one = place.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Read again, because another worker of the same folder may have written.
        let mut list = place.read_list();
        let mut record = list.remove(id).unwrap_or_default();
        let before = record.clone();
        change(&mut record);
        if record == before {
            return;
        }
        if record != Record::default() {
            list.insert(id.to_owned(), record);
        }
        if let Err(error) = write(&place.list, place.text(&list).as_bytes()) {
            place.complain("which version of a plugin is good", &error);
        }
    }
}

impl Place {
    fn clean_up(&self) {
        let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if cleaned.is_none_or(|at| at.elapsed() >= CLEAN_EVERY) {
            *cleaned = Some(Instant::now());
            clean_up(&self.base, &self.files);
        }
    }

    fn file(&self, digest: &str) -> PathBuf {
        self.files.join(format!("{digest}.wasm"))
    }

    fn read_list(&self) -> BTreeMap<String, Record> {
        let Ok(text) = fs::read(&self.list) else { return BTreeMap::new() };
        let Ok(list) = serde_json::from_slice::<Value>(&text) else {
            warn!(path = %self.list.display(), "the list of last good versions is damaged");
            return BTreeMap::new();
        };
        let plugins = list.get("plugins").and_then(Value::as_object);
        plugins.into_iter().flatten().map(|(id, row)| (id.clone(), record(row))).collect()
    }

    fn text(&self, list: &BTreeMap<String, Record>) -> String {
        let plugins: Map<_, _> =
            list.iter().map(|(id, record)| (id.clone(), row(record))).collect();
        format!("{:#}\n", json!({ "folder": self.folder, "plugins": plugins }))
    }

    fn complain(&self, what: &str, error: &io::Error) {
        let place = self.files.display();
        warn!(%place, %error, "cannot be kept for the next start: {what}");
    }
}

fn record(row: &Value) -> Record {
    let text = |row: &Value, name: &str| row.get(name)?.as_str().map(str::to_owned);
    // A digest becomes part of a path.
    let digest = |row: &Value, name: &str| {
        text(row, name).filter(|digest| {
            digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    Record {
        good: digest(row, "good"),
        previous: digest(row, "previous"),
        bad: row.get("bad").and_then(|bad| {
            let reason = text(bad, "reason").unwrap_or_default();
            Some(BadDigest { digest: digest(bad, "digest")?, reason })
        }),
    }
}

fn row(record: &Record) -> Value {
    let mut row = Map::new();
    for (name, digest) in [("good", &record.good), ("previous", &record.previous)] {
        if let Some(digest) = digest {
            row.insert(name.to_owned(), digest.as_str().into());
        }
    }
    if let Some(bad) = &record.bad {
        row.insert("bad".to_owned(), json!({ "digest": bad.digest, "reason": bad.reason }));
    }
    row.into()
}

/// Writes beside the place and renames, so that a reader sees the old or the new.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Two workers may write the same file at the same time.
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Makes a file's last change now; false if there is no such file.
fn renew(path: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(path) else { return false };
    if let Err(error) = file.set_modified(SystemTime::now()) {
        debug!(path = %path.display(), %error, "the file stays as old as it is");
    }
    true
}

/// Removes lists of folders that are long gone, and files that no list names. What
/// cannot be read or removed stays.
fn clean_up(base: &Path, files: &Path) {
    let older = |path: &Path, limit: Duration| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        age.is_some_and(|age| age > limit)
    };
    let entries = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| !path.is_dir()).collect::<Vec<_>>()
    };
    let mut named = BTreeSet::new();
    for path in entries(base) {
        let text = fs::read(&path).unwrap_or_default();
        let list: Value = serde_json::from_slice(&text).unwrap_or_default();
        let folder = list.get("folder").and_then(Value::as_str);
        let is_there = folder.is_some_and(|folder| Path::new(folder).exists());
        if !is_there && older(&path, KEEP_LISTS) {
            let _ = fs::remove_file(&path);
            continue;
        }
        let plugins = list.get("plugins").and_then(Value::as_object);
        for row in plugins.into_iter().flat_map(Map::values) {
            let Record { good, previous, .. } = record(row);
            named.extend(good.into_iter().chain(previous));
        }
    }
    for path in entries(files) {
        let digest = path.file_stem().and_then(|stem| stem.to_str());
        if !digest.is_some_and(|digest| named.contains(digest)) && older(&path, KEEP_FILES) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests;
