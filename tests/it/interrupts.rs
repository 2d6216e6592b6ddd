//! Interrupts, wherever the job stands: waiting, loading, generating with and
//! without stream, ended, not yet arrived, or known under one id twice.

use serde_json::{Value, json};

use crate::harness::{Bench, assert_error, brief, endless, new_job, plain};

const INTERRUPTED: Option<&str> = Some("prediction interrupted");

fn done(job: &str) -> Value {
    json!({"job": job, "interrupt": {}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_removed_and_the_running_one_goes_on() {
    let bench = Bench::start(|worker| worker.flag("--slots", "1"));
    let client = bench.client().await;
    let mut running = client.stream("running", endless(150)).await;
    running.first_fragment("running").await;
    let mut waiting = client.send(&json!({"job": "q", "predict": brief()})).await;
    let mut waiting_stream = client.stream("s", brief()).await;
    assert_eq!(client.interrupt("q").await, done("q"));
    assert_error(&waiting.next().await.body, 8, INTERRUPTED);
    assert_eq!(client.interrupt("s").await, done("s"));
    let outcome = waiting_stream.finish("s").await;
    assert!(!outcome.acked, "it was never started: {outcome:?}");
    assert_error(&outcome.last.body, 8, INTERRUPTED);
    let outcome = running.finish_acked("running").await;
    assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 150, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_model_still_loads_is_stopped() {
    let bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    // The first request of a worker's life loads the model.
    let mut exchange = client.stream("a", endless(3000)).await;
    assert_eq!(client.interrupt("a").await, done("a"));
    let outcome = exchange.finish("a").await;
    assert_error(&outcome.last.body, 8, INTERRUPTED);
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_comes_before_the_answer_to_the_interrupt() {
    let client = plain().client().await;
    for streams in [false, true] {
        let job = new_job();
        let mut exchange = crate::harness::Exchange::open(&client).await;
        if streams {
            exchange.request_stream(&client, &job, endless(3000)).await;
            exchange.first_fragment(&job).await;
        } else {
            let request = json!({"job": job, "predict": endless(3000)});
            exchange.publish(&client, request.to_string().into_bytes()).await;
        }
        // Same subjects, same subscription: the order is the worker's own.
        exchange
            .publish(&client, json!({"job": job, "interrupt": {}}).to_string().into_bytes())
            .await;
        let mut kinds = Vec::new();
        while kinds.last() != Some(&"interrupt") {
            let seen = exchange.next().await;
            kinds.push(match seen.code() {
                Some(8) => "error",
                None if seen.body.get("interrupt").is_some() => "interrupt",
                None if seen.body.get("stream").is_some() => continue,
                _ => panic!("unexpected: {seen:?}"),
            });
        }
        assert_eq!(kinds, ["error", "interrupt"], "stream: {streams}");
        exchange.assert_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_just_ended_is_answered_without_effect() {
    let client = plain().client().await;
    let job = new_job();
    let mut exchange = client.send(&json!({"job": job, "predict": brief()})).await;
    assert!(exchange.next().await.body["predict"].is_object());
    assert_eq!(client.interrupt(&job).await, done(&job));
    exchange.assert_silence().await;
    // The answer is no mark either: the id may be used again.
    let mut again = client.send(&json!({"job": job, "predict": brief()})).await;
    assert!(again.next().await.body["predict"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_that_overtakes_its_job_still_stops_it() {
    let client = plain().client().await;
    let job = new_job();
    assert_error(&client.interrupt(&job).await, 4, Some("job not found"));
    let mut exchange = client.stream(&job, endless(3000)).await;
    let outcome = exchange.finish(&job).await;
    assert!(!outcome.acked, "{outcome:?}");
    assert_error(&outcome.last.body, 8, INTERRUPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_interrupt_stops_all_jobs_of_an_id() {
    let client = plain().client().await;
    let job = new_job();
    let mut first = client.stream(&job, endless(3000)).await;
    let mut second = client.stream(&job, endless(3000)).await;
    first.first_fragment(&job).await;
    second.first_fragment(&job).await;
    let mut unstreamed = client.send(&json!({"job": job, "predict": endless(3000)})).await;
    assert_eq!(client.interrupt(&job).await, done(&job));
    assert_error(&first.finish_acked(&job).await.last.body, 8, INTERRUPTED);
    assert_error(&second.finish_acked(&job).await.last.body, 8, INTERRUPTED);
    assert_error(&unstreamed.next().await.body, 8, INTERRUPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_prompt_is_stopped_while_it_is_evaluated() {
    let client = plain().client().await;
    let job = new_job();
    let text = "All work and no play makes Jack a dull boy.\n".repeat(200);
    let mut exchange = client
        .send(&json!({"job": job, "predict": {"input": [text], "options": {"max_tokens": 2000, "ignore_eos": true}}}))
        .await;
    assert_eq!(client.interrupt(&job).await, done(&job));
    assert_error(&exchange.next().await.body, 8, INTERRUPTED);
}
