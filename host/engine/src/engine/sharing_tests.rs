//! The prefix cache, single flight and preemption, with exact counts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use proptest::prelude::*;

use super::bench::{BLOCK, Bench, Setup};
use super::specs::Spec;
use crate::job::FinishReason;

/// A prefix of `n` tokens; different seeds begin differently.
fn prefix(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|at| 1 + (seed * 13 + at * (seed + 1)) % 50).collect()
}

fn with_tail(prefix: &[u32], tail: u32, n: usize) -> Vec<u32> {
    // The first own token differs, so that exactly the prefix is shared.
    let own = (0..n as u32).map(|at| 1 + (tail + at * 3) % 60);
    prefix.iter().copied().chain(own).collect()
}

#[test]
fn a_second_prompt_computes_only_its_own() {
    let mut bench = Bench::new(64, 2);
    let shared = prefix(1, 40);
    bench.submit(Spec::new(&with_tail(&shared, 1, 5), 3));
    bench.finish_all();
    assert_eq!(bench.stats().prompt_tokens, 45);
    let second = bench.submit(Spec::new(&with_tail(&shared, 2, 5), 3));
    bench.finish_all();
    assert_eq!(bench.readers[0].finished().cached_tokens, 0);
    assert_eq!(bench.readers[second].finished().cached_tokens, 40);
    let stats = bench.stats();
    assert_eq!((stats.prompt_tokens, stats.cache_hits, stats.cache_tokens), (50, 1, 40));
    bench.settle();
}

#[test]
fn at_least_one_token_is_computed_again() {
    let mut bench = Bench::new(64, 2);
    let prompt = prefix(1, 40);
    for _ in 0..3 {
        bench.submit(Spec::new(&prompt, 3));
        bench.finish_all();
    }
    for reader in &bench.readers[1..] {
        // 39 may be taken, and whole blocks are.
        assert_eq!(reader.finished().cached_tokens, 36);
    }
    bench.settle();
}

#[test]
fn a_conversation_goes_on_from_its_output() {
    let mut bench = Bench::new(64, 1);
    let first = Spec::lasting(&prefix(2, 20), 10);
    let at = bench.submit(first.clone());
    bench.finish_all();
    let mut tokens = first.prompt;
    for _ in 0..9 {
        tokens.push(super::fake::next_token(&tokens));
    }
    // 22 of the prompt and 9 of the output are computed: the last token is not.
    let next = bench.submit(Spec::new(&with_tail(&tokens, 7, 6), 2));
    bench.finish_all();
    assert_eq!(bench.readers[at].finished().completion_tokens, 10);
    assert_eq!(bench.readers[next].finished().cached_tokens as usize, 31 - 31 % BLOCK);
    bench.settle();
}

#[test]
fn jobs_that_come_together_compute_a_prefix_once() {
    for n_batch in [64, 512, 2048] {
        let mut setup = Setup::new(n_batch, 32);
        setup.policy.cache =
            setup.policy.cache.map(|c| super::cache::CacheLimits { block: 16, ..c });
        let mut bench = Bench::with(&setup);
        let shared = prefix(3, 1024);
        for tail in 0..32 {
            bench.submit(Spec::new(&with_tail(&shared, tail, 64), 2));
        }
        bench.settle();
        assert_eq!(bench.stats().prompt_tokens, 1024 + 32 * 64, "n_batch {n_batch}");
        let cached: u32 = bench.readers.iter().map(|r| r.finished().cached_tokens).sum();
        assert_eq!(cached, 31 * 1024);
    }
}

#[test]
fn flights_are_chained() {
    let mut bench = Bench::new(16, 4);
    let short = prefix(4, 32);
    let long = with_tail(&short, 40, 48);
    bench.submit(Spec::new(&with_tail(&short, 1, 40), 2));
    // Shares 32 with the first, and gives 80 to the third.
    bench.submit(Spec::new(&with_tail(&long, 1, 8), 2));
    bench.submit(Spec::new(&with_tail(&long, 2, 8), 2));
    bench.settle();
    let cached: Vec<u32> = bench.readers.iter().map(|r| r.finished().cached_tokens).collect();
    assert_eq!(cached, [0, 32, 80]);
    assert_eq!(bench.stats().prompt_tokens, 72 + (48 + 8) + 8);
}

#[test]
fn a_flight_that_is_cancelled_is_taken_over() {
    let mut bench = Bench::new(16, 3);
    let shared = prefix(5, 64);
    for tail in 0..3 {
        bench.submit(Spec::new(&with_tail(&shared, tail, 8), 2));
    }
    bench.steps(2);
    bench.cancel(0);
    bench.settle();
    // What it has computed stays as a leaf, and the second goes on from there.
    assert_eq!(bench.readers[0].finished().reason, FinishReason::Cancelled);
    assert_eq!(bench.readers[1].finished().cached_tokens, 32);
    assert_eq!(bench.readers[2].finished().cached_tokens, 64);
}

#[test]
fn salts_share_nothing() {
    let mut bench = Bench::new(64, 4);
    let prompt = with_tail(&prefix(6, 40), 1, 4);
    for salt in ["", "a", "b", ""] {
        bench.submit(Spec::new(&prompt, 2).salted(salt));
        bench.finish_all();
    }
    let cached: Vec<u32> = bench.readers.iter().map(|r| r.finished().cached_tokens).collect();
    assert_eq!(cached, [0, 0, 0, 40]);
    bench.settle();
}

#[test]
fn a_job_without_cache_neither_takes_nor_leaves() {
    let mut bench = Bench::new(64, 2);
    let prompt = prefix(7, 40);
    bench.submit(Spec::new(&prompt, 2).uncached());
    bench.finish_all();
    assert_eq!(bench.stats().cache_cells, 0);
    bench.submit(Spec::new(&prompt, 2));
    bench.finish_all();
    bench.submit(Spec::new(&prompt, 2).uncached());
    bench.finish_all();
    assert_eq!(bench.stats().cache_hits, 0);
    bench.settle();
}

#[test]
fn the_least_recently_used_leaf_goes() {
    let mut setup = Setup::new(64, 1);
    setup.n_leaves = 2;
    let mut bench = Bench::with(&setup);
    let mut cached = |seed: u32, tail: u32| {
        let at = bench.submit(Spec::new(&with_tail(&prefix(seed, 20), tail, 4), 1));
        bench.finish_all();
        bench.readers[at].finished().cached_tokens
    };
    assert_eq!([cached(10, 1), cached(11, 1)], [0, 0]);
    // 10 is used again, so 11 goes when 12 comes.
    assert_eq!(cached(10, 1), 20);
    assert_eq!(cached(12, 1), 0);
    assert_eq!(cached(10, 1), 20);
    assert_eq!(cached(11, 1), 0);
}

#[test]
fn the_budget_of_cells_is_kept() {
    let mut setup = Setup::new(64, 2);
    let limits = setup.policy.cache.as_mut().unwrap();
    (limits.cells, limits.pinned_cells) = (60, 50);
    let mut bench = Bench::with(&setup);
    for seed in 0..20 {
        let spec = Spec::new(&with_tail(&prefix(seed, 30), seed, 4), 3);
        bench.submit(if seed % 3 == 0 { spec.pinned() } else { spec });
        bench.finish_all();
        let stats = bench.stats();
        assert!(stats.cache_cells <= 60, "{} cells", stats.cache_cells);
        assert!(bench.engine.kv_mut().pinned() <= 50);
    }
    // A prompt that is longer than all of the budget leaves its beginning.
    let long = prefix(30, 200);
    bench.submit(Spec::new(&long, 1));
    bench.finish_all();
    let at = bench.submit(Spec::new(&long, 1));
    bench.finish_all();
    assert!(bench.readers[at].finished().cached_tokens > 0);
    bench.settle();
}

#[test]
fn pins_outlast_the_others() {
    let mut setup = Setup::new(64, 1);
    setup.n_leaves = 3;
    let mut bench = Bench::with(&setup);
    let system = prefix(40, 32);
    bench.submit(Spec::new(&system, 5).pinned());
    bench.finish_all();
    for seed in 0..10 {
        bench.submit(Spec::new(&prefix(seed, 40), 2));
        bench.finish_all();
    }
    let at = bench.submit(Spec::new(&with_tail(&system, 3, 4), 2));
    bench.finish_all();
    assert_eq!(bench.readers[at].finished().cached_tokens, 32);
    // Pinned is the prompt, not the output.
    assert_eq!(bench.engine.kv_mut().pinned(), 32);
}

#[test]
fn pins_beyond_their_bound_are_ordinary_leaves() {
    let mut setup = Setup::new(64, 1);
    setup.policy.cache.as_mut().unwrap().pinned_cells = 40;
    let mut bench = Bench::with(&setup);
    for seed in 0..3 {
        bench.submit(Spec::new(&prefix(50 + seed, 32), 1).pinned());
        bench.finish_all();
        assert_eq!(bench.engine.kv_mut().pinned(), 32);
    }
    assert_eq!(bench.stats().cache_cells, 96);
}

#[test]
fn leaves_and_then_pins_give_way_to_a_job_that_fits_alone() {
    let mut setup = Setup::new(32, 2);
    setup.n_cells = 100;
    let mut bench = Bench::with(&setup);
    bench.submit(Spec::new(&prefix(60, 40), 1).pinned());
    bench.finish_all();
    bench.submit(Spec::new(&prefix(61, 30), 1));
    bench.finish_all();
    assert_eq!(bench.engine.kv_mut().pinned(), 40);
    bench.submit(Spec { n_ctx: 100, ..Spec::new(&prefix(62, 95), 0) });
    bench.finish_all();
    assert_eq!(bench.engine.kv_mut().pinned(), 0);
    bench.settle();
}

#[test]
fn under_pressure_the_youngest_goes_and_comes_back() {
    let mut setup = Setup::new(64, 3);
    // Each of them needs 62 cells in the end; they come in with a small reserve.
    setup.n_cells = 80;
    setup.policy.reserve = 1;
    let mut bench = Bench::with(&setup);
    let mut specs = Spec::many_lasting(&prefix(8, 20), 40);
    let specs: Vec<Spec> = (0..3).map(|_| specs.next().unwrap().uncached()).collect();
    for spec in specs {
        bench.submit(spec);
    }
    let mut order = Vec::new();
    for _ in 0..2_000 {
        bench.step();
        bench.read_all();
        for (n, reader) in bench.readers.iter().enumerate() {
            if reader.is_done() && !order.contains(&n) {
                order.push(n);
            }
        }
    }
    assert!(bench.stats().preemptions > 0, "there was room for all");
    assert_eq!(order, [0, 1, 2], "the oldest ends first");
    bench.settle();
}

#[test]
fn what_was_cached_stays_true_after_a_preemption() {
    let mut setup = Setup::new(64, 2);
    setup.n_cells = 100;
    setup.policy.reserve = 1;
    let mut bench = Bench::with(&setup);
    let shared = prefix(9, 24);
    let mut specs = Spec::many_lasting(&shared, 40);
    bench.submit(specs.next().unwrap());
    // Different from its first token on, so that it needs cells of its own.
    bench.submit(Spec::lasting(&prefix(17, 24), 40));
    bench.settle();
    assert!(bench.stats().preemptions > 0, "there was room for both");
    for reader in &bench.readers {
        assert_eq!(reader.finished().cached_tokens, 0);
    }
}

#[test]
fn a_preempted_job_can_be_cancelled() {
    let mut setup = Setup::new(64, 2);
    setup.n_cells = 80;
    setup.policy.reserve = 1;
    let mut bench = Bench::with(&setup);
    for spec in Spec::many_lasting(&prefix(10, 20), 40).take(2) {
        bench.submit(spec.uncached());
    }
    while bench.stats().preemptions == 0 {
        bench.steps(1);
    }
    bench.cancel(1);
    bench.settle();
    assert_eq!(bench.readers[1].finished().reason, FinishReason::Cancelled);
    assert!(!bench.readers[1].text.is_empty(), "it had begun");
}

#[test]
fn without_sharing_memory_nothing_is_shared() {
    let mut setup = Setup::new(64, 2);
    setup.shares = false;
    let mut bench = Bench::with(&setup);
    for _ in 0..3 {
        bench.submit(Spec::new(&prefix(11, 40), 4));
    }
    bench.settle();
    assert_eq!(bench.stats().prompt_tokens, 120);
    assert_eq!(bench.stats().cache_cells, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However jobs with one prefix come, it is computed once, unless it had to
    /// go meanwhile for want of room.
    #[test]
    fn single_flight_whenever_they_come(
        n_shared in 1usize..10, n_slots in 1usize..6, n_batch in 8usize..40,
        gaps in prop::collection::vec(0usize..6, 2..10),
    ) {
        let mut bench = Bench::new(n_batch, n_slots);
        let shared = prefix(12, n_shared * BLOCK);
        for (tail, gap) in gaps.iter().enumerate() {
            bench.submit(Spec::new(&with_tail(&shared, tail as u32, 5), 4));
            bench.steps(*gap);
        }
        bench.settle();
        prop_assert_eq!(bench.stats().prompt_tokens as usize, shared.len() + gaps.len() * 5);
    }
}
