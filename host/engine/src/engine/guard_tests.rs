//! Token guards: questions, answers, and answers that cannot be followed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use super::bench::Bench;
use super::fake::{EOG, N_VOCAB, next_token, piece};
use super::scheduler::Stepped;
use super::specs::Spec;
use crate::error::GenerationError;
use crate::job::{Event, FinishReason, GuardVerdict};

/// Runs one job; `answer` is given how many questions there were, and what the
/// likeliest tokens are.
fn guarded(
    spec: Spec,
    mut answer: impl FnMut(usize, &[(u32, f32)]) -> GuardVerdict,
) -> (Bench, usize) {
    let mut bench = Bench::new(64, 2);
    let at = bench.submit(spec);
    for _ in 0..10_000 {
        bench.step();
        let reader = &mut bench.readers[at];
        while reader.read() {}
        if let Some(candidates) = reader.asked.clone() {
            let verdict = answer(reader.questions, &candidates);
            reader.answer(verdict);
        }
        if reader.is_done() {
            break;
        }
    }
    bench.check_left();
    (bench, at)
}

fn text(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| piece(*token)).collect();
    String::from_utf8(bytes).unwrap()
}

/// A job whose first tokens are plain letters.
fn plain(n: usize) -> Spec {
    let letters = |spec: &Spec| {
        let mut tokens = spec.prompt.clone();
        (0..n).all(|_| {
            let token = next_token(&tokens);
            tokens.push(token);
            (1..58).contains(&token)
        })
    };
    Spec::many_lasting(&[9, 9, 9], n).find(letters).unwrap()
}

fn failure(verdict: GuardVerdict) -> String {
    let (bench, at) = guarded(plain(4).guarded(2, 1), |_, _| verdict.clone());
    match bench.readers[at].error() {
        GenerationError::Guard(text) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guard_that_lets_pass_changes_nothing() {
    for every in [1, 2, 5] {
        let (bench, at) = guarded(plain(20).guarded(3, every), |_, candidates| {
            assert!(!candidates.is_empty() && candidates.len() <= 3);
            assert!(candidates.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            assert!(candidates.iter().all(|c| c.1 < 0.0));
            GuardVerdict::Pass
        });
        bench.readers[at].check();
        assert_eq!(bench.readers[at].questions, 20 / every as usize);
    }
}

#[test]
fn a_job_that_is_cancelled_while_it_asks_gives_what_it_held_back() {
    let begins_a_character = |spec: &Spec| {
        let first = piece(next_token(&spec.prompt));
        // Its end is missing; anything else that is no character goes out at once.
        std::str::from_utf8(&first).is_err_and(|error| error.error_len().is_none())
    };
    let spec = Spec::many_lasting(&[], 3).find(begins_a_character).unwrap();
    let mut bench = Bench::new(64, 2);
    let at = bench.submit(spec.guarded(1, 1));
    while bench.readers[at].questions < 2 {
        bench.step();
        let reader = &mut bench.readers[at];
        while reader.read() {}
        if reader.questions == 1 && reader.asked.is_some() {
            reader.answer(GuardVerdict::Pass);
        }
    }
    assert_eq!(bench.readers[at].text, "");
    bench.cancel(at);
    bench.step();
    while bench.readers[at].read() {}
    assert_eq!(bench.readers[at].finished().reason, FinishReason::Cancelled);
    assert_eq!(bench.readers[at].text, "\u{FFFD}");
    bench.settle();
}

#[test]
fn only_the_job_that_asks_sits_out() {
    let mut bench = Bench::new(64, 2);
    let asks = bench.submit(plain(20).guarded(3, 1));
    let other = bench.submit(Spec::lasting(&[], 40));
    for _ in 0..200 {
        bench.step();
        bench.readers.iter_mut().for_each(|reader| while reader.read() {});
    }
    assert!(bench.readers[other].is_done());
    assert!(bench.readers[asks].text.is_empty() && bench.readers[asks].asked.is_some());
    assert_eq!(bench.step(), Stepped::Idle, "nothing to do but wait");
    bench.settle();
}

#[test]
fn a_ban_makes_it_choose_something_else() {
    let spec = plain(4);
    let first = next_token(&spec.prompt);
    let mut second = None;
    let (bench, at) = guarded(spec.guarded(2, 1), |n, candidates| {
        if n == 1 {
            assert_eq!(candidates[0].0, first);
            second = Some(candidates[1].0);
            return GuardVerdict::Ban(vec![first]);
        }
        GuardVerdict::End
    });
    assert_eq!(bench.readers[at].text, text(&[second.unwrap()]));
    assert_eq!(bench.readers[at].finished().reason, FinishReason::Stop);
    assert_eq!(bench.readers[at].finished().completion_tokens, 1);
}

#[test]
fn only_and_bias_choose_what_they_name() {
    let verdicts = [GuardVerdict::Only(vec![33]), GuardVerdict::Bias(vec![(33, 9.0)])];
    for verdict in verdicts {
        let (bench, at) = guarded(plain(4).guarded(1, 1), |n, _| match n {
            1 => verdict.clone(),
            _ => GuardVerdict::End,
        });
        assert_eq!(bench.readers[at].text, text(&[33]), "{verdict:?}");
    }
}

#[test]
fn forced_tokens_are_appended_and_computed() {
    let forced = [5, 6, 7];
    let spec = Spec { max_tokens: 30, ..plain(4) }.guarded(1, 4);
    let (bench, at) = guarded(spec, |n, _| match n {
        1 => GuardVerdict::Force(forced.to_vec()),
        _ => GuardVerdict::End,
    });
    // Three chosen tokens, then the forced ones, and one more before the eighth
    // asks again: forced tokens count, and what follows hangs on them.
    let prompt = &bench.readers[at].spec.prompt;
    let mut tokens = prompt.clone();
    for _ in 0..3 {
        tokens.push(next_token(&tokens));
    }
    tokens.extend(forced);
    let next = next_token(&tokens);
    tokens.extend((next != EOG).then_some(next));
    let bytes: Vec<u8> = tokens[prompt.len()..].iter().flat_map(|t| piece(*t)).collect();
    assert_eq!(bench.readers[at].text, String::from_utf8_lossy(&bytes));
    let n = bench.readers[at].finished().completion_tokens as usize;
    assert_eq!(n, tokens.len() - prompt.len());
}

#[test]
fn forcing_an_end_ends() {
    let (bench, at) = guarded(plain(4).guarded(1, 1), |_, _| GuardVerdict::Force(vec![5, EOG, 6]));
    assert_eq!(bench.readers[at].text, text(&[5]));
    assert_eq!(bench.readers[at].finished().reason, FinishReason::Stop);
}

#[test]
fn forced_tokens_keep_to_the_limit() {
    let (bench, at) = guarded(plain(4).guarded(1, 1), |_, _| GuardVerdict::Force(vec![5; 100]));
    assert_eq!(bench.readers[at].text, text(&[5; 4]));
    assert_eq!(bench.readers[at].finished().reason, FinishReason::Length);
}

#[test]
fn answers_that_cannot_be_followed_fail_their_job_only() {
    assert!(failure(GuardVerdict::Ban((0..N_VOCAB).collect())).contains("every candidate"));
    assert!(failure(GuardVerdict::Only(Vec::new())).contains("none of its tokens"));
    assert!(failure(GuardVerdict::Force(Vec::new())).contains("no token"));
    assert!(failure(GuardVerdict::Bias(vec![(1, f32::NAN)])).contains("bias"));
    assert!(failure(GuardVerdict::Bias(vec![(1, f32::INFINITY)])).contains("bias"));
    let unknown: [fn(u32) -> GuardVerdict; 4] = [
        |t| GuardVerdict::Ban(vec![t]),
        |t| GuardVerdict::Only(vec![1, t]),
        |t| GuardVerdict::Bias(vec![(t, 0.0)]),
        |t| GuardVerdict::Force(vec![1, t]),
    ];
    for verdict in unknown {
        for token in [N_VOCAB, u32::MAX] {
            assert!(failure(verdict(token)).contains("vocabulary"));
        }
    }
}

#[test]
fn banning_all_that_was_shown_is_an_error() {
    let (bench, at) = guarded(plain(4).guarded(2, 1), |_, candidates| {
        GuardVerdict::Ban(candidates.iter().map(|c| c.0).collect())
    });
    assert!(matches!(bench.readers[at].error(), GenerationError::Guard(_)));
}

#[test]
fn a_job_that_asks_can_be_cancelled_and_preempted() {
    let mut bench = Bench::new(64, 2);
    bench.submit(plain(20).guarded(3, 1));
    bench.step();
    bench.step();
    bench.cancel(0);
    bench.run();
    assert!(
        matches!(&bench.readers[0].end, Some(Event::Finished(f)) if f.reason == FinishReason::Cancelled)
    );

    let mut setup = super::bench::Setup::new(64, 2);
    setup.policy.fair_preempt = Some(std::time::Duration::ZERO);
    let mut bench = Bench::with(&setup);
    let mut asking = Spec::many_lasting(&[8, 8], 20).map(|spec| spec.guarded(3, 2).of("many"));
    bench.submit(asking.next().unwrap());
    bench.submit(asking.next().unwrap());
    for _ in 0..6 {
        bench.step();
    }
    // Both ask; the younger one loses its slot, and its question stands.
    let one = bench.submit(Spec::new(&[1, 2, 3], 2).of("one"));
    for _ in 0..6 {
        bench.step();
        bench.readers[one].read();
    }
    assert_eq!(bench.stats().preemptions, 1);
    bench.settle();
}
