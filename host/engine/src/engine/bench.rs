//! What the engine's tests have in common: readers of jobs, and an engine over
//! the fake backend.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::alarm::Alarm;
use super::backend::BackendLimits;
use super::cache::CacheLimits;
use super::fake::{EOG, FakeBackend, POISON};
use super::outlet::{Place, Signal};
use super::scheduler::{Engine, Policy, Stepped};
use super::specs::{Spec, submission};
use super::stats::SharedStats;
use crate::config::EngineStats;
use crate::error::GenerationError;
use crate::job::{Event, FinishReason, Finished, GuardVerdict};

pub(super) const BLOCK: usize = 4;

/// A job that was submitted, as its reader sees it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) spec: Spec,
    pub(super) events: Receiver<Event>,
    pub(super) signal: Arc<Signal>,
    pub(super) answers: SyncSender<GuardVerdict>,
    /// Questions that were read and not answered.
    pub(super) asked: Option<Vec<(u32, f32)>>,
    pub(super) questions: usize,
    pub(super) text: String,
    pub(super) end: Option<Event>,
    pub(super) cancelled: bool,
}

impl Reader {
    /// Reads one event if there is one.
    pub(super) fn read(&mut self) -> bool {
        match self.events.try_recv() {
            Ok(Event::Text(piece)) => {
                assert!(!piece.text.is_empty(), "empty text");
                assert!(self.end.is_none(), "text after the end");
                // What was held back goes out with the end of a cancelled job.
                let sits_out = self.asked.is_some() && !self.cancelled;
                assert!(!sits_out, "text while the job should sit out");
                self.text.push_str(&piece.text);
                true
            }
            Ok(Event::Candidates { candidates, .. }) => {
                assert!(self.end.is_none(), "a question after the end");
                assert!(self.asked.is_none(), "two questions at once");
                self.asked = Some(candidates);
                self.questions += 1;
                true
            }
            Ok(end) => {
                assert!(self.end.is_none(), "two ends");
                self.end = Some(end);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => {
                assert!(
                    self.end.is_some() || self.signal.is_withdrawn(),
                    "no end before the channel closed"
                );
                false
            }
        }
    }

    pub(super) fn answer(&mut self, verdict: GuardVerdict) {
        assert!(self.asked.take().is_some(), "nothing was asked");
        // A job that has ended meanwhile takes no answer.
        let full = matches!(self.answers.try_send(verdict), Err(TrySendError::Full(_)));
        assert!(!full, "an answer was not taken");
    }

    pub(super) fn is_done(&self) -> bool {
        self.end.is_some() || self.signal.is_withdrawn()
    }

    pub(super) fn finished(&self) -> &Finished {
        match &self.end {
            Some(Event::Finished(finished)) => finished,
            other => panic!("expected an end, got {other:?}"),
        }
    }

    pub(super) fn error(&self) -> &GenerationError {
        match &self.end {
            Some(Event::Failed(error)) => error,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    /// Compares with what the job gives when it is alone.
    pub(super) fn check(&self) {
        let (text, n_tokens, reason) = self.spec.reference();
        match &self.end {
            Some(Event::Finished(Finished {
                reason: FinishReason::Cancelled,
                completion_tokens,
                ..
            })) => {
                assert!(self.cancelled, "cancelled by nobody");
                let shown = self.text.trim_end_matches('\u{FFFD}');
                // Cut off behind the beginning of a stop string that would have become
                // whole: that is text, and of the text that ends before it no part.
                let ends_in = |stop: &String| {
                    (1..stop.len()).any(|n| {
                        let before = shown.strip_suffix(&stop[..n]);
                        before.is_some_and(|before| text == before)
                    })
                };
                let is_cut = self.spec.stop.iter().any(ends_in);
                assert!(text.starts_with(shown) || is_cut, "{shown:?} of {text:?}");
                assert!(*completion_tokens as usize <= n_tokens);
            }
            Some(Event::Finished(finished)) => {
                assert_eq!(self.text, text, "{:?}", self.spec);
                assert_eq!(finished.completion_tokens as usize, n_tokens);
                assert_eq!(finished.prompt_tokens as usize, self.spec.prompt.len());
                assert_eq!(finished.reason, reason);
                assert!(finished.cached_tokens < finished.prompt_tokens);
            }
            Some(Event::Failed(_)) => {
                assert!(self.spec.prompt.contains(&POISON), "failed without reason");
                assert!(text.starts_with(&self.text));
            }
            Some(Event::Text(_) | Event::Candidates { .. }) => unreachable!("no end"),
            None => assert!(self.signal.is_withdrawn() && self.text.is_empty()),
        }
    }
}

/// How an engine is made.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) n_batch: usize,
    pub(super) n_together: usize,
    pub(super) n_slots: usize,
    pub(super) n_leaves: usize,
    pub(super) n_cells: usize,
    pub(super) shares: bool,
    pub(super) policy: Policy,
}

impl Setup {
    /// Room for everything, and a cache.
    pub(super) fn new(n_batch: usize, n_slots: usize) -> Self {
        Self {
            n_batch,
            n_together: usize::MAX,
            n_slots,
            n_leaves: 4,
            n_cells: 1 << 16,
            shares: true,
            policy: Policy {
                stall_target: Duration::from_millis(200),
                reserve: 8,
                fair_preempt: None,
                cache: Some(CacheLimits { block: BLOCK, cells: 1 << 15, pinned_cells: 1 << 10 }),
                speculate: 0,
            },
        }
    }

    pub(super) fn engine(&self, alarm: Arc<Alarm>, stats: Arc<SharedStats>) -> Engine<FakeBackend> {
        let limits = BackendLimits {
            n_batch: self.n_batch,
            n_together: self.n_together,
            n_slots: self.n_slots,
            n_leaves: self.n_leaves,
            n_cells: self.n_cells,
        };
        let backend = FakeBackend::new(limits, self.shares);
        Engine::new(backend, vec![EOG], self.policy.clone(), alarm, stats)
    }
}

/// An engine over the fake backend, with its readers.
pub(super) struct Bench {
    pub(super) engine: Engine<FakeBackend>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) readers: Vec<Reader>,
    stats: Arc<SharedStats>,
    count: Arc<AtomicUsize>,
}

impl Bench {
    pub(super) fn new(n_batch: usize, n_slots: usize) -> Self {
        Self::with(&Setup::new(n_batch, n_slots))
    }

    pub(super) fn with(setup: &Setup) -> Self {
        let alarm = Arc::new(Alarm::new(Arc::new(AtomicBool::new(false))));
        let stats = Arc::new(SharedStats::default());
        Self {
            engine: setup.engine(Arc::clone(&alarm), Arc::clone(&stats)),
            alarm,
            stats,
            count: Arc::new(AtomicUsize::new(0)),
            readers: Vec::new(),
        }
    }

    pub(super) fn submit(&mut self, spec: Spec) -> usize {
        let signal = Arc::new(Signal::new(Arc::clone(&self.alarm)));
        let place = Place::take(&self.count, usize::MAX).unwrap();
        let (submission, events, answers) = submission(&spec, Arc::clone(&signal), place);
        self.engine.submit(submission);
        self.readers.push(Reader {
            spec,
            events,
            signal,
            answers,
            asked: None,
            questions: 0,
            text: String::new(),
            end: None,
            cancelled: false,
        });
        self.readers.len() - 1
    }

    /// A step, after which books and backend must tell the same.
    pub(super) fn step(&mut self) -> Stepped {
        let stepped = self.engine.step();
        let kv = self.engine.kv_mut();
        let (used, total) = (kv.cells().total() - kv.cells().free(), kv.cells().total());
        assert_eq!(used, kv.backend().cells(), "the ledger is wrong");
        assert!(used <= total);
        stepped
    }

    pub(super) fn steps(&mut self, n: usize) {
        for _ in 0..n {
            self.step();
            self.read_all();
        }
    }

    /// Reads what there is, and lets every question pass.
    pub(super) fn read_all(&mut self) -> bool {
        let mut read = false;
        for reader in &mut self.readers {
            while reader.read() {
                read = true;
            }
            if reader.asked.is_some() {
                reader.answer(GuardVerdict::Pass);
                read = true;
            }
        }
        read
    }

    pub(super) fn cancel(&mut self, index: usize) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.cancelled = true;
            reader.signal.cancel();
        }
    }

    pub(super) fn stats(&self) -> EngineStats {
        self.stats.read()
    }

    /// Steps and reads until every job has ended.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            let stepped = self.step();
            let read = self.read_all();
            if self.readers.iter().all(Reader::is_done) && stepped == Stepped::Idle {
                return;
            }
            assert!(stepped == Stepped::Worked || read, "the engine hangs");
        }
        panic!("the engine never comes to an end");
    }

    /// Runs to the end, and checks what every job gave and what is left.
    pub(super) fn settle(&mut self) {
        self.run();
        for reader in &self.readers {
            reader.check();
        }
        self.check_left();
    }

    /// As [`Self::settle`], but the cache keeps what it has.
    pub(super) fn finish_all(&mut self) {
        self.run();
        for reader in &self.readers {
            reader.check();
        }
    }

    /// Nothing is left but leaves of the cache, and they can go.
    pub(super) fn check_left(&mut self) {
        assert_eq!(self.count.load(Ordering::SeqCst), 0, "places leaked");
        let stats = self.stats();
        assert_eq!((stats.running, stats.queued, stats.kv_used), (0, 0, 0));
        assert_eq!(stats.jobs_done as usize, self.readers.len());
        let kv = self.engine.kv_mut();
        assert_eq!(kv.cached(), kv.backend().cells(), "cells leaked");
        while kv.evict(false) || kv.evict(true) {}
        assert_eq!(kv.backend().cells(), 0, "cells leaked");
        assert_eq!((kv.cached(), kv.pinned()), (0, 0));
    }
}
