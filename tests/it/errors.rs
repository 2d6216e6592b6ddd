//! Every error code from 0 to 10, provoked on a live worker. Code 9 and the codes
//! of plugins are in `hooks.rs`; interrupts in all their forms in
//! `interrupts.rs`; here each code appears at least once, with the header that
//! goes with it.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    Bench, Client, HooksDir, ModelsDir, Nats, Seen, assert_error, brief, endless, new_job, plain,
};

/// Checks an error answer: code, text, and the headers by which generic NATS
/// tools see it.
#[track_caller]
fn assert_error_message(seen: &Seen, code: u64, text: Option<&str>, service_code: &str) {
    assert_error(&seen.body, code, text);
    assert_eq!(seen.header("Nats-Service-Error-Code"), Some(service_code), "{seen:?}");
    let header = seen.header("Nats-Service-Error").expect("the error header");
    assert!(header.is_ascii() && !header.contains(['\r', '\n']), "{header:?}");
}

async fn first_answer(client: &Client, request: &Value) -> Seen {
    client.send(request).await.next().await
}

/// One prediction without stream; its only answer.
async fn predict(client: &Client, predict: Value) -> Seen {
    let mut exchange = client.send(&json!({"job": "a", "predict": predict})).await;
    let seen = exchange.next().await;
    assert_eq!(seen.body["job"], "a", "{seen:?}");
    exchange.assert_silence().await;
    seen
}

/// A prediction that asks for a stream and must be refused before the ack.
async fn refused_stream(client: &Client, predict: Value) -> Seen {
    let mut exchange = client.stream("a", predict).await;
    let outcome = exchange.finish("a").await;
    assert!(!outcome.acked, "an ack means that generation starts: {outcome:?}");
    exchange.assert_silence().await;
    outcome.last
}

#[tokio::test(flavor = "multi_thread")]
async fn code_0_models_folder_unreadable() {
    let bench = Bench::on(Nats::start(), ModelsDir::empty(), |worker| worker);
    fs::remove_dir(bench.models.path()).expect("remove the folder");
    let client = bench.client().await;
    let seen = first_answer(&client, &json!({"job": "a", "list": {}})).await;
    assert_error_message(&seen, 0, None, "500");
    assert!(seen.body["error"].get("code").is_none(), "code 0 is omitted: {seen:?}");
    let text = seen.body["error"]["error"].as_str().expect("text");
    let parent = bench.models.path().parent().expect("parent").to_str().expect("UTF-8");
    assert!(!text.contains(parent), "host paths stay on the host: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_1_illegible() {
    let client = plain().client().await;
    for payload in ["", "{\"job\":", "5", "[]", "\"x\"", "true", "{\"job\":\"a\",\"list\":{}}x"] {
        let mut exchange = client.send_bytes(payload.into()).await;
        let seen = exchange.next().await;
        assert_error_message(&seen, 1, None, "400");
        assert!(seen.body.get("job").is_none(), "{payload}: {seen:?}");
        let text = seen.body["error"]["error"].as_str().expect("text");
        assert!(text.starts_with("request is not a valid JSON object: "), "{payload}: {text}");
        exchange.assert_silence().await;
    }
    // A wrong type anywhere runs nothing, and keeps the job if it can be read.
    for payload in [
        r#"{"predict":{"input":5},"list":{},"job":"a"}"#,
        r#"{"job":"a","list":{},"predict":{"input":["x"],"options":[]}}"#,
        r#"{"job":"a","list":{},"predict":{"messages":[{"role":1}]}}"#,
        r#"{"job":"a","list":[]}"#,
    ] {
        let mut exchange = client.send_bytes(payload.into()).await;
        let seen = exchange.next().await;
        assert_error_message(&seen, 1, None, "400");
        assert_eq!(seen.body["job"], "a", "{payload}");
        exchange.assert_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_2_invalid() {
    let client = plain().client().await;
    for payload in ["null", "{}", r#"{"list":{}}"#, r#"{"job":"","list":{}}"#, r#"{"job":null}"#] {
        let mut exchange = client.send_bytes(payload.into()).await;
        let seen = exchange.next().await;
        assert_error_message(&seen, 2, Some("job id is required"), "400");
        exchange.assert_silence().await;
    }
    let long = "j".repeat(1025);
    let seen = first_answer(&client, &json!({"job": long, "list": {}})).await;
    assert_error_message(&seen, 2, None, "400");
    let fits = "j".repeat(1024);
    let seen = first_answer(&client, &json!({"job": fits, "list": {}})).await;
    assert!(seen.body["list"].is_object(), "{seen:?}");

    let both = json!({"input": ["x"], "messages": [{"role": "user", "content": "y"}]});
    assert_error_message(&predict(&client, both).await, 2, None, "400");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_3_no_command() {
    let client = plain().client().await;
    for request in
        [json!({"job": "a"}), json!({"job": "a", "list": null}), json!({"job": "a", "x": {}})]
    {
        let seen = first_answer(&client, &request).await;
        assert_error_message(&seen, 3, Some("command not supported"), "405");
        assert_eq!(seen.body["job"], "a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_4_job_unknown() {
    let client = plain().client().await;
    let job = new_job();
    let seen = first_answer(&client, &json!({"job": job, "interrupt": {}})).await;
    assert_error_message(&seen, 4, Some("job not found"), "404");
    assert_eq!(seen.body["job"], job.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn code_5_for_jobs_that_wait_when_the_worker_drains() {
    let mut bench =
        Bench::start(|worker| worker.flag("--slots", "1").env("llm_shutdown_grace", "1h"));
    let client = bench.client().await;
    let mut running = client.stream("running", endless(60)).await;
    running.first_fragment("running").await;
    let mut waiting = client.send(&json!({"job": "waiting", "predict": brief()})).await;
    let mut waiting_stream = client.stream("streams", brief()).await;
    // Answered after the two were taken in, because requests arrive in order.
    assert!(client.call(&json!({"job": "l", "list": {}})).await["list"].is_object());
    bench.worker.sigterm();
    let seen = waiting.next().await;
    assert_error_message(&seen, 5, Some("worker shutting down"), "503");
    assert_eq!(seen.body["job"], "waiting");
    let outcome = waiting_stream.finish("streams").await;
    assert_eq!((outcome.acked, outcome.code()), (false, Some(5)), "{outcome:?}");
    assert_eq!(
        running.finish_acked("running").await.last.body["predict"]["finish_reason"],
        "length"
    );
    assert_eq!(bench.worker.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_6_queue_full() {
    let bench = Bench::start(|worker| worker.flag("--slots", "1").flag("--queue", "2"));
    let client = bench.client().await;
    let mut running = client.stream("running", endless(3000)).await;
    running.first_fragment("running").await;
    let mut waiting = Vec::new();
    for job in ["w1", "w2"] {
        waiting.push((job, client.send(&json!({"job": job, "predict": brief()})).await));
    }
    for predict in [brief(), endless(10)] {
        let seen = first_answer(&client, &json!({"job": "f", "predict": predict})).await;
        assert_error_message(&seen, 6, Some("worker busy"), "429");
        assert_eq!(seen.body["job"], "f");
        let retry = seen.header("Llm-Retry-After-Ms").expect("when to try again");
        assert!(retry.parse::<u64>().is_ok(), "{retry}");
    }
    assert_error(&refused_stream(&client, brief()).await.body, 6, Some("worker busy"));
    // A full queue is no reason to keep the others waiting.
    assert!(client.call(&json!({"job": "l", "list": {}})).await["list"].is_object());
    assert_eq!(client.interrupt("running").await, json!({"job": "running", "interrupt": {}}));
    for (job, exchange) in &mut waiting {
        let seen = exchange.next().await;
        assert!(seen.body["predict"].is_object(), "{job} was waiting and is served: {seen:?}");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_7_options_that_cannot_be_used() {
    let client = plain().client().await;
    for (name, value) in [
        ("temperature", json!("hot")),
        ("temperature", json!([0.5])),
        ("temperature", json!(1e300)),
        ("top_k", json!(1.5)),
        ("top_k", json!(true)),
        ("top_p", json!({})),
        ("seed", json!(-1)),
        ("seed", json!(4_294_967_296_u64)),
        ("mirostat", json!(3)),
        ("penalize_newline", json!("yes")),
        ("stop", json!([1])),
        ("stop", json!(1)),
        ("instructions", json!(["x"])),
        ("max_tokens", json!("8")),
        ("max_tokens", json!(-1)),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!([])),
        ("ignore_eos", json!(1)),
        ("parse_special", json!("true")),
        ("input_separator", json!(1)),
        ("cache_prompt", json!("yes")),
        ("cache_pin", json!(1)),
        ("cache_salt", json!(1)),
        ("lora", json!(["a.gguf"])),
        ("lora", json!("../a.gguf")),
        ("json_schema", json!(5)),
    ] {
        let seen = predict(&client, json!({"input": ["x"], "options": {name: value}})).await;
        assert_error_message(&seen, 7, None, "500");
        let text = seen.body["error"]["error"].as_str().expect("text");
        assert!(text.starts_with(&format!("option {name}: ")), "{name} {value}: {text}");
    }
    let seen = refused_stream(&client, json!({"input": ["x"], "options": {"top_k": 1.5}})).await;
    assert_error_message(&seen, 7, None, "500");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_7_constraints_that_cannot_be_used() {
    let bench = Bench::start(|worker| worker.env("llm_allow_grammar", "true"));
    let client = bench.client().await;
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
    for options in [
        json!({"grammar": "root ::= ("}),
        json!({"grammar": "no rules at all"}),
        json!({"grammar": "root ::= missing"}),
        json!({"grammar": "other ::= \"a\""}),
        json!({"grammar": "root ::= root"}),
        json!({"grammar": "root ::= [\u{0}"}),
        json!({"grammar": deep}),
        json!({"grammar": format!("root ::= \"{}\"", "a".repeat(70_000))}),
        json!({"json_schema": {"type": "no such type"}}),
        json!({"json_schema": {"$ref": "#/nowhere"}}),
        json!({"json_schema": "not json"}),
        json!({"json_schema": {"type": "string", "pattern": "("}}),
        json!({"grammar": "root ::= \"a\"", "json_schema": {"type": "object"}}),
    ] {
        let shown: String = options.to_string().chars().take(80).collect();
        let mut exchange =
            client.stream("a", json!({"input": ["x"], "options": options, "unused": shown})).await;
        let outcome = exchange.finish("a").await;
        assert_eq!(outcome.code(), Some(7), "{shown}: {outcome:?}");
        assert!(!outcome.acked, "constraints are checked before the ack: {shown}");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_7_constraints_beyond_the_operators_limits() {
    let lasting = json!({"type": "string", "description": "x".repeat(200)});
    for (setting, value, name, constraint, message) in [
        ("llm_constraint_max_bytes", "200", "json_schema", lasting, "size in bytes"),
        ("llm_constraint_max_rules", "1", "grammar", json!("root ::= a\na ::= \"a\""), "rules"),
        ("llm_constraint_max_depth", "2", "grammar", json!("root ::= (((\"a\")))"), "nesting"),
        ("llm_constraint_max_repetition", "5", "grammar", json!("root ::= \"a\"{6}"), "repetition"),
        ("llm_constraint_max_symbols", "3", "json_schema", json!({"enum": [1, 2, 3, 4]}), "size"),
        (
            "llm_constraint_max_multiple",
            "6",
            "json_schema",
            json!({"multipleOf": 0.7}),
            "multipleOf",
        ),
    ] {
        let bench =
            Bench::start(|worker| worker.env("llm_allow_grammar", "true").env(setting, value));
        let client = bench.client().await;
        let options = json!({name: constraint, "max_tokens": 2});
        let seen = predict(&client, json!({"input": ["x"], "options": options})).await;
        assert_error_message(&seen, 7, None, "500");
        let text = seen.body["error"]["error"].as_str().expect("text");
        assert!(text.contains(message) && text.contains(value), "{setting}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_7_grammar_without_the_operators_leave() {
    let client = plain().client().await;
    let options = json!({"grammar": "root ::= \"yes\""});
    let seen = predict(&client, json!({"input": ["x"], "options": options})).await;
    assert_error_message(&seen, 7, None, "500");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_8_interrupted() {
    let client = plain().client().await;
    let job = new_job();
    let mut exchange = client.send(&json!({"job": job, "predict": endless(3000)})).await;
    // Requests arrive in order, so the interrupt finds the job.
    assert_eq!(client.interrupt(&job).await, json!({"job": job, "interrupt": {}}));
    let seen = exchange.next().await;
    assert_error_message(&seen, 8, Some("prediction interrupted"), "499");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_9_hook_failed() {
    let bench = Bench::with_hooks(HooksDir::empty().test("trap"), |worker| worker);
    let client = bench.client().await;
    let seen = predict(&client, json!({"input": ["[[trap]]"]})).await;
    assert_error_message(&seen, 9, Some("hook \"trap\" failed: trap"), "424");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_10_models_that_cannot_be_had() {
    let models = ModelsDir::real()
        .file("empty.gguf", b"")
        .file("text.gguf", b"this is no model")
        .file("garbage.gguf", &[b"GGUF".as_slice(), &[0xFF; 4096]].concat())
        .file("notes.txt", b"")
        .truncated("short.gguf", 1 << 20);
    let bench =
        Bench::on(Nats::start(), models, |worker| worker.flag("--model", crate::harness::MODEL));
    let client = bench.client().await;
    for (name, text) in [
        ("none.gguf", "failed to load \"none.gguf\""),
        ("empty.gguf", "failed to load \"empty.gguf\""),
        ("text.gguf", "failed to load \"text.gguf\""),
        ("garbage.gguf", "failed to load \"garbage.gguf\""),
        ("short.gguf", "failed to load \"short.gguf\""),
        ("../m.bin", "model name cannot contain path separators"),
        ("/etc/passwd", "model name cannot contain path separators"),
        ("a\\b.gguf", "model name cannot contain path separators"),
    ] {
        let seen = predict(&client, json!({"input": ["x"], "options": {"model": name}})).await;
        assert_error_message(&seen, 10, Some(text), "404");
    }
    for options in [
        json!({"model": ".."}),
        json!({"model": ".hidden.gguf"}),
        json!({"model": "notes.txt"}),
        json!({"model": "a\u{0}.gguf"}),
        json!({"model": 5}),
        json!({"ctx_size": "4096"}),
        json!({"ctx_size": 0}),
        json!({"ctx_size": -1}),
        json!({"ctx_size": 1.5}),
    ] {
        let seen = predict(&client, json!({"input": ["x"], "options": options})).await;
        assert_error_message(&seen, 10, None, "404");
    }
    // None of these took the worker or its good model down.
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_10_no_model_named() {
    let models = ModelsDir::empty().link("a.gguf").link("b.gguf");
    let bench = Bench::on(Nats::start(), models, |worker| worker);
    let client = bench.client().await;
    let seen = predict(&client, brief()).await;
    assert_error_message(&seen, 10, Some("failed to load \"\""), "404");
    let named = json!({"input": ["x"], "options": {"model": "b.gguf", "max_tokens": 1}});
    assert!(predict(&client, named).await.body["predict"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn code_10_context_larger_than_the_operator_allows() {
    let bench = Bench::start(|worker| worker.env("llm_max_ctx_size", "4096"));
    let client = bench.client().await;
    let predict_with =
        |size: u32| json!({"input": ["x"], "options": {"ctx_size": size, "max_tokens": 1}});
    assert_error_message(&predict(&client, predict_with(4097)).await, 10, None, "404");
    assert!(predict(&client, predict_with(4096)).await.body["predict"].is_object());
}
