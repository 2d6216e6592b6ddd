//! Token guards with the real model.

use llamero_engine::{
    Constraint, DecideError, Event, FinishReason, GenerationError, GuardPlan, GuardVerdict, Job,
    SubmitError,
};

use crate::support::{alone, block_on, job, model, run};

const TEXT: &str = "The capital of France is";

/// Runs a guarded job; `answer` is given the number of the question, the token
/// before it, and the candidates.
fn guarded(
    job: Job,
    mut answer: impl FnMut(usize, Option<u32>, &[(u32, f32)]) -> GuardVerdict,
) -> (String, Event) {
    let _alone = alone();
    let mut generation = model().submit(job).unwrap();
    let mut text = String::new();
    let mut n = 0;
    block_on(async {
        loop {
            match generation.next().await.expect("an end comes") {
                Event::Text(piece) => text.push_str(&piece.text),
                Event::Candidates { previous, candidates } => {
                    n += 1;
                    generation.decide(answer(n, previous, &candidates)).unwrap();
                    let twice = generation.decide(GuardVerdict::Pass);
                    assert_eq!(twice, Err(DecideError::NotAsked));
                }
                end => return (text, end),
            }
        }
    })
}

fn with(top_k: u32, every: u32, max_tokens: u32) -> Job {
    Job { guard: Some(GuardPlan { top_k, every }), ..job(TEXT, max_tokens) }
}

#[test]
fn passing_changes_nothing() {
    let plain = run(job(TEXT, 16));
    for every in [1, 3] {
        let mut questions = 0;
        let (text, end) = guarded(with(5, every, 16), |n, previous, candidates| {
            questions = n;
            assert_eq!(candidates.len(), 5);
            assert!(candidates.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            let sum: f32 = candidates.iter().map(|c| c.1.exp()).sum();
            assert!(sum > 0.0 && sum <= 1.001, "{sum}");
            assert_eq!(previous.is_none(), n == 1 && every == 1);
            GuardVerdict::Pass
        });
        assert_eq!(text, plain.text);
        assert!(matches!(end, Event::Finished(_)), "{end:?}");
        assert_eq!(questions, 16 / every as usize);
    }
}

#[test]
fn a_ban_and_a_force_are_followed() {
    let tokenizer = model().tokenizer();
    let (text, _) = guarded(with(8, 1, 1), |_, _, candidates| {
        assert_eq!(tokenizer.decode(&[candidates[0].0]).unwrap(), " Paris");
        GuardVerdict::Ban(vec![candidates[0].0])
    });
    assert!(!text.is_empty() && !text.contains("Paris"), "{text:?}");
    let forced = tokenizer.encode(" London, and the capital of Germany is", false).unwrap();
    let (text, end) = guarded(with(8, 1, 64), |n, _, candidates| match n {
        1 => GuardVerdict::Force(forced.clone()),
        2 => {
            // It has read what it was made to say.
            assert_eq!(tokenizer.decode(&[candidates[0].0]).unwrap(), " Berlin");
            GuardVerdict::Pass
        }
        _ => GuardVerdict::End,
    });
    assert_eq!(text, " London, and the capital of Germany is Berlin");
    match end {
        Event::Finished(end) => {
            assert_eq!(end.reason, FinishReason::Stop);
            assert_eq!(end.completion_tokens as usize, forced.len() + 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guard_cannot_go_around_the_constraint() {
    let grammar = Constraint::Grammar("root ::= \" yes\" | \" no\"".to_string());
    let constraint = Some(model().compile(&grammar).unwrap());
    let tokenizer = model().tokenizer();
    let token = |text: &str| tokenizer.encode(text, false).unwrap()[0];
    let run = |verdict: GuardVerdict| {
        guarded(Job { constraint: constraint.clone(), ..with(8, 1, 4) }, |n, _, candidates| {
            assert!(candidates.iter().all(|c| c.1.is_finite()));
            if n == 1 { verdict.clone() } else { GuardVerdict::Pass }
        })
    };
    let (_, end) = run(GuardVerdict::Force(vec![token(" maybe")]));
    assert!(
        matches!(&end, Event::Failed(GenerationError::Guard(text)) if text.contains("constraint")),
        "{end:?}"
    );
    let (_, end) = run(GuardVerdict::Only(vec![token(" maybe")]));
    assert!(matches!(end, Event::Failed(GenerationError::Guard(_))), "{end:?}");
    for word in [" yes", " no"] {
        let (text, end) = run(GuardVerdict::Only(vec![token(word)]));
        assert_eq!(text, word);
        assert!(matches!(end, Event::Finished(_)), "{end:?}");
        let (text, _) = run(GuardVerdict::Force(vec![token(word)]));
        assert_eq!(text, word);
    }
}

#[test]
fn plans_out_of_range_are_refused() {
    let field = |top_k, every| match model().submit(with(top_k, every, 1)).map(|_| ()) {
        Err(SubmitError::Guard { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!([field(0, 1), field(65, 1), field(1, 0)], ["top_k", "top_k", "every"]);
    let mut plain = model().submit(job(TEXT, 1)).unwrap();
    assert_eq!(plain.decide(GuardVerdict::Pass), Err(DecideError::NotAsked));
}
