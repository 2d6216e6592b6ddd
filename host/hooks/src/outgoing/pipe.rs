//! The caller's end of the outgoing pipeline, and on whose thread the pipeline runs.
//!
//! As long as the filters are quick, the caller drives it while it waits for what
//! comes out: waking a thread of the hooks' runtime for each token, and being woken
//! by it, would cost more than the filters do. Once a call takes long, the pipeline
//! moves to that runtime for good (`crate::slice`).

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use tokio::sync::{Notify, mpsc, oneshot};

use super::stage::Ending;
use crate::chain::ChainInner;
use crate::data::{Candidate, FinishReason, GuardPlan, GuardVerdict, Outgoing, Usage};
use crate::error::{Failure, Phase};
use crate::job::JobShared;
use crate::slice::{self, Polled, Work};

/// Pieces that may wait for a slow filter before [`Room::wait`] makes the caller
/// wait, too.
const AHEAD: usize = 64;

/// The caller's end of one job's outgoing pipeline. Dropping it before its end
/// cancels: filters hear of it, and nothing more is released. Text moves on while
/// [`Self::next`] or [`Self::judge`] is waited for.
pub struct OutgoingPipe {
    input: mpsc::UnboundedSender<Input>,
    output: mpsc::UnboundedReceiver<Outgoing>,
    backlog: Arc<Backlog>,
    plan: Option<GuardPlan>,
    /// The other end, unless it runs elsewhere or is over.
    pump: Option<Pump>,
}

#[derive(Debug, Default)]
struct Backlog {
    pieces: AtomicUsize,
    room: Notify,
}

pub(super) enum Input {
    Text(String, Vec<u32>),
    Candidates(Option<u32>, Vec<Candidate>, oneshot::Sender<GuardVerdict>),
    Close(Ending),
}

impl OutgoingPipe {
    /// Gives generated text to the pipeline, with the tokens that it comes from.
    /// Never waits; see [`Room::wait`].
    pub fn push(&self, text: String, tokens: Vec<u32>) {
        self.backlog.pieces.fetch_add(1, Ordering::AcqRel);
        // Nobody listens once a plugin has ended the output.
        let _ = self.input.send(Input::Text(text, tokens));
    }

    /// Says when there is room for more; see [`Room::wait`].
    pub fn room(&self) -> Room {
        Room { backlog: Arc::clone(&self.backlog) }
    }

    /// What the job's token guard wants to be asked, if it has one.
    pub fn guard_plan(&self) -> Option<GuardPlan> {
        self.plan
    }

    /// Asks the token guard about the next token, once it has judged all text that
    /// was pushed before: `previous` is the token before, and `candidates` the
    /// likeliest ones in descending order. `None` means that the output has ended,
    /// and [`Self::next`] says how.
    pub async fn judge(
        &mut self,
        previous: Option<u32>,
        candidates: Vec<Candidate>,
    ) -> Option<GuardVerdict> {
        let (verdict, mut answer) = oneshot::channel();
        let _ = self.input.send(Input::Candidates(previous, candidates, verdict));
        poll_fn(|cx| {
            self.drive(cx);
            Pin::new(&mut answer).poll(cx)
        })
        .await
        .ok()
    }

    /// Says that no text follows.
    pub fn close(&self, finish: FinishReason, usage: Usage) {
        let _ = self.input.send(Input::Close(Ending { finish, usage }));
    }

    /// What comes out next: text, and at last exactly one of the others. After
    /// that, and if the pipeline broke, it is `Failed` again and again. Can be
    /// dropped and called again.
    pub async fn next(&mut self) -> Outgoing {
        let next = poll_fn(|cx| {
            self.drive(cx);
            self.output.poll_recv(cx)
        });
        next.await.unwrap_or_else(|| {
            Outgoing::Failed(Failure {
                plugin: String::new(),
                phase: Phase::Stream,
                kind: crate::FailureKind::Host,
                retryable: false,
                detail: "the outgoing pipeline is over".to_owned(),
            })
        })
    }

    /// Runs the pipeline as far as it comes, if that is still done here.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(mut pump) = self.pump.take() else {
            return;
        };
        match slice::poll_here(&pump.chain.host, &pump.job, &mut pump.work, cx) {
            Polled::Ready(()) => {}
            Polled::Pending if pump.idle.load(Ordering::Relaxed) => self.pump = Some(pump),
            // In the middle of a call, which takes long.
            Polled::Pending => pump.move_elsewhere(),
            Polled::Taken => {
                // A slice is short.
                cx.waker().wake_by_ref();
                self.pump = Some(pump);
            }
            // Its ends of the channels are gone, and that is what the caller hears.
            Polled::Panicked(text) => tracing::error!(text, "the outgoing pipeline panicked"),
        }
    }
}

impl Drop for OutgoingPipe {
    fn drop(&mut self) {
        // The filters have yet to hear of it.
        if let Some(pump) = self.pump.take() {
            pump.move_elsewhere();
        }
    }
}

/// The pipeline itself, as long as its caller drives it.
pub(crate) struct Pump {
    pub(crate) chain: Arc<ChainInner>,
    pub(crate) job: Arc<JobShared>,
    pub(crate) work: Work<()>,
    /// Whether it waits for its caller, and not in a plugin.
    pub(crate) idle: Arc<AtomicBool>,
}

impl Pump {
    fn move_elsewhere(self) {
        self.chain.host.runtime.handle().spawn(self.work);
    }
}

/// How far the filters are behind.
#[derive(Debug)]
pub struct Room {
    backlog: Arc<Backlog>,
}

impl Room {
    /// Waits until the filters have nearly kept up, so that a slow one cannot make
    /// the text pile up. Can be dropped and called again.
    pub async fn wait(&self) {
        loop {
            let notified = self.backlog.room.notified();
            if self.backlog.pieces.load(Ordering::Acquire) < AHEAD {
                return;
            }
            notified.await;
        }
    }
}

impl fmt::Debug for OutgoingPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingPipe").finish_non_exhaustive()
    }
}

/// The pipeline's end of the channels.
pub(crate) struct Inlet {
    pub(super) input: mpsc::UnboundedReceiver<Input>,
    pub(super) output: mpsc::UnboundedSender<Outgoing>,
    backlog: Arc<Backlog>,
    idle: Arc<AtomicBool>,
}

/// A pipe and its other end; `idle` says when that one waits.
pub(crate) fn pipe(plan: Option<GuardPlan>, idle: Arc<AtomicBool>) -> (OutgoingPipe, Inlet) {
    let (input, given) = mpsc::unbounded_channel();
    let (released, output) = mpsc::unbounded_channel();
    let backlog = Arc::new(Backlog::default());
    let inlet = Inlet { input: given, output: released, backlog: Arc::clone(&backlog), idle };
    (OutgoingPipe { input, output, backlog, plan, pump: None }, inlet)
}

impl OutgoingPipe {
    /// Makes the caller drive the other end; or the hooks' runtime at once, if the
    /// plugins are known to take long.
    pub(crate) fn start(&mut self, pump: Pump) {
        if slice::takes_long(&pump.chain, Phase::Stream) {
            pump.move_elsewhere();
        } else {
            self.pump = Some(pump);
        }
    }
}

impl Inlet {
    /// Says whether the pipeline waits for its caller.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// A piece of text was taken in.
    pub(super) fn taken(&self) {
        if self.backlog.pieces.fetch_sub(1, Ordering::AcqRel) == AHEAD {
            self.backlog.room.notify_waiters();
        }
    }
}
