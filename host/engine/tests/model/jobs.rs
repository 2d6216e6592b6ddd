//! Several jobs at once, slow readers, cancelling.

use llamero_engine::{Event, FinishReason, SubmitError};

use crate::support::{alone, block_on, collect, job, model, own, run, wait};

const PROMPTS: [&str; 4] = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "1, 2, 3, 4, 5, 6,",
    "The colors of the rainbow are red, orange,",
];

#[test]
fn four_jobs_share_the_steps() {
    let _alone = alone();
    let model = own(|_| {});
    let before = model.stats().steps;
    let generations: Vec<_> =
        PROMPTS.iter().map(|text| model.submit(job(text, 24)).unwrap()).collect();
    let outcomes = block_on(async {
        let mut outcomes = Vec::new();
        for generation in generations {
            outcomes.push(collect(generation).await);
        }
        outcomes
    });
    for (outcome, text) in outcomes.iter().zip(PROMPTS) {
        assert_eq!(outcome.finished().completion_tokens, 24, "{text}");
        assert!(!outcome.text.trim().is_empty());
    }
    assert!(outcomes[0].text.contains("Paris"), "{:?}", outcomes[0].text);
    assert!(outcomes[2].text.contains('7'), "{:?}", outcomes[2].text);
    assert!(outcomes[3].text.contains("blue"), "{:?}", outcomes[3].text);
    // 96 tokens one after the other would be 96 steps.
    let steps = model.stats().steps - before;
    assert!(steps < 60, "{steps} steps for four times 24 tokens");
    let stats = model.stats();
    assert_eq!(stats.completion_tokens, 96);
    assert_eq!((stats.running, stats.queued, stats.kv_used), (0, 0, 0));
    assert_eq!(stats.jobs_done, 4);
    assert!(stats.kv_total >= 4 * 2048);
}

#[test]
fn more_jobs_than_slots_all_end() {
    let _alone = alone();
    let generations: Vec<_> =
        (0..12).map(|n| model().submit(job(&format!("Number {n} is"), 6)).unwrap()).collect();
    block_on(async {
        for generation in generations {
            let outcome = collect(generation).await;
            assert!(outcome.finished().completion_tokens > 0);
        }
    });
}

#[test]
fn a_full_queue_is_busy_and_recovers() {
    let _alone = alone();
    let model = own(|c| (c.slots, c.queue) = (1, 1));
    let mut long = job(PROMPTS[1], 0);
    long.sampling.ignore_eos = true;
    let running = model.submit(long.clone()).unwrap();
    wait("the first job to run", || model.stats().running == 1);
    let waiting = model.submit(long.clone()).unwrap();
    assert_eq!(model.submit(long).map(|_| ()).unwrap_err(), SubmitError::Busy);

    // A job that waits is cancelled at once, whatever runs.
    let mut waiting = waiting;
    waiting.cancel();
    let end = block_on(waiting.next());
    assert!(
        matches!(&end, Some(Event::Finished(f)) if f.reason == FinishReason::Cancelled && f.completion_tokens == 0),
        "{end:?}"
    );
    assert_eq!(block_on(waiting.next()), None);
    running.cancel();
    let outcome = block_on(collect(running));
    assert_eq!(outcome.finished().reason, FinishReason::Cancelled);
    wait("the places to be free", || model.submit(job(PROMPTS[0], 1)).is_ok());
}

#[test]
fn cancel_stops_before_the_next_token() {
    let _alone = alone();
    let mut long = job(PROMPTS[1], 0);
    long.sampling.ignore_eos = true;
    let mut generation = model().submit(long).unwrap();
    let canceller = generation.canceller();
    block_on(async {
        let mut pieces = 0;
        loop {
            match generation.next().await {
                Some(Event::Text(_)) => {
                    pieces += 1;
                    if pieces == 3 {
                        canceller.cancel();
                    }
                }
                Some(Event::Finished(end)) => {
                    assert_eq!(end.reason, FinishReason::Cancelled);
                    // Some may have been on their way.
                    assert!(end.completion_tokens < 200, "{end:?}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(generation.next().await, None);
    });
    // Without effect by now, even with the job gone.
    drop(generation);
    canceller.cancel();
}

#[test]
fn cancel_during_a_long_prompt_leaves_the_others_unharmed() {
    let _alone = alone();
    let model = own(|_| {});
    let expected = run(job(PROMPTS[2], 40)).text;
    let neighbour = model.submit(job(PROMPTS[2], 40)).unwrap();
    wait("the neighbour to generate", || model.stats().completion_tokens > 2);
    let long = job(&"A line of text. ".repeat(400), 4);
    let prompt = long.prompt.len() as u64;
    let before = model.stats().prompt_tokens;
    let mut generation = model.submit(long).unwrap();
    wait("the prompt to be in work", || model.stats().running == 2);
    generation.cancel();
    block_on(async {
        match generation.next().await {
            Some(Event::Finished(end)) => assert_eq!(end.reason, FinishReason::Cancelled),
            other => panic!("{other:?}"),
        }
        assert_eq!(collect(neighbour).await.text, expected);
    });
    assert!(model.stats().prompt_tokens - before < prompt, "the whole prompt was computed");
}

#[test]
fn dropping_a_generation_cancels_it() {
    let _alone = alone();
    let model = own(|c| c.slots = 1);
    let mut long = job(PROMPTS[1], 0);
    long.sampling.ignore_eos = true;
    drop(model.submit(long).unwrap());
    let next = model.submit(job(PROMPTS[0], 4)).unwrap();
    assert!(block_on(collect(next)).finished().completion_tokens > 0);
}

#[test]
fn a_reader_that_sleeps_pauses_only_itself() {
    let _alone = alone();
    let model = own(|c| c.event_capacity = 2);
    let mut long = job(PROMPTS[1], 60);
    long.sampling.ignore_eos = true;
    let sleeper = model.submit(long.clone()).unwrap();
    wait("the sleeper to pause", || model.stats().paused == 1);
    let other = model.submit(job(PROMPTS[2], 60)).unwrap();
    assert_eq!(block_on(collect(other)).finished().completion_tokens, 60);
    assert_eq!(model.stats().paused, 1);
    // It goes on where it was, and nothing is lost.
    let outcome = block_on(collect(sleeper));
    assert_eq!(outcome.finished().completion_tokens, 60);
    assert_eq!(outcome.text, run(long).text);
}

#[test]
fn a_generation_outlives_its_model() {
    let _alone = alone();
    let model = own(|_| {});
    let generation = model.submit(job(PROMPTS[2], 16)).unwrap();
    let tokenizer = model.tokenizer();
    drop(model);
    assert_eq!(block_on(collect(generation)).finished().completion_tokens, 16);
    assert!(tokenizer.count("still there").unwrap() > 0);
}
