//! The OS thread that owns an engine, and the handle to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::Instant;

use crate::engine::alarm::Alarm;
use crate::engine::backend::Backend;
use crate::engine::outlet::{Place, Signal};
use crate::engine::scheduler::{Engine, Stepped};
use crate::engine::sequence::Submission;
use crate::engine::stats::SharedStats;
use crate::error::SubmitError;

/// What an engine thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Box<Submission>),
    /// A job was cancelled or answered, or a paused one was read.
    Wake,
}

/// The way to an engine thread. It ends when the last handle is gone.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    commands: SyncSender<Command>,
    /// Whether a wake-up is on its way: one is enough.
    waking: Arc<AtomicBool>,
    alarm: Arc<Alarm>,
    accepted: Arc<AtomicUsize>,
    max_jobs: usize,
    stats: Arc<SharedStats>,
}

/// The thread's end of the handle.
#[derive(Debug)]
pub(crate) struct Inbox {
    commands: Receiver<Command>,
    waking: Arc<AtomicBool>,
}

impl EngineHandle {
    /// A handle for at most `max_jobs` jobs at once, waiting ones included.
    pub(crate) fn new(
        max_jobs: usize,
        alarm: Arc<Alarm>,
        stats: Arc<SharedStats>,
    ) -> (Self, Inbox) {
        // Every job in the channel holds one of `max_jobs` places, and there is
        // at most one wake-up: neither can ever find it full.
        let (sender, receiver) = sync_channel(max_jobs.saturating_add(1));
        let waking = Arc::new(AtomicBool::new(false));
        let handle = Self {
            commands: sender,
            waking: Arc::clone(&waking),
            alarm,
            accepted: Arc::new(AtomicUsize::new(0)),
            max_jobs,
            stats,
        };
        let inbox = Inbox { commands: receiver, waking };
        (handle, inbox)
    }

    /// A place for a job, if there is one.
    pub(crate) fn place(&self) -> Option<Place> {
        Place::take(&self.accepted, self.max_jobs)
    }

    /// The flags of a new job.
    pub(crate) fn signal(&self) -> Arc<Signal> {
        Arc::new(Signal::new(Arc::clone(&self.alarm)))
    }

    pub(crate) fn submit(&self, job: Submission) -> Result<(), SubmitError> {
        self.commands.try_send(Command::Submit(Box::new(job))).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Busy,
            TrySendError::Disconnected(_) => SubmitError::Stopped,
        })
    }

    pub(crate) fn wake(&self) {
        if !self.waking.swap(true, Ordering::SeqCst) {
            // Full is impossible, and a thread that has ended needs no waking.
            let _ = self.commands.try_send(Command::Wake);
        }
    }

    pub(crate) fn stats(&self) -> &SharedStats {
        &self.stats
    }
}

/// Runs an engine until nobody can give it a job any more.
pub(crate) fn run<B: Backend>(engine: &mut Engine<B>, inbox: &Inbox) {
    loop {
        loop {
            match inbox.commands.try_recv() {
                Ok(command) => apply(engine, inbox, command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        // Nothing in the engine is left half-done by a panic that matters: the
        // running jobs, which may be, all fail, and the backend forgets them.
        match catch_unwind(AssertUnwindSafe(|| engine.step())) {
            Ok(Stepped::Worked) => {}
            Ok(Stepped::Idle) => match wait(inbox, engine.next_wake()) {
                Ok(command) => apply(engine, inbox, command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            },
            Err(panic) => {
                let message = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                tracing::error!(message, "engine step panicked; its jobs fail");
                engine.fail_running("internal error");
            }
        }
    }
}

/// The next command, or a time-out at `until`.
fn wait(inbox: &Inbox, until: Option<Instant>) -> Result<Command, RecvTimeoutError> {
    match until {
        Some(until) => inbox.commands.recv_timeout(until.saturating_duration_since(Instant::now())),
        None => inbox.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

fn apply<B: Backend>(engine: &mut Engine<B>, inbox: &Inbox, command: Command) {
    match command {
        Command::Submit(job) => engine.submit(*job),
        // Reset before the step that looks at what the wake-up was for.
        Command::Wake => inbox.waking.store(false, Ordering::SeqCst),
    }
}
