//! Who gets slots and steps: stalls, tenants, deadlines.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bench::{Bench, Setup};
use super::specs::Spec;
use super::tenants::QUANTUM;
use crate::error::GenerationError;

/// Prompts of which none begins like another.
fn unlike(n: u32, len: usize) -> Vec<u32> {
    let first = [1 + n % 50, 1 + n / 50];
    first.into_iter().chain((2..len as u32).map(|at| 1 + at % 50)).collect()
}

#[test]
fn a_long_prompt_stalls_nobody_for_longer_than_the_target() {
    let mut bench = Bench::new(512, 4);
    let backend = bench.engine.kv_mut().backend();
    (backend.fixed, backend.each) = (Duration::from_millis(10), Duration::from_millis(3));
    for spec in Spec::many_lasting(&[], 100).take(2) {
        bench.submit(spec);
    }
    bench.steps(3);
    bench.submit(Spec::new(&unlike(1, 2000), 1));
    let mut largest = 0;
    while !bench.readers[2].is_done() {
        bench.steps(1);
        let tokens = &bench.engine.kv_mut().backend().last_tokens;
        let total: usize = tokens.iter().map(|(_, n)| n).sum();
        if bench.readers[..2].iter().any(|reader| !reader.is_done()) {
            largest = largest.max(total);
        }
    }
    // (200 - 10) / 3 = 63 tokens fit.
    assert_eq!(largest, 63);
    bench.settle();
}

#[test]
fn nobody_waits_so_the_step_is_filled() {
    let mut bench = Bench::new(512, 4);
    bench.engine.kv_mut().backend().each = Duration::from_millis(100);
    bench.submit(Spec::new(&unlike(1, 2000), 1));
    bench.steps(1);
    assert_eq!(bench.engine.kv_mut().backend().last_tokens, [(0, 512)]);
    bench.settle();
}

#[test]
fn in_large_steps_prompts_and_those_who_generate_take_turns() {
    let mut setup = Setup::new(512, 2);
    setup.n_together = 31;
    let mut bench = Bench::with(&setup);
    let backend = bench.engine.kv_mut().backend();
    (backend.fixed, backend.each) = (Duration::from_millis(40), Duration::from_millis(5));
    bench.submit(Spec::lasting(&[], 20));
    bench.steps(2);
    // There is time for the least part of a prompt, which is 32 tokens.
    bench.submit(Spec::new(&(1..61).cycle().take(70).collect::<Vec<u32>>(), 1));
    let mut steps = Vec::new();
    for _ in 0..6 {
        bench.steps(1);
        steps.push(bench.engine.kv_mut().backend().last_tokens.clone());
    }
    // What is left of the prompt fits beside the other job.
    let alone = vec![(0, 1)];
    let expected =
        [alone.clone(), vec![(1, 32)], alone.clone(), vec![(1, 32)], vec![(0, 1), (1, 6)], alone];
    assert_eq!(steps, expected);
    bench.settle();
}

#[test]
fn decode_only_steps_keep_their_shape() {
    let mut bench = Bench::new(64, 4);
    for spec in Spec::many_lasting(&[], 30).take(4) {
        bench.submit(spec);
    }
    bench.steps(2);
    for _ in 0..20 {
        bench.steps(1);
        let tokens = &bench.engine.kv_mut().backend().last_tokens;
        assert_eq!(*tokens, [(0, 1), (1, 1), (2, 1), (3, 1)]);
    }
    bench.settle();
}

#[test]
fn the_next_slot_goes_to_who_has_none() {
    let mut bench = Bench::new(64, 4);
    for n in [6, 12, 18, 24, 9, 9, 9, 9] {
        bench.submit(Spec::lasting(&[n], n as usize).of("many"));
    }
    bench.steps(3);
    let one = bench.submit(Spec::new(&unlike(1, 8), 3).of("one"));
    while !bench.readers[one].is_done() {
        bench.steps(1);
    }
    // It has not waited for the four that came before it.
    for waiting in &bench.readers[4..one] {
        assert!(waiting.text.is_empty() && !waiting.is_done());
    }
    bench.settle();
}

#[test]
fn a_slot_is_taken_from_who_has_several() {
    for fair in [Some(Duration::ZERO), None] {
        let mut setup = Setup::new(64, 3);
        setup.policy.fair_preempt = fair;
        let mut bench = Bench::with(&setup);
        for spec in Spec::many_lasting(&[], 60).take(3) {
            bench.submit(spec.of("many"));
        }
        bench.steps(5);
        let one = bench.submit(Spec::new(&unlike(1, 8), 2).of("one"));
        bench.steps(8);
        assert_eq!(bench.readers[one].is_done(), fair.is_some());
        assert_eq!(bench.stats().preemptions, u64::from(fair.is_some()));
        bench.settle();
        // The youngest went, its cells stayed: going on costs it a block at most.
        let again = bench.stats().cache_tokens;
        assert_eq!(again > 0, fair.is_some());
        assert_eq!(bench.readers[2].finished().cached_tokens, 0);
    }
}

#[test]
fn a_slot_is_not_taken_from_who_has_one() {
    let mut setup = Setup::new(64, 2);
    setup.policy.fair_preempt = Some(Duration::ZERO);
    let mut bench = Bench::with(&setup);
    let specs = Spec::many_lasting(&[], 40).take(3).zip(["a", "b", "c"]);
    for (spec, tenant) in specs {
        bench.submit(spec.of(tenant));
    }
    bench.settle();
    assert_eq!(bench.stats().preemptions, 0);
}

#[test]
fn a_late_job_fails_before_any_work() {
    let mut bench = Bench::new(64, 1);
    let now = Instant::now();
    let past = bench.submit(Spec { deadline: Some(now), ..Spec::new(&[1, 2], 5) });
    let later = now + Duration::from_secs(3600);
    let fine = bench.submit(Spec { deadline: Some(later), ..Spec::new(&[1, 2], 5) });
    bench.run();
    assert_eq!(*bench.readers[past].error(), GenerationError::Expired);
    bench.readers[fine].check();
    assert_eq!(bench.stats().prompt_tokens, 2);
    bench.check_left();
}

#[test]
fn a_job_that_does_not_fit_waits_and_is_not_overtaken() {
    let mut setup = Setup::new(32, 4);
    setup.n_cells = 100;
    let mut bench = Bench::with(&setup);
    let lasting = Spec { n_ctx: 100, ..Spec::lasting(&unlike(1, 40), 20) };
    let first = bench.submit(lasting.uncached());
    bench.steps(2);
    bench.submit(Spec::new(&unlike(2, 70), 5).uncached());
    // Small enough for what is left, but later.
    bench.submit(Spec::new(&unlike(3, 4), 5).uncached());
    bench.steps(1);
    while !bench.readers[first].is_done() {
        assert_eq!((bench.stats().running, bench.stats().queued), (1, 2));
        bench.steps(1);
    }
    bench.settle();
    assert_eq!(bench.stats().preemptions, 0, "admission has counted right");
}

proptest! {
    /// Of two tenants that always want more, neither is ahead by more than a
    /// turn and a step, whatever the sizes of their prompts.
    #[test]
    fn tenants_that_want_more_get_the_same(
        // Never too little in two slots to fill a step.
        a in prop::collection::vec(256usize..700, 8..20),
        b in prop::collection::vec(256usize..700, 8..20),
        n_batch in 32usize..256,
        n_slots in prop_oneof![Just(4usize), Just(6)],
    ) {
        let mut bench = Bench::new(n_batch, n_slots);
        let total = |lens: &[usize]| lens.iter().sum::<usize>() as u64;
        let least = total(&a).min(total(&b));
        let mut n = 0;
        for (tenant, lens) in [("a", &a), ("b", &b)] {
            for len in lens {
                n += 1;
                bench.submit(Spec::new(&unlike(n, *len), 1).uncached().of(tenant));
            }
        }
        let mut served = [0u64; 2];
        while served[0].max(served[1]) + (n_batch as u64) < least {
            bench.steps(1);
            served = bench.engine.served(["a", "b"]);
            let apart = served[0].abs_diff(served[1]);
            prop_assert!(apart <= QUANTUM + n_batch as u64, "{served:?}");
        }
        bench.settle();
    }
}
