//! Text out of the model: greedy, stops, limits, samplers, accounts.

use llamero_engine::{FinishReason, Job, PromptLimits, Sampling, SubmitError};

use crate::support::{alone, block_on, greedy, job, model, run};

const STORY: &str = "Once upon a time, there was a little";

#[test]
fn greedy_is_deterministic() {
    let first = run(job(STORY, 32));
    let second = run(job(STORY, 32));
    assert!(!first.text.trim().is_empty());
    assert_eq!(first.text, second.text);
    let end = first.finished();
    assert_eq!(end.reason, FinishReason::Length);
    assert_eq!(end.completion_tokens, 32);
    assert_eq!(end.prompt_tokens as usize, job(STORY, 1).prompt.len());
    assert_eq!(end.cached_tokens, 0);
}

#[test]
fn the_model_knows_its_language() {
    let outcome = run(job("The capital of France is", 8));
    assert!(outcome.text.contains("Paris"), "{:?}", outcome.text);
    // The leading space of the first word stays.
    assert!(outcome.text.starts_with(' '), "{:?}", outcome.text);
}

#[test]
fn one_chunk_or_many_give_the_same() {
    // Longer than a step, so that the prompt is computed in several ones.
    let long = format!("{}The last word of this text is", "A line of text. ".repeat(120));
    let outcome = run(job(&long, 8));
    assert!(outcome.finished().prompt_tokens > 512);
    assert_eq!(run(job(&long, 8)).text, outcome.text);
}

#[test]
fn stop_strings_end_wherever_tokens_do() {
    let whole = run(job(STORY, 48)).text;
    // Every substring of three characters, whichever tokens it lies in.
    let chars: Vec<(usize, char)> = whole.char_indices().collect();
    for window in chars.windows(3).step_by(7).take(12) {
        let stop: String = window.iter().map(|(_, c)| c).collect();
        let mut stopped = job(STORY, 48);
        stopped.stop = vec![stop.clone()];
        let outcome = run(stopped);
        let at = whole.find(&stop).unwrap();
        assert_eq!(outcome.text, whole[..at], "stop {stop:?}");
        assert_eq!(outcome.finished().reason, FinishReason::Stop);
        assert!(outcome.finished().completion_tokens < 48);
    }
}

#[test]
fn a_stop_string_that_never_comes_holds_nothing_back() {
    let whole = run(job(STORY, 24)).text;
    let mut other = job(STORY, 24);
    let tail: String = whole.chars().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect();
    other.stop = vec![format!("{tail}#"), String::new()];
    let outcome = run(other);
    assert_eq!(outcome.text, whole);
    assert_eq!(outcome.finished().reason, FinishReason::Length);
}

#[test]
fn end_of_generation_ends_and_can_be_ignored() {
    let text = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n";
    let all = 0..text.len();
    let prompt =
        model().prepare_text(text, std::slice::from_ref(&all), &PromptLimits::default()).unwrap();
    let chat = Job { prompt: prompt.tokens, max_tokens: 300, sampling: greedy(), ..Job::default() };
    let outcome = run(chat.clone());
    assert_eq!(outcome.finished().reason, FinishReason::Stop);
    assert!(!outcome.text.contains("<|im_end|>"));
    let n = outcome.finished().completion_tokens;
    assert!(n > 0 && n < 300);

    let outcome = run(Job {
        max_tokens: n + 20,
        sampling: Sampling { ignore_eos: true, ..greedy() },
        ..chat
    });
    assert_eq!(outcome.finished().reason, FinishReason::Length);
    assert_eq!(outcome.finished().completion_tokens, n + 20);
}

#[test]
fn a_full_context_gives_length() {
    let mut small = job(STORY, 0);
    small.n_ctx = small.prompt.len() as u32 + 20;
    small.sampling.ignore_eos = true;
    let outcome = run(small.clone());
    let end = outcome.finished();
    assert_eq!(end.reason, FinishReason::Length);
    assert_eq!(end.prompt_tokens + end.completion_tokens, small.n_ctx);
}

#[test]
fn whole_characters_only() {
    // Characters that take several tokens each.
    let mut emoji = job("Repeat: 🦙🦙🦙🦙🦙 🦙🦙🦙🦙🦙 🦙🦙🦙🦙", 40);
    emoji.sampling.ignore_eos = true;
    let outcome = run(emoji);
    // Each piece is a `String`, and so is valid by its type; here it has to
    // have been worth the while: the model repeats what it sees.
    assert!(outcome.text.contains('🦙'), "{:?}", outcome.text);
    // The last character may be cut by the limit of tokens, no other one.
    let whole = outcome.text.trim_end_matches('\u{FFFD}');
    assert!(!whole.contains('\u{FFFD}'), "{:?}", outcome.text);
}

#[test]
fn every_sampler_gives_text() {
    let all = [
        Sampling { seed: 42, ..Sampling::default() },
        Sampling { seed: 42, top_k: 0, ..Sampling::default() },
        Sampling { seed: 42, top_k: 1, ..Sampling::default() },
        Sampling { seed: 42, typical_p: 0.5, ..Sampling::default() },
        Sampling { seed: 42, min_p: 0.2, top_p: 1.0, ..Sampling::default() },
        Sampling { seed: 42, mirostat: 1, ..Sampling::default() },
        Sampling { seed: 42, mirostat: 2, ..Sampling::default() },
        Sampling {
            seed: 42,
            temperature: 2.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.5,
            ..Sampling::default()
        },
        Sampling { seed: 42, repeat_last_n: -1, penalize_newline: false, ..Sampling::default() },
    ];
    for sampling in all {
        let job = Job { sampling: sampling.clone(), ..job(STORY, 12) };
        let first = run(job.clone());
        assert!(first.finished().completion_tokens > 0, "{sampling:?}");
        assert_eq!(first.text, run(job).text, "equal seeds alone give equal text: {sampling:?}");
    }
    let only = Job {
        sampling: Sampling { top_k: 1, repeat_penalty: 1.0, ..Sampling::default() },
        ..job(STORY, 12)
    };
    assert_eq!(run(only).text, run(job(STORY, 12)).text, "top_k 1 is greedy");
}

#[test]
fn logit_bias_decides() {
    let token = model().tokenizer().encode(" Berlin", false).unwrap()[0];
    let mut biased = job("The capital of France is", 1);
    biased.sampling.logit_bias = vec![(token, 100.0)];
    assert_eq!(run(biased).text, " Berlin");
}

#[test]
fn invalid_jobs_are_refused() {
    let refuse = |change: fn(&mut Job)| {
        let mut job = job(STORY, 1);
        change(&mut job);
        model().submit(job).map(|_| ()).unwrap_err()
    };
    assert_eq!(refuse(|j| j.prompt.clear()), SubmitError::EmptyPrompt);
    assert!(matches!(
        refuse(|j| j.prompt = vec![1; 2048]),
        SubmitError::PromptTooLong { tokens: 2048, n_ctx: 2048 }
    ));
    assert!(matches!(refuse(|j| j.n_ctx = 3), SubmitError::PromptTooLong { n_ctx: 3, .. }));
    assert!(matches!(refuse(|j| j.n_ctx = 4096), SubmitError::ContextSize { max: 2048, .. }));
    assert!(matches!(
        refuse(|j| j.prompt[0] = 49_152),
        SubmitError::InvalidToken { token: 49_152, .. }
    ));
    assert!(matches!(refuse(|j| j.prompt[0] = u32::MAX), SubmitError::InvalidToken { .. }));
    assert!(matches!(
        refuse(|j| j.sampling.temperature = f32::NAN),
        SubmitError::Sampling { name: "temperature", .. }
    ));
    assert!(matches!(
        refuse(|j| j.stop = vec!["x".repeat(10_000); 2]),
        SubmitError::StopTooLong { bytes: 20_000, .. }
    ));
}

#[test]
fn tokenizer_counts_and_decodes() {
    let tokenizer = model().tokenizer();
    let text = "Hello, wörld! 🦙 <|im_end|>";
    let tokens = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.count(text), Ok(tokens.len()));
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    let special = tokenizer.encode(text, true).unwrap();
    assert!(special.len() < tokens.len());
    assert_eq!(tokenizer.decode(&special).unwrap(), text);
    assert_eq!(tokenizer.encode("", true), Ok(Vec::new()));
    assert_eq!(tokenizer.decode(&[]), Ok(String::new()));
    assert!(tokenizer.decode(&[49_152]).is_err());
}

#[test]
fn times_are_told() {
    let outcome = run(job(STORY, 16));
    let end = outcome.finished();
    assert!(!end.prompt_time.is_zero());
    assert!(!end.predict_time.is_zero());
}

#[test]
fn a_dropped_future_loses_no_event() {
    let whole = run(job(STORY, 16)).text;
    let _alone = alone();
    let mut generation = model().submit(job(STORY, 16)).unwrap();
    let text = block_on(async {
        let mut text = String::new();
        loop {
            // Polled once and dropped, over and over.
            let event = tokio::time::timeout(std::time::Duration::ZERO, generation.next()).await;
            match event {
                Ok(Some(llamero_engine::Event::Text(piece))) => text.push_str(&piece.text),
                Ok(_) => break text,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(text, whole);
}
