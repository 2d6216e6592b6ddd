//! The submitter's end of a running job.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use crate::engine::outlet::Signal;
use crate::engine::thread::EngineHandle;
use crate::error::{DecideError, GenerationError};
use crate::job::{Event, FinishReason, Finished, GuardVerdict};

/// A job that was accepted. Dropping it cancels the job.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<Event>,
    signal: Arc<Signal>,
    engine: Arc<EngineHandle>,
    prompt_tokens: u32,
    submitted: Instant,
    /// The way to the job's guard; room for the one answer that can be due.
    verdicts: Option<SyncSender<GuardVerdict>>,
    /// Whether a question was read that has not been answered.
    asked: bool,
    ended: bool,
}

impl Generation {
    pub(crate) fn new(
        events: Receiver<Event>,
        signal: Arc<Signal>,
        engine: Arc<EngineHandle>,
        prompt_tokens: u32,
        submitted: Instant,
        verdicts: Option<SyncSender<GuardVerdict>>,
    ) -> Self {
        Self {
            events,
            signal,
            engine,
            prompt_tokens,
            submitted,
            verdicts,
            asked: false,
            ended: false,
        }
    }

    /// The next event, or `None` after the last one.
    ///
    /// Cancel safe: an event is not lost when this future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = tokio::select! {
            biased;
            // A job cancelled while it waited ends here: the engine may be in
            // the middle of a long step of others.
            () = self.signal.withdrawn() => self.withdrawn(),
            event = self.events.recv() => match event {
                Some(event) => event,
                // The engine may drop a withdrawn job before this hears of it.
                None if self.signal.is_withdrawn() => self.withdrawn(),
                None => Event::Failed(GenerationError::Stopped),
            },
        };
        match &event {
            Event::Text(_) | Event::Candidates { .. } => {
                self.asked |= matches!(event, Event::Candidates { .. });
                if self.signal.take_paused() {
                    self.engine.wake();
                }
            }
            Event::Finished(_) | Event::Failed(_) => self.ended = true,
        }
        Some(event)
    }

    /// Answers [`Event::Candidates`]; the job goes on. An answer that cannot be
    /// followed fails the job with [`GenerationError::Guard`].
    ///
    /// # Errors
    /// [`DecideError::NotAsked`]: there is no question, or it was answered.
    pub fn decide(&mut self, verdict: GuardVerdict) -> Result<(), DecideError> {
        let verdicts =
            self.verdicts.as_ref().filter(|_| self.asked).ok_or(DecideError::NotAsked)?;
        self.asked = false;
        // There is room, for only one answer can be due; and a job that has
        // ended meanwhile needs none.
        let _ = verdicts.try_send(verdict);
        self.engine.wake();
        Ok(())
    }

    /// Stops the job before its next token; it then ends with
    /// [`crate::FinishReason::Cancelled`]. A job that still waits ends at once.
    pub fn cancel(&self) {
        self.canceller().cancel();
    }

    /// A handle that cancels this job from elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller { signal: Arc::clone(&self.signal), engine: Arc::downgrade(&self.engine) }
    }

    fn withdrawn(&self) -> Event {
        Event::Finished(Finished {
            reason: FinishReason::Cancelled,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            completion_tokens: 0,
            draft_tokens: 0,
            accepted_draft_tokens: 0,
            queue_time: self.submitted.elapsed(),
            prompt_time: Duration::ZERO,
            predict_time: Duration::ZERO,
        })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}

/// Cancels one job; may be cloned, and kept longer than the job or its model.
#[derive(Debug, Clone)]
pub struct Canceller {
    signal: Arc<Signal>,
    engine: Weak<EngineHandle>,
}

impl Canceller {
    /// As [`Generation::cancel`]; without effect once the job has ended.
    pub fn cancel(&self) {
        self.signal.cancel();
        if let Some(engine) = self.engine.upgrade() {
            engine.wake();
        }
    }
}
