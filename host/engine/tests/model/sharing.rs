//! The prefix cache, admission by cells and preemption, with the real KV cache.

use std::time::{Duration, Instant};

use llamero_engine::{Event, GenerationError, Job, Model, SubmitError};

use crate::support::{Outcome, alone, block_on, collect, greedy, job, own, wait};

const BLOCK: usize = 16;
const COUNTS: [&str; 2] = ["1, 2, 3, 4, 5, 6,", "10, 20, 30, 40, 50,"];

/// A system prompt of exactly `n` tokens.
fn shared(model: &Model, n: usize) -> Vec<u32> {
    let line = "You are a helpful assistant who answers in one short sentence. ";
    let tokens = model.tokenizer().encode(&line.repeat(n / 8 + 2), false).unwrap();
    tokens[..n].to_vec()
}

/// A job with its own words behind a prefix.
fn behind(model: &Model, prefix: &[u32], text: &str, max_tokens: u32) -> Job {
    let own = model.tokenizer().encode(text, false).unwrap();
    let prompt = [prefix, &own].concat();
    Job { prompt, max_tokens, sampling: greedy(), ..Job::default() }
}

fn all(model: &Model, jobs: Vec<Job>) -> Vec<Outcome> {
    let generations: Vec<_> = jobs.into_iter().map(|job| model.submit(job).unwrap()).collect();
    block_on(async {
        let mut outcomes = Vec::new();
        for generation in generations {
            outcomes.push(collect(generation).await);
        }
        outcomes
    })
}

fn one(model: &Model, job: Job) -> Outcome {
    all(model, vec![job]).remove(0)
}

#[test]
fn cached_and_cold_give_the_same() {
    let _alone = alone();
    // The last bits of logits hang on the sizes of the pieces that a prompt is
    // computed in. With this step the cold one is cut where the cached one is, so
    // that the outputs have to be equal.
    let model = own(|c| c.n_batch = 304);
    assert!(model.info().prefix_cache);
    let prefix = shared(&model, 300);
    let job = behind(&model, &prefix, "The capital of France is", 24);
    assert_eq!(job.prompt.len(), 305);
    let cold = one(&model, Job { cache: false, ..job.clone() });
    assert_eq!(model.stats().cache_cells, 0);
    let first = one(&model, job.clone());
    let second = one(&model, job.clone());
    assert_eq!(cold.text, first.text);
    assert_eq!(cold.text, second.text);
    let most = job.prompt.len() - 1;
    let cached: Vec<u32> =
        [&cold, &first, &second].iter().map(|o| o.finished().cached_tokens).collect();
    assert_eq!(cached, [0, 0, (most - most % BLOCK) as u32]);
    // Another question behind the same words, and the same under another salt.
    let other = behind(&model, &prefix, " 1, 2, 3, 4, 5,", 8);
    let outcome = one(&model, other.clone());
    assert_eq!(outcome.finished().cached_tokens as usize, 300 - 300 % BLOCK);
    assert!(outcome.text.contains('6'), "{:?}", outcome.text);
    let salted = one(&model, Job { cache_salt: "b".to_string(), ..other });
    assert_eq!(salted.finished().cached_tokens, 0);
    assert!(salted.text.contains('6'), "{:?}", salted.text);
    let stats = model.stats();
    assert_eq!(stats.kv_used, 0);
    assert_eq!((stats.cache_hits, stats.cache_tokens), (2, 288 + u64::from(cached[2])));
    assert!(stats.cache_cells >= 300);
}

#[test]
fn jobs_that_come_together_compute_their_prefix_once() {
    let _alone = alone();
    let model = own(|c| c.slots = 8);
    let prefix = shared(&model, 512);
    let words = [" One", " Two", " Three", " Four", " Five", " Six", " Seven", " Eight"];
    let jobs: Vec<Job> = words.iter().map(|word| behind(&model, &prefix, word, 4)).collect();
    let n_own: usize = jobs.iter().map(|job| job.prompt.len() - 512).sum();
    let outcomes = all(&model, jobs.clone());
    assert_eq!(model.stats().prompt_tokens as usize, 512 + n_own);
    let cached: Vec<u32> = outcomes.iter().map(|o| o.finished().cached_tokens).collect();
    assert_eq!(cached.iter().sum::<u32>(), 7 * 512, "{cached:?}");
    for outcome in &outcomes {
        assert_eq!(outcome.finished().completion_tokens, 4);
    }
    // What the neighbours did changes nothing that can be seen.
    let again = one(&model, Job { cache: false, ..jobs[0].clone() });
    assert_eq!(again.text, outcomes[0].text);
}

#[test]
fn a_cancelled_prompt_is_of_use() {
    let _alone = alone();
    let model = own(|c| c.n_batch = 64);
    let prefix = shared(&model, 1024);
    let mut generation = model.submit(behind(&model, &prefix, "One", 4)).unwrap();
    wait("a part of the prompt", || model.stats().prompt_tokens >= 128);
    generation.cancel();
    let end = block_on(generation.next());
    assert!(matches!(end, Some(Event::Finished(_))), "{end:?}");
    let computed = model.stats().prompt_tokens;
    let outcome = one(&model, behind(&model, &prefix, " Two", 4));
    assert_eq!(u64::from(outcome.finished().cached_tokens), computed);
}

#[test]
fn preempted_jobs_go_on_where_they_were() {
    let _alone = alone();
    // Both together need more than there is.
    let model = own(|c| (c.slots, c.n_ctx, c.kv_cells, c.kv_reserve) = (2, 256, 256, 0));
    assert_eq!((model.info().kv_cells, model.info().n_ctx), (256, 256));
    let counts = COUNTS.map(|text| {
        let mut job = job(text, 150);
        job.sampling.ignore_eos = true;
        job
    });
    let expected: Vec<Outcome> = counts.iter().map(|job| one(&model, job.clone())).collect();
    assert_eq!(model.stats().preemptions, 0);
    let outcomes = all(&model, counts.to_vec());
    assert!(model.stats().preemptions > 0, "there was room for both");
    for (outcome, expected) in outcomes.iter().zip(&expected) {
        assert_eq!(outcome.finished().completion_tokens, 150);
        assert_eq!(outcome.text, expected.text);
    }
    assert_eq!(model.stats().kv_used, 0);
}

#[test]
fn more_jobs_than_room_all_end() {
    let _alone = alone();
    let model = own(|c| (c.slots, c.n_ctx, c.kv_cells) = (8, 256, 256));
    let jobs: Vec<Job> = (0..12)
        .map(|n| {
            let mut job = job(&format!("Number {n} is"), 60);
            (job.sampling.ignore_eos, job.cache) = (true, n % 2 == 0);
            job
        })
        .collect();
    for outcome in all(&model, jobs) {
        assert_eq!(outcome.finished().completion_tokens, 60);
    }
    assert_eq!(model.stats().kv_used, 0);
}

#[test]
fn a_tenant_gets_a_slot_from_one_that_has_all() {
    let _alone = alone();
    let model = own(|c| (c.slots, c.fair_preempt_ms) = (2, 1));
    let many = COUNTS.map(|text| {
        let mut job = job(text, 120);
        (job.sampling.ignore_eos, job.cache) = (true, true);
        (job.tenant, job.cache_salt) = ("many".to_string(), text.to_string());
        job
    });
    let expected: Vec<Outcome> = many.iter().map(|job| one(&model, job.clone())).collect();
    let generations: Vec<_> = many.iter().map(|job| model.submit(job.clone()).unwrap()).collect();
    wait("both to generate", || model.stats().completion_tokens > 250);
    let one = Job { tenant: "one".to_string(), ..job("The capital of France is", 4) };
    let outcome = block_on(collect(model.submit(one).unwrap()));
    assert!(outcome.text.contains("Paris"), "{:?}", outcome.text);
    assert_eq!(model.stats().preemptions, 1);
    block_on(async {
        for (generation, expected) in generations.into_iter().zip(&expected) {
            assert_eq!(collect(generation).await.text, expected.text);
        }
    });
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let _alone = alone();
    let model = own(|c| (c.n_ctx, c.kv_cells) = (2048, 512));
    // A job may use all of the cache, and no more.
    assert_eq!(model.info().n_ctx, 512);
    let prompt = shared(&model, 512);
    let long = Job { prompt: prompt.clone(), ..Job::default() };
    let error = model.submit(long).map(|_| ()).unwrap_err();
    assert_eq!(error, SubmitError::PromptTooLong { tokens: 512, n_ctx: 512 });
    let mut fits = Job { prompt: prompt[..500].to_vec(), sampling: greedy(), ..Job::default() };
    fits.sampling.ignore_eos = true;
    assert_eq!(one(&model, fits).finished().completion_tokens, 12);
}

#[test]
fn a_late_job_is_not_begun() {
    let _alone = alone();
    let model = own(|_| {});
    let late = Job { deadline: Some(Instant::now()), ..job("Too late", 4) };
    let outcome = one(&model, late);
    assert_eq!(outcome.end, Err(GenerationError::Expired));
    let later = Some(Instant::now() + Duration::from_secs(600));
    let outcome = one(&model, Job { deadline: later, ..job("In time", 4) });
    assert_eq!(outcome.finished().completion_tokens, 4);
    assert_eq!(model.stats().jobs_done, 2);
}

#[test]
fn there_are_never_more_sequences_than_llama_cpp_has() {
    let _alone = alone();
    let model = own(|c| (c.slots, c.n_ctx, c.kv_cells, c.cache_leaves) = (250, 128, 256, u32::MAX));
    assert_eq!(one(&model, job("One, two,", 3)).finished().completion_tokens, 3);
    let model = own(|c| (c.cache_leaves, c.n_ctx) = (0, 256));
    assert!(model.info().prefix_cache);
    let prefix = shared(&model, 64);
    let jobs = [" One", " Two"].map(|word| behind(&model, &prefix, word, 2));
    // Without leaves, jobs that run at the same time still share.
    let outcomes = all(&model, jobs.to_vec());
    assert_eq!(outcomes.iter().map(|o| o.finished().cached_tokens).sum::<u32>(), 64);
    assert_eq!(model.stats().cache_cells, 0);
}
