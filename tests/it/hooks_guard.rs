//! The token guard, which is experimental, in a live worker: its verdicts decide
//! which tokens come, and its failures are the client's code 9.
//!
//! What it says is in `plugins/test/examples/token-guard.rs`; its `force` says the
//! words `configured words`.

use serde_json::{Value, json};

use crate::harness::{Bench, Client, HooksDir, Slot, assert_error, endless, new_job, within};

/// Limits that no verdict runs into, however busy the machine is.
const CONFIG: &str = "
    hook_wall_ms = 60000
    hook_cpu_ms = 10000
    hook_push_wall_ms = 60000
    hook_push_cpu_ms = 1000
    [plugins.token-guard]
    grant = [\"token-guard\"]
";

fn guarded() -> &'static Bench {
    static GUARDED: Slot = Slot::new();
    GUARDED.get(|| {
        let hooks = HooksDir::empty().test("token-guard").test("stream-upper").test("respond");
        Bench::with_hooks(hooks, |worker| worker.config(CONFIG))
    })
}

fn asking(what: &str) -> Value {
    // What the guard is asked for must be no part of what the model sees, or every
    // case would have another prompt.
    let options = json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true});
    json!({"input": [format!("[[token-guard:{what}]]"), "The capital of France is"], "options": options})
}

/// Output and generated tokens, the same with a stream and without one.
async fn answer(client: &Client, what: &str) -> (String, u64) {
    let body = client.predict(asking(what)).await;
    let job = new_job();
    let outcome = client.stream(&job, asking(what)).await.finish(&job).await;
    outcome.output();
    let tokens = body["predict"]["usage"]["completion_tokens"].as_u64();
    // Not the text: what a model says beyond the first tokens depends on which other
    // jobs were in the same batch.
    let streamed = outcome.last.body["predict"]["usage"]["completion_tokens"].as_u64();
    assert_eq!(streamed, tokens, "{what}: {body}");
    let output = body["predict"]["output"].as_str().unwrap_or_else(|| panic!("{what}: {body}"));
    (output.to_owned(), tokens.unwrap_or_else(|| panic!("{what}: {body}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_passes_changes_nothing_and_one_that_decides_does() {
    let client = guarded().client().await;
    let (passed, tokens) = answer(&client, "pass").await;
    assert_eq!(tokens, 12);
    for what in ["ban", "only", "bias"] {
        let (output, tokens) = answer(&client, what).await;
        assert_eq!(tokens, 12, "{what}: {output}");
        assert_ne!(output, passed, "{what}");
    }
    let (forced, tokens) = answer(&client, "force").await;
    assert!(forced.starts_with("configured words"), "{forced}");
    assert_eq!(tokens, 12, "forced tokens count: {forced}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_can_end_the_text_and_is_asked_as_often_as_it_wants() {
    let client = guarded().client().await;
    let body = client.predict(asking("end")).await;
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 3, "{body}");
    assert_eq!(body["predict"]["finish_reason"], "stop", "{body}");
    // Asked about the third token and about the sixth, which it makes the end.
    let body = client.predict(asking("every")).await;
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 5, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_and_a_filter_see_the_same_job() {
    let client = guarded().client().await;
    let mut predict = asking("force");
    predict["input"][0] = json!("[[token-guard:force]] [[stream-upper]]");
    let output = client.output(predict).await;
    assert!(output.starts_with("CONFIGURED WORDS"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_guard_has_its_code_and_kind() {
    let client = guarded().client().await;
    for (what, kind) in [
        ("trap", "trap"),
        ("loop", "cpu"),
        ("many", "invalid-output"),
        ("nan", "invalid-output"),
        ("greedy", "invalid-output"),
    ] {
        let body = client.predict(asking(what)).await;
        assert_error(&body, 9, None);
        let hook = json!({"plugin": "token-guard", "phase": "token", "kind": kind});
        assert_eq!(body["error"]["hook"], hook, "{what}: {body}");
        // A plugin that does nothing but fail is not called for a while.
        client.output(json!({"input": ["[[respond]]"]})).await;
        answer(&client, "end").await;
    }
    // What only the engine can know is wrong fails the prediction.
    for what in ["empty", "unknown"] {
        let body = client.predict(asking(what)).await;
        assert_error(&body, 7, None);
        let text = body["error"]["error"].as_str().unwrap_or_default();
        assert!(text.contains("guard"), "{what}: {body}");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_guard_keeps_its_own_job_waiting_only() {
    let client = guarded().client().await;
    let others: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let job = new_job();
                client.stream(&job, endless(60)).await.finish(&job).await
            })
        })
        .collect();
    let (output, tokens) = answer(&client, "busy").await;
    assert_eq!(tokens, 12, "{output}");
    for other in others {
        let outcome = within("another stream", other).await.expect("no panic");
        assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 60);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_guarded_job() {
    let client = guarded().client().await;
    let job = new_job();
    let mut predict = asking("busy");
    predict["options"]["max_tokens"] = json!(3000);
    let mut exchange = client.stream(&job, predict).await;
    exchange.first_fragment(&job).await;
    client.interrupt(&job).await;
    let outcome = exchange.finish_acked(&job).await;
    assert_error(&outcome.last.body, 8, Some("prediction interrupted"));
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_a_guard_is_refused_by_name() {
    let nats = crate::harness::Nats::start();
    let hooks = HooksDir::empty().test("token-guard");
    let mut worker = crate::harness::Worker::at(&nats.url()).flag("--hooks", hooks.path()).launch();
    assert_ne!(worker.exit_code().await, 0);
    let log = worker.log();
    assert!(log.contains("llamero:hooks-experimental/token-guard@0.0.1"), "{log}");
    assert!(
        log.contains("grant = [\\\"token-guard\\\"]") || log.contains("grant = [\"token-guard\"]"),
        "{log}"
    );
}
