//! More than a worker can do, and things that nobody should send: everything is
//! answered, and the worker goes on.

use std::collections::HashMap;

use async_nats::StatusCode;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    Bench, Client, SUBJECT, assert_error, brief, endless, error_code, plain, within,
};

/// Sends every payload at once, each with a reply subject of its own, and
/// returns the answers by the payload's index.
async fn flood(client: &Client, payloads: Vec<Vec<u8>>) -> HashMap<usize, Vec<Value>> {
    let count = payloads.len();
    let base = client.nats.new_inbox();
    let mut replies = client.nats.subscribe(format!("{base}.*")).await.expect("subscribe");
    for (index, payload) in payloads.into_iter().enumerate() {
        client
            .nats
            .publish_with_reply(SUBJECT, format!("{base}.{index}"), payload.into())
            .await
            .expect("publish");
    }
    client.nats.flush().await.expect("flush");
    let mut answers: HashMap<usize, Vec<Value>> = HashMap::new();
    while answers.len() < count {
        let message = within("an answer", replies.next()).await.expect("open");
        assert_ne!(message.status, Some(StatusCode::NO_RESPONDERS));
        let (_, index) = message.subject.rsplit_once('.').expect("a subject of ours");
        let body = serde_json::from_slice(&message.payload).expect("JSON");
        answers.entry(index.parse().expect("an index")).or_default().push(body);
    }
    // All are answered; a second answer to one of them would be on its way.
    client.nats.flush().await.expect("flush");
    let quiet = std::time::Duration::from_millis(300);
    if let Ok(Some(message)) = tokio::time::timeout(quiet, replies.next()).await {
        panic!("a second answer: {}", String::from_utf8_lossy(&message.payload));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_500_requests_is_answered_to_the_last() {
    let bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    client.assert_alive().await;
    let payloads = (0..500)
        .map(|n| {
            let job = n.to_string();
            match n % 5 {
                0 => json!({"job": job, "list": {}}),
                1 => json!({"job": format!("none-{n}"), "interrupt": {}}),
                2 => json!({"job": job, "predict": {"input": ["x"], "options": {"top_k": "x"}}}),
                _ => json!({"job": job, "predict": brief()}),
            }
        })
        .map(|request| request.to_string().into_bytes());
    let answers = flood(&client, payloads.collect()).await;
    let mut served = 0;
    for (n, bodies) in answers {
        assert_eq!(bodies.len(), 1, "request {n}");
        let body = &bodies[0];
        match n % 5 {
            0 => assert!(body["list"].is_object(), "{body}"),
            1 => assert_error(body, 4, None),
            2 => assert!(matches!(error_code(body), Some(6 | 7)), "{body}"),
            _ if body["predict"].is_object() => served += 1,
            _ => assert_error(body, 6, Some("worker busy")),
        }
    }
    // 4 slots and 4 places: the first eight predictions at the least.
    assert!(served >= 4, "{served} were served");
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_hurt_a_stream_in_progress() {
    let bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    let mut exchange = client.stream("s", endless(120)).await;
    exchange.first_fragment("s").await;
    // The collector starts over: what came so far is already read.
    let lists =
        (0..400).map(|n| json!({"job": n.to_string(), "list": {}}).to_string().into_bytes());
    let answers = flood(&client, lists.collect()).await;
    assert!(answers.values().all(|bodies| bodies[0]["list"].is_object()));
    let outcome = exchange.finish_acked("s").await;
    let output = outcome.last.body["predict"]["output"].as_str().expect("output");
    assert!(output.ends_with(&outcome.fragments.concat()), "{outcome:?}");
    assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_gets_through_a_full_queue() {
    let bench = Bench::start(|worker| worker.flag("--slots", "1").flag("--queue", "1"));
    let client = bench.client().await;
    let mut running = client.stream("r", endless(3000)).await;
    running.first_fragment("r").await;
    let mut waiting = client.send(&json!({"job": "w", "predict": endless(3000)})).await;
    let refused = (0..100)
        .map(|n| json!({"job": n.to_string(), "predict": brief()}).to_string().into_bytes());
    let answers = flood(&client, refused.collect()).await;
    assert!(answers.values().all(|bodies| error_code(&bodies[0]) == Some(6)));
    assert_eq!(client.interrupt("w").await["interrupt"], json!({}));
    assert_error(&waiting.next().await.body, 8, None);
    assert_eq!(client.interrupt("r").await["interrupt"], json!({}));
    assert_error(&running.finish_acked("r").await.last.body, 8, None);
    client.assert_alive().await;
}

/// Payloads that are wrong in ways a decoder, a tokenizer, a sampler or a
/// template might not survive.
fn hostile() -> Vec<Vec<u8>> {
    let text = |predict: Value| json!({"job": "h", "predict": predict}).to_string().into_bytes();
    let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
    let nested = [
        br#"{"job":"h","predict":{"input":["x"],"options":{"json_schema":"#.as_slice(),
        &br#"{"a":"#.repeat(100_000),
        b"1",
        &b"}".repeat(100_000),
        b"}}}",
    ]
    .concat();
    let mut payloads = vec![
        vec![0],
        vec![0xFF; 4096],
        b"{".repeat(100_000),
        deep,
        nested,
        br#"{"job":"\ud800","predict":{"input":["\udfff"],"options":{"max_tokens":1}}}"#.to_vec(),
        b"{\"job\":\"\xff\xfe\",\"predict\":{\"input\":[\"\xc3\x28\"],\"options\":{\"max_tokens\":1}}}".to_vec(),
        br#"{"job":"h","job":"i","predict":{"input":["x"],"options":{"max_tokens":1}}}"#.to_vec(),
        br#"{"job":"h","predict":{"options":{"seed":1e400}}}"#.to_vec(),
        br#"{"job":"h","predict":{"input":["x"],"options":{"top_k":123456789012345678901234567890}}}"#.to_vec(),
        br#"{"job":"h","predict":{"input":["x"],"options":{"temperature":NaN}}}"#.to_vec(),
        text(json!({"input": ["\u{0}\u{0}\u{0}"], "options": {"max_tokens": 1}})),
        text(json!({"input": vec![""; 50_000], "options": {"max_tokens": 1}})),
        text(json!({"input": vec!["a"; 50_000], "options": {"max_tokens": 1, "ctx_size": 256}})),
        text(json!({"input": ["a".repeat(800_000)], "options": {"max_tokens": 1, "ctx_size": 256}})),
        text(json!({"input": ["🦙".repeat(2000)], "options": {"max_tokens": 1, "ctx_size": 256}})),
        text(json!({"system": "a ".repeat(300_000), "input": ["x"]})),
        text(json!({"messages": vec![json!({"role": "user", "content": "x"}); 5000], "options": {"max_tokens": 1, "ctx_size": 256}})),
        text(json!({"messages": [{"role": "{{ 1 / 0 }}", "content": "{% for x in range(9) %}"}],
                    "options": {"max_tokens": 1}})),
        text(json!({"messages": [{"role": "", "content": ""}], "options": {"max_tokens": 1}})),
        text(json!({"messages": [{}], "options": {"max_tokens": 1}})),
    ];
    for options in [
        json!({"ctx_size": 1}),
        json!({"ctx_size": 4_294_967_295_u64}),
        json!({"ctx_size": 9_007_199_254_740_993_i64}),
        json!({"max_tokens": 2_147_483_648_u64, "stop": " "}),
        json!({"max_tokens": 1, "temperature": 1e-38, "top_p": 0, "min_p": 1, "typical_p": 0}),
        json!({"max_tokens": 1, "temperature": 3.4e38}),
        json!({"max_tokens": 1, "top_p": -1, "min_p": -1, "typical_p": -1}),
        json!({"max_tokens": 1, "top_k": i32::MIN}),
        json!({"max_tokens": 1, "top_k": i32::MAX}),
        json!({"max_tokens": 1, "repeat_penalty": 0}),
        json!({"max_tokens": 1, "repeat_penalty": -1e30, "frequency_penalty": 1e38}),
        json!({"max_tokens": 1, "repeat_last_n": i32::MAX}),
        json!({"max_tokens": 1, "repeat_last_n": -2}),
        json!({"max_tokens": 1, "mirostat": 2, "mirostat_tau": -1, "mirostat_eta": 1e38}),
        json!({"max_tokens": 1, "mirostat": 1, "mirostat_tau": 0, "mirostat_eta": 0}),
        json!({"max_tokens": 1, "logit_bias": {"4294967295": 1}}),
        json!({"max_tokens": 1, "logit_bias": {"-1": 1}}),
        json!({"max_tokens": 1, "logit_bias": {"5": 1e39}}),
        json!({"max_tokens": 1, "logit_bias": (0..49_152).map(|n| (n.to_string(), json!(-1e38))).collect::<serde_json::Map<_, _>>()}),
        json!({"max_tokens": 1, "stop": vec!["x"; 20_000]}),
        json!({"max_tokens": 1, "stop": ["x".repeat(200_000)]}),
        json!({"ignore_eos": true}),
        json!({"max_tokens": 1, "json_schema": {}}),
        json!({"max_tokens": 1, "json_schema": {"$ref": "#"}}),
        json!({"max_tokens": 1, "json_schema": {"type": "string", "minLength": 4_000_000_000_u64}}),
        json!({"max_tokens": 1, "json_schema": {"type": "string", "pattern": "(a{1,1000}){1,1000}"}}),
        json!({"max_tokens": 1, "json_schema": {"type": "array", "minItems": 100_000, "maxItems": 2}}),
        json!({"max_tokens": 1, "json_schema": {"enum": vec!["x"; 5000]}}),
        json!({"max_tokens": 1, "model": "x".repeat(100_000)}),
        json!({"max_tokens": 1, "instructions": "x\n".repeat(100_000)}),
        json!({"max_tokens": 1, "input_separator": "\n".repeat(100_000)}),
    ] {
        payloads.push(text(json!({"input": ["Hello", "there"], "options": options})));
    }
    payloads
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_payloads_are_answered_and_survived() {
    // A context that some of them ask for must stay within reason.
    let bench = Bench::start(|worker| {
        worker
            .flag("--queue", "256")
            .env("llm_max_ctx_size", "8192")
            .env("llm_allow_grammar", "true")
    });
    let client = bench.client().await;
    for payload in hostile() {
        let shown: String = String::from_utf8_lossy(&payload).chars().take(120).collect();
        let mut exchange = client.send_bytes(payload).await;
        let seen = exchange.next().await;
        let answered =
            seen.body["predict"].is_object() || matches!(seen.code(), Some(1 | 2 | 7 | 10));
        assert!(answered, "{shown}: {seen:?}");
    }
    // And all at once.
    let payloads = hostile();
    let count = payloads.len();
    assert_eq!(flood(&client, payloads).await.len(), count);
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_grammars_are_answered_and_survived() {
    let bench = Bench::start(|worker| worker.env("llm_allow_grammar", "true"));
    let client = bench.client().await;
    for grammar in [
        "root ::= root root".to_owned(),
        "root ::= (\"a\"*)*".to_owned(),
        "root ::= \"\"".to_owned(),
        "root ::= a | b\na ::= b\nb ::= a".to_owned(),
        "root ::= \"a\"{1,100000}".to_owned(),
        "root ::= ((\"a\"{1,1000}){1,1000}){1,1000}".to_owned(),
        "root ::= [a-".to_owned(),
        "root ::= [\\x{110000}]".to_owned(),
        "root ::= \"\\uD800\"".to_owned(),
        "::=".to_owned(),
        "\u{0}".to_owned(),
        "root ::= \u{1F999}".to_owned(),
        (0..5000).map(|n| format!("r{n} ::= r{}\n", n + 1)).collect::<String>()
            + "root ::= r0\nr5000 ::= \"a\"",
        format!("root ::= {}", "\"a\" | ".repeat(5000) + "\"a\""),
    ] {
        let shown: String = grammar.chars().take(60).collect();
        let predict = json!({"input": ["x"], "options": {"grammar": grammar, "max_tokens": 3}});
        let body = client.predict(predict).await;
        let answered = body["predict"].is_object() || error_code(&body) == Some(7);
        assert!(answered, "{shown}: {body}");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_served_while_every_slot_is_taken() {
    let client = plain().client().await;
    let jobs: Vec<String> = (0..6).map(|_| crate::harness::new_job()).collect();
    let mut streams = Vec::new();
    for job in &jobs {
        streams.push(client.stream(job, endless(3000)).await);
    }
    for _ in 0..20 {
        assert!(client.call(&json!({"job": "l", "list": {}})).await["list"].is_object());
    }
    for (job, stream) in jobs.iter().zip(&mut streams) {
        assert_eq!(client.interrupt(job).await["interrupt"], json!({}));
        assert_error(&stream.finish(job).await.last.body, 8, None);
    }
}
