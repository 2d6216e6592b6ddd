#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::select::{likeliest, top_k};
use super::*;
use crate::error::SubmitError;

const N: u32 = 1000;

fn tokens() -> Tokens {
    Tokens { n_vocab: N, eog: vec![0, 1], newline: Some(10) }
}

/// Everything off: only what a test turns on has an effect.
fn plain() -> Sampling {
    Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repeat_penalty: 1.0,
        seed: 1,
        ..Sampling::default()
    }
}

fn sampler(options: Sampling) -> Sampler {
    check(&options, &tokens()).unwrap();
    Sampler::new(&options, &tokens(), None)
}

/// Three likely tokens, the rest far behind.
fn logits() -> Vec<f32> {
    let mut logits = vec![-20.0; N as usize];
    logits[100] = 3.0;
    logits[200] = 2.0;
    logits[300] = 1.0;
    logits
}

fn draw(options: Sampling, n: usize) -> HashMap<u32, usize> {
    let mut sampler = sampler(options);
    let mut counts = HashMap::new();
    for _ in 0..n {
        *counts.entry(sampler.next(&mut logits(), &[]).unwrap()).or_default() += 1;
    }
    counts
}

fn drawn(options: Sampling) -> Vec<u32> {
    let mut tokens: Vec<u32> = draw(options, 400).into_keys().collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn greedy_takes_the_likeliest() {
    for temperature in [0.0, -1.0] {
        let options = Sampling { temperature, ..plain() };
        assert_eq!(drawn(options), [100]);
    }
    // Of equals the first.
    let mut sampler = sampler(Sampling { temperature: 0.0, ..plain() });
    assert_eq!(sampler.next(&mut vec![1.0; N as usize], &[]).unwrap(), 0);
}

#[test]
fn every_option_narrows_as_it_says() {
    assert_eq!(drawn(plain()), [100, 200, 300]);
    assert_eq!(drawn(Sampling { top_k: 2, ..plain() }), [100, 200]);
    assert_eq!(drawn(Sampling { top_k: -5, ..plain() }), [100, 200, 300]);
    // Probabilities are 0.665, 0.245 and 0.09.
    assert_eq!(drawn(Sampling { top_p: 0.5, ..plain() }), [100]);
    assert_eq!(drawn(Sampling { top_p: 0.8, ..plain() }), [100, 200]);
    assert_eq!(drawn(Sampling { top_p: 0.0, ..plain() }), [100]);
    assert_eq!(drawn(Sampling { min_p: 0.3, ..plain() }), [100, 200]);
    assert_eq!(drawn(Sampling { min_p: 0.9, ..plain() }), [100]);
    assert_eq!(drawn(Sampling { typical_p: 0.6, ..plain() }).len(), 1);
    assert_eq!(drawn(Sampling { temperature: 0.01, ..plain() }), [100]);
    assert_eq!(drawn(Sampling { temperature: f32::MIN_POSITIVE, ..plain() }), [100]);
    assert!(drawn(Sampling { temperature: 1e9, ..plain() }).len() > 100);
}

#[test]
fn draws_follow_the_probabilities() {
    let counts = draw(plain(), 4000);
    let share = |token| counts.get(&token).copied().unwrap_or(0) as f64 / 4000.0;
    // Six standard deviations of 4000 draws are less than 0.05.
    assert!((share(100) - 0.665).abs() < 0.05, "{counts:?}");
    assert!((share(200) - 0.245).abs() < 0.05, "{counts:?}");
    assert!((share(300) - 0.090).abs() < 0.05, "{counts:?}");
}

#[test]
fn equal_seeds_draw_equally() {
    let sequence = |seed| {
        let mut sampler = sampler(Sampling { seed, ..plain() });
        (0..64).map(|_| sampler.next(&mut logits(), &[]).unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(sequence(7), sequence(7));
    assert_ne!(sequence(7), sequence(8));
    // Seed 0 draws a new one, and llama.cpp's "any seed" is a seed like others.
    assert_ne!(sequence(0), sequence(0));
    assert_eq!(sequence(u32::MAX), sequence(u32::MAX));
}

#[test]
fn mirostat_stays_within_the_candidates() {
    for mirostat in [1, 2] {
        let options = Sampling { mirostat, ..plain() };
        assert!(drawn(options.clone()).iter().all(|t| [100, 200, 300].contains(t)));
        // One candidate only, and equal ones.
        let mut sampler = sampler(options);
        let mut one = vec![f32::NEG_INFINITY; N as usize];
        one[5] = 1.0;
        assert_eq!(sampler.next(&mut one, &[]).unwrap(), 5);
        for _ in 0..50 {
            assert!(sampler.next(&mut vec![0.0; N as usize], &[]).unwrap() < N);
        }
    }
    // A low target takes the likeliest far more often than its share of 0.665.
    let mut low =
        sampler(Sampling { mirostat: 2, mirostat_tau: 0.1, mirostat_eta: 0.9, ..plain() });
    let all: Vec<u32> = (0..50).map(|_| low.next(&mut logits(), &[]).unwrap()).collect();
    assert!(all.iter().filter(|t| **t == 100).count() >= 45, "{all:?}");
}

#[test]
fn penalties_are_llama_cpp_s() {
    let after = |change: Sampling, history: &[u32]| {
        let mut sampler = sampler(change);
        let mut logits = logits();
        let _ = sampler.next(&mut logits, history);
        logits
    };
    let history = [100, 100, 300, 400];
    let repeated = after(Sampling { repeat_penalty: 2.0, ..plain() }, &history);
    assert_eq!((repeated[100], repeated[200], repeated[300]), (1.5, 2.0, 0.5));
    assert_eq!(repeated[400], -40.0);
    let frequent = after(Sampling { frequency_penalty: 0.5, ..plain() }, &history);
    assert_eq!((frequent[100], frequent[300]), (2.0, 0.5));
    let present = after(Sampling { presence_penalty: 0.5, ..plain() }, &history);
    assert_eq!((present[100], present[300]), (2.5, 0.5));
    let window = |repeat_last_n| {
        let options = Sampling { repeat_penalty: 2.0, repeat_last_n, ..plain() };
        let logits = after(options, &history);
        (logits[100], logits[300])
    };
    assert_eq!(window(2), (3.0, 0.5));
    assert_eq!(window(0), (3.0, 1.0));
    assert_eq!(window(-1), (1.5, 0.5));
    assert_eq!(window(1_000_000), (1.5, 0.5));
}

#[test]
fn newline_can_be_spared() {
    let with = |penalize_newline| {
        let mut sampler = sampler(Sampling { repeat_penalty: 2.0, penalize_newline, ..plain() });
        let mut logits = logits();
        logits[10] = 8.0;
        sampler.next(&mut logits, &[10]).unwrap();
        logits[10]
    };
    assert_eq!(with(true), 4.0);
    assert_eq!(with(false), 8.0);
}

#[test]
fn bias_and_ignored_ends() {
    assert_eq!(drawn(Sampling { logit_bias: vec![(300, 50.0)], ..plain() }), [300]);
    let mut sampler = sampler(Sampling { ignore_eos: true, temperature: 0.0, ..plain() });
    let mut logits = logits();
    (logits[0], logits[1]) = (9.0, 8.0);
    assert_eq!(sampler.next(&mut logits, &[]).unwrap(), 100);
}

#[test]
fn nonsense_from_the_model_is_an_error() {
    for options in
        [plain(), Sampling { temperature: 0.0, ..plain() }, Sampling { mirostat: 1, ..plain() }]
    {
        let mut sampler = sampler(options);
        let mut text = |logits: &mut [f32]| sampler.next(logits, &[]).unwrap_err().to_string();
        for at in [0usize, 500, 999] {
            let mut logits = logits();
            logits[at] = f32::NAN;
            assert!(text(&mut logits).contains("not a number"));
        }
        assert!(text(&mut vec![f32::NEG_INFINITY; N as usize]).contains("no token is allowed"));
        assert!(text(&mut vec![f32::INFINITY; N as usize]).contains("infinite"));
    }
}

#[test]
fn every_bound_of_the_options_is_checked() {
    let wrong = |options: Sampling| match check(&options, &tokens()) {
        Err(SubmitError::Sampling { name, .. }) => name,
        other => panic!("expected a refusal, got {other:?}"),
    };
    assert_eq!(wrong(Sampling { temperature: f32::NAN, ..plain() }), "temperature");
    assert_eq!(wrong(Sampling { top_p: f32::INFINITY, ..plain() }), "top_p");
    assert_eq!(wrong(Sampling { repeat_penalty: 0.0, ..plain() }), "repeat_penalty");
    assert_eq!(wrong(Sampling { repeat_last_n: -2, ..plain() }), "repeat_last_n");
    assert_eq!(wrong(Sampling { mirostat: 3, ..plain() }), "mirostat");
    assert_eq!(wrong(Sampling { mirostat_tau: -1.0, ..plain() }), "mirostat_tau");
    assert_eq!(wrong(Sampling { logit_bias: vec![(N, 0.0)], ..plain() }), "logit_bias");
    assert_eq!(wrong(Sampling { logit_bias: vec![(1, f32::NAN)], ..plain() }), "logit_bias");
}

proptest! {
    /// Selecting equals sorting everything.
    #[test]
    fn top_k_equals_sorting(
        logits in prop::collection::vec(
            prop_oneof![4 => -5i32..5, 1 => Just(i32::MIN)].prop_map(|n| if n == i32::MIN { f32::NEG_INFINITY } else { n as f32 }),
            1..1500,
        ),
        k in prop_oneof![0usize..50, 500usize..1600],
    ) {
        let mut sorted: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).filter(|c| c.1 > f32::NEG_INFINITY).collect();
        sorted.sort_by(by_logit_stable);
        if sorted.is_empty() {
            prop_assert!(top_k(&logits, k).is_err());
            return Ok(());
        }
        prop_assert_eq!(likeliest(&logits).unwrap(), sorted[0].0);
        if k > 0 { sorted.truncate(k); }
        prop_assert_eq!(top_k(&logits, k).unwrap(), sorted);
    }

    /// Whatever the options, a choice is a token that may be chosen.
    #[test]
    fn choices_are_valid(
        temperature in prop_oneof![Just(0.0f32), 1e-6f32..10.0],
        top_k in -1i32..80, top_p in 0.0f32..1.2, min_p in 0.0f32..1.2, typical_p in 0.0f32..1.2,
        mirostat in 0u8..3, tau in 0.0f32..20.0, eta in 0.0f32..2.0,
        spread in prop_oneof![Just(1.0f32), Just(100.0), Just(1e20)],
        values in prop::collection::vec(-1.0f32..1.0, N as usize),
        masked in prop::collection::hash_set(0usize..N as usize, 0..900),
    ) {
        let options = Sampling {
            temperature, top_k, top_p, min_p, typical_p, mirostat, mirostat_tau: tau, mirostat_eta: eta, ..plain()
        };
        let mut sampler = sampler(options);
        let masked: HashSet<usize> = masked;
        for _ in 0..3 {
            let mut logits: Vec<f32> = values.iter().enumerate()
                .map(|(n, v)| if masked.contains(&n) { f32::NEG_INFINITY } else { v * spread })
                .collect();
            let token = sampler.next(&mut logits, &[]).unwrap();
            prop_assert!(token < N && !masked.contains(&(token as usize)), "{token}");
        }
    }
}

fn by_logit_stable(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0))
}
