//! What models take: for how long they stay, how they make room for each other,
//! and what does not fit at all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Bench, MODEL, ModelsDir, Nats, Worker, assert_error, brief, endless, error_code, within,
};
use crate::lora_file::{LoraFile, Tensor};

/// How often a load has begun, as far as the log has arrived.
pub fn loads(worker: &Worker) -> usize {
    let log = worker.log();
    log.lines().filter(|line| line.contains("loading model") && line.contains("n_ctx=")).count()
}

/// Fails unless this many loads have begun.
pub async fn assert_loads(worker: &Worker, times: usize) {
    within("the line of a load", async {
        while loads(worker) < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(loads(worker), times);
}

fn on(model: &str, mut predict: Value) -> Value {
    predict["options"]["model"] = json!(model);
    predict
}

/// Two models of about 190 MiB each, and memory for one and a half.
fn bench() -> Bench {
    with_memory(ModelsDir::empty().link("a.gguf").link("b.gguf"), "300")
}

/// A worker that may keep two models, within so many MiB.
fn with_memory(models: ModelsDir, mib: &str) -> Bench {
    Bench::on(Nats::start(), models, |worker| {
        worker
            .flag("--slots", "3")
            .env("llm_ctx_size", "1024")
            .env("llm_max_loaded_models", "2")
            .env("llm_models_ram_mib", mib)
    })
}

/// An adapter of 36 MiB that changes little.
fn large_adapter() -> Vec<u8> {
    const RANK: usize = 8192;
    let half = |name: &str, size, seed| {
        Tensor::new(format!("blk.0.attn_q.weight.{name}"), size, 0.01, seed)
    };
    let tensors = vec![half("lora_a", [576, RANK], 1), half("lora_b", [RANK, 576], 2)];
    LoraFile { tensors, ..LoraFile::new(1) }.bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_uses_is_unloaded() {
    let bench = Bench::start(|worker| worker.env("llm_keep_alive", "500ms"));
    let client = bench.client().await;
    // Longer in use than it would be kept.
    let mut exchange = client.stream("long", endless(150)).await;
    assert!(!exchange.finish("long").await.output().is_empty());
    assert_loads(&bench.worker, 1).await;
    bench.worker.logs(&["model released", MODEL]).await;
    // The next one loads it again.
    client.output(brief()).await;
    assert_loads(&bench.worker, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_can_never_fit_is_refused_with_the_numbers() {
    let bench = bench();
    let client = bench.client().await;
    let large = on("a.gguf", json!({"input": ["x"], "options": {"ctx_size": 8192}}));
    let body = client.predict(large).await;
    assert_error(&body, 10, None);
    let text = body["error"]["error"].as_str().expect("text");
    assert!(text.starts_with("\"a.gguf\" with ctx_size 8192 needs "), "{text}");
    // Keys and values of 3 slots.
    assert!(text.contains("KV cache 540"), "{text}");
    assert!(text.contains("models_ram_mib is 300; a smaller ctx_size"), "{text}");
    // What fits is served.
    client.output(on("a.gguf", brief())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_model_makes_room() {
    let bench = bench();
    let client = bench.client().await;
    for model in ["a.gguf", "b.gguf", "a.gguf"] {
        client.output(on(model, brief())).await;
    }
    assert_loads(&bench.worker, 3).await;
    let log = bench.worker.log();
    let place = |parts: [&str; 2]| {
        let line = log.lines().position(|line| parts.iter().all(|part| line.contains(part)));
        line.unwrap_or_else(|| panic!("{parts:?} is not in the log"))
    };
    // First the one goes, then the other comes.
    assert!(place(["model released", "a.gguf"]) < place(["loading model", "b.gguf"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_use_is_waited_for() {
    let bench = bench();
    let client = bench.client().await;
    let mut running = client.stream("running", on("a.gguf", endless(3000))).await;
    running.first_fragment("running").await;
    let other = json!({"job": "other", "predict": on("b.gguf", brief())});
    let mut other = client.send(&other).await;
    bench.worker.logs(&["model waits for memory", "b.gguf"]).await;
    // Whoever comes later does not keep the model that has to go.
    let later = json!({"job": "later", "predict": on("a.gguf", brief())});
    let mut later = client.send(&later).await;
    client.interrupt("running").await;
    for (name, exchange) in [("other", &mut other), ("later", &mut later)] {
        let seen = exchange.next().await;
        assert!(seen.body["predict"].is_object(), "{name}: {seen:?}");
    }
    assert_loads(&bench.worker, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_job_does_not_keep_others_out() {
    let bench = bench();
    let client = bench.client().await;
    let mut running = client.stream("running", on("a.gguf", endless(3000))).await;
    running.first_fragment("running").await;
    let other = json!({"job": "other", "predict": on("b.gguf", brief())});
    let mut other = client.send(&other).await;
    bench.worker.logs(&["model waits for memory", "b.gguf"]).await;
    client.interrupt("other").await;
    assert_eq!(other.next().await.code(), Some(8));
    // Beside the one that still runs.
    client.output(on("a.gguf", brief())).await;
    client.interrupt("running").await;
    assert_loads(&bench.worker, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_count_and_make_room_for_each_other() {
    let adapter = large_adapter();
    let models = ModelsDir::empty()
        .link("a.gguf")
        .link("b.gguf")
        .file("one.gguf", &adapter)
        .file("two.gguf", &adapter);
    // Memory for a model and one adapter.
    let bench = with_memory(models, "240");
    let client = bench.client().await;
    let with = |lora: Value, mut predict: Value| {
        predict["options"]["lora"] = lora;
        on("a.gguf", predict)
    };
    client.output(with(json!("one.gguf"), brief())).await;
    // The one that nobody uses goes.
    client.output(with(json!("two.gguf"), brief())).await;

    // One that is used stays, and the other one has to be asked for again.
    let mut running = client.stream("running", with(json!("two.gguf"), endless(3000))).await;
    running.first_fragment("running").await;
    let body = client.predict(with(json!("one.gguf"), brief())).await;
    assert_error(&body, 6, Some("worker busy"));
    client.output(on("a.gguf", brief())).await;
    client.interrupt("running").await;
    running.finish_acked("running").await;
    // The engine lets go of it after a moment.
    within("room for the other one", async {
        while let Some(code) = error_code(&client.predict(with(json!("one.gguf"), brief())).await) {
            assert_eq!(code, 6);
        }
    })
    .await;

    // Both together never have room.
    let both = json!({"one.gguf": 1, "two.gguf": 1});
    let body = client.predict(with(both, brief())).await;
    assert_error(&body, 7, None);
    let text = body["error"]["error"].as_str().expect("text");
    assert!(text.starts_with("option lora: \"two.gguf\" needs 36 MiB beside the "), "{text}");
    assert!(text.ends_with("models_ram_mib is 240"), "{text}");

    // A model that nobody uses goes with its adapters, whoever wants the room.
    client.output(on("b.gguf", brief())).await;
    client.output(with(json!("one.gguf"), brief())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantised_cache_takes_less() {
    let bench = Bench::start(|worker| {
        worker
            .env("llm_kv_type_k", "q8_0")
            .env("llm_kv_type_v", "q4_0")
            // The 360 MiB of a cache in f16 would not fit.
            .env("llm_models_ram_mib", "320")
    });
    let client = bench.client().await;
    assert!(!client.output(brief()).await.is_empty());
}
