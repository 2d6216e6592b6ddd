//! Jobs with different sets of adapters on one engine. That no step holds two of
//! them, and that no cell is used with another set than its own, the fake backend
//! checks in every test; what comes out hangs on it as well.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::time::Duration;

use proptest::prelude::*;

use super::bench::{Bench, Setup};
use super::scheduler::Stepped;
use super::specs::Spec;
use super::turns::MAX_STEPS;

/// Steps until no job is left, and says which set each step was for.
fn sets_of_steps(bench: &mut Bench) -> Vec<u64> {
    let mut sets = Vec::new();
    loop {
        let steps = bench.engine.kv_mut().backend().steps;
        let stepped = bench.step();
        let read = bench.read_all();
        let backend = bench.engine.kv_mut().backend();
        assert!(backend.steps <= steps + 1);
        if backend.steps > steps {
            sets.push(backend.last_adapters);
        }
        if stepped == Stepped::Idle && !read {
            return sets;
        }
    }
}

/// The most steps between two of a set, while it has something to compute.
fn longest_wait(sets: &[u64], set: u64) -> usize {
    let at = sets.iter().enumerate().filter(|(_, s)| **s == set).map(|(at, _)| at);
    let at: Vec<usize> = at.collect();
    at.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0)
}

#[test]
fn sets_take_turns() {
    let mut bench = Bench::new(64, 6);
    for set in 0..3 {
        for spec in Spec::many_lasting_with(set, &[], 40).take(2) {
            bench.submit(spec);
        }
    }
    let sets = sets_of_steps(&mut bench);
    for set in 0..3 {
        // One step for both jobs of a set, and not one for each.
        assert_eq!(sets.iter().filter(|s| **s == set).count(), 40, "{sets:?}");
        assert!(longest_wait(&sets, set) <= 2 * MAX_STEPS + 1, "{sets:?}");
    }
    bench.settle();
}

#[test]
fn slow_steps_alternate() {
    let mut bench = Bench::new(64, 2);
    bench.engine.kv_mut().backend().fixed = Duration::from_millis(100);
    for set in 0..2 {
        bench.submit(Spec::many_lasting_with(set, &[], 20).next().unwrap());
    }
    let sets = sets_of_steps(&mut bench);
    assert!(longest_wait(&sets, 0) <= 2 && longest_wait(&sets, 1) <= 2, "{sets:?}");
    bench.settle();
}

#[test]
fn one_set_with_many_jobs_does_not_starve_another() {
    let mut bench = Bench::new(64, 8);
    for spec in Spec::many_lasting_with(1, &[], 60).take(30) {
        bench.submit(spec.uncached().of("many"));
    }
    bench.steps(5);
    let one = bench.submit(Spec::many_lasting_with(2, &[], 30).next().unwrap().of("one"));
    let mut waits = 0;
    let mut longest = 0;
    while !bench.readers[one].is_done() {
        bench.steps(1);
        let is_own = bench.engine.kv_mut().backend().last_adapters == 2;
        waits = if is_own { 0 } else { waits + 1 };
        // Until it gets its first slot, slots are what it waits for.
        longest = if bench.readers[one].text.is_empty() { 0 } else { longest.max(waits) };
    }
    assert!(longest <= MAX_STEPS, "{longest} steps");
    bench.settle();
}

#[test]
fn the_same_prompt_is_not_shared_with_other_adapters() {
    let mut bench = Bench::new(64, 4);
    let prompt: Vec<u32> = (0..41).map(|at| 1 + at * 7 % 50).collect();
    for set in [0, 1, 2, 0, 1, 2] {
        bench.submit(Spec::new(&prompt, 2).with(set));
        bench.finish_all();
    }
    let cached: Vec<u32> = bench.readers.iter().map(|r| r.finished().cached_tokens).collect();
    assert_eq!(cached, [0, 0, 0, 40, 40, 40]);
    // Nor do jobs that run together wait for one another's.
    let mut bench = Bench::new(64, 4);
    for set in [0, 1, 0, 1] {
        bench.submit(Spec::new(&prompt, 2).with(set));
    }
    bench.settle();
    let cached: Vec<u32> = bench.readers.iter().map(|r| r.finished().cached_tokens).collect();
    assert_eq!(cached, [0, 0, 40, 40]);
}

#[test]
fn a_prompt_with_other_adapters_stalls_nobody_for_longer() {
    let mut bench = Bench::new(512, 4);
    let backend = bench.engine.kv_mut().backend();
    (backend.fixed, backend.each) = (Duration::from_millis(10), Duration::from_micros(1400));
    bench.submit(Spec::lasting(&[], 60));
    bench.steps(3);
    bench.submit(Spec::new(&[5; 1000], 1).with(1));
    let mut largest = 0;
    while !bench.readers[1].is_done() {
        bench.steps(1);
        let backend = bench.engine.kv_mut().backend();
        let n: usize = backend.last_tokens.iter().map(|(_, n)| n).sum();
        if backend.last_adapters == 1 && !bench.readers[0].is_done() {
            largest = largest.max(n);
        }
    }
    // (200 / 2 - 10) / 1.4 = 64, less one for the other job that waits.
    assert_eq!(largest, 63);
    bench.settle();
}

#[test]
fn jobs_of_two_sets_do_not_push_each_other_out_for_ever() {
    let mut setup = Setup::new(64, 2);
    setup.n_cells = 80;
    setup.policy.reserve = 1;
    let mut bench = Bench::with(&setup);
    let prefix: Vec<u32> = (0..20).map(|at| 1 + at * 3 % 50).collect();
    for set in [1, 2] {
        // 62 cells in the end.
        let spec = Spec::many_lasting_with(set, &prefix, 40).next().unwrap();
        bench.submit(spec.uncached());
    }
    let mut order = Vec::new();
    while order.len() < 2 {
        bench.step();
        bench.read_all();
        for (n, reader) in bench.readers.iter().enumerate() {
            if reader.is_done() && !order.contains(&n) {
                order.push(n);
            }
        }
    }
    assert!(bench.stats().preemptions > 0, "there was room for both");
    assert_eq!(order, [0, 1], "the oldest ends first");
    bench.settle();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With any number of sets and jobs, and steps of any length, all get what they
    /// get alone, and none of the sets waits for longer than a turn of each other.
    #[test]
    fn no_set_starves(
        jobs in prop::collection::vec((0u64..4, 10usize..30), 2..8),
        fixed in 0u64..150,
        n_batch in 16usize..64,
    ) {
        let mut bench = Bench::new(n_batch, jobs.len());
        bench.engine.kv_mut().backend().fixed = Duration::from_millis(fixed);
        let mut n_sets: Vec<u64> = jobs.iter().map(|job| job.0).collect();
        n_sets.sort_unstable();
        n_sets.dedup();
        for (at, (set, n)) in jobs.iter().enumerate() {
            let first = [1 + at as u32];
            bench.submit(Spec::many_lasting_with(*set, &first, *n).next().unwrap().uncached());
        }
        let sets = sets_of_steps(&mut bench);
        for set in &n_sets {
            prop_assert!(longest_wait(&sets, *set) <= (n_sets.len() - 1) * MAX_STEPS + 1);
        }
        bench.settle();
    }
}
