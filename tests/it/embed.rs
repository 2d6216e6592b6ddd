//! Vectors of texts: what they are like, what is refused, and that such a job is
//! a job like any other.

use serde_json::{Value, json};

use crate::harness::{
    Bench, Cli, Client, Exchange, HooksDir, MODEL, ModelsDir, Nats, Worker, assert_error, brief,
    endless, new_job, plain, within,
};
use crate::memory::{assert_loads, loads};

const TEXTS: [&str; 2] = ["Llamas are kept for their wool.", "The sea is deep."];

/// About so many tokens.
fn words(n: usize) -> String {
    "river ".repeat(n)
}

/// Texts that take minutes, in a message that the server takes.
fn lasting() -> Value {
    json!({"input": vec![words(300); 400]})
}

/// For `lasting`.
const MANY: (&str, &str) = ("llm_embed_max_inputs", "400");

async fn embed(client: &Client, embed: Value) -> Value {
    let job = new_job();
    let mut exchange = client.send(&json!({"job": job, "embed": embed})).await;
    let seen = exchange.next().await;
    assert_eq!(seen.body["job"], job.as_str(), "{seen:?}");
    exchange.assert_silence().await;
    seen.body
}

/// The vectors of an answer, after checking what holds for all.
#[track_caller]
fn vectors(body: &Value) -> Vec<Vec<f64>> {
    let vectors = body["embed"]["embeddings"].as_array();
    let vectors = vectors.unwrap_or_else(|| panic!("no vectors: {body}"));
    let numbers = |vector: &Value| -> Vec<f64> {
        let numbers = vector.as_array().expect("a vector is a list");
        numbers.iter().map(|number| number.as_f64().expect("a number")).collect()
    };
    let vectors: Vec<Vec<f64>> = vectors.iter().map(numbers).collect();
    for vector in &vectors {
        assert_eq!(vector.len(), 576);
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    vectors
}

/// Whether the worker has received all that this client has sent before.
async fn received(client: &Client) {
    client.call(&json!({"job": "fence", "list": {}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_texts_have_two_vectors() {
    let client = plain().client().await;
    let body = embed(&client, json!({"input": TEXTS})).await;
    let both = vectors(&body);
    assert_eq!(both.len(), 2);
    assert_eq!(body["embed"]["model"], MODEL);
    assert!(body["embed"]["usage"]["prompt_tokens"].as_u64().is_some_and(|n| n > 6), "{body}");
    assert_eq!(body["embed"].as_object().map(|embed| embed.len()), Some(3), "{body}");
    let cosine: f64 = both[0].iter().zip(&both[1]).map(|(a, b)| a * b).sum();
    assert!(cosine < 0.999, "different texts have different vectors: {cosine}");

    let one = vectors(&embed(&client, json!({"input": TEXTS[0], "model": MODEL})).await);
    assert_eq!(one.len(), 1);
    let apart = one[0].iter().zip(&both[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-3, "{apart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_embedded_is_told() {
    let client = plain().client().await;
    for (input, code, text) in [
        (json!([]), 2, "embed.input is required"),
        (json!(["x", ""]), 2, "embed.input[1] is empty"),
        (
            json!(vec!["x"; 65]),
            2,
            "embed.input has 65 texts, more than the 64 that this worker takes at once",
        ),
    ] {
        assert_error(&embed(&client, json!({"input": input})).await, code, Some(text));
    }
    let body = embed(&client, json!({"input": ["x", words(600)]})).await;
    assert_error(&body, 7, None);
    let text = body["error"]["error"].as_str().expect("text");
    assert!(text.starts_with("embed.input[1] has ") && text.contains("512"), "{text}");
    let body = embed(&client, json!({"input": "x", "model": "none.gguf"})).await;
    assert_error(&body, 10, Some("failed to load \"none.gguf\""));
    let body = embed(&client, json!({"input": "x", "options": {"model": "../x.gguf"}})).await;
    assert_error(&body, 10, Some("model name cannot contain path separators"));
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_and_embed_in_one_request_have_an_answer_each() {
    let client = plain().client().await;
    let job = new_job();
    let request = json!({"job": job, "list": {}, "predict": brief(), "embed": {"input": TEXTS}});
    let mut exchange = client.send(&request).await;
    assert!(exchange.next().await.body["list"].is_object());
    let answers = [exchange.next().await.body, exchange.next().await.body];
    assert!(answers.iter().any(|body| body["predict"].is_object()), "{answers:?}");
    let embedded = answers.iter().find(|body| body["embed"].is_object()).expect("vectors");
    assert_eq!(vectors(embedded).len(), 2);
    exchange.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_beside_it() {
    let bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    let mut stream = client.stream("s", endless(60)).await;
    stream.first_fragment("s").await;
    let body = embed(&client, json!({"input": vec![words(50); 8]})).await;
    assert_eq!(vectors(&body).len(), 8);
    let outcome = stream.finish_acked("s").await;
    assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 60, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_it_wherever_it_is() {
    let bench = Bench::start(|worker| worker.env(MANY.0, MANY.1).flag("--slots", "1"));
    let client = bench.client().await;
    // Once while its model loads or its texts are computed, once while it waits.
    let mut running = client.send(&json!({"job": "r", "embed": lasting()})).await;
    let mut waiting = client.send(&json!({"job": "w", "embed": {"input": TEXTS}})).await;
    for (job, exchange) in [("w", &mut waiting), ("r", &mut running)] {
        assert_eq!(client.interrupt(job).await, json!({"job": job, "interrupt": {}}));
        assert_error(&exchange.next().await.body, 8, Some("prediction interrupted"));
    }
    // The second time its context is there, so that a batch is cut short.
    let mut again = client.send(&json!({"job": "a", "embed": lasting()})).await;
    received(&client).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(client.interrupt("a").await, json!({"job": "a", "interrupt": {}}));
    assert_error(&again.next().await.body, 8, Some("prediction interrupted"));
    // Nothing is left in the way.
    assert_eq!(vectors(&embed(&client, json!({"input": TEXTS})).await).len(), 2);
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_a_slot_and_a_full_worker_is_busy() {
    let bench =
        Bench::start(|worker| worker.env(MANY.0, MANY.1).flag("--slots", "1").flag("--queue", "0"));
    let client = bench.client().await;
    let mut running = client.send(&json!({"job": "r", "embed": lasting()})).await;
    for other in [json!({"embed": {"input": TEXTS}}), json!({"predict": brief()})] {
        let mut request = other.clone();
        request["job"] = "b".into();
        assert_error(&client.call(&request).await, 6, Some("worker busy"));
    }
    assert_eq!(client.interrupt("r").await, json!({"job": "r", "interrupt": {}}));
    assert_error(&running.next().await.body, 8, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_it_end() {
    let mut bench = Bench::start(|worker| worker.env("llm_shutdown_grace", "1h"));
    let client = bench.client().await;
    let mut exchange =
        client.send(&json!({"job": "a", "embed": {"input": vec![words(100); 4]}})).await;
    received(&client).await;
    bench.worker.sigterm();
    assert_eq!(vectors(&exchange.next().await.body).len(), 4);
    assert_eq!(bench.worker.exit_code().await, 0);
}

/// Whether two vectors are the same, but for what else was computed at the time.
#[track_caller]
fn assert_same(a: &[f64], b: &[f64]) {
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-3, "{apart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_meanwhile_says_nothing_wrong() {
    let mut bench = Bench::start(|worker| worker.env(MANY.0, MANY.1));
    let client = bench.client().await;
    let before = vectors(&embed(&client, json!({"input": TEXTS})).await);
    // One is computed and one waits for it.
    let mut running = client.send(&json!({"job": "r", "embed": lasting()})).await;
    let mut waiting = client.send(&json!({"job": "w", "embed": lasting()})).await;
    received(&client).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    bench.worker.sigkill();
    running.assert_silence().await;
    waiting.assert_silence().await;

    bench.worker = Worker::at(&bench.nats.url()).flag("--models", bench.models.path()).start();
    let after = vectors(&embed(&client, json!({"input": TEXTS})).await);
    assert_same(&before[0], &after[0]);
    assert_same(&before[1], &after[1]);
    client.assert_alive().await;
    // The new one knows nothing of the jobs of the old one.
    running.assert_silence().await;
    waiting.assert_silence().await;
    assert_error(&client.interrupt("r").await, 4, Some("job not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_replaced_and_unloaded_as_for_predictions() {
    let models = ModelsDir::empty().link("a.gguf").link("b.gguf");
    let bench = Bench::on(Nats::start(), models, |worker| {
        worker.env("llm_keep_alive", "500ms").env("llm_embed_idle", "100ms").env(MANY.0, MANY.1)
    });
    let client = bench.client().await;
    let of = async |model: &str| {
        let body = embed(&client, json!({"input": TEXTS[0], "model": model})).await;
        assert_eq!(body["embed"]["model"], model);
        vectors(&body).remove(0)
    };
    // One is kept, so that they take turns.
    let first = of("a.gguf").await;
    for model in ["b.gguf", "a.gguf"] {
        assert_same(&first, &of(model).await);
    }
    assert_loads(&bench.worker, 3).await;
    // The last one goes when nobody has used it for a while.
    let released = || bench.worker.log().matches("model released").count();
    within("the end of the last model", async {
        while released() < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_same(&first, &of("a.gguf").await);
    // Not while its texts are computed, however long that takes.
    let long = embed(&client, json!({"input": vec![words(100); 4], "model": "a.gguf"})).await;
    assert_eq!(vectors(&long).len(), 4);
    assert!(loads(&bench.worker) <= 5, "{}", loads(&bench.worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_do_not_see_it_so_it_needs_the_operators_word() {
    let request = json!({"job": "a", "embed": {"input": TEXTS}});
    for (embed, code) in [("auto", Some(3)), ("off", Some(3)), ("on", None)] {
        let bench = Bench::with_hooks(HooksDir::empty(), |worker| worker.env("llm_embed", embed));
        let client = bench.client().await;
        let mut exchange = Exchange::open(&client).await;
        exchange.publish(&client, request.to_string().into_bytes()).await;
        let seen = exchange.next().await;
        match code {
            Some(code) => {
                assert_error(&seen.body, code, None);
                let text = seen.body["error"]["error"].as_str().expect("text");
                assert!(text.starts_with("command not supported: "), "{text}");
                assert_eq!(text.contains("hooks"), embed == "auto", "{text}");
                assert_eq!(seen.header("Nats-Service-Error-Code"), Some("405"), "{seen:?}");
            }
            None => assert_eq!(vectors(&seen.body).len(), 2),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_a_table_or_json() {
    let url = plain().nats.url();
    let run = |args: &[&str]| Cli::at(&url, "embed", args);
    let ran = run(&TEXTS).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let rows: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(rows.len(), 3, "{ran:?}");
    assert!(rows[0].starts_with("TEXT") && rows[1].starts_with(TEXTS[0]), "{ran:?}");
    assert!(rows[1].contains(" 576 "), "{ran:?}");

    let ran = run(&["--json"]).input(&format!("{}\n\n{}\n", TEXTS[0], TEXTS[1])).run().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let body: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(vectors(&body).len(), 2);

    let ran = run(&["--model", "none.gguf", "x"]).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("code 10"), "{ran:?}");
    let ran = run(&[]).input("").run().await;
    assert_eq!(ran.code, 2, "{ran:?}");
}
