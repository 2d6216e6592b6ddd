//! Starts a worker, keeps it going, and stops it in order.
//!
//! ```text
//!  hooks loaded ─▶ (model preloaded) ─▶ connected ─▶ subscribed, round trip ─▶ ready
//!                                                                                │
//!   shutdown signal                                      subscription ends itself │
//!        │                                                         │             │
//!        ▼                                                         ▼             │
//!  1 waiting jobs refused (5), later predicts too            fatal: SubscriptionLost
//!  2 subscription drained: what was routed is answered
//!  3 running jobs end, or are cancelled (8) when the grace is over
//!  4 other workers no longer heard; last messages confirmed, answers sent
//!  5 commands about hooks no longer taken; flush
//!  6 connection drained and closed
//!  7 models released
//! ```
//!
//! There is one deadline for all of it. A second signal ends the worker at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use llamero_hooks::Registry;
use llamero_protocol::list_options;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::Control;
use crate::dispatch::{self, Command, Dispatcher};
use crate::hook_services::HookServices;
use crate::hook_watch::HookWatch;
use crate::job::Shared;
use crate::lister::{self, Lister};
use crate::models::{LoadProgress, ModelError, ModelStore};
use crate::nats::connection::{ConnectError, Connection, Role, connect};
use crate::nats::drain::drain;
use crate::nats::inbox::Inbox;
use crate::nats::intake::{Actors, End, Intake};
use crate::nats::outbox::Outbox;
use crate::nats::state::HookStateError;
use crate::peers::{Joined, PeerLink, Peers};
use crate::publish::{Buckets, Pace};
use crate::replies::Replies;
use crate::settings::Settings;
use crate::startup::{count_models, load_hooks, preload, store_config, warn_about_instances};
use crate::table::Drained;

/// The queue group of all workers, Go's included.
const QUEUE_GROUP: &str = "llm-worker";

/// How long the end of the connection is waited for after everything has been
/// sent.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How long the last messages may take after the last job.
const FAREWELL_WAIT: Duration = Duration::from_secs(2);

/// How long observers of the last jobs may take at shutdown, all together.
const OBSERVER_GRACE: Duration = Duration::from_secs(5);

/// What the worker is told from outside while it runs.
#[derive(Debug, Clone, Default)]
pub struct ShutdownSignals {
    /// Stop in order: take no more jobs, let running ones end.
    pub drain: CancellationToken,
    /// Stop at once, whatever runs.
    pub abort: CancellationToken,
    /// Look at the hooks folder again, whether anything seems to have changed or
    /// not.
    pub reload: Arc<Notify>,
}

/// What the worker tells while it runs, beside its log.
#[derive(Clone)]
pub struct Callbacks {
    /// Models being loaded.
    pub load_progress: LoadProgress,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self { load_progress: Arc::new(|_| {}) }
    }
}

/// How a worker ended after it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every job ended within the grace.
    Drained,
    /// Jobs were cancelled, or last messages may not have been sent.
    GraceRanOut,
    /// A second signal came.
    Aborted,
}

/// Why a worker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The plugin host cannot be set up.
    #[error(transparent)]
    HookHost(#[from] llamero_hooks::HostError),
    /// Hooks that cannot be loaded: every one of them.
    #[error("hooks cannot be loaded:{}", list(.0))]
    Hooks(Vec<llamero_hooks::LoadError>),
    /// The model that was to be loaded at start.
    #[error("preload: {0}")]
    Preload(ModelError),
    /// The connection cannot be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The state of hooks cannot be kept where the settings say.
    #[error(transparent)]
    HookState(#[from] HookStateError),
    /// The library refused a subscription.
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The server refused what the worker needs.
    #[error("the NATS server denies what the worker needs: {0}")]
    Denied(String),
    /// The subscription ended by itself, so no request can arrive any more.
    #[error("the subscription ended; the worker can receive nothing any more")]
    SubscriptionLost,
    /// A part of the worker panicked.
    #[error("{0} ended unexpectedly")]
    Internal(&'static str),
}

fn list(errors: &[llamero_hooks::LoadError]) -> String {
    let lines = errors.iter().map(|error| format!("\n  {error}"));
    lines.collect()
}

/// Runs a worker until it is told to stop.
///
/// # Errors
/// [`WorkerError`]: it could not start, or lost its subscription.
pub async fn run(
    settings: Settings,
    callbacks: Callbacks,
    shutdown: ShutdownSignals,
) -> Result<Exit, WorkerError> {
    let abort = shutdown.abort.clone();
    tokio::select! {
        biased;
        () = abort.cancelled() => Ok(Exit::Aborted),
        result = serve(settings, callbacks, shutdown.drain, shutdown.reload) => result,
    }
}

async fn serve(
    settings: Settings,
    callbacks: Callbacks,
    stop: CancellationToken,
    reload: Arc<Notify>,
) -> Result<Exit, WorkerError> {
    let worker = nuid::next().to_string();
    tracing::info!(worker, version = env!("CARGO_PKG_VERSION"), "worker starts");
    let models = ModelStore::new(store_config(&settings), callbacks.load_progress);
    let services = HookServices::new(&settings.hooks, models.clone());
    let (host, hooks) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Exit::Drained),
        loaded = load_hooks(settings.hooks.clone(), services.services()) => loaded?,
    };
    warn_about_instances(&settings, hooks.chain().plugins().len());
    if settings.models.preload {
        let preload = preload(&settings, &models);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Exit::Drained),
            result = preload => result.map_err(WorkerError::Preload)?,
        }
    }
    let connection = connect(&settings.nats, Role::Worker).await?;
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Exit::Drained),
        _ = connection.wait_up() => {}
    }
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Exit::Drained),
        opened = services.connected(&connection) => opened?,
    }
    let watch = HookWatch::start(hooks.clone(), settings.hooks.reload, reload);
    let serving = Serving::start(&settings, worker, models, hooks, connection).await?;
    let exit = serving.until_stopped(settings.jobs.shutdown_grace, stop).await;
    drop(watch);
    // An audit must not miss the last jobs. Observers have limits, and this one is
    // for a machine that does not get round to them.
    if tokio::time::timeout(OBSERVER_GRACE, host.observers_done()).await.is_err() {
        tracing::warn!("not every observer was told how its last job ended");
    }
    // The host owns a runtime, which must not be dropped on a task.
    let _ = tokio::task::spawn_blocking(move || drop(host)).await;
    exit
}

/// A worker that receives requests.
struct Serving {
    connection: Connection,
    outbox: Outbox,
    models: ModelStore,
    intake: Arc<Intake>,
    dispatch: mpsc::Sender<Command>,
    receiving: tokio::task::JoinHandle<End>,
    stop_receiving: CancellationToken,
    sending: tokio::task::JoinHandle<()>,
    tracker: TaskTracker,
    control: Control,
    peers: Option<PeerLink>,
}

impl Serving {
    async fn start(
        settings: &Settings,
        worker: String,
        models: ModelStore,
        hooks: Registry,
        connection: Connection,
    ) -> Result<Self, WorkerError> {
        let inbox = Inbox::open(&connection).await?;
        let outbox = Outbox::new(connection.clone(), inbox, &worker);
        let tracker = TaskTracker::new();
        let (replies, sending) = Replies::new(outbox.clone());
        let sending = tokio::spawn(sending);

        let (n_hooks, subject) = (hooks.chain().plugins().len(), settings.nats.subject.clone());
        let shared = Arc::new(Shared {
            worker: worker.clone(),
            subject: subject.clone(),
            options: settings.options.clone(),
            allow_grammar: settings.jobs.allow_grammar,
            extras: settings.answers.extras,
            ack_delay: settings.answers.ack_delay,
            pace: Pace {
                interval: settings.answers.flush_interval,
                bytes: settings.answers.flush_bytes,
            },
            buckets: Arc::new(Buckets::default()),
            models: models.clone(),
            hooks: hooks.clone(),
            log_hook_text: settings.hooks.log_text,
            outbox: outbox.clone(),
            tracker: tracker.clone(),
            tfs_z_warned: AtomicBool::new(false),
        });
        let (dispatch, commands) = mpsc::channel(dispatch::CAPACITY);
        let (peers, questions) = Peers::new();
        let jobs = settings.jobs.clone();
        tokio::spawn(Dispatcher::run(shared, replies.clone(), peers, jobs, commands));
        let (lister_sender, lists) = mpsc::channel(lister::CAPACITY);
        let lister = Lister {
            dir: settings.models.dir.clone(),
            follow_links: settings.models.follow_links,
            options: list_options(
                &settings.options,
                settings.jobs.allow_grammar,
                settings.answers.extras,
            ),
            replies: replies.clone(),
        };
        tokio::spawn(lister.run(lists));

        let actors = Actors { dispatch: dispatch.clone(), lister: lister_sender, replies };
        let intake = Arc::new(Intake::new(
            actors,
            subject.clone(),
            settings.answers.stream_subjects.clone(),
            settings.hooks.headers.clone(),
            settings.jobs.embed,
        ));
        let control = Control::subscribe(&connection, &subject, &worker, settings.hooks.control);
        let control = control.await;
        let joined = if settings.jobs.interrupt_peers.is_zero() {
            None
        } else {
            Joined::join(&settings.nats, &worker).await
        };
        let subscriber =
            connection.client.queue_subscribe(subject.clone(), QUEUE_GROUP.to_owned()).await?;
        check_subscribed(&outbox, &subject).await?;
        let control = control.serve(hooks, outbox.clone());
        let peers = joined.map(|joined| joined.serve(questions, dispatch.clone()));

        let stop_receiving = CancellationToken::new();
        let receiving = tokio::spawn({
            let (intake, stop) = (Arc::clone(&intake), stop_receiving.clone());
            async move { intake.run(subscriber, &stop).await }
        });
        let n_models = count_models(settings).await;
        tracing::info!(
            target: "llamero",
            worker,
            subject,
            models = n_models,
            slots = settings.jobs.slots,
            hooks = n_hooks,
            "ready"
        );
        Ok(Self {
            connection,
            outbox,
            models,
            intake,
            dispatch,
            receiving,
            stop_receiving,
            sending,
            tracker,
            control,
            peers,
        })
    }

    /// Serves until told to stop, then stops in order.
    async fn until_stopped(
        mut self,
        grace: Duration,
        stop: CancellationToken,
    ) -> Result<Exit, WorkerError> {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            end = &mut self.receiving => {
                return Err(match end {
                    // Nobody told it to stop, so it can only have been lost.
                    Ok(_) => WorkerError::SubscriptionLost,
                    Err(_) => WorkerError::Internal("the receive loop"),
                });
            }
        }
        let deadline = Instant::now() + grace;
        tracing::info!(grace_s = grace.as_secs_f64(), "stopping: no more jobs are taken");
        let (drained, all_ended) = oneshot::channel();
        let command = Command::Drain { grace, drained };
        let _ = self.dispatch.send(command).await;

        self.stop_receiving.cancel();
        if let Ok(End::Stopped(subscriber)) = self.receiving.await {
            let rest = drain(subscriber, &self.outbox).await;
            tracing::debug!(messages = rest.len(), "subscription drained");
            for message in rest {
                self.intake.handle(message).await;
            }
        }
        let how = all_ended.await.unwrap_or(Drained::GraceRanOut);
        if let Some(peers) = self.peers {
            peers.stop().await;
        }
        // Everything that could still send an answer ends when these do.
        drop(self.dispatch);
        drop(self.intake);

        self.tracker.close();
        let left = deadline.saturating_duration_since(Instant::now());
        let farewell = tokio::time::Instant::now() + left.clamp(CLOSE_WAIT, FAREWELL_WAIT);
        let answered = tokio::time::timeout_at(farewell, self.sending).await.is_ok();
        // Jobs have handed their last messages over before they ended. What is
        // left to do is asking the server whether it has them; while it can be
        // asked, only offers to clients that have not come back take longer.
        let confirmed = tokio::time::timeout_at(farewell, self.tracker.wait()).await.is_ok();
        let all_sent = answered && (confirmed || self.connection.is_up());
        self.control.stop().await;
        close(&self.connection, &self.outbox).await;
        self.models.release_all();
        let in_grace = how == Drained::InGrace && all_sent;
        tracing::info!(in_grace, "worker stopped");
        Ok(if in_grace { Exit::Drained } else { Exit::GraceRanOut })
    }
}

/// Whether the subscription stands: the server has handled it, and has not
/// refused it.
async fn check_subscribed(outbox: &Outbox, subject: &str) -> Result<(), WorkerError> {
    let answered = outbox.probe().await;
    if answered {
        // Refusals come as events, a moment after the answer. A second round
        // trip is later than that in practice, and cheap.
        outbox.round_trip().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let denied = outbox.connection().link.denied();
    let refusal = denied.iter().find(|text| names(text, subject));
    if let Some(refusal) = refusal {
        return Err(WorkerError::Denied(refusal.clone()));
    }
    if !answered {
        tracing::warn!(
            "the worker's own inbox does not work, so nobody notices messages that a lost \
             connection swallows; allow it to publish and subscribe there"
        );
    }
    Ok(())
}

/// Whether the server's text is about this subject: it names it in quotes.
pub fn names(text: &str, subject: &str) -> bool {
    text.contains(&format!("\"{subject}\""))
}

/// Writes out what is left and closes the connection.
async fn close(connection: &Connection, outbox: &Outbox) {
    if connection.is_up() {
        outbox.flush().await;
    }
    let mut changes = connection.link.changes();
    // The last call: what is sent after it is thrown away.
    if connection.client.drain().await.is_ok() && connection.is_up() {
        let closed = changes.wait_for(|changes| changes.is_closed);
        let _ = tokio::time::timeout(CLOSE_WAIT, closed).await;
    }
}
