//! The outgoing pipeline: generated text passes every plugin that takes part, and
//! only what all of them released reaches the client.
//!
//! ```text
//!  engine ─▶ push ─▶ [stage of the last plugin] ─▶ ... ─▶ [stage of the first] ─▶ next ─▶ client
//! ```
//!
//! Stages run in the reverse order of the incoming phases, like the layers of an
//! onion. The pipeline is a task on the hooks' runtime; [`OutgoingPipe`] is the
//! caller's end of it. One plugin's part is `stage`; what may be held, for how
//! long and by whom, is `held`.

mod chunker;
mod held;
mod stage;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;

use crate::calls::JobState;
use crate::data::{FinishReason, Outgoing, Usage};
use crate::error::{Failure, Phase};
use stage::{End, Ending, Stage};

/// Pieces that may wait for a slow filter before [`Room::wait`] makes the caller
/// wait, too.
const AHEAD: usize = 64;

/// The caller's end of one job's outgoing pipeline. Dropping it before its end
/// cancels: filters hear of it, and nothing more is released.
pub struct OutgoingPipe {
    input: mpsc::UnboundedSender<Input>,
    output: mpsc::UnboundedReceiver<Outgoing>,
    backlog: Arc<Backlog>,
}

#[derive(Debug, Default)]
struct Backlog {
    pieces: AtomicUsize,
    room: Notify,
}

enum Input {
    Text(String, Vec<u32>),
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

    /// Says that no text follows.
    pub fn close(&self, finish: FinishReason, usage: Usage) {
        let _ = self.input.send(Input::Close(Ending { finish, usage }));
    }

    /// What comes out next: text, and at last exactly one of the others. After
    /// that, and if the pipeline broke, it is `Failed` again and again. Can be
    /// dropped and called again.
    pub async fn next(&mut self) -> Outgoing {
        self.output.recv().await.unwrap_or_else(|| {
            Outgoing::Failed(Failure {
                plugin: String::new(),
                phase: Phase::Stream,
                kind: crate::FailureKind::Host,
                retryable: false,
                detail: "the outgoing pipeline is over".to_owned(),
            })
        })
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
    input: mpsc::UnboundedReceiver<Input>,
    output: mpsc::UnboundedSender<Outgoing>,
    backlog: Arc<Backlog>,
}

/// A pipe and its other end.
pub(crate) fn pipe() -> (OutgoingPipe, Inlet) {
    let (input, given) = mpsc::unbounded_channel();
    let (released, output) = mpsc::unbounded_channel();
    let backlog = Arc::new(Backlog::default());
    let inlet = Inlet { input: given, output: released, backlog: Arc::clone(&backlog) };
    (OutgoingPipe { input, output, backlog }, inlet)
}

impl JobState {
    /// Opens the stages of all plugins that take part, in the order in which text
    /// passes them.
    pub(crate) async fn open(&mut self, streams: bool) -> Result<Vec<Stage>, Failure> {
        let mut stages = Vec::new();
        for place in (0..self.chain.plugins.len()).rev() {
            match self.open_stage(place, streams).await {
                Ok(Some(stage)) => stages.push(stage),
                Ok(None) => {}
                Err(failure) => {
                    let ending =
                        Ending { finish: FinishReason::Cancelled, usage: Usage::default() };
                    for stage in &mut stages {
                        self.discard(stage, &ending).await;
                    }
                    // Only now, because it takes the instances away.
                    self.end();
                    return Err(failure);
                }
            }
        }
        Ok(stages)
    }

    /// Gives up the instances that have no part in what is left of the job.
    pub(crate) fn keep_outgoing(&mut self) {
        let phases = [Phase::Stream, Phase::Response, Phase::Observer];
        self.keep_only(|plugin| phases.iter().any(|phase| plugin.called_in(*phase)));
    }

    /// Runs the pipeline until the output ends, in whichever way.
    pub(crate) async fn pump(&mut self, mut stages: Vec<Stage>, mut inlet: Inlet) {
        let ended = self.run(&mut stages, &mut inlet).await;
        let (last, finish) = match ended {
            // The caller went away.
            None => (None, FinishReason::Cancelled),
            Some(Ok(finish)) => (Some(Outgoing::Done(finish.clone())), finish),
            Some(Err(End::Rejected { plugin, phase, code, reason })) => {
                let finish = FinishReason::Filtered("rejected".to_owned());
                (Some(Outgoing::Rejected { plugin, phase, code, reason }), finish)
            }
            Some(Err(End::Failed(failure))) => {
                (Some(Outgoing::Failed(failure)), FinishReason::Cancelled)
            }
            // Halts have become the end of the text on their way.
            Some(Err(End::Halt { reason, .. })) => {
                let finish = FinishReason::Filtered(reason);
                (Some(Outgoing::Done(finish.clone())), finish)
            }
        };
        // The client first; the filters that are left hear of it afterwards.
        if let Some(last) = last {
            let _ = inlet.output.send(last);
        }
        drop(inlet);
        let ending = Ending { finish, usage: Usage::default() };
        for stage in &mut stages {
            self.discard(stage, &ending).await;
        }
        self.keep_only(|plugin| plugin.called_in(Phase::Observer));
    }

    /// Passes text from the inlet through the stages; `None` if the caller went
    /// away.
    async fn run(
        &mut self,
        stages: &mut [Stage],
        inlet: &mut Inlet,
    ) -> Option<Result<FinishReason, End>> {
        loop {
            let held_until = stages.iter().filter_map(|stage| stage.hold_deadline(self)).min();
            let input = tokio::select! {
                biased;
                // First, so that text which keeps coming cannot hide it.
                () = until(held_until) => {
                    for stage in stages.iter_mut() {
                        if stage.hold_deadline(self) == held_until
                            && let Err(end) = self.held_too_long(stage)
                        {
                            return Some(Err(end));
                        }
                    }
                    continue;
                }
                input = inlet.input.recv() => input?,
            };
            let (text, tokens, ending) = match input {
                Input::Text(text, tokens) => {
                    if inlet.backlog.pieces.fetch_sub(1, Ordering::AcqRel) == AHEAD {
                        inlet.backlog.room.notify_waiters();
                    }
                    (text, tokens, None)
                }
                Input::Close(ending) => (String::new(), Vec::new(), Some(ending)),
            };
            match self.flow(stages, text, &tokens, ending).await {
                Ok((text, finish)) => {
                    if !text.is_empty() && inlet.output.send(Outgoing::Text(text)).is_err() {
                        return None;
                    }
                    if let Some(finish) = finish {
                        return Some(Ok(finish));
                    }
                }
                Err(end) => return Some(Err(end)),
            }
        }
    }

    /// Passes text through all stages. With an ending, or from the stage on that
    /// makes one, each stage also ends.
    async fn flow(
        &mut self,
        stages: &mut [Stage],
        mut text: String,
        tokens: &[u32],
        mut ending: Option<Ending>,
    ) -> Result<(String, Option<FinishReason>), End> {
        let mut tokens = tokens;
        for stage in stages {
            if text.is_empty() && ending.is_none() {
                break;
            }
            let given = text.len();
            let mut passed = if text.is_empty() {
                Ok(String::new())
            } else {
                self.pass(stage, text, tokens).await
            };
            if let (Ok(out), Some(ending)) = (&mut passed, &ending) {
                match self.close(stage, ending).await {
                    Ok(last) => out.push_str(&last),
                    Err(End::Halt { text, reason }) => {
                        out.push_str(&text);
                        passed = Err(End::Halt { text: std::mem::take(out), reason });
                    }
                    Err(end) => passed = Err(end),
                }
            }
            text = match passed {
                Ok(text) => text,
                Err(End::Halt { text, reason }) => {
                    let usage = ending.map_or_else(Usage::default, |ending| ending.usage);
                    let made = Ending { finish: FinishReason::Filtered(reason), usage };
                    self.halted(stage, &made).await;
                    ending = Some(made);
                    text
                }
                Err(end) => return Err(end),
            };
            // A stage that changed the text has made text of no tokens.
            if text.len() != given {
                tokens = &[];
            }
        }
        Ok((text, ending.map(|ending| ending.finish)))
    }
}

/// Waits for a moment, or for ever if there is none.
async fn until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
