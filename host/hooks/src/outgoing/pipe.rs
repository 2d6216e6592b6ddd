//! The caller's end of the outgoing pipeline, and on whose thread the pipeline runs.
//!
//! As long as the filters are quick, the caller drives it while it waits for what
//! comes out: waking a thread of the hooks' runtime for each token, and being woken
//! by it, would cost more than the filters do. When a call takes long, the pipeline
//! moves to that runtime (`crate::slice`). It comes back when it has nothing to do,
//! unless a plugin is known to take long.
//!
//! While it is here nothing wakes the caller but the time of held text: the caller
//! itself gives what comes in, and takes what comes out. Channels that woke it would
//! have its whole task polled twice more for each token.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Sleep;
use tracing::Instrument;

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
    pump: Whereabouts,
    /// The time at which held text has to move, while the other end is here.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Where the other end is.
enum Whereabouts {
    Here(Pump),
    /// On the hooks' runtime, and this is how it comes back.
    Elsewhere(oneshot::Receiver<Pump>),
    Over,
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
            loop {
                self.drive(cx);
                if !matches!(self.pump, Whereabouts::Here(_)) {
                    return self.output.poll_recv(cx);
                }
                match self.output.try_recv() {
                    Ok(released) => return Poll::Ready(Some(released)),
                    Err(mpsc::error::TryRecvError::Disconnected) => return Poll::Ready(None),
                    Err(mpsc::error::TryRecvError::Empty) => {}
                }
                if self.poll_alarm(cx).is_pending() {
                    return Poll::Pending;
                }
            }
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

    /// Runs the pipeline as far as it comes, if that is done here.
    fn drive(&mut self, cx: &mut Context<'_>) {
        loop {
            match std::mem::replace(&mut self.pump, Whereabouts::Over) {
                Whereabouts::Here(mut pump) => {
                    match slice::poll_once(&pump.chain.host, &pump.job, &mut pump.work, cx) {
                        Polled::Ready(()) => {}
                        Polled::Pending if !pump.idle.is() => {
                            // In the middle of a call, which takes long.
                            self.pump = Whereabouts::Elsewhere(pump.move_elsewhere());
                            continue;
                        }
                        Polled::Pending | Polled::Taken => self.pump = Whereabouts::Here(pump),
                        // Its ends of the channels are gone, and that is what the caller
                        // hears.
                        Polled::Panicked(text) => {
                            tracing::error!(text, "the outgoing pipeline panicked");
                        }
                    }
                }
                Whereabouts::Elsewhere(mut back) => match Pin::new(&mut back).poll(cx) {
                    Poll::Ready(Ok(pump)) => {
                        self.pump = Whereabouts::Here(pump);
                        continue;
                    }
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => self.pump = Whereabouts::Elsewhere(back),
                },
                Whereabouts::Over => {}
            }
            return;
        }
    }

    /// Ready when held text has to move; never, if there is none.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Whereabouts::Here(pump) = &self.pump else {
            return Poll::Pending;
        };
        let Some(at) = pump.idle.until() else {
            self.alarm = None;
            return Poll::Pending;
        };
        let at = at.into();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        let rung = alarm.as_mut().poll(cx);
        if rung.is_ready() {
            self.alarm = None;
        }
        rung
    }
}

impl Drop for OutgoingPipe {
    fn drop(&mut self) {
        // The filters have yet to hear of it.
        match std::mem::replace(&mut self.pump, Whereabouts::Over) {
            Whereabouts::Here(pump) => pump.end_elsewhere(),
            Whereabouts::Elsewhere(mut back) => {
                back.close();
                // It may be on its way.
                if let Ok(pump) = back.try_recv() {
                    pump.end_elsewhere();
                }
            }
            Whereabouts::Over => {}
        }
    }
}

/// The pipeline itself, as long as its caller drives it.
pub(crate) struct Pump {
    pub(crate) chain: Arc<ChainInner>,
    pub(crate) job: Arc<JobShared>,
    pub(crate) work: Work<()>,
    pub(crate) idle: Arc<Idle>,
}

/// Whether the pipeline waits for its caller, and not in a plugin; and for how long.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    is: AtomicBool,
    until: Mutex<Option<Instant>>,
}

impl Idle {
    fn begin(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        self.is.store(true, Ordering::Release);
    }

    fn end(&self) {
        self.is.store(false, Ordering::Release);
    }

    fn is(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }

    /// When it goes on although nothing came.
    fn until(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pump {
    /// Goes on on the hooks' runtime, to the end.
    fn end_elsewhere(self) {
        self.chain.host.runtime.handle().spawn(self.work.in_current_span());
    }

    /// Goes on on the hooks' runtime: to the end, or until it can be given back.
    fn move_elsewhere(mut self) -> oneshot::Receiver<Self> {
        let (back, away) = oneshot::channel();
        let runtime = self.chain.host.runtime.handle().clone();
        let run = async move {
            let over = poll_fn(|cx| match self.work.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending if self.may_return() && !back.is_closed() => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            });
            if !over.await
                && let Err(pump) = back.send(self)
            {
                pump.work.await;
            }
        };
        runtime.spawn(run.in_current_span());
        away
    }

    /// Whether it waits for its caller, and no plugin of it is known to take long.
    fn may_return(&self) -> bool {
        self.idle.is() && !slice::is_slow(&self.chain, Phase::Stream)
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
    idle: Arc<Idle>,
}

/// A pipe and its other end; `idle` says when that one waits.
pub(crate) fn pipe(plan: Option<GuardPlan>, idle: Arc<Idle>) -> (OutgoingPipe, Inlet) {
    let (input, given) = mpsc::unbounded_channel();
    let (released, output) = mpsc::unbounded_channel();
    let backlog = Arc::new(Backlog::default());
    let inlet = Inlet { input: given, output: released, backlog: Arc::clone(&backlog), idle };
    (OutgoingPipe { input, output, backlog, plan, pump: Whereabouts::Over, alarm: None }, inlet)
}

impl OutgoingPipe {
    /// Makes the caller drive the other end; or the hooks' runtime at once, if the
    /// plugins are known to take long.
    pub(crate) fn start(&mut self, pump: Pump) {
        self.pump = if slice::takes_long(&pump.chain, Phase::Stream) {
            Whereabouts::Elsewhere(pump.move_elsewhere())
        } else {
            Whereabouts::Here(pump)
        };
    }
}

impl Inlet {
    /// The pipeline waits for its caller, until then at most.
    pub(super) fn idle_begins(&self, until: Option<Instant>) {
        self.idle.begin(until);
    }

    pub(super) fn idle_ends(&self) {
        self.idle.end();
    }

    /// A piece of text was taken in.
    pub(super) fn taken(&self) {
        if self.backlog.pieces.fetch_sub(1, Ordering::AcqRel) == AHEAD {
            self.backlog.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
