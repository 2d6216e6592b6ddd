//! Row by row, what the published documentation of the Go package promises to a
//! client: the requests, the answers, their fields, and what is left out.

use serde_json::{Value, json};

use crate::harness::{
    Bench, Exchange, MODEL, ModelsDir, Nats, Place, SUBJECT, Slot, brief, endless, new_job, plain,
};

/// Name, default and init mark of the options that a Go worker lists, in order.
fn listed_options() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("model", json!(""), true),
        ("ctx_size", json!(4096), true),
        ("repeat_penalty", json!(1.1), false),
        ("temperature", json!(0.8), false),
        ("top_k", json!(40), false),
        ("top_p", json!(0.9), false),
        ("tfs_z", json!(1), false),
        ("typical_p", json!(1), false),
        ("mirostat", json!(0), false),
        ("mirostat_tau", json!(5), false),
        ("mirostat_eta", json!(0.1), false),
        ("penalize_newline", json!(true), false),
        ("seed", json!(0), false),
    ]
}

/// A worker without models; it answers everything but predictions.
fn without_models() -> &'static Bench {
    static EMPTY: Slot = Slot::new();
    EMPTY.get(|| Bench::on(Nats::start(), ModelsDir::empty(), |worker| worker))
}

/// Equal as numbers are equal in JSON: Go writes `1`, others may write `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-6,
        _ => a == b,
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn list_names_each_model_with_its_options() {
    let client = plain().client().await;
    let body = client.call(&json!({"job": "a", "list": {}})).await;
    assert_eq!(keys(&body), ["job", "list"]);
    assert_eq!(body["job"], "a");
    let models = body["list"]["models"].as_array().expect("models");
    assert_eq!(models.len(), 1);
    assert_eq!(keys(&models[0]), ["model", "options"]);
    assert_eq!(models[0]["model"], MODEL);
    let options = models[0]["options"].as_array().expect("options");
    for (got, (name, value, init)) in options.iter().zip(listed_options()) {
        assert_eq!(got["name"], name);
        assert!(same(&got["value"], &value), "{name}: {got}");
        assert_eq!(got.get("init"), init.then_some(&json!(true)), "{name}: {got}");
    }
    for option in options {
        let always = ["name", "value", "use"];
        assert!(always.iter().all(|key| option.get(*key).is_some()), "{option}");
        assert!(!option["use"].as_str().expect("a text").is_empty(), "{option}");
    }
    let names: Vec<&str> = options.iter().filter_map(|option| option["name"].as_str()).collect();
    assert!(names.contains(&"max_tokens"), "options beyond Go's are listed too: {names:?}");
    assert!(!names.contains(&"grammar"), "what clients may not use is not listed: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_of_an_empty_folder_has_no_models() {
    let client = without_models().client().await;
    let body = client.call(&json!({"job": "a", "list": {}})).await;
    assert_eq!(body, json!({"job": "a", "list": {}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_model_files_only_sorted_by_name() {
    let models = ModelsDir::empty()
        .file("b.gguf", b"")
        .file("a.bin", b"")
        .file("B.gguf", b"")
        .file(".hidden.gguf", b"")
        .file("notes.txt", b"")
        .file("split-00001-of-00002.gguf", b"")
        .file("split-00002-of-00002.gguf", b"");
    std::fs::create_dir(models.path().join("folder.gguf")).expect("create a folder");
    let bench = Bench::on(Nats::start(), models, |worker| worker);
    let body = bench.client().await.call(&json!({"job": "a", "list": {}})).await;
    let models = body["list"]["models"].as_array().expect("models");
    let names: Vec<_> = models.iter().map(|model| &model["model"]).collect();
    assert_eq!(names, ["B.gguf", "a.bin", "b.gguf", "split-00001-of-00002.gguf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_the_configured_defaults() {
    let bench = Bench::on(Nats::start(), ModelsDir::empty().file("m.gguf", b""), |worker| {
        worker.flag("--model", "m.gguf").env("llm_ctx_size", "2048").env("llm_temperature", "0.25")
    });
    let body = bench.client().await.call(&json!({"job": "a", "list": {}})).await;
    let options = body["list"]["models"][0]["options"].as_array().expect("options").clone();
    let value = |name: &str| {
        let found = options.iter().find(|option| option["name"] == name);
        found.unwrap_or_else(|| panic!("no option {name}"))["value"].clone()
    };
    assert_eq!(value("model"), "m.gguf");
    assert!(same(&value("ctx_size"), &json!(2048)));
    assert!(same(&value("temperature"), &json!(0.25)));
    assert!(same(&value("top_k"), &json!(40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_answers_once_on_the_reply_subject() {
    let client = plain().client().await;
    let mut exchange = client.send(&json!({"job": "a", "predict": brief()})).await;
    let seen = exchange.next().await;
    assert_eq!(seen.place, Place::Reply);
    assert_eq!(keys(&seen.body), ["job", "predict"]);
    assert_eq!(seen.body["job"], "a");
    assert!(!seen.body["predict"]["output"].as_str().expect("output").is_empty());
    // The order of the fields is part of what a byte-wise comparison sees.
    assert!(seen.payload.starts_with(br#"{"job":"a","predict":{"output":""#), "{seen:?}");
    exchange.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_with_stream_sends_ack_fragments_and_the_whole_text() {
    let client = plain().client().await;
    let job = new_job();
    let mut exchange = client.stream(&job, endless(24)).await;
    let outcome = exchange.finish(&job).await;
    assert!(outcome.acked);
    assert!(!outcome.fragments.is_empty());
    assert!(!outcome.output().is_empty());
    assert_eq!(outcome.last.place, Place::Stream);
    assert_eq!(keys(&outcome.last.body), ["job", "predict"]);
    exchange.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_without_output_omits_the_field() {
    let client = plain().client().await;
    // The likeliest continuation begins with a space.
    let predict = json!({
        "input": ["The capital of France is"],
        "options": {"stop": [" ", "\n"], "temperature": 0, "max_tokens": 20},
    });
    let body = client.predict(predict.clone()).await;
    assert!(body["predict"].is_object(), "{body}");
    assert!(body["predict"].get("output").is_none(), "{body}");

    let job = new_job();
    let mut exchange = client.stream(&job, predict).await;
    let outcome = exchange.finish(&job).await;
    assert!(outcome.acked && outcome.fragments.is_empty(), "{outcome:?}");
    assert!(outcome.last.body["predict"].get("output").is_none(), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_stops_the_job_and_is_answered_after_it() {
    let client = plain().client().await;
    let job = new_job();
    let mut exchange = client.stream(&job, endless(3000)).await;
    exchange.first_fragment(&job).await;
    let mut interrupt = client.send(&json!({"job": job, "interrupt": {}})).await;
    assert_eq!(interrupt.next().await.body, json!({"job": job, "interrupt": {}}));
    let outcome = exchange.finish_acked(&job).await;
    let error = json!({"code": 8, "error": "prediction interrupted"});
    assert_eq!(outcome.last.body, json!({"job": job, "error": error}));
    exchange.assert_silence().await;
    interrupt.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_null_fields_are_as_if_absent() {
    let client = plain().client().await;
    for predict in [
        json!({"system": "", "input": ["The"], "messages": [], "stream": "", "options": {"max_tokens": 2}}),
        json!({"system": null, "input": ["The"], "messages": null, "stream": null,
               "options": {"max_tokens": 2, "seed": null, "stop": null, "model": null}}),
        json!({"input": ["The"], "options": {"max_tokens": 2, "model": "", "top_k": 40.0}}),
    ] {
        let request = json!({"job": "a", "list": null, "interrupt": null, "predict": predict});
        let body = client.call(&request).await;
        assert_eq!(keys(&body), ["job", "predict"], "{predict}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_read_in_any_case_and_input_may_be_one_string() {
    let client = plain().client().await;
    let body = client
        .call(&json!({"JOB": "a", "Predict": {"INPUT": "The", "Options": {"Max_Tokens": 1, "Temperature": 0}}}))
        .await;
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 1, "{body}");
    let list = client.call(&json!({"Job": "b", "LIST": {"unknown": 1}})).await;
    assert_eq!(list["job"], "b");
    assert!(list["list"]["models"].is_array(), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_unknown_is_ignored_and_never_logged() {
    let bench = plain();
    let client = bench.client().await;
    let secret = format!("secret-{}", new_job());
    let prompt = format!("prompt-{}", new_job());
    let body = client
        .predict(json!({
            "input": [prompt], "what": 1,
            "options": {"type": "nats", "nats_nk": secret, "nats_url": secret, "2048": 2048, "max_tokens": 2},
        }))
        .await;
    assert!(body["predict"].is_object(), "{body}");
    let log = bench.worker.log();
    assert!(!log.contains(&secret), "the value of an unknown option is in the log");
    assert!(!log.contains(&prompt), "prompt text is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_commands_run_in_order_with_an_answer_each() {
    let client = plain().client().await;
    let job = new_job();
    let mut exchange =
        client.send(&json!({"predict": brief(), "interrupt": {}, "list": {}, "job": job})).await;
    assert_eq!(keys(&exchange.next().await.body), ["job", "list"]);
    assert_eq!(exchange.next().await.code(), Some(4));
    // The interrupt of a combined request leaves no mark, so the job runs.
    assert_eq!(keys(&exchange.next().await.body), ["job", "predict"]);
    exchange.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_reply_subject_is_dropped() {
    let client = plain().client().await;
    let mut exchange = Exchange::open(&client).await;
    let mut predict = brief();
    predict["stream"] = exchange.stream_subject().into();
    for request in [json!({"job": "a", "predict": predict}), json!({"job": "a", "list": {}})] {
        client.nats.publish(SUBJECT, request.to_string().into()).await.expect("publish");
    }
    client.nats.flush().await.expect("flush");
    // The worker serves requests in order of arrival: once this one has run, the
    // ones before it would have, too.
    client.assert_alive().await;
    exchange.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extras_can_be_switched_off() {
    let bench = Bench::start(|worker| worker.env("llm_response_extras", "false"));
    let client = bench.client().await;
    let body = client.predict(brief()).await;
    assert_eq!(keys(&body["predict"]), ["output"], "{body}");
    let job = new_job();
    let outcome = client.stream(&job, brief()).await.finish(&job).await;
    assert_eq!(keys(&outcome.last.body["predict"]), ["output"], "{outcome:?}");
    let list = client.call(&json!({"job": "a", "list": {}})).await;
    let options = list["list"]["models"][0]["options"].as_array().expect("options").clone();
    let names: Vec<_> = options.iter().map(|option| option["name"].clone()).collect();
    let listed: Vec<_> = listed_options().iter().map(|(name, ..)| json!(name)).collect();
    assert_eq!(names, listed, "exactly what a Go worker lists");
}

#[tokio::test(flavor = "multi_thread")]
async fn extras_tell_why_it_ended_what_it_took_and_how_long() {
    let client = plain().client().await;
    let body = client.predict(brief()).await;
    let predict = &body["predict"];
    assert_eq!(predict["finish_reason"], "length", "{body}");
    assert_eq!(predict["usage"]["completion_tokens"], 4, "{body}");
    assert!(predict["usage"]["prompt_tokens"].as_u64().expect("a number") > 0, "{body}");
    assert!(predict["usage"]["cached_tokens"].is_u64(), "{body}");
    assert!(predict["usage"].get("truncated_tokens").is_none(), "omitted when 0: {body}");
    for name in ["queue_ms", "hooks_ms", "prompt_ms", "predict_ms"] {
        assert!(predict["timings"][name].as_f64().is_some_and(|ms| ms >= 0.0), "{name}: {body}");
    }
}
