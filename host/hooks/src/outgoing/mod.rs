//! The outgoing pipeline: generated text passes every plugin that takes part, and
//! only what all of them released reaches the client.
//!
//! ```text
//!  engine ─▶ push ─▶ [stage of the last plugin] ─▶ ... ─▶ [stage of the first] ─▶ next ─▶ client
//! ```
//!
//! Stages run in the reverse order of the incoming phases, like the layers of an
//! onion. The caller's end of the pipeline, and who drives it, is `pipe`; one
//! plugin's part is `stage`; what may be held, for how long and by whom, is `held`;
//! the say in the tokens themselves is `guard`.

mod chunker;
mod enter;
mod guard;
mod held;
mod pipe;
mod stage;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use tokio::time::sleep_until;

use crate::calls::JobState;
use crate::data::{FinishReason, GuardPlan, GuardVerdict, Outgoing, Usage};
use crate::error::{Failure, Phase};
use guard::Guard;
use pipe::Input;
pub(crate) use pipe::{Idle, Inlet, Pump, pipe};
pub use pipe::{OutgoingPipe, Room};
use stage::{End, Ending, Stage};

/// The plugins that take part in the output of one job.
pub(crate) struct Parts {
    pub(crate) stages: Vec<Stage>,
    pub(crate) guard: Option<Guard>,
}

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.guard.is_none()
    }

    pub(crate) fn plan(&self) -> Option<GuardPlan> {
        self.guard.as_ref().map(Guard::plan)
    }
}

impl JobState {
    /// Opens the stages of all plugins that take part, in the order in which text
    /// passes them, and the token guard.
    pub(crate) async fn open(&mut self, streams: bool) -> Result<Parts, Failure> {
        let guard = match self.open_guard().await {
            Ok(guard) => guard,
            Err(failure) => {
                self.end();
                return Err(failure);
            }
        };
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
        Ok(Parts { stages, guard })
    }

    /// Gives up the instances that have no part in what is left of the job.
    pub(crate) fn keep_outgoing(&mut self) {
        let phases = [Phase::Token, Phase::Stream, Phase::Response, Phase::Observer];
        self.keep_only(|plugin| phases.iter().any(|phase| plugin.called_in(*phase)));
    }

    /// Runs the pipeline until the output ends, in whichever way.
    pub(crate) async fn pump(&mut self, parts: Parts, mut inlet: Inlet) {
        let Parts { mut stages, mut guard } = parts;
        let ended = self.run(&mut stages, guard.as_mut(), &mut inlet).await;
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
        if let Some(guard) = &mut guard {
            self.end_guard(guard);
        }
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
        mut guard: Option<&mut Guard>,
        inlet: &mut Inlet,
    ) -> Option<Result<FinishReason, End>> {
        loop {
            let held_until = stages.iter().filter_map(|stage| stage.hold_deadline(self)).min();
            inlet.idle_begins(held_until);
            let input = tokio::select! {
                biased;
                // First, so that text which keeps coming cannot hide it.
                () = until(held_until) => {
                    inlet.idle_ends();
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
            inlet.idle_ends();
            let (text, tokens, ending) = match input {
                Input::Text(text, tokens) => {
                    inlet.taken();
                    (text, tokens, None)
                }
                Input::Candidates(previous, candidates, verdict) => {
                    let judged = match guard.as_deref_mut() {
                        Some(guard) => self.judge(guard, previous, &candidates).await,
                        None => Ok(GuardVerdict::Pass),
                    };
                    match judged {
                        Ok(judged) => {
                            // The job may have gone away meanwhile.
                            let _ = verdict.send(judged);
                        }
                        Err(end) => return Some(Err(end)),
                    }
                    continue;
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

/// Waits for a moment, or for ever if there is none. The moment counts, and not that a
/// timer has seen it: the caller may have polled for that reason (`pipe`).
async fn until(at: Option<Instant>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    let mut timer = pin!(sleep_until(at.into()));
    poll_fn(|cx| if Instant::now() >= at { Poll::Ready(()) } else { timer.as_mut().poll(cx) })
        .await;
}
