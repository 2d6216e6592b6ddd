//! One plugin's place in the outgoing pipeline: it takes text, and gives what its
//! plugin released of it.
//!
//! A stream filter and a response hook are both stages: the one judges pieces, the
//! other the whole. What verdicts do to held text is in `held`; in which order
//! stages run is decided by `outgoing`; how plugins are called is `enter`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;

use super::chunker::{Chunk, Chunker};
use super::held::{Held, Released};
use crate::bindings::v0_1::{response_hook, stream_filter};
use crate::calls::{JobState, checked, failure, invalid};
use crate::classify::CallError;
use crate::data::{Change, FieldChange, FinishReason, Usage, Verdict};
use crate::error::{Failure, FailureKind, Phase};
use crate::policy::{Mode, WholeOutput};
use crate::verdict::check_text;
use crate::watch::Watch;

/// A plugin that takes part in the output of one job.
pub(crate) struct Stage {
    pub(super) place: usize,
    phase: Phase,
    pub(super) kind: Kind,
    /// Its verdicts have no effect: text goes on as it came.
    shadow: bool,
    /// Gone once it has ended, in whichever way.
    pub(super) watch: Option<Watch>,
    /// Whether text still goes through the plugin.
    live: bool,
    pub(super) pushes: u32,
    changed: bool,
    before_bytes: usize,
    after_bytes: usize,
    wall: Duration,
    cpu: Duration,
}

pub(super) enum Kind {
    Filter { chunker: Chunker, held: Held, hold_bytes: usize, wants_tokens: bool },
    Whole { text: String },
}

/// Why the output ends here.
#[derive(Debug)]
pub(crate) enum End {
    /// This is the last text.
    Halt {
        text: String,
        reason: String,
    },
    Rejected {
        plugin: String,
        phase: Phase,
        code: Option<u32>,
        reason: String,
    },
    Failed(Failure),
}

/// The end of the output, as stages hear of it.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) finish: FinishReason,
    pub(crate) usage: Usage,
}

impl Stage {
    /// When its held text will have been held for too long.
    pub(crate) fn hold_deadline(&self, state: &JobState) -> Option<Instant> {
        let Kind::Filter { held, .. } = &self.kind else {
            return None;
        };
        let limits = &state.chain.plugins[self.place].shared.limits;
        held.since().filter(|_| self.live).map(|since| since + limits.hold_time)
    }

    /// Whether it still has to hear of the end.
    pub(crate) fn is_open(&self) -> bool {
        self.watch.is_some()
    }
}

impl JobState {
    /// Opens the stage of one plugin; `None` if it takes no part.
    pub(crate) async fn open_stage(
        &mut self,
        place: usize,
        streams: bool,
    ) -> Result<Option<Stage>, Failure> {
        let chain = Arc::clone(&self.chain);
        let plugin = &chain.plugins[place];
        let policy = &plugin.shared.policy;
        let (filter, whole) =
            (self.calls(plugin, Phase::Stream), self.calls(plugin, Phase::Response));
        // Asking for a stream, or not, is no way around a plugin.
        let phase = match (filter, whole) {
            (false, false) => return Ok(None),
            (true, false) => Phase::Stream,
            (false, true) if streams && policy.streams == WholeOutput::Skip => return Ok(None),
            (false, true) => Phase::Response,
            (true, true) if streams => Phase::Stream,
            (true, true) => Phase::Response,
        };
        let watch = Watch::start(plugin, phase, &self.shared);
        let kind = if phase == Phase::Response {
            Kind::Whole { text: String::new() }
        } else {
            let span = watch.span.clone();
            let opened = self.open_filter(place, &watch).instrument(span).await;
            let cpu = self.cpu(place);
            match opened {
                Ok(Some(plan)) => {
                    let limits = &plugin.shared.limits;
                    Kind::Filter {
                        chunker: Chunker::new(plan.granularity),
                        held: Held::default(),
                        hold_bytes: limits.hold_bytes.min(plan.max_hold_bytes as usize),
                        wants_tokens: plan.wants_tokens,
                    }
                }
                Ok(None) => {
                    watch.settle(&self.shared, Verdict::Pass, cpu, None);
                    return Ok(None);
                }
                Err(error) => {
                    watch.settle(&self.shared, Verdict::Failed, cpu, Some(&error));
                    self.drop_instance(place);
                    if self.lets_pass(plugin, phase, error.kind) {
                        plugin.shared.stats.skipped(phase);
                        return Ok(None);
                    }
                    return Err(failure(&plugin.info.id, phase, error));
                }
            }
        };
        Ok(Some(Stage {
            place,
            phase,
            kind,
            shadow: policy.mode == Mode::Shadow,
            watch: Some(watch),
            live: true,
            pushes: 0,
            changed: false,
            before_bytes: 0,
            after_bytes: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        }))
    }

    /// Passes text through a stage, and gives what it lets go.
    pub(crate) async fn pass(
        &mut self,
        stage: &mut Stage,
        text: String,
        tokens: &[u32],
    ) -> Result<String, End> {
        if !stage.live {
            return Ok(text);
        }
        stage.before_bytes += text.len();
        match &mut stage.kind {
            Kind::Whole { text: whole } => {
                whole.push_str(&text);
                Ok(if stage.shadow { text } else { String::new() })
            }
            Kind::Filter { chunker, wants_tokens, .. } => {
                chunker.add(&text, if *wants_tokens { tokens } else { &[] });
                let out = self.push_all(stage).await;
                self.shadowed(stage, text, out)
            }
        }
    }

    /// Tells a stage that the text is over, and gives the last of it.
    pub(crate) async fn close(
        &mut self,
        stage: &mut Stage,
        ending: &Ending,
    ) -> Result<String, End> {
        if !stage.live {
            return Ok(String::new());
        }
        let mut out = String::new();
        if let Kind::Filter { chunker, .. } = &mut stage.kind
            && let Some(chunk) = chunker.rest()
        {
            match self.push(stage, chunk).await {
                Ok(text) => out.push_str(&text),
                Err(end) => return self.shadowed(stage, String::new(), Err(end)),
            }
        }
        if stage.live {
            let last = self.last(stage, ending).await;
            match last {
                Ok(text) => out.push_str(&text),
                Err(end) => return self.shadowed(stage, String::new(), Err(end)),
            }
        }
        self.shadowed(stage, String::new(), Ok(out))
    }

    /// Ends a stage whose text goes nowhere any more.
    pub(crate) async fn discard(&mut self, stage: &mut Stage, ending: &Ending) {
        if !stage.is_open() {
            return;
        }
        if let (true, Kind::Filter { .. }) = (stage.live, &stage.kind) {
            let closed = Box::pin(self.call_close(stage, ending)).await;
            let (verdict, error) = match &closed {
                Ok(_) => (verdict_of(stage), None),
                Err(error) => (Verdict::Failed, Some(error)),
            };
            let broken = error.is_some();
            self.settle_stage(stage, verdict, error);
            if broken {
                self.drop_instance(stage.place);
            }
        } else {
            // Dropping the watch says nothing about the plugin.
            stage.watch = None;
        }
        stage.live = false;
    }

    /// Ends a stage that held text for too long.
    pub(crate) fn held_too_long(&mut self, stage: &mut Stage) -> Result<(), End> {
        let limits = &self.chain.plugins[stage.place].shared.limits;
        let text =
            format!("text was held for longer than limit `hold_time`, {:?}", limits.hold_time);
        let error = CallError::new(FailureKind::Hold, text);
        match self.fail(stage, error, true) {
            Ok(()) => Ok(()),
            Err(_) if stage.shadow => Ok(()),
            Err(end) => Err(end),
        }
    }

    async fn push_all(&mut self, stage: &mut Stage) -> Result<String, End> {
        let mut out = String::new();
        while let Kind::Filter { chunker, .. } = &mut stage.kind {
            let Some(chunk) = chunker.next() else {
                break;
            };
            match self.push(stage, chunk).await {
                Ok(text) => out.push_str(&text),
                Err(End::Halt { text, reason }) => {
                    out.push_str(&text);
                    return Err(End::Halt { text: out, reason });
                }
                Err(end) => return Err(end),
            }
            if !stage.live {
                // It failed open: what it has not seen goes on without it.
                if let Kind::Filter { chunker, .. } = &mut stage.kind
                    && let Some(rest) = chunker.rest()
                {
                    out.push_str(&rest.text);
                }
                break;
            }
        }
        Ok(out)
    }

    /// One push to a filter, and what its verdict lets go.
    async fn push(&mut self, stage: &mut Stage, chunk: Chunk) -> Result<String, End> {
        let began = Instant::now();
        let text = chunk.text.clone();
        // Boxed, here and elsewhere: futures are moved into each future around them,
        // and those of calls are large.
        let called = Box::pin(self.call_push(stage, chunk)).await;
        stage.wall += began.elapsed();
        stage.cpu += self.cpu(stage.place);
        stage.pushes = stage.pushes.saturating_add(1);
        let chain = Arc::clone(&self.chain);
        let plugin = &chain.plugins[stage.place].shared;
        plugin.stats.pushed(began.elapsed());
        let Kind::Filter { held, hold_bytes, .. } = &mut stage.kind else {
            return Ok(text);
        };
        let held_before = held.len();
        let released = called.and_then(|verdict| {
            stage.changed |= !matches!(
                verdict,
                stream_filter::Verdict::Pass
                    | stream_filter::Verdict::Hold
                    | stream_filter::Verdict::Release(_)
            );
            let released =
                held.apply(&text, verdict, &plugin.limits, Instant::now()).map_err(invalid)?;
            if held.len() > *hold_bytes {
                return Err(CallError::new(
                    FailureKind::Hold,
                    format!(
                        "{} bytes of text are held, the limit is {hold_bytes}, the smaller one of \
                         limit `hold_bytes` and of what the filter's plan says",
                        held.len()
                    ),
                ));
            }
            Ok(released)
        });
        plugin.stats.held(held.len());
        if let (Ok(_), Some(watch)) = (&released, &mut stage.watch) {
            watch.proved();
        }
        match released {
            Ok(released) => self.released(stage, released),
            Err(error) => {
                self.fail(stage, error, held_before > 0)?;
                Ok(text)
            }
        }
    }

    /// The last call of a stage, and the text that it lets go.
    async fn last(&mut self, stage: &mut Stage, ending: &Ending) -> Result<String, End> {
        let began = Instant::now();
        let chain = Arc::clone(&self.chain);
        let limits = &chain.plugins[stage.place].shared.limits;
        let released = match &mut stage.kind {
            Kind::Filter { .. } => {
                let tail = Box::pin(self.call_close(stage, ending)).await;
                let Kind::Filter { held, .. } = &mut stage.kind else {
                    return Ok(String::new());
                };
                let held_before = held.len() > 0;
                let changed = !matches!(tail, Ok(stream_filter::Tail::Release));
                let ended = tail.and_then(|tail| held.end(tail, limits).map_err(invalid));
                stage.changed |= changed && held_before;
                ended.map_err(|error| (error, held_before, String::new()))
            }
            Kind::Whole { text } => {
                let text = std::mem::take(text);
                match Box::pin(self.call_response(stage, &text, ending)).await {
                    Ok(response_hook::Verdict::Pass) => Ok(Released::Text(text)),
                    Ok(response_hook::Verdict::Replace(new)) => {
                        stage.changed |= new != text;
                        check_text("the new output", &new, limits)
                            .map(|()| Released::Text(new))
                            .map_err(|reason| (invalid(reason), false, text))
                    }
                    Ok(response_hook::Verdict::Reject(rejection)) => checked(rejection, limits)
                        .map(|r| Released::Reject { code: r.code, reason: r.reason })
                        .map_err(|error| (error, false, text)),
                    Err(error) => Err((error, false, text)),
                }
            }
        };
        stage.wall += began.elapsed();
        stage.cpu += self.cpu(stage.place);
        match released {
            Ok(released) => {
                let text = self.released(stage, released)?;
                self.settle_stage(stage, verdict_of(stage), None);
                Ok(text)
            }
            Err((error, held, text)) => {
                self.fail(stage, error, held)?;
                Ok(text)
            }
        }
    }

    /// Text that goes on, or the end that the plugin decided on.
    fn released(&mut self, stage: &mut Stage, released: Released) -> Result<String, End> {
        match released {
            Released::Text(text) => {
                stage.after_bytes += text.len();
                Ok(text)
            }
            Released::Halt { text, reason } => {
                stage.after_bytes += text.len();
                Err(End::Halt { text, reason })
            }
            Released::Reject { code, reason } => {
                self.settle_stage(stage, Verdict::Reject, None);
                stage.live = false;
                let plugin = self.chain.plugins[stage.place].info.id.clone();
                Err(End::Rejected { plugin, phase: stage.phase, code, reason })
            }
        }
    }

    /// A failed call: the stage is over, and the job too, unless the policy is to
    /// go on and nothing was held. Text that is held is lost either way, and going
    /// on without it would leave a hole that nobody sees.
    fn fail(&mut self, stage: &mut Stage, error: CallError, held: bool) -> Result<(), End> {
        let chain = Arc::clone(&self.chain);
        let plugin = &chain.plugins[stage.place];
        self.settle_stage(stage, Verdict::Failed, Some(&error));
        self.drop_instance(stage.place);
        stage.live = false;
        if !held && self.lets_pass(plugin, stage.phase, error.kind) {
            plugin.shared.stats.skipped(stage.phase);
            return Ok(());
        }
        Err(End::Failed(failure(&plugin.info.id, stage.phase, error)))
    }

    /// Records how a stage ended.
    fn settle_stage(&mut self, stage: &mut Stage, verdict: Verdict, error: Option<&CallError>) {
        let Some(watch) = stage.watch.take() else {
            return;
        };
        watch.settle_after(&self.shared, verdict, stage.wall, stage.cpu, error);
        let fields = (verdict == Verdict::Replace).then(|| FieldChange {
            field: "output".to_owned(),
            before_bytes: Some(stage.before_bytes),
            after_bytes: Some(stage.after_bytes),
            text: None,
        });
        self.shared.add_change(Change {
            plugin: self.chain.plugins[stage.place].info.id.clone(),
            phase: stage.phase,
            verdict,
            shadow: stage.shadow,
            fields: fields.into_iter().collect(),
            wall: stage.wall,
        });
    }
}

impl JobState {
    /// What goes on behind a stage: what it let go, or, if it is only tried out, the
    /// text as it came.
    fn shadowed(
        &mut self,
        stage: &mut Stage,
        original: String,
        out: Result<String, End>,
    ) -> Result<String, End> {
        if !stage.shadow {
            return out;
        }
        if out.is_err() {
            stage.live = false;
            // All but a halt were recorded where they were made.
            self.settle_stage(stage, Verdict::Halt, None);
        }
        Ok(original)
    }

    /// A stage whose plugin ended the output: it hears of the end it made.
    pub(crate) async fn halted(&mut self, stage: &mut Stage, ending: &Ending) {
        if stage.is_open() && stage.live {
            // Its text was the last, so that its tail has no place to go.
            let closed = match stage.kind {
                Kind::Filter { .. } => Box::pin(self.call_close(stage, ending)).await.err(),
                Kind::Whole { .. } => None,
            };
            if closed.is_some() {
                self.drop_instance(stage.place);
            }
            self.settle_stage(stage, Verdict::Halt, closed.as_ref());
        }
        stage.live = false;
    }
}

fn verdict_of(stage: &Stage) -> Verdict {
    if stage.changed { Verdict::Replace } else { Verdict::Pass }
}
