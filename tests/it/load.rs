//! More than a worker can do: everything is answered, and the worker goes on.

use std::collections::HashMap;

use async_nats::StatusCode;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    Bench, Client, SUBJECT, assert_error, brief, endless, error_code, plain, within,
};

/// Sends every payload at once, each with a reply subject of its own, and
/// returns the answers by the payload's index.
pub async fn flood(client: &Client, payloads: Vec<Vec<u8>>) -> HashMap<usize, Vec<Value>> {
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
