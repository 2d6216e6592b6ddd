//! Workers that several tests use, each started when the first test asks for it.
//!
//! Loading the model costs about a second of two cores, so tests that only ask
//! and look share a worker. Tests that stop, fill or starve one start their own.
//! The processes end with the test run (see the watchdog in `process.rs`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tokio::sync::{Mutex, MutexGuard};

use super::client::Client;
use super::folders::{HooksDir, ModelsDir};
use super::nats::Nats;
use super::worker::{Builder, Worker};

/// A server, a worker on it, and the folders that the worker reads.
pub struct Bench {
    /// The server.
    pub nats: Nats,
    /// The worker's models folder.
    pub models: ModelsDir,
    // Kept as long as the worker may look into it.
    _hooks: Option<HooksDir>,
    is_shared: bool,
    /// The worker.
    pub worker: Worker,
}

impl Bench {
    /// A bench with the real model, and what `configure` adds.
    pub fn start(configure: impl FnOnce(Builder) -> Builder) -> Self {
        Self::on(Nats::start(), ModelsDir::real(), configure)
    }

    /// A bench on the given server with the given models.
    pub fn on(nats: Nats, models: ModelsDir, configure: impl FnOnce(Builder) -> Builder) -> Self {
        let worker = configure(Worker::at(&nats.url()).flag("--models", models.path())).start();
        Self { nats, models, _hooks: None, worker, is_shared: false }
    }

    /// A bench whose worker runs the given plugins.
    pub fn with_hooks(hooks: HooksDir, configure: impl FnOnce(Builder) -> Builder) -> Self {
        let bench = Self::start(|worker| configure(worker.flag("--hooks", hooks.path())));
        Self { _hooks: Some(hooks), ..bench }
    }

    /// A new connection to the bench's server.
    pub async fn client(&self) -> Client {
        let client = Client::connect(&self.nats.url()).await;
        // A worker of the test's own shows its log when it is dropped.
        if self.is_shared { client.with(self.worker.witness()) } else { client }
    }
}

/// A place for a shared bench. A start that fails is not tried again: every test
/// that needs the bench fails with the first reason at once.
pub struct Slot(OnceLock<Result<Bench, String>>);

impl Slot {
    /// An empty place, for a `static`.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The bench, started by `start` if nobody did so before.
    pub fn get(&self, start: impl FnOnce() -> Bench) -> &Bench {
        let started = self.0.get_or_init(|| {
            let bench = catch_unwind(AssertUnwindSafe(start));
            bench.map(|bench| Bench { is_shared: true, ..bench }).map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_else(|| "unknown reason".to_owned())
            })
        });
        match started {
            Ok(bench) => bench,
            Err(reason) => panic!("the shared worker did not start: {reason}"),
        }
    }
}

/// The worker of most tests: default settings but for a queue so long that tests
/// on many cores do not make each other's requests fail with "worker busy".
pub fn plain() -> &'static Bench {
    static PLAIN: Slot = Slot::new();
    PLAIN.get(|| Bench::start(|worker| worker.flag("--queue", "64")))
}

/// A worker that one test at a time has for itself. What else is decoded in the
/// same batch may change the last digits of the logits, so tests that compare
/// two outputs must be alone.
pub async fn quiet() -> Quiet {
    static QUIET: Slot = Slot::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    Quiet { bench: QUIET.get(|| Bench::start(|worker| worker)), _turn: turn }
}

/// See [`quiet`]; the next test's turn comes when this is dropped.
pub struct Quiet {
    /// The worker.
    pub bench: &'static Bench,
    _turn: MutexGuard<'static, ()>,
}
