#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::bench::{BLOCK, Bench, Setup};
use super::cache::CacheLimits;
use super::fake::{CIRCLES, POISON};
use super::outlet::Place;
use super::scheduler::Stepped;
use super::sequence::Caching;
use super::specs::{CAPACITY, Spec};
use crate::config::EngineStats;
use crate::error::GenerationError;
use crate::ffi::Decoded;
use crate::job::{Event, GuardPlan, GuardVerdict};

#[derive(Debug, Clone)]
enum Op {
    Submit(Box<Spec>),
    Step(usize),
    Read(usize),
    Cancel(usize),
    Fail(Decoded),
}

/// The longest job that [`spec`] makes, in tokens.
const LONGEST: usize = 110;

/// Prompts that often begin alike.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let base = (1u32..3, 4usize..25).prop_map(|(base, n)| {
        (0..n as u32).map(|at| 1 + (base * 7 + at * base) % 50).collect::<Vec<u32>>()
    });
    (base, prop::collection::vec(1u32..POISON - 1, 1..25))
        .prop_map(|(base, own)| [base, own].concat())
}

fn caching() -> impl Strategy<Value = Option<Caching>> {
    prop_oneof![
        1 => Just(None),
        6 => (prop_oneof![4 => Just(""), 1 => Just("salt")], prop::bool::weighted(0.1))
            .prop_map(|(salt, pin)| Some(Caching { salt: salt.to_string(), pin })),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        prompt(),
        0usize..30,
        1usize..60,
        prop::collection::vec("[a-z]{1,2}", 0..2),
        prop::bool::weighted(0.05),
        prop_oneof![Just(""), Just("a"), Just("b")],
        caching(),
        prop_oneof![5 => Just(None), 1 => (1u32..5, 1u32..4).prop_map(|(top_k, every)| Some(GuardPlan { top_k, every }))],
        prop_oneof![4 => Just(0u64), 1 => 1u64..4],
        prop::bool::weighted(0.3),
    )
        .prop_map(|(mut prompt, max_tokens, room, stop, poisoned, tenant, caching, guard, adapters, circles)| {
            if circles {
                prompt[0] = CIRCLES;
            }
            if poisoned {
                prompt.push(POISON);
            }
            let n_ctx = prompt.len() + room;
            assert!(n_ctx <= LONGEST);
            Spec { n_ctx, stop, tenant, caching, guard, adapters, ..Spec::new(&prompt, max_tokens) }
        })
}

fn setup() -> impl Strategy<Value = Setup> {
    (
        (4usize..48, prop_oneof![2 => Just(usize::MAX), 1 => 1usize..12], 1usize..6, 0usize..4),
        // From room for one job only to room for all.
        prop_oneof![3 => LONGEST..2 * LONGEST, 1 => Just(10_000usize)],
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.9),
        0usize..20,
        any::<bool>(),
        (0usize..200, 0usize..60, prop_oneof![1 => Just(0usize), 2 => 1usize..17]),
    )
        .prop_map(
            |(
                (n_batch, n_together, n_slots, n_leaves),
                n_cells,
                shares,
                cache,
                reserve,
                fair,
                (cells, pinned_cells, speculate),
            )| {
                let mut setup = Setup::new(n_batch.max(n_slots), n_slots);
                setup.n_together = n_together;
                setup.n_leaves = n_leaves;
                setup.n_cells = n_cells;
                setup.shares = shares;
                setup.policy.speculate = speculate;
                setup.policy.reserve = reserve;
                setup.policy.fair_preempt = fair.then_some(Duration::ZERO);
                setup.policy.cache =
                    cache.then_some(CacheLimits { block: BLOCK, cells, pinned_cells });
                setup
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => spec().prop_map(|spec| Op::Submit(Box::new(spec))),
        8 => (1usize..6).prop_map(Op::Step),
        4 => (0usize..20).prop_map(Op::Read),
        1 => (0usize..20).prop_map(Op::Cancel),
        1 => prop_oneof![
            Just(Decoded::NoSpace), Just(Decoded::Aborted), Just(Decoded::Invalid), Just(Decoded::Failed(-2))
        ].prop_map(Op::Fail),
    ]
}

/// Does all of it, runs to the end, and checks every job and what is left.
fn play(setup: &Setup, ops: Vec<Op>) -> EngineStats {
    let mut bench = Bench::with(setup);
    for op in ops {
        match op {
            Op::Submit(spec) => {
                bench.submit(*spec);
            }
            Op::Step(n) => {
                for _ in 0..n {
                    bench.step();
                }
            }
            Op::Read(n) => {
                if let Some(reader) = bench.readers.get_mut(n) {
                    reader.read();
                    if reader.asked.is_some() {
                        reader.answer(GuardVerdict::Pass);
                    }
                }
            }
            Op::Cancel(n) => bench.cancel(n),
            // A step of one job that fails for no reason of its own would fail
            // that job; an aborted one never does.
            Op::Fail(Decoded::Aborted) => {
                bench.engine.kv_mut().backend().script.push_back(Decoded::Aborted);
            }
            Op::Fail(result) => {
                bench.engine.kv_mut().backend().shared_script.push_back(result);
            }
        }
    }
    bench.settle();
    bench.stats()
}

/// The property below is worth something only if its jobs share, make way, and have
/// drafts that are right and drafts that are wrong.
#[test]
fn the_jobs_of_the_property_share_draft_and_are_preempted() {
    let mut runner = TestRunner::deterministic();
    let ops = prop::collection::vec(op(), 1..80);
    let (mut hits, mut preemptions, mut right, mut wrong) = (0, 0, 0, 0);
    for _ in 0..200 {
        let setup = setup().new_tree(&mut runner).unwrap().current();
        let stats = play(&setup, ops.new_tree(&mut runner).unwrap().current());
        hits += u32::from(stats.cache_hits > 0);
        preemptions += u32::from(stats.preemptions > 0);
        right += u32::from(stats.accepted_draft_tokens > 0);
        wrong += u32::from(stats.accepted_draft_tokens < stats.draft_tokens);
    }
    assert!(hits > 40, "only {hits} of 200 share");
    assert!(preemptions > 40, "only {preemptions} of 200 preempt");
    assert!(right > 10 && wrong > 10, "only {right} and {wrong} of 200 draft");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, every job gives what it gives alone, once, and leaves
    /// nothing behind.
    #[test]
    fn every_job_gives_what_it_gives_alone(
        setup in setup(),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        play(&setup, ops);
    }

    /// A job cancelled at any step gets no token after it.
    #[test]
    fn cancel_at_every_step(
        spec in spec(),
        at in 0usize..60,
        neighbours in 0usize..3,
        speculate in 0usize..17,
    ) {
        let mut setup = Setup::new(16, 2);
        setup.policy.speculate = speculate;
        setup.n_cells = LONGEST + 20;
        let mut bench = Bench::with(&setup);
        bench.submit(spec);
        for n in 0..neighbours {
            bench.submit(Spec { n_ctx: 60, ..Spec::new(&[n as u32 + 1], 20) });
        }
        for _ in 0..at {
            bench.step();
            bench.readers.iter_mut().for_each(|r| {
                r.read();
                if r.asked.is_some() {
                    r.answer(GuardVerdict::Pass);
                }
            });
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
    for spec in Spec::many_lasting(&[], 40).take(2) {
        bench.submit(spec);
    }
    // Only the second is read.
    while bench.step() == Stepped::Worked {
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
    bench.engine.kv_mut().backend().script.push_back(Decoded::NoSpace);
    bench.submit(Spec::new(&[1, 2, POISON], 10));
    bench.settle();
    assert_eq!(bench.readers[0].end, Some(Event::Failed(GenerationError::NoSpace)));
}

#[test]
fn an_aborted_step_is_not_aborted_again() {
    let mut bench = Bench::new(64, 2);
    bench.submit(Spec::new(&[1, 2, 3], 5));
    bench.engine.kv_mut().backend().script.push_back(Decoded::Aborted);
    bench.step();
    assert_eq!(bench.stats().prompt_tokens, 0);
    // The job is not marked during the step that follows, so a cancel then
    // would not set the flag; and that step is computed.
    bench.step();
    assert!(!bench.alarm.is_ringing());
    assert_eq!(bench.stats().prompt_tokens, 3);
    bench.settle();
}

#[test]
fn withdrawn_jobs_never_start() {
    let mut bench = Bench::new(16, 1);
    bench.submit(Spec::new(&[1], 5));
    bench.submit(Spec::new(&[2], 5));
    bench.step();
    bench.cancel(1);
    assert!(bench.readers[1].signal.is_withdrawn());
    let steps = bench.engine.kv_mut().backend().steps;
    bench.settle();
    let alone = bench.readers[0].spec.reference().1;
    assert!(bench.engine.kv_mut().backend().steps - steps <= alone + 1);
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

#[test]
fn cancelling_a_job_that_has_ended_ends_no_step() {
    let mut bench = Bench::new(64, 2);
    bench.submit(Spec::new(&[1, 2, 3], 2));
    bench.submit(Spec::lasting(&[], 30));
    while !bench.readers[0].is_done() {
        bench.steps(1);
    }
    bench.alarm.begin(Duration::from_secs(3600));
    bench.readers[0].signal.cancel();
    assert!(!bench.alarm.is_ringing());
    // One that runs does, although it has no prompt in the step.
    bench.cancel(1);
    assert!(bench.alarm.is_ringing());
    bench.settle();
}
