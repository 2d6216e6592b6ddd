//! Streams: their order, their joining, many at once, and where they may go.

use serde_json::json;

use crate::harness::{
    Bench, Exchange, assert_error, brief, endless, new_job, plain, quiet, within,
};

#[tokio::test(flavor = "multi_thread")]
async fn eight_streams_at_once_are_complete_and_their_own() {
    let bench = Bench::start(|worker| worker.flag("--slots", "4").flag("--queue", "8"));
    let client = bench.client().await;
    // Every stream counts on from another number, so that a fragment that went
    // to the wrong job would show.
    let jobs: Vec<_> = (0..8)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let job = new_job();
                let predict = json!({
                    "input": [format!("{n}{n}{n}, {n}{n}{n}, {n}{n}{n}, {n}{n}{n}, ")],
                    "options": {"temperature": 0, "repeat_penalty": 1, "max_tokens": 60, "ignore_eos": true},
                });
                let mut exchange = client.stream(&job, predict).await;
                let outcome = exchange.finish(&job).await;
                exchange.assert_silence().await;
                (n, outcome)
            })
        })
        .collect();
    for job in jobs {
        let (n, outcome) = within("a stream", job).await.expect("no panic");
        let own = format!("{n}{n}{n}");
        assert!(outcome.output().contains(&own), "stream {n}: {}", outcome.output());
        assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 60);
        assert_eq!(outcome.last.body["predict"]["finish_reason"], "length");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_and_unstreamed_give_the_same_text() {
    let quiet = quiet().await;
    let client = quiet.bench.client().await;
    let predict = json!({
        "input": ["List of colours: red,"],
        "options": {"temperature": 0, "max_tokens": 40},
    });
    let whole = client.output(predict.clone()).await;
    let job = new_job();
    let outcome = client.stream(&job, predict).await.finish(&job).await;
    assert_eq!(outcome.output(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_joined_into_fewer_messages() {
    // With an interval this long only the first text and the end are reasons to
    // send: the count does not depend on how fast the machine is.
    let bench = Bench::start(|worker| worker.env("llm_flush_interval_ms", "10000"));
    let client = bench.client().await;
    let outcome = client.stream("a", endless(80)).await.finish("a").await;
    assert!(!outcome.output().is_empty());
    assert!(outcome.fragments.len() <= 2, "{} fragments", outcome.fragments.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_limit_flushes_before_the_interval() {
    let bench = Bench::start(|worker| {
        worker.env("llm_flush_interval_ms", "10000").env("llm_flush_bytes", "64")
    });
    let client = bench.client().await;
    let outcome = client.stream("a", endless(120)).await.finish("a").await;
    // 120 tokens of text are several times 64 bytes.
    assert!(outcome.output().len() > 256, "{}", outcome.output());
    assert!(outcome.fragments.len() >= 4, "{} fragments", outcome.fragments.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_subjects_are_streamed_to() {
    let client = plain().client().await;
    let long = format!("_INBOX.{}", "x".repeat(260));
    for subject in [
        "llm.other",
        "_INBOX.>",
        "_INBOX.*",
        "_INBOX.a.*.b",
        "$SYS.x",
        "$JS.API.INFO",
        "_INBOX.a..b",
        "_INBOX.a b",
        "a b",
        "_INBOX.a\tb",
        "_INBOX.a\nb",
        "_INBOX.a\r\nPUB x 0",
        "_INBOX.",
        "_INBOX",
        ".",
        "_INBOX.a.",
        " ",
        "llm.worker.default",
        "_INBOX.\u{0}",
        long.as_str(),
    ] {
        let predict = json!({"input": ["x"], "stream": subject, "options": {"max_tokens": 1}});
        let mut exchange = client.send(&json!({"job": "a", "predict": predict})).await;
        let seen = exchange.next().await;
        assert_error(&seen.body, 2, None);
        assert_eq!(seen.body["job"], "a", "{subject:?}");
        exchange.assert_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_allow_other_subjects() {
    let bench = Bench::start(|worker| worker.env("llm_stream_subjects", r#"["streams.*"]"#));
    let client = bench.client().await;
    let mut stream = client.nats.subscribe("streams.a").await.expect("subscribe");
    client.nats.flush().await.expect("flush");
    let mut predict = brief();
    predict["stream"] = "streams.a".into();
    let ack = client.call(&json!({"job": "a", "predict": predict})).await;
    assert_eq!(ack, json!({"job": "a"}));
    use futures_util::StreamExt;
    loop {
        let message = within("a fragment", stream.next()).await.expect("open");
        let body: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
        assert_eq!(body["job"], "a");
        if body.get("predict").is_some() {
            break;
        }
    }
    // The list replaces the default, it does not add to it.
    let mut exchange = Exchange::open(&client).await;
    exchange.request_stream(&client, "b", brief()).await;
    assert_error(&exchange.next().await.body, 2, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_job_id_twice_is_two_jobs() {
    let client = plain().client().await;
    let job = new_job();
    let mut first = client.stream(&job, endless(30)).await;
    let mut second = client.stream(&job, endless(20)).await;
    let (first, second) = tokio::join!(first.finish(&job), second.finish(&job));
    assert!(!first.output().is_empty() && !second.output().is_empty());
    assert_eq!(first.last.body["predict"]["usage"]["completion_tokens"], 30);
    assert_eq!(second.last.body["predict"]["usage"]["completion_tokens"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_start_in_order_of_arrival() {
    let bench = Bench::start(|worker| worker.flag("--slots", "1").flag("--queue", "8"));
    let client = bench.client().await;
    // One subscription for all answers: their order is the order of the ends,
    // which with one slot is the order of the starts.
    let mut exchange = Exchange::open(&client).await;
    for n in 0..6 {
        let request = json!({"job": n.to_string(), "predict": brief()});
        exchange.publish(&client, request.to_string().into_bytes()).await;
    }
    for n in 0..6 {
        assert_eq!(exchange.next().await.body["job"], n.to_string().as_str());
    }
}
