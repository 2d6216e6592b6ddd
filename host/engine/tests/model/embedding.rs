//! Vectors of texts.

use std::time::Duration;

use llamero_engine::{EmbedError, Model, ModelConfig};

use crate::support::{alone, block_on, collect, job, model, own};

const NEAR: [&str; 2] =
    ["The cat sleeps on the warm sofa.", "The kitten is sleeping on the warm sofa."];
const FAR: &str = "The central bank has raised interest rates again.";

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_string()).collect()
}

fn embed(model: &Model, input: &[&str]) -> Vec<Vec<f32>> {
    let tokens = model.prepare_texts(&texts(input)).unwrap();
    assert!(tokens.total() >= input.len() && tokens.len() == input.len());
    let vectors = block_on(model.embed(tokens).unwrap()).unwrap();
    assert_eq!(vectors.len(), input.len());
    vectors
}

/// Of vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn assert_same(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart <= tolerance, "{apart}");
}

/// Equal but for rounding: a batch of another size is computed by other kernels.
fn assert_near(a: &[f32], b: &[f32]) {
    let cosine = cosine(a, b);
    assert!(cosine > 0.999, "{cosine}");
}

/// About so many tokens.
fn words(n: usize) -> String {
    "river ".repeat(n)
}

/// A model that embeds with little, so that many batches are needed.
fn small(config: &mut ModelConfig) {
    config.n_ctx = 256;
    config.slots = 1;
    config.embedding.max_tokens = 64;
}

#[test]
fn vectors_are_as_long_as_the_model_says_and_have_length_one() {
    let _alone = alone();
    let info = model().info();
    let about = info.embedding.unwrap();
    assert!(info.generates);
    assert_eq!((about.size, about.max_tokens), (576, 512));
    for vector in embed(model(), &[NEAR[0], "x"]) {
        assert_eq!(vector.len(), 576);
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-4);
    }
}

#[test]
fn equal_texts_have_equal_vectors_and_near_ones_near_vectors() {
    let _alone = alone();
    let vectors = embed(model(), &[NEAR[0], NEAR[1], FAR, NEAR[0]]);
    assert_same(&vectors[0], &vectors[3], 1e-3);
    assert_same(&vectors[0], &embed(model(), &[NEAR[0], NEAR[1], FAR, NEAR[0]])[0], 1e-5);
    let (near, far) = (cosine(&vectors[0], &vectors[1]), cosine(&vectors[0], &vectors[2]));
    assert!(near > far, "{near} {far}");
    assert!(cosine(&vectors[1], &vectors[0]) > cosine(&vectors[1], &vectors[2]));
}

#[test]
fn a_text_has_the_same_vector_alone_and_among_others() {
    let _alone = alone();
    let long = words(200);
    // More texts than one batch takes, and one that fills most of a batch.
    let mut input: Vec<&str> = vec![NEAR[0]; 20];
    input[3] = FAR;
    input[17] = &long;
    let together = embed(model(), &input);
    assert_near(&together[3], &embed(model(), &[FAR])[0]);
    assert_near(&together[17], &embed(model(), &[&long])[0]);
    assert_near(&together[19], &embed(model(), &[NEAR[0]])[0]);
}

#[test]
fn a_text_that_is_too_long_is_refused_and_not_cut() {
    let _alone = alone();
    let model = own(small);
    assert_eq!(model.info().embedding.unwrap().max_tokens, 64);
    let refusal = |input: &[&str]| model.prepare_texts(&texts(input)).unwrap_err();
    let long = words(100);
    match refusal(&["x", &long]) {
        EmbedError::TooLong { index: 1, tokens, limit: 64 } => assert!(tokens > 64, "{tokens}"),
        other => panic!("{other:?}"),
    }
    let huge = words(100_000);
    assert!(matches!(refusal(&[&huge]), EmbedError::TooManyBytes { index: 0, limit: 64, .. }));
    // To the last token.
    let fits = (1..100).rev().map(words).find(|text| model.prepare_texts(&texts(&[text])).is_ok());
    let fits = fits.unwrap();
    assert_eq!(embed(&model, &[&fits, &fits]).len(), 2);
}

#[test]
fn the_context_comes_back_after_it_was_freed() {
    let _alone = alone();
    let model = own(|config| {
        small(config);
        config.embedding.idle = Duration::from_millis(1);
    });
    let first = embed(&model, &[FAR]);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(30));
        assert_same(&first[0], &embed(&model, &[FAR])[0], 1e-5);
    }
}

#[test]
fn a_dropped_request_is_stopped_and_the_queue_is_bounded() {
    let _alone = alone();
    let model = own(|config| {
        small(config);
        config.queue = 1;
    });
    let text = words(50);
    let many = model.prepare_texts(&texts(&[text.as_str(); 2000])).unwrap();
    let running = model.embed(many.clone()).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        match model.embed(many.clone()) {
            Ok(embedding) => waiting.push(embedding),
            Err(error) => break error,
        }
        assert!(waiting.len() < 4, "no bound");
    };
    assert_eq!(refused, EmbedError::Busy);
    drop((running, waiting));
    // Two thousand texts would take minutes; what comes next is answered at once.
    let again = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(10));
        model.embed(model.prepare_texts(&texts(&[FAR])).unwrap())
    })
    .take(1000)
    .find_map(Result::ok);
    assert_eq!(block_on(again.unwrap()).unwrap().len(), 1);
}

#[test]
fn generating_goes_on_beside_it() {
    let _alone = alone();
    let expected = block_on(collect(model().submit(job("The capital of France is", 8)).unwrap()));
    let text = words(100);
    let tokens = model().prepare_texts(&texts(&[text.as_str(); 3])).unwrap();
    let vectors = model().embed(tokens).unwrap();
    let generation = model().submit(job("The capital of France is", 8)).unwrap();
    let (outcome, vectors) =
        block_on(async { (collect(generation).await, vectors.await.unwrap()) });
    assert_eq!(outcome.text, expected.text);
    assert_eq!(vectors.len(), 3);
}
