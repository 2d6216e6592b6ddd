//! The folder while jobs run: what is loaded, what stays, and what a job notices.

mod commands;
mod files;
mod jobs;
mod start;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use llamero_hooks::{HookHost, PluginSettings, Policy, Registry, SyncReport};
use tempfile::TempDir;

use crate::guest::{Guest, Image};
use crate::support::{host_with, on_request, responded};

/// A hooks folder, its settings, and a host with a cache.
struct Bench {
    temp: TempDir,
    settings: Arc<Mutex<Result<BTreeMap<String, PluginSettings>, String>>>,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("hooks")).unwrap();
        Self { temp, settings: Arc::new(Mutex::new(Ok(BTreeMap::new()))) }
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("hooks")
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir().join(format!("{id}.wasm"))
    }

    /// Puts a file there as careful people do: beside its place, then renamed.
    fn put(&self, id: &str, bytes: &[u8]) {
        let beside = self.temp.path().join("new");
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, self.file(id)).unwrap();
    }

    fn set(&self, id: &str, settings: PluginSettings) {
        self.settings.lock().unwrap().as_mut().unwrap().insert(id.to_owned(), settings);
    }

    fn require(&self, id: &str) {
        let policy = Policy { required: true, ..Policy::default() };
        self.set(id, PluginSettings { policy, ..PluginSettings::default() });
    }

    fn host(&self) -> HookHost {
        host_with(|config| config.cache_dir = Some(self.temp.path().join("cache")))
    }

    fn try_open(&self) -> Result<Registry, String> {
        let settings = Arc::clone(&self.settings);
        let source = Box::new(move || settings.lock().unwrap().clone());
        self.host()
            .open(&self.dir(), source)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    fn open(&self) -> Registry {
        self.try_open().unwrap()
    }
}

/// A plugin that answers with this text.
fn says(text: &str) -> Vec<u8> {
    Guest::returning(|image| image.respond(text)).module()
}

fn pass() -> Vec<u8> {
    Guest::returning(Image::pass).module()
}

fn answer(registry: &Registry) -> String {
    responded(on_request(&registry.chain()))
}

fn ids(registry: &Registry) -> Vec<String> {
    registry.chain().plugins().iter().map(|info| info.id.clone()).collect()
}

/// The one thing that was not taken.
#[track_caller]
fn refused(report: &SyncReport) -> (String, String) {
    let [(id, error)] = report.kept.as_slice() else { panic!("{report:?}") };
    (id.clone(), error.to_string())
}
