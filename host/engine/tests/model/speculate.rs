//! Drafts with the real model: the same text in fewer steps.
//!
//! The last bits of logits hang on the size of a step, so texts are compared where
//! the model is sure of itself, as it is of what it has just read.

use llamero_engine::{Constraint, FinishReason, Job, LoadError, Model, ModelConfig, Sampling};

use crate::support::{Outcome, alone, block_on, collect, config, job, model, own, run};

const DRAFT: u32 = 8;

/// Prompts that a model continues with what stands in them.
fn prompts() -> [String; 2] {
    [
        "The quick brown fox jumps over the lazy dog. ".repeat(4),
        "one, two, three, four, one, two, three, four, one, two,".to_string(),
    ]
}

fn long(text: &str) -> Job {
    let mut job = job(text, 40);
    job.sampling.ignore_eos = true;
    job
}

fn with(model: &Model, job: Job) -> Outcome {
    block_on(collect(model.submit(job).expect("job is accepted")))
}

#[test]
fn greedy_texts_are_the_same_in_fewer_steps() {
    let _alone = alone();
    let drafting = own(|c| c.speculate_tokens = DRAFT);
    for prompt in prompts() {
        let plain = run(long(&prompt));
        let steps = drafting.stats().steps;
        let ahead = with(&drafting, long(&prompt));
        assert_eq!(ahead.text, plain.text, "{prompt:?}");
        let (plain, ahead) = (plain.finished(), ahead.finished());
        assert_eq!((plain.draft_tokens, plain.accepted_draft_tokens), (0, 0));
        assert_eq!(ahead.completion_tokens, 40);
        // A step gives one token, and one more for each that was right.
        let steps = drafting.stats().steps - steps;
        assert_eq!(steps + u64::from(ahead.accepted_draft_tokens), 40);
        assert!(steps < 30, "{steps} steps for {prompt:?}");
    }
    assert_eq!(drafting.stats().kv_used, 0);
}

#[test]
fn draws_are_the_same() {
    let _alone = alone();
    let drafting = own(|c| c.speculate_tokens = DRAFT);
    let all = [
        Sampling { seed: 42, temperature: 0.2, repeat_penalty: 1.0, ..Sampling::default() },
        Sampling { seed: 7, temperature: 0.5, ..Sampling::default() },
        Sampling { seed: 7, mirostat: 2, repeat_penalty: 1.0, ..Sampling::default() },
    ];
    let mut accepted = 0;
    for sampling in all {
        let [prompt, ..] = prompts();
        let job = Job { sampling: sampling.clone(), ..job(&prompt, 24) };
        let ahead = with(&drafting, job.clone());
        assert_eq!(ahead.text, run(job).text, "{sampling:?}");
        accepted += ahead.finished().accepted_draft_tokens;
    }
    assert!(accepted > 0);
}

#[test]
fn ends_come_in_the_middle_of_a_draft() {
    let _alone = alone();
    let drafting = own(|c| c.speculate_tokens = DRAFT);
    let [prompt, ..] = prompts();
    let whole = run(long(&prompt)).text;
    assert!(whole.contains("lazy"), "{whole:?}");
    let stopped = Job { stop: vec!["lazy".to_string()], ..long(&prompt) };
    let outcome = with(&drafting, stopped);
    assert_eq!(outcome.text, whole[..whole.find("lazy").unwrap()]);
    assert_eq!(outcome.finished().reason, FinishReason::Stop);
    // Nor is there a token too many.
    for n in 1..12 {
        let outcome = with(&drafting, Job { max_tokens: n, ..long(&prompt) });
        assert_eq!(outcome.finished().completion_tokens, n);
        assert!(whole.starts_with(&outcome.text), "{:?}", outcome.text);
    }
}

#[test]
fn a_grammar_is_kept() {
    let _alone = alone();
    let drafting = own(|c| c.speculate_tokens = DRAFT);
    let list = "root ::= \"[\" item (\", \" item){11} \"]\"\n\
                item ::= \"\\\"alpha\\\"\" | \"\\\"beta\\\"\"\n";
    let list = Constraint::Grammar(list.to_string());
    let [plain, ahead] = [model(), &drafting].map(|model| {
        let constraint = Some(model.compile(&list).expect("the grammar compiles"));
        with(model, Job { constraint, ..job("A list of letters as JSON: ", 200) })
    });
    assert_eq!(ahead.text, plain.text);
    assert_eq!(ahead.finished().reason, FinishReason::Stop);
    assert!(ahead.finished().accepted_draft_tokens > 0);
    let items: Vec<String> = serde_json::from_str(&ahead.text).expect("an array of texts");
    assert_eq!(items.len(), 12);
}

#[test]
fn a_draft_that_is_too_long_is_refused() {
    let config = ModelConfig { speculate_tokens: 17, ..config() };
    let refused = Model::load(config, |_| true).map(|_| ());
    assert!(
        matches!(refused, Err(LoadError::Config { field: "speculate_tokens", .. })),
        "{refused:?}"
    );
}
