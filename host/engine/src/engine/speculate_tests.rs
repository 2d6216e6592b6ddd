//! Drafts: fewer steps, and the same output. That they have room, and no part in
//! full steps or in such with prompts, the fake backend checks in every test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use proptest::prelude::*;

use super::bench::{BLOCK, Bench, Setup};
use super::fake::{BOMB, CIRCLES, POISON, next_token};
use super::specs::Spec;
use crate::ffi::Decoded;
use crate::job::{FinishReason, Sampling};

/// An engine whose drafts have at most so many tokens.
fn speculating(n_slots: usize, tokens: usize) -> Bench {
    let mut setup = Setup::new(64, n_slots);
    setup.policy.speculate = tokens;
    Bench::with(&setup)
}

/// Tokens of drafts in the last step.
fn drafted(bench: &mut Bench) -> usize {
    bench.engine.kv_mut().backend().last_drafted
}

#[test]
fn a_text_in_circles_takes_fewer_steps() {
    let mut steps = Vec::new();
    for tokens in [0, 1, 4, 16] {
        let mut bench = speculating(2, tokens);
        bench.submit(Spec::lasting(&[CIRCLES], 60));
        bench.settle();
        let (stats, end) = (bench.stats(), bench.readers[0].finished());
        // One token of each step, and one of each token of a draft that was right.
        assert_eq!(stats.steps + stats.accepted_draft_tokens, 60);
        assert!(stats.accepted_draft_tokens <= stats.draft_tokens);
        assert_eq!(u64::from(end.draft_tokens), stats.draft_tokens);
        assert_eq!(u64::from(end.accepted_draft_tokens), stats.accepted_draft_tokens);
        steps.push(stats.steps);
    }
    assert!(steps[0] == 60 && steps.is_sorted_by(|a, b| a > b), "{steps:?}");
}

#[test]
fn two_jobs_draft_and_three_do_not() {
    for (n_jobs, drafts) in [(2, true), (3, false)] {
        let mut bench = speculating(3, 8);
        // They begin together and end together.
        for spec in Spec::many_lasting(&[CIRCLES], 40).take(n_jobs) {
            bench.submit(spec.uncached());
        }
        while bench.readers.iter().all(|reader| !reader.is_done()) {
            bench.steps(1);
        }
        assert_eq!(bench.stats().draft_tokens > 0, drafts, "{n_jobs} jobs");
        bench.settle();
    }
}

#[test]
fn no_draft_beside_a_prompt() {
    let mut bench = speculating(2, 8);
    bench.submit(Spec::lasting(&[CIRCLES], 100));
    while drafted(&mut bench) == 0 {
        bench.steps(1);
    }
    let long = bench.submit(Spec::new(&[5; 500], 1));
    let mut beside = 0;
    while !bench.readers[long].is_done() {
        bench.steps(1);
        if bench.engine.kv_mut().backend().last_tokens.len() == 2 {
            beside += 1;
            assert_eq!(drafted(&mut bench), 0);
        }
    }
    assert!(beside > 5, "the first job has ended too early");
    bench.settle();
}

#[test]
fn a_job_that_fills_the_cache_alone_has_room() {
    let mut setup = Setup::new(64, 1);
    setup.policy.speculate = 16;
    let spec = Spec::lasting(&[CIRCLES], 60);
    // The last token is never computed.
    setup.n_cells = spec.prompt.len() + 59;
    let mut bench = Bench::with(&setup);
    bench.submit(Spec { n_ctx: setup.n_cells + 1, max_tokens: 0, ..spec });
    bench.settle();
    let stats = bench.stats();
    assert_eq!(bench.readers[0].finished().completion_tokens, 60);
    assert!(stats.accepted_draft_tokens > 0 && stats.preemptions == 0);
}

#[test]
fn a_step_that_fails_with_a_draft_is_repeated_without() {
    let spec = Spec::lasting(&[CIRCLES], 60);
    let mut bench = speculating(1, 8);
    bench.submit(spec.clone());
    let mut before = 0;
    while drafted(&mut bench) == 0 {
        bench.steps(1);
        before += 1;
    }
    bench.settle();
    for failure in [Decoded::NoSpace, Decoded::Invalid, Decoded::Failed(-3), Decoded::Aborted] {
        let mut bench = speculating(1, 8);
        bench.submit(spec.clone());
        bench.steps(before - 1);
        bench.engine.kv_mut().backend().script.push_back(failure);
        bench.steps(1);
        assert!(drafted(&mut bench) > 0, "the step that fails");
        assert_eq!(bench.stats().draft_tokens, 0);
        bench.steps(1);
        // That one is cancelled is no fault of the draft's.
        assert_eq!(drafted(&mut bench) > 0, failure == Decoded::Aborted);
        bench.settle();
    }
}

#[test]
fn a_job_with_a_guard_does_not_draft() {
    let mut bench = speculating(1, 8);
    bench.submit(Spec::lasting(&[CIRCLES], 40).guarded(2, 5));
    bench.settle();
    assert_eq!((bench.readers[0].questions, bench.stats().draft_tokens), (8, 0));
}

#[test]
fn what_is_kept_holds_nothing_of_a_draft() {
    let mut bench = speculating(1, 8);
    let first = Spec::lasting(&[CIRCLES], 38);
    bench.submit(first.clone());
    bench.finish_all();
    assert!(bench.stats().accepted_draft_tokens > 0);
    let mut tokens = first.prompt;
    for _ in 0..37 {
        tokens.push(next_token(&tokens));
    }
    // All of the output but its last token is computed, and in the cache.
    let computed = tokens.len();
    let next = bench.submit(Spec::new(&[tokens, vec![40, 41, 42, 43]].concat(), 20));
    bench.finish_all();
    let cached = bench.readers[next].finished().cached_tokens as usize;
    assert_eq!(cached, computed - computed % BLOCK);
    bench.settle();
}

#[test]
fn drawn_texts_have_drafts_that_are_right() {
    let mut accepted = 0;
    for seed in 1..=20 {
        let mut bench = speculating(1, 8);
        let sampling = Sampling { temperature: 0.3, seed, ..Sampling::default() };
        bench.submit(Spec::lasting(&[CIRCLES], 60).drawn(sampling));
        bench.run();
        accepted += bench.stats().accepted_draft_tokens;
    }
    assert!(accepted > 20, "only {accepted} in 20 texts");
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (
        prop_oneof![1 => Just(0.0f32), 3 => 0.1f32..0.7, 1 => Just(1.0)],
        0u8..3,
        prop_oneof![Just(1.0f32), Just(1.1), Just(1.5)],
        prop_oneof![Just(0.0f32), Just(0.3)],
        prop_oneof![Just(-1), Just(8), Just(64)],
        1u32..1000,
    )
        .prop_map(
            |(temperature, mirostat, repeat_penalty, presence_penalty, repeat_last_n, seed)| {
                Sampling {
                    temperature,
                    mirostat,
                    repeat_penalty,
                    presence_penalty,
                    repeat_last_n,
                    seed,
                    // What must not be computed must not be drawn.
                    logit_bias: vec![(POISON, f32::NEG_INFINITY), (BOMB, f32::NEG_INFINITY)],
                    ..Sampling::default()
                }
            },
        )
}

fn job() -> impl Strategy<Value = Spec> {
    (
        prop::collection::vec(1..POISON - 1, 1..20),
        1usize..60,
        prop::collection::vec("[a-g]{1,3}", 0..2),
        sampling(),
    )
        .prop_map(|(own, max_tokens, stop, sampling)| {
            let prompt = [vec![CIRCLES], own].concat();
            Spec { stop, ..Spec::new(&prompt, max_tokens) }.drawn(sampling)
        })
}

/// Text, tokens and reason of every job.
fn outputs(jobs: &[Spec], tokens: usize) -> Vec<(String, u32, FinishReason)> {
    let mut bench = speculating(jobs.len(), tokens);
    for job in jobs {
        bench.submit(job.clone());
    }
    bench.run();
    bench.check_left();
    let output = |reader: &super::bench::Reader| {
        let end = reader.finished();
        (reader.text.clone(), end.completion_tokens, end.reason)
    };
    bench.readers.iter().map(output).collect()
}

proptest! {
    /// However tokens are chosen, they are the ones that are chosen without drafts:
    /// draws, penalties and mirostat have seen the same.
    #[test]
    fn drafts_change_nothing(jobs in prop::collection::vec(job(), 1..4), tokens in 1usize..17) {
        prop_assert_eq!(outputs(&jobs, tokens), outputs(&jobs, 0));
    }
}
