//! The server goes away and comes back: idle, in mid-stream, for longer than the
//! job lasts, and before the worker was ever connected.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Bench, Client, Exchange, ModelsDir, Nats, Place, Seen, Worker, brief, endless,
};

/// Waits until a worker takes requests again.
async fn wait_for_worker(client: &Client) {
    loop {
        let mut exchange = client.send(&json!({"job": "up", "list": {}})).await;
        if exchange.next_message().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads to the last message of a stream of which parts may have been lost on
/// the way, and returns the fragments and that message.
async fn read_to_the_end(exchange: &mut Exchange) -> (Vec<String>, Seen) {
    let mut fragments = Vec::new();
    loop {
        let seen = exchange.next().await;
        assert_eq!(seen.place, Place::Stream, "{seen:?}");
        match seen.body["stream"]["output"].as_str() {
            Some(text) => fragments.push(text.to_owned()),
            None => return (fragments, seen),
        }
    }
}

/// The final has the whole text, and what arrived of the stream is part of it,
/// in order.
fn assert_whole(first: &str, fragments: &[String], last: &Seen, tokens: u32) {
    let predict = &last.body["predict"];
    assert_eq!(predict["usage"]["completion_tokens"], tokens, "{last:?}");
    let mut rest = predict["output"].as_str().expect("output");
    rest = rest.strip_prefix(first).expect("the output begins with the first fragment");
    for fragment in fragments {
        let at = rest.find(fragment.as_str());
        let at = at.unwrap_or_else(|| panic!("{fragment:?} is not in the rest {rest:?}"));
        rest = &rest[at + fragment.len()..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_idle() {
    let mut bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    client.assert_alive().await;
    for _ in 0..2 {
        bench.nats.restart();
        wait_for_worker(&client).await;
        client.assert_alive().await;
    }
    bench.worker.sigterm();
    assert_eq!(bench.worker.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_streaming() {
    let mut bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    let mut exchange = client.stream("a", endless(500)).await;
    let first = exchange.first_fragment("a").await;
    bench.nats.restart();
    let (fragments, last) = read_to_the_end(&mut exchange).await;
    assert_whole(&first, &fragments, &last, 500);
    exchange.assert_silence().await;
    wait_for_worker(&client).await;
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn for_longer_than_the_jobs_last() {
    let mut bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    let mut streamed = client.stream("a", endless(60)).await;
    let first = streamed.first_fragment("a").await;
    let mut unstreamed = client.send(&json!({"job": "b", "predict": endless(40)})).await;
    // Served after the request before it: the job is taken in.
    client.call(&json!({"job": "l", "list": {}})).await;
    bench.nats.stop();
    tokio::time::sleep(Duration::from_secs(6)).await;
    // The worker must not be back before the client has subscribed again, or the
    // test would lose the final through no fault of the worker.
    bench.worker.pause();
    bench.nats.resume();
    client.round_trip().await;
    bench.worker.unpause();
    let (fragments, last) = read_to_the_end(&mut streamed).await;
    assert_whole(&first, &fragments, &last, 60);
    let seen = unstreamed.next().await;
    assert_eq!(seen.body["predict"]["usage"]["completion_tokens"], 40, "{seen:?}");
    wait_for_worker(&client).await;
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_worker_was_ever_connected() {
    let mut nats = Nats::start();
    nats.stop();
    let models = ModelsDir::real();
    let mut worker = Worker::at(&nats.url()).flag("--models", models.path()).launch();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(worker.is_running(), "a worker waits for its server:\n{}", worker.log());
    nats.resume();
    let client = Client::connect(&nats.url()).await;
    wait_for_worker(&client).await;
    assert!(!client.output(brief()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn and_the_worker_can_still_be_stopped_meanwhile() {
    let mut bench = Bench::start(|worker| worker);
    bench.nats.stop();
    bench.worker.sigterm();
    assert_eq!(bench.worker.exit_code().await, 0, "nothing was left to do");
}
