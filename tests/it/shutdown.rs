//! Signals: running jobs end whole, waiting ones are told, no request is lost
//! between the signal and the end.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::worker::Builder;
use crate::harness::{
    Bench, Client, HooksDir, SUBJECT, Worker, assert_error, brief, endless, error_code, within,
};

/// With a grace that no job of these tests outlasts, however slow the machine.
fn patient(worker: Builder) -> Builder {
    worker.env("llm_shutdown_grace", "1h")
}

/// Waits until nobody takes requests any more: the worker has left the group.
async fn wait_for_departure(client: &Client) {
    loop {
        let mut exchange = client.send(&json!({"job": "up", "list": {}})).await;
        if exchange.next_message().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_streams_and_answers_end_whole() {
    let mut bench = Bench::start(patient);
    let client = bench.client().await;
    let mut streams = Vec::new();
    for job in ["s1", "s2", "s3"] {
        streams.push((job, client.stream(job, endless(60)).await));
    }
    let mut unstreamed = client.send(&json!({"job": "u", "predict": endless(80)})).await;
    let mut firsts = Vec::new();
    for (job, stream) in &mut streams {
        firsts.push(stream.first_fragment(job).await);
    }
    bench.worker.sigterm();
    for ((job, stream), first) in streams.iter_mut().zip(firsts) {
        let mut outcome = stream.finish_acked(job).await;
        outcome.fragments.insert(0, first);
        assert!(!outcome.output().is_empty());
        assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 60);
    }
    let seen = unstreamed.next().await;
    assert_eq!(seen.body["predict"]["usage"]["completion_tokens"], 80, "{seen:?}");
    assert_eq!(bench.worker.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_is_the_same() {
    let mut bench = Bench::start(patient);
    let client = bench.client().await;
    let mut stream = client.stream("s", endless(60)).await;
    stream.first_fragment("s").await;
    bench.worker.sigint();
    let outcome = stream.finish_acked("s").await;
    assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 60);
    assert_eq!(bench.worker.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_hear_of_the_last_jobs() {
    let hooks = HooksDir::empty().test("observe-note").test("respond");
    let mut bench = Bench::with_hooks(hooks, |worker| {
        patient(worker).config("hook_observer_wall_ms = 60000\nhook_observer_cpu_ms = 10000")
    });
    let client = bench.client().await;
    let jobs: Vec<String> = (0..20).map(|n| format!("last-{n}")).collect();
    let mut exchanges = Vec::new();
    for job in &jobs {
        let predict = json!({"input": ["[[respond]]"]});
        exchanges.push(client.send(&json!({"job": job, "predict": predict})).await);
    }
    // So that the signal does not overtake all of them on their way.
    assert_eq!(error_code(&exchanges[0].next().await.body), None);
    bench.worker.sigterm();
    let mut answered = vec![&jobs[0]];
    for (job, exchange) in jobs.iter().zip(&mut exchanges).skip(1) {
        if exchange.next_message().await.is_ok_and(|seen| error_code(&seen.body).is_none()) {
            answered.push(job);
        }
    }
    assert_eq!(bench.worker.exit_code().await, 0);
    let log = bench.worker.log();
    for job in answered {
        assert!(log.contains(&format!("observed job={job} ")), "{job}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_just_ends() {
    let mut bench = Bench::start(patient);
    bench.worker.sigterm();
    assert_eq!(bench.worker.exit_code().await, 0);
    let client = bench.client().await;
    let mut exchange = client.send(&json!({"job": "a", "list": {}})).await;
    assert!(exchange.next_message().await.is_err(), "nobody is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_model_still_loads_is_answered() {
    let mut bench = Bench::start(patient);
    let client = bench.client().await;
    let mut exchange = client.stream("a", endless(20)).await;
    client.call(&json!({"job": "l", "list": {}})).await;
    bench.worker.sigterm();
    let outcome = exchange.finish("a").await;
    assert!(outcome.code().is_none_or(|code| code == 5), "{outcome:?}");
    assert_eq!(bench.worker.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_beyond_the_grace_are_interrupted() {
    let mut bench = Bench::start(|worker| worker.env("llm_shutdown_grace", "1s"));
    let client = bench.client().await;
    let mut streamed = client.stream("s", endless(3500)).await;
    streamed.first_fragment("s").await;
    let mut unstreamed = client.send(&json!({"job": "u", "predict": endless(3500)})).await;
    client.call(&json!({"job": "l", "list": {}})).await;
    bench.worker.sigterm();
    let outcome = streamed.finish_acked("s").await;
    assert_error(&outcome.last.body, 8, Some("prediction interrupted"));
    assert_error(&unstreamed.next().await.body, 8, Some("prediction interrupted"));
    assert_eq!(bench.worker.exit_code().await, 1, "the grace ran out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut bench = Bench::start(|worker| worker.env("llm_shutdown_grace", "1h"));
    let client = bench.client().await;
    let mut stream = client.stream("s", endless(3500)).await;
    stream.first_fragment("s").await;
    bench.worker.sigterm();
    wait_for_departure(&client).await;
    assert!(bench.worker.is_running(), "the job goes on");
    bench.worker.sigterm();
    // Had it waited for the job after all, the code would be 0.
    assert_ne!(bench.worker.exit_code().await, 0);
}

/// Answers to requests, by the request's number.
struct Answers {
    base: String,
    replies: async_nats::Subscriber,
    got: HashMap<usize, Vec<Option<Value>>>,
}

impl Answers {
    async fn open(client: &Client) -> Self {
        let base = client.nats.new_inbox();
        let replies = client.nats.subscribe(format!("{base}.*")).await.expect("subscribe");
        Self { base, replies, got: HashMap::new() }
    }

    async fn request(&self, client: &Client, number: usize, request: &Value) {
        let reply = format!("{}.{number}", self.base);
        let payload = request.to_string().into();
        client.nats.publish_with_reply(SUBJECT, reply, payload).await.expect("publish");
    }

    /// Reads until each of `count` requests has an answer, and then a moment
    /// longer for any that has two.
    async fn collect(mut self, count: usize) -> HashMap<usize, Vec<Option<Value>>> {
        while self.got.len() < count {
            let missing = count - self.got.len();
            let what = format!("the answer to {missing} of {count} requests");
            let message = within(&what, self.replies.next()).await.expect("open");
            self.take(message);
        }
        let quiet = Duration::from_millis(500);
        while let Ok(Some(message)) = tokio::time::timeout(quiet, self.replies.next()).await {
            self.take(message);
        }
        self.got
    }

    fn take(&mut self, message: async_nats::Message) {
        let (_, number) = message.subject.rsplit_once('.').expect("a subject of ours");
        let refused = message.status == Some(StatusCode::NO_RESPONDERS);
        let body = (!refused)
            .then(|| serde_json::from_slice(&message.payload).expect("an answer is JSON"));
        self.got.entry(number.parse().expect("a number")).or_default().push(body);
    }
}

/// A request of each kind that is cheap to answer.
fn cheap(number: usize) -> Value {
    let job = format!("job-{number}");
    match number % 3 {
        0 => json!({"job": job, "list": {}}),
        1 => json!({"job": job, "interrupt": {}}),
        _ => json!({"job": job, "predict": {"input": ["x"], "options": {"max_tokens": 1}}}),
    }
}

fn assert_answered_once(number: usize, answers: &[Option<Value>]) {
    assert_eq!(answers.len(), 1, "request {number}: {answers:?}");
    let Some(body) = &answers[0] else { return };
    assert_eq!(body["job"], format!("job-{number}"), "{body}");
    let legal = match number % 3 {
        0 => body["list"].is_object(),
        1 => error_code(body) == Some(4),
        _ => body["predict"].is_object() || matches!(error_code(body), Some(5 | 6)),
    };
    assert!(legal, "request {number}: {body}");
}

/// A burst around the signal to a lone worker. While it leaves the group, the
/// server has already sent it requests that it has not read yet: those must be
/// answered too. A stream goes on meanwhile, because the worker's own publishing
/// is what can make its client library drop them.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_during_the_drain_is_answered_to_the_last() {
    for round in 0..3 {
        let mut bench = Bench::start(|worker| patient(worker).flag("--queue", "16"));
        let client = bench.client().await;
        let mut stream = client.stream("s", endless(80)).await;
        stream.first_fragment("s").await;
        let answers = Answers::open(&client).await;
        const COUNT: usize = 3000;
        for number in 0..COUNT {
            if number == COUNT / 3 {
                // What was sent so far is routed to the worker now.
                client.round_trip().await;
                bench.worker.sigterm();
            }
            answers.request(&client, number, &cheap(number)).await;
            if number % 50 == 0 {
                // Spreads the burst over the whole shutdown.
                client.nats.flush().await.expect("flush");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        client.nats.flush().await.expect("flush");
        let got = answers.collect(COUNT).await;
        for (number, answers) in &got {
            assert_answered_once(*number, answers);
        }
        let served = got.values().filter(|answers| answers[0].is_some()).count();
        assert!(served >= COUNT / 3, "round {round}: {served} before the signal");
        let outcome = stream.finish_acked("s").await;
        assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 80);
        assert_eq!(bench.worker.exit_code().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_hand_the_subject_over_without_a_gap() {
    let mut bench = Bench::start(|worker| patient(worker).flag("--queue", "16"));
    let mut other = Worker::at(&bench.nats.url())
        .flag("--models", bench.models.path())
        .flag("--queue", "16")
        .start();
    let client = bench.client().await;
    let answers = Answers::open(&client).await;
    const COUNT: usize = 2000;
    for number in 0..COUNT {
        if number == COUNT / 3 {
            bench.worker.sigterm();
        }
        answers.request(&client, number, &cheap(number)).await;
        if number % 50 == 0 {
            client.nats.flush().await.expect("flush");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    client.nats.flush().await.expect("flush");
    for (number, answers) in &answers.collect(COUNT).await {
        assert_answered_once(*number, answers);
        assert!(answers[0].is_some(), "request {number}: a worker was there all the time");
    }
    assert_eq!(bench.worker.exit_code().await, 0);
    assert!(!client.output(brief()).await.is_empty(), "the other one goes on");
    other.sigterm();
    assert_eq!(other.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_during_the_drain_reaches_its_job() {
    let mut bench = Bench::start(|worker| worker.env("llm_shutdown_grace", "1h"));
    let client = bench.client().await;
    let mut stream = client.stream("s", endless(3500)).await;
    stream.first_fragment("s").await;
    // Behind each other on one connection, so that the worker reads the signal's
    // effect and the interrupt in either order; both have to end the job.
    bench.worker.sigterm();
    let mut interrupt = client.send(&json!({"job": "s", "interrupt": {}})).await;
    match interrupt.next_message().await {
        Ok(seen) => {
            assert_eq!(seen.body, json!({"job": "s", "interrupt": {}}));
            assert_error(&stream.finish_acked("s").await.last.body, 8, None);
            assert_eq!(bench.worker.exit_code().await, 0);
        }
        // The worker had already left; nobody was there to take the interrupt,
        // and the client was told so at once.
        Err(_) => bench.worker.sigterm(),
    }
}
