//! A job's channel to its reader, and the flags the two share.
//!
//! The channel is bounded, and nothing is ever dropped: text that does not fit
//! waits here, joined, and the job pauses. Places for the last text and the end
//! are reserved from the beginning, so a job can always end at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender, channel};

use crate::engine::alarm::Alarm;
use crate::error::GenerationError;
use crate::job::{Event, Piece};

/// Where a job is, as far as cancelling is concerned.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting = 0,
    Running = 1,
    /// Cancelled before it began; its reader already knows.
    Withdrawn = 2,
    /// Its end was sent; cancelling it must not cost the others a step.
    Ended = 3,
}

/// What reader and engine tell each other without a message.
#[derive(Debug)]
pub(crate) struct Signal {
    stage: AtomicU8,
    cancelled: AtomicBool,
    paused: AtomicBool,
    prefilling: AtomicBool,
    withdrawn: Notify,
    alarm: Arc<Alarm>,
}

impl Signal {
    pub(crate) fn new(alarm: Arc<Alarm>) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Waiting as u8),
            cancelled: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            prefilling: AtomicBool::new(false),
            withdrawn: Notify::new(),
            alarm,
        }
    }

    /// Cancels the job; the engine has to be woken afterwards.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if self.change(Stage::Waiting, Stage::Withdrawn) {
            self.withdrawn.notify_one();
        } else if self.stage.load(Ordering::SeqCst) != Stage::Running as u8 {
            // It has ended.
        } else if self.prefilling.load(Ordering::SeqCst) {
            // The engine computes the other jobs of the step again.
            self.alarm.ring();
        } else {
            // The step holds nothing of this job that is worth ending it, but
            // what this job holds is free only after it.
            self.alarm.ring_if_long();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// The engine takes the job; false if it was withdrawn.
    pub(crate) fn begin(&self) -> bool {
        self.change(Stage::Waiting, Stage::Running)
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == Stage::Withdrawn as u8
    }

    /// Completes once the job is withdrawn.
    pub(crate) async fn withdrawn(&self) {
        self.withdrawn.notified().await;
    }

    /// Whether the reader has to wake the engine; asking resets it.
    pub(crate) fn take_paused(&self) -> bool {
        self.paused.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn set_prefilling(&self, value: bool) {
        self.prefilling.store(value, Ordering::SeqCst);
    }

    fn change(&self, from: Stage, to: Stage) -> bool {
        self.stage
            .compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// Counts a job as accepted for as long as it lives.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None` if there are `limit` jobs already.
    pub(crate) fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < limit).then_some(n + 1))
            .ok()
            .map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The engine's end of a job's channel.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: Sender<Event>,
    /// Places for the last text and for the end; gone once the job has ended.
    reserved: Option<(OwnedPermit<Event>, OwnedPermit<Event>)>,
    pending: Piece,
    /// Asked after the text before it.
    question: Option<Event>,
    pub(crate) signal: Arc<Signal>,
    place: Option<Place>,
}

impl Outlet {
    /// A channel with room for `capacity` texts and the end.
    pub(crate) fn new(
        capacity: usize,
        signal: Arc<Signal>,
        place: Place,
    ) -> (Self, Receiver<Event>) {
        let (sender, receiver) = channel(capacity.max(1).saturating_add(2));
        let reserved =
            sender.clone().try_reserve_owned().ok().zip(sender.clone().try_reserve_owned().ok());
        let outlet = Self {
            sender,
            reserved,
            pending: Piece::default(),
            question: None,
            signal,
            place: Some(place),
        };
        (outlet, receiver)
    }

    /// Text to be sent, now or later.
    pub(crate) fn text(&mut self) -> &mut String {
        &mut self.pending.text
    }

    /// Notes the token that the next text comes from.
    pub(crate) fn token(&mut self, token: u32) {
        self.pending.tokens.push(token);
    }

    /// A question to be sent behind the text.
    pub(crate) fn ask(&mut self, question: Event) {
        self.question = Some(question);
    }

    /// Sends what is pending. False if the reader does not keep up: then the
    /// reader wakes the engine once it has read something.
    pub(crate) fn flush(&mut self) -> bool {
        if self.try_flush() {
            return true;
        }
        self.signal.paused.store(true, Ordering::SeqCst);
        // The reader may have read everything between the two lines above, and
        // not have seen the flag.
        if self.try_flush() {
            self.signal.paused.store(false, Ordering::SeqCst);
            return true;
        }
        false
    }

    fn try_flush(&mut self) -> bool {
        if !self.pending.text.is_empty() {
            match self.sender.try_send(Event::Text(std::mem::take(&mut self.pending))) {
                Ok(()) => {}
                Err(TrySendError::Full(Event::Text(piece))) => {
                    self.pending = piece;
                    return false;
                }
                Err(TrySendError::Full(_)) => return false,
                Err(TrySendError::Closed(_)) => self.signal.cancel(),
            }
        }
        if let Some(question) = self.question.take() {
            match self.sender.try_send(question) {
                Ok(()) => {}
                Err(TrySendError::Full(question)) => {
                    self.question = Some(question);
                    return false;
                }
                Err(TrySendError::Closed(_)) => self.signal.cancel(),
            }
        }
        true
    }

    /// Sends what is pending and the last event.
    pub(crate) fn end(mut self, last: Event) {
        self.send_end(last);
    }

    fn send_end(&mut self, last: Event) {
        let Some((text, end)) = self.reserved.take() else {
            return;
        };
        // Whoever reads the end may submit the next job at once.
        self.place = None;
        self.signal.change(Stage::Running, Stage::Ended);
        if !self.pending.text.is_empty() {
            text.send(Event::Text(std::mem::take(&mut self.pending)));
        }
        end.send(last);
    }
}

impl Drop for Outlet {
    /// A job that is lost, by a panic or because the engine ends, fails.
    fn drop(&mut self) {
        if !self.signal.is_withdrawn() {
            self.send_end(Event::Failed(GenerationError::Stopped));
        }
    }
}
