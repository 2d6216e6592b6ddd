//! The rules of the Go client against the worker: it must never lose a final
//! message, whatever the length of the job and however slow the caller.

use std::future::{pending, ready};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    Bench, Client, End, GoClient, HooksDir, Nats, PATIENCE, SUBJECT, Slot, endless, plain, within,
};

/// Silence after which a call against the scripted responder counts as hung.
const SHORT: Duration = Duration::from_secs(2);

/// A responder that is scripted: ack at once, then `fragments` and the final,
/// each `pace` after the other.
async fn respond(client: Client, fragments: usize, before: Duration, pace: Duration) {
    let mut requests = client.nats.subscribe(SUBJECT).await.expect("subscribe");
    client.round_trip().await;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let body: Value = serde_json::from_slice(&request.payload).expect("JSON");
            let send = async |subject: String, mut body: Value, job: &Value| {
                body["job"] = job.clone();
                client.nats.publish(subject, body.to_string().into()).await.expect("publish");
                client.nats.flush().await.expect("flush");
            };
            let reply = request.reply.expect("a reply subject").to_string();
            let stream = body["predict"]["stream"].as_str().unwrap_or_default().to_owned();
            send(reply, json!({}), &body["job"]).await;
            tokio::time::sleep(before).await;
            for _ in 0..fragments {
                send(stream.clone(), json!({"stream": {"output": "x"}}), &body["job"]).await;
                tokio::time::sleep(pace).await;
            }
            let output = "x".repeat(fragments);
            send(stream, json!({"predict": {"output": output}}), &body["job"]).await;
        }
    });
}

/// One call with a caller that takes `pace` for each fragment.
async fn call(
    client: &GoClient,
    predict: Value,
    pace: Duration,
    patience: Duration,
) -> (End, String) {
    let seen = std::cell::RefCell::new(String::new());
    let callback = |text: String| {
        assert!(!text.is_empty(), "a real callback would be called with nothing");
        seen.borrow_mut().push_str(&text);
        tokio::time::sleep(pace)
    };
    let end = client.predict(predict, callback, pending(), patience).await;
    (end, seen.into_inner())
}

/// What must hold for every call to a worker that ends by itself.
fn assert_complete(end: &End, seen: &str) {
    let End::Output(output) = end else { panic!("not a final: {end:?}, seen: {seen}") };
    assert_eq!(seen, output, "the caller has printed the whole text");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulation_loses_what_a_rude_worker_sends() {
    // A burst behind the ack: more than both buffers hold while the caller is
    // still busy with the first fragment.
    let nats = Nats::start();
    respond(Client::connect(&nats.url()).await, 200, Duration::from_millis(50), Duration::ZERO)
        .await;
    let client = GoClient::connect(&nats.url()).await;
    let (end, _) = call(&client, json!({}), Duration::from_millis(100), SHORT * 2).await;
    assert_eq!(end, End::Hung);
    assert!(client.dropped() > 0);

    // A stream that begins before the client has read the ack.
    let nats = Nats::start();
    let server = Client::connect(&nats.url()).await;
    let mut requests = server.nats.subscribe(SUBJECT).await.expect("subscribe");
    server.round_trip().await;
    tokio::spawn(async move {
        let request = requests.next().await.expect("a request");
        let body: Value = serde_json::from_slice(&request.payload).expect("JSON");
        let stream = body["predict"]["stream"].as_str().expect("stream").to_owned();
        let last = json!({"job": body["job"], "predict": {"output": "x"}});
        server.nats.publish(stream, last.to_string().into()).await.expect("publish");
        server.nats.flush().await.expect("flush");
        // The two arrive on tasks of their own: without a pause it would be up to
        // the scheduler which of them is read first.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ack = json!({"job": body["job"]});
        let reply = request.reply.expect("reply");
        server.nats.publish(reply, ack.to_string().into()).await.expect("publish");
        server.nats.flush().await.expect("flush");
        pending::<()>().await;
    });
    let client = GoClient::connect(&nats.url()).await;
    let (end, _) = call(&client, json!({}), Duration::ZERO, SHORT).await;
    assert_eq!(end, End::Hung);
    assert_eq!(client.unregistered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulation_gets_all_that_a_polite_worker_sends() {
    let nats = Nats::start();
    let pace = Duration::from_millis(10);
    respond(Client::connect(&nats.url()).await, 40, pace, pace).await;
    let client = GoClient::connect(&nats.url()).await;
    let (end, seen) = call(&client, json!({}), Duration::from_millis(2), PATIENCE).await;
    assert_eq!((end, seen), (End::Output("x".repeat(40)), "x".repeat(40)));
    assert_eq!((client.dropped(), client.unregistered()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn short_and_long_jobs_one_after_the_other() {
    let client = GoClient::connect(&plain().nats.url()).await;
    for tokens in [1, 2, 150] {
        for pace in [0, 15] {
            let (end, seen) =
                call(&client, endless(tokens), Duration::from_millis(pace), PATIENCE).await;
            assert_complete(&end, &seen);
        }
    }
    assert_eq!((client.dropped(), client.unregistered()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_before_the_ack_reach_the_caller() {
    let client = GoClient::connect(&plain().nats.url()).await;
    let predict = json!({"input": ["x"], "options": {"top_k": 1.5}});
    let (end, _) = call(&client, predict, Duration::ZERO, PATIENCE).await;
    assert!(matches!(end, End::Error { code: 7, .. }), "{end:?}");
}

/// A worker whose plugin answers without inference: nothing lies between the
/// ack and the end but the worker's own patience.
fn instant() -> &'static Bench {
    static INSTANT: Slot = Slot::new();
    INSTANT.get(|| {
        Bench::with_hooks(HooksDir::empty().test("respond"), |worker| worker.flag("--queue", "64"))
    })
}

fn instantly() -> Value {
    json!({"input": ["[[respond:An answer that was there before the question.]]"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn instant_jobs_do_not_overtake_their_ack() {
    let client = GoClient::connect(&instant().nats.url()).await;
    for _ in 0..20 {
        let (end, seen) = call(&client, instantly(), Duration::ZERO, PATIENCE).await;
        assert_complete(&end, &seen);
    }
    assert_eq!((client.dropped(), client.unregistered()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn instant_jobs_eight_at_once_do_not_flood_the_inbox() {
    let client = GoClient::connect(&instant().nats.url()).await;
    let calls = (0..8).map(|_| async {
        for _ in 0..4 {
            let (end, seen) = call(&client, instantly(), Duration::from_millis(5), PATIENCE).await;
            assert_complete(&end, &seen);
        }
    });
    within("eight callers", futures_util::future::join_all(calls)).await;
    assert_eq!((client.dropped(), client.unregistered()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_jobs_at_once_on_one_inbox() {
    let client = GoClient::connect(&plain().nats.url()).await;
    let calls = [1, 3, 10, 30, 60, 90, 120, 40].map(|tokens| {
        let client = &client;
        async move {
            let (end, seen) =
                call(client, endless(tokens), Duration::from_millis(3), PATIENCE).await;
            assert_complete(&end, &seen);
        }
    });
    within("eight callers", futures_util::future::join_all(calls)).await;
    assert_eq!((client.dropped(), client.unregistered()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_stops_the_job_and_harms_no_other() {
    let client = GoClient::connect(&plain().nats.url()).await;
    let given_up = async {
        let (started, generating) = tokio::sync::oneshot::channel();
        let started = std::cell::Cell::new(Some(started));
        let callback = |_| {
            if let Some(started) = started.take() {
                let _ = started.send(());
            }
            ready(())
        };
        let give_up = async { generating.await.expect("the job has begun") };
        client.predict(endless(3000), callback, give_up, PATIENCE).await
    };
    let other = call(&client, endless(80), Duration::ZERO, PATIENCE);
    let (end, (other, seen)) = within("two callers", async { tokio::join!(given_up, other) }).await;
    assert_eq!(end, End::GaveUp { answered: true });
    assert_complete(&other, &seen);
    assert_eq!(client.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_by_another_client_ends_the_callers_wait() {
    let bench = plain();
    let go = GoClient::connect(&bench.nats.url()).await;
    let other = bench.client().await;
    // The other one learns the job's name from the request itself.
    let mut requests = other.nats.subscribe(SUBJECT).await.expect("subscribe");
    other.round_trip().await;
    let marker = format!("marker {}", crate::harness::new_job());
    let mut predict = endless(3000);
    predict["input"] = json!([marker]);
    let (started, generating) = tokio::sync::oneshot::channel();
    let started = std::cell::Cell::new(Some(started));
    let caller = go.predict(
        predict,
        |_| {
            if let Some(started) = started.take() {
                let _ = started.send(());
            }
            ready(())
        },
        pending(),
        PATIENCE,
    );
    let interrupter = async {
        let job = loop {
            let request = within("the request", requests.next()).await.expect("open");
            let body: Value = serde_json::from_slice(&request.payload).unwrap_or_default();
            if body["predict"]["input"][0] == marker.as_str() {
                break body["job"].as_str().expect("job").to_owned();
            }
        };
        generating.await.expect("the job has begun");
        other.interrupt(&job).await
    };
    let (end, answer) = within("both", async { tokio::join!(caller, interrupter) }).await;
    assert!(answer["interrupt"].is_object(), "{answer}");
    assert_eq!(end, End::Error { code: 8, text: "prediction interrupted".to_owned() });
    assert_eq!((go.dropped(), go.unregistered()), (0, 0));
}
