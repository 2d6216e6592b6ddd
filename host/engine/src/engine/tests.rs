#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use proptest::prelude::*;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::fake::{EOG, FakeBackend, N_VOCAB, POISON, next_token, piece};
use super::outlet::{Outlet, Place, Signal};
use super::scheduler::{Engine, SharedStats, Stepped};
use super::sequence::Submission;
use crate::error::GenerationError;
use crate::ffi::Decoded;
use crate::job::{Event, FinishReason, Finished, Sampling};
use crate::sampling::{Sampler, Tokens};
use crate::text::TextFilter;

const CAPACITY: usize = 3;

/// A job as the tests describe it.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    prompt: Vec<u32>,
    max_tokens: usize,
    n_ctx: usize,
    stop: Vec<String>,
}

impl Spec {
    pub(super) fn new(prompt: &[u32], max_tokens: usize) -> Self {
        Self { prompt: prompt.to_vec(), max_tokens, n_ctx: 10_000, stop: Vec::new() }
    }

    /// What the job gives when it is alone and nothing goes wrong: text, tokens
    /// and reason.
    pub(super) fn reference(&self) -> (String, usize, FinishReason) {
        let mut tokens = self.prompt.clone();
        let mut filter = TextFilter::new(&self.stop);
        let mut text = String::new();
        let mut n = 0;
        let reason = loop {
            let token = next_token(&tokens);
            if token == EOG {
                break FinishReason::Stop;
            }
            tokens.push(token);
            n += 1;
            if filter.push(&piece(token), &mut text) {
                return (text, n, FinishReason::Stop);
            }
            if tokens.len() >= self.n_ctx || (self.max_tokens > 0 && n >= self.max_tokens) {
                break FinishReason::Length;
            }
        };
        let stopped = filter.finish(&mut text);
        (text, n, if stopped { FinishReason::Stop } else { reason })
    }
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, repeat_penalty: 1.0, ..Sampling::default() }
}

pub(super) fn submission(
    spec: &Spec,
    signal: Arc<Signal>,
    place: Place,
) -> (Submission, Receiver<Event>) {
    let tokens = Tokens { n_vocab: N_VOCAB, eog: vec![EOG], newline: None };
    let (outlet, events) = Outlet::new(CAPACITY, signal, place);
    let submission = Submission {
        label: String::new(),
        prompt: spec.prompt.clone(),
        n_ctx: spec.n_ctx,
        max_tokens: spec.max_tokens,
        sampler: Sampler::new(&greedy(), &tokens, None),
        filter: TextFilter::new(&spec.stop),
        outlet,
        submitted: Instant::now(),
    };
    (submission, events)
}

/// A job that was submitted, as its reader sees it.
struct Reader {
    spec: Spec,
    events: Receiver<Event>,
    signal: Arc<Signal>,
    text: String,
    end: Option<Event>,
    cancelled: bool,
}

impl Reader {
    /// Reads one event if there is one.
    fn read(&mut self) -> bool {
        match self.events.try_recv() {
            Ok(Event::Text(piece)) => {
                assert!(!piece.text.is_empty(), "empty text");
                assert!(self.end.is_none(), "text after the end");
                self.text.push_str(&piece.text);
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

    fn is_done(&self) -> bool {
        self.end.is_some() || self.signal.is_withdrawn()
    }

    /// Compares with what the job gives when it is alone.
    fn check(&self) {
        let (text, n_tokens, reason) = self.spec.reference();
        match &self.end {
            Some(Event::Finished(Finished {
                reason: FinishReason::Cancelled,
                completion_tokens,
                ..
            })) => {
                assert!(self.cancelled, "cancelled by nobody");
                assert!(text.starts_with(self.text.trim_end_matches('\u{FFFD}')));
                assert!(*completion_tokens as usize <= n_tokens);
            }
            Some(Event::Finished(finished)) => {
                assert_eq!(self.text, text, "{:?}", self.spec);
                assert_eq!(finished.completion_tokens as usize, n_tokens);
                assert_eq!(finished.prompt_tokens as usize, self.spec.prompt.len());
                assert_eq!(finished.reason, reason);
            }
            Some(Event::Failed(_)) => {
                assert!(self.spec.prompt.contains(&POISON), "failed without reason");
                assert!(text.starts_with(&self.text));
            }
            Some(Event::Text(_)) => unreachable!("no end"),
            None => assert!(self.signal.is_withdrawn() && self.text.is_empty()),
        }
    }
}

/// An engine over the fake backend, with its readers.
struct Bench {
    engine: Engine<FakeBackend>,
    abort: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    readers: Vec<Reader>,
}

impl Bench {
    fn new(n_batch: usize, n_slots: usize) -> Self {
        let abort = Arc::new(AtomicBool::new(false));
        Self {
            engine: Engine::new(
                FakeBackend::new(n_batch, n_slots),
                vec![EOG],
                Arc::clone(&abort),
                Arc::new(SharedStats::default()),
            ),
            abort,
            count: Arc::new(AtomicUsize::new(0)),
            readers: Vec::new(),
        }
    }

    fn submit(&mut self, spec: Spec) {
        let signal = Arc::new(Signal::new(Arc::clone(&self.abort)));
        let place = Place::take(&self.count, usize::MAX).unwrap();
        let (submission, events) = submission(&spec, Arc::clone(&signal), place);
        self.engine.submit(submission);
        self.readers.push(Reader {
            spec,
            events,
            signal,
            text: String::new(),
            end: None,
            cancelled: false,
        });
    }

    fn cancel(&mut self, index: usize) {
        if let Some(reader) = self.readers.get_mut(index) {
            reader.cancelled = true;
            reader.signal.cancel();
        }
    }

    /// Steps and reads until every job has ended, and checks what is left.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let stepped = self.engine.step();
            let read = self.readers.iter_mut().any(Reader::read);
            if self.readers.iter().all(Reader::is_done) && stepped == Stepped::Idle {
                break;
            }
            assert!(stepped == Stepped::Worked || read, "the engine hangs");
        }
        for reader in &mut self.readers {
            while reader.read() {}
            reader.check();
        }
        assert_eq!(self.engine.backend_mut().cells(), 0, "cells leaked");
        assert_eq!(self.count.load(Ordering::SeqCst), 0, "places leaked");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Submit(Spec),
    Step(usize),
    Read(usize),
    Cancel(usize),
    Fail(Decoded),
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        prop::collection::vec(1u32..POISON - 1, 1..40),
        0usize..30,
        1usize..60,
        prop::collection::vec("[a-z]{1,2}", 0..2),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(mut prompt, max_tokens, room, stop, poisoned)| {
            if poisoned {
                prompt.push(POISON);
            }
            Spec { n_ctx: prompt.len() + room, prompt, max_tokens, stop }
        })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => spec().prop_map(Op::Submit),
        8 => (1usize..6).prop_map(Op::Step),
        4 => (0usize..20).prop_map(Op::Read),
        1 => (0usize..20).prop_map(Op::Cancel),
        1 => prop_oneof![
            Just(Decoded::NoSpace), Just(Decoded::Aborted), Just(Decoded::Invalid), Just(Decoded::Failed(-2))
        ].prop_map(Op::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, every job gives what it gives alone, once, and leaves
    /// nothing behind.
    #[test]
    fn every_job_gives_what_it_gives_alone(
        n_batch in 4usize..48,
        n_slots in 1usize..5,
        forgets_parts in any::<bool>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let n_batch = n_batch.max(n_slots);
        let mut bench = Bench::new(n_batch, n_slots);
        bench.engine.backend_mut().forgets_parts = forgets_parts;
        for op in ops {
            match op {
                Op::Submit(spec) => bench.submit(spec),
                Op::Step(n) => for _ in 0..n { bench.engine.step(); },
                Op::Read(n) => if let Some(reader) = bench.readers.get_mut(n) { reader.read(); },
                Op::Cancel(n) => bench.cancel(n),
                // A step of one job that fails for no reason of its own would
                // fail that job; an aborted one never does.
                Op::Fail(Decoded::Aborted) => bench.engine.backend_mut().script.push_back(Decoded::Aborted),
                Op::Fail(result) => bench.engine.backend_mut().shared_script.push_back(result),
            }
        }
        bench.settle();
    }

    /// A job cancelled at any step gets no token after it.
    #[test]
    fn cancel_at_every_step(spec in spec(), at in 0usize..60, neighbours in 0usize..3) {
        let mut bench = Bench::new(16, 2);
        bench.submit(spec);
        for n in 0..neighbours {
            bench.submit(Spec::new(&[n as u32 + 1], 20));
        }
        for _ in 0..at {
            bench.engine.step();
            bench.readers.iter_mut().for_each(|r| { r.read(); });
        }
        let ended = bench.readers[0].is_done();
        let before = bench.readers[0].text.clone();
        bench.cancel(0);
        let mut pending = 0;
        while bench.readers[0].read() { pending += 1; }
        let in_flight = bench.readers[0].text.clone();
        bench.settle();
        if !ended && bench.readers[0].end.is_some() {
            // What was held back may still come, but nothing new is sampled.
            prop_assert!(bench.readers[0].text.starts_with(&in_flight));
            prop_assert!(in_flight.starts_with(&before));
            prop_assert!(pending <= CAPACITY + 2);
        }
    }
}

#[test]
fn a_full_channel_pauses_its_job_and_no_other() {
    let mut bench = Bench::new(16, 2);
    // Both generate for long: no end-of-generation token is among their first.
    let specs: Vec<Spec> =
        (1..60).map(|n| Spec::new(&[n], 40)).filter(|s| s.reference().1 == 40).take(2).collect();
    for spec in specs {
        bench.submit(spec);
    }
    // Only the second is read.
    while bench.engine.step() == Stepped::Worked {
        bench.readers[1].read();
    }
    while bench.readers[1].read() {}
    assert!(bench.readers[1].is_done(), "the one that is read ends");
    assert!(!bench.readers[0].is_done());
    assert_eq!(bench.readers[0].events.len(), CAPACITY);
    bench.settle();
}

#[test]
fn the_job_at_fault_fails_alone() {
    let mut bench = Bench::new(64, 4);
    bench.submit(Spec::new(&[1, 2, 3], 10));
    bench.submit(Spec::new(&[4, POISON], 10));
    bench.submit(Spec::new(&[5, 6], 10));
    bench.settle();
    let failed: Vec<bool> = bench
        .readers
        .iter()
        .map(|r| matches!(r.end, Some(Event::Failed(GenerationError::Engine(_)))))
        .collect();
    assert_eq!(failed, [false, true, false]);
}

#[test]
fn no_space_for_a_single_job_is_its_error() {
    let mut bench = Bench::new(64, 1);
    bench.engine.backend_mut().script.push_back(Decoded::NoSpace);
    bench.submit(Spec::new(&[1, 2, POISON], 10));
    bench.settle();
    assert_eq!(bench.readers[0].end, Some(Event::Failed(GenerationError::NoSpace)));
}

#[test]
fn an_aborted_step_is_not_aborted_again() {
    let mut bench = Bench::new(64, 2);
    bench.submit(Spec::new(&[1, 2, 3], 5));
    bench.engine.backend_mut().script.push_back(Decoded::Aborted);
    bench.engine.step();
    // The job is not marked during the step that follows, so a cancel then
    // does not set the flag.
    assert!(!bench.abort.load(Ordering::SeqCst));
    bench.settle();
}

#[test]
fn withdrawn_jobs_never_start() {
    let mut bench = Bench::new(16, 1);
    bench.submit(Spec::new(&[1], 5));
    bench.submit(Spec::new(&[2], 5));
    bench.engine.step();
    bench.cancel(1);
    assert!(bench.readers[1].signal.is_withdrawn());
    let steps = bench.engine.backend_mut().steps;
    bench.settle();
    let alone = bench.readers[0].spec.reference().1;
    assert!(bench.engine.backend_mut().steps - steps <= alone + 1);
}

#[test]
fn places_are_limited() {
    let count = Arc::new(AtomicUsize::new(0));
    let first = Place::take(&count, 2);
    let second = Place::take(&count, 2);
    assert!(first.is_some() && second.is_some());
    assert!(Place::take(&count, 2).is_none());
    drop(first);
    assert!(Place::take(&count, 2).is_some());
}
