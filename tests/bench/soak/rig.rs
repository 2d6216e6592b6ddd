//! A worker with a hooks folder of the scenario's own, and a compile cache that
//! nobody else has filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::worker::Builder;
use crate::harness::{Bench, Client, HooksDir, SUBJECT};

/// How long anything may take that is waited for. It tells "never" from "slow".
const PATIENCE: Duration = Duration::from_secs(300);

/// Where files are written before they are renamed into the hooks folder. Nobody
/// watches it, so that writing is no event there.
const STAGE: &str = ".stage";

/// A worker and its hooks folder.
pub struct Rig {
    /// The worker and its server.
    pub bench: Bench,
    /// A connection to the server.
    pub client: Client,
    /// The hooks folder.
    pub dir: PathBuf,
    /// The worker's cache of compiled code.
    pub cache: PathBuf,
}

impl Rig {
    /// Starts a worker on a folder into which `prepare` has put plugins.
    pub async fn start(
        prepare: impl FnOnce(&Path),
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let hooks = HooksDir::empty();
        let dir = hooks.path().to_owned();
        fs::create_dir(dir.join(STAGE)).expect("make a folder");
        prepare(&dir);
        let cache = dir.join(".cache");
        let bench = Bench::with_hooks(hooks, |worker| {
            configure(worker.env("llm_hooks_cache_dir", &cache.display().to_string()))
        });
        let client = bench.client().await;
        Self { bench, client, dir, cache }
    }

    /// The worker's process.
    pub fn pid(&self) -> u32 {
        self.bench.worker.id()
    }

    /// Writes a file where the worker does not look.
    pub fn stage(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(STAGE).join("next");
        fs::write(&path, bytes).expect("write a plugin");
        path
    }

    /// Renames a staged file into the folder; returns when that was.
    pub fn swap(&self, staged: &Path, id: &str) -> Instant {
        let now = Instant::now();
        fs::rename(staged, self.dir.join(format!("{id}.wasm"))).expect("rename a plugin");
        now
    }

    /// Takes a plugin's file away.
    pub fn remove(&self, id: &str) {
        fs::remove_file(self.dir.join(format!("{id}.wasm"))).expect("remove a plugin");
    }

    /// Carries out a command about hooks.
    pub async fn command(&self, command: Value) -> Value {
        let payload = json!({ "hook": command }).to_string();
        let answer = self.client.nats.request(format!("{SUBJECT}._ctl"), payload.into()).await;
        let answer: Value =
            serde_json::from_slice(&answer.expect("an answer to a command").payload).expect("JSON");
        assert!(answer["hook"].is_object(), "a command failed: {answer}");
        answer["hook"].clone()
    }

    /// A plugin as the worker lists it; `null` if it does not.
    pub async fn listed(&self, id: &str) -> Value {
        let list = self.command(json!({"action": "list"})).await;
        let plugins = list["plugins"].as_array().expect("a list of plugins");
        plugins.iter().find(|plugin| plugin["plugin"] == id).cloned().unwrap_or_default()
    }

    /// Waits until a plugin is listed as wanted, and returns how it is listed then.
    pub async fn until(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let plugin = self.listed(id).await;
            if wanted(&plugin) {
                return plugin;
            }
            assert!(began.elapsed() < PATIENCE, "{what} did not come: {plugin}");
            // Soon at first, and then seldom: asking costs the worker something, too.
            let pause = Duration::from_millis(20) + began.elapsed() / 20;
            tokio::time::sleep(pause.min(Duration::from_millis(250))).await;
        }
    }
}

/// Puts a plugin into a folder before a worker looks at it.
pub fn put(dir: &Path, id: &str, bytes: &[u8]) {
    fs::write(dir.join(format!("{id}.wasm")), bytes).expect("write a plugin");
}
