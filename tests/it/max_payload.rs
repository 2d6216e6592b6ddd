//! Servers with a small `max_payload`: what does not fit is said, and never ends
//! in silence.

use serde_json::json;

use crate::harness::{Bench, ModelsDir, Nats, assert_error, brief, endless};

/// Small enough that a few hundred tokens do not fit.
const SMALL: usize = 600;

fn small(models: ModelsDir) -> Bench {
    let nats = Nats::with(&format!("max_payload: {SMALL}"));
    Bench::on(nats, models, |worker| worker.flag("--model", crate::harness::MODEL))
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_do_not_fit() {
    let bench = small(ModelsDir::real());
    let client = bench.client().await;
    let mut exchange = client.send(&json!({"job": "a", "predict": endless(250)})).await;
    let seen = exchange.next().await;
    assert_error(&seen.body, 7, None);
    let text = seen.body["error"]["error"].as_str().expect("text");
    let limit = format!("exceeds the server's max_payload of {SMALL} bytes; request a stream");
    assert!(text.starts_with("output of ") && text.ends_with(&limit), "{text}");
    exchange.assert_silence().await;

    // The same as a stream: every fragment fits, and the last message says that
    // the whole text was left out.
    let mut exchange = client.stream("b", endless(250)).await;
    let outcome = exchange.finish("b").await;
    assert!(outcome.fragments.concat().len() > SMALL, "{outcome:?}");
    let last = &outcome.last;
    assert_eq!(last.header("Llm-Output-Omitted"), Some("true"), "{last:?}");
    assert!(
        last.body["predict"].is_object() && last.body["predict"].get("output").is_none(),
        "{last:?}"
    );
    assert_eq!(last.body["predict"]["usage"]["completion_tokens"], 250);
    exchange.assert_silence().await;

    // What fits is sent as ever.
    assert!(!client.output(brief()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_that_do_not_fit_are_split_between_characters() {
    let nats = Nats::with(&format!("max_payload: {SMALL}"));
    // Everything in one fragment: only the size is left as a reason to split.
    let bench = Bench::on(nats, ModelsDir::real(), |worker| {
        worker.env("llm_flush_interval_ms", "10000").env("llm_flush_bytes", "100000")
    });
    let client = bench.client().await;
    let mut exchange = client.stream("a", endless(250)).await;
    let outcome = exchange.finish("a").await;
    assert_eq!(outcome.last.header("Llm-Output-Omitted"), Some("true"), "{outcome:?}");
    let text = outcome.fragments.concat();
    assert!(text.len() > SMALL, "{text}");
    // The first text goes out at once, the rest at the end in as few messages as
    // the limit allows.
    assert!((2..=5).contains(&outcome.fragments.len()), "{} fragments", outcome.fragments.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_does_not_fit_keeps_the_options_of_the_first_model() {
    let models =
        (0..8).fold(ModelsDir::real(), |models, n| models.file(&format!("m{n}.gguf"), b""));
    let nats = Nats::with("max_payload: 8192");
    let bench = Bench::on(nats, models, |worker| worker);
    let client = bench.client().await;
    let mut exchange = client.send(&json!({"job": "a", "list": {}})).await;
    let seen = exchange.next().await;
    let models = seen.body["list"]["models"].as_array().expect("models");
    assert_eq!(models.len(), 9, "every model is named: {seen:?}");
    assert_eq!(seen.header("Llm-Options-Omitted"), Some("true"));
    assert!(models[0]["options"].is_array());
    assert!(models[1..].iter().all(|model| model.get("options").is_none()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_fit_at_all_is_still_answered() {
    let bench = small(ModelsDir::real());
    let client = bench.client().await;
    // Not even the first model's options fit: names alone, or an error, but an
    // answer.
    let mut exchange = client.send(&json!({"job": "a", "list": {}})).await;
    let seen = exchange.next().await;
    assert_eq!(seen.body["job"], "a");
    assert!(seen.body["list"].is_object() || seen.code().is_some(), "{seen:?}");
}
