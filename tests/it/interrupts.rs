//! Interrupts, wherever the job stands: waiting, loading, generating with and
//! without stream, ended, not yet arrived, known under one id twice, or with another
//! worker of the group.

use async_nats::RequestErrorKind;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::worker::Builder;
use crate::harness::{
    Bench, Client, Exchange, ModelsDir, Nats, SUBJECT, Worker, assert_error, brief, endless,
    error_code, new_job, plain, within,
};

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
        let mut exchange = Exchange::open(&client).await;
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

/// The subject on which workers ask each other.
fn peers() -> String {
    format!("{SUBJECT}._peers")
}

/// Two workers in one group. Which of them gets a request is chance.
struct Fleet {
    nats: Nats,
    workers: [Worker; 2],
    _models: ModelsDir,
}

impl Fleet {
    fn start(configure: impl Fn(Builder) -> Builder) -> Self {
        Self::on(Nats::start(), "", configure)
    }

    /// On the given server, with what the workers write before its name in the URL.
    fn on(nats: Nats, login: &str, configure: impl Fn(Builder) -> Builder) -> Self {
        let models = ModelsDir::real();
        let url = nats.url().replace("nats://", &format!("nats://{login}"));
        let worker = || configure(Worker::at(&url).flag("--models", models.path())).start();
        Self { workers: [worker(), worker()], nats, _models: models }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.nats.url()).await
    }
}

/// Interrupts `count` streams, one after the other. With two workers that know their
/// own jobs only, half of these interrupts would find nothing.
async fn interrupt_streams(client: &Client, count: usize) {
    for n in 0..count {
        let job = new_job();
        let mut exchange = client.stream(&job, endless(3000)).await;
        exchange.first_fragment(&job).await;
        assert_eq!(client.interrupt(&job).await, done(&job), "stream {n}");
        assert_error(&exchange.finish_acked(&job).await.last.body, 8, INTERRUPTED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_worker_is_told_the_right_job_is_stopped() {
    let fleet = Fleet::start(|worker| worker);
    let client = fleet.client().await;
    let mut bystander = client.stream("bystander", endless(300)).await;
    bystander.first_fragment("bystander").await;
    interrupt_streams(&client, 20).await;
    let outcome = bystander.finish_acked("bystander").await;
    assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 300, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_right_behind_its_job_stops_it_on_any_worker() {
    let fleet = Fleet::start(|worker| worker);
    let client = fleet.client().await;
    for _ in 0..10 {
        let job = new_job();
        let mut exchange = client.send(&json!({"job": job, "predict": endless(3000)})).await;
        // It may get to the job's worker before the job, which then never runs.
        let answer = client.interrupt(&job).await;
        assert!(answer == done(&job) || error_code(&answer) == Some(4), "{answer}");
        assert_error(&exchange.next().await.body, 8, INTERRUPTED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_interrupted_elsewhere_may_be_used_again() {
    let fleet = Fleet::start(|worker| worker);
    let client = fleet.client().await;
    for _ in 0..10 {
        let job = new_job();
        let mut exchange = client.stream(&job, endless(3000)).await;
        exchange.first_fragment(&job).await;
        assert_eq!(client.interrupt(&job).await, done(&job));
        let mut again = client.send(&json!({"job": job, "predict": brief()})).await;
        assert!(again.next().await.body["predict"].is_object());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_left_the_group_still_stops_its_jobs() {
    let mut fleet = Fleet::start(|worker| {
        worker.env("llm_shutdown_grace", "1h").env("llm_log", "info,llamero_worker=debug")
    });
    let client = fleet.client().await;
    let mut exchange = client.stream("a", endless(3000)).await;
    let ack = exchange.ack("a").await;
    let id = ack.header("Llm-Worker").expect("an ack names its worker");
    let owner = fleet.workers.iter_mut().find(|worker| worker.log().contains(id)).expect("owner");
    owner.sigterm();
    owner.logs(&["subscription drained"]).await;
    // Only the other one can have got it.
    assert_eq!(client.interrupt("a").await, done("a"));
    assert_error(&exchange.finish_acked("a").await.last.body, 8, INTERRUPTED);
    assert_eq!(owner.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_no_worker_has_is_not_found() {
    let fleet = Fleet::start(|worker| worker);
    let client = fleet.client().await;
    for _ in 0..4 {
        assert_error(&client.interrupt(&new_job()).await, 4, Some("job not found"));
    }
    // More at once than are asked about.
    let mut exchanges = Vec::new();
    for _ in 0..200 {
        exchanges.push(client.send(&done(&new_job())).await);
    }
    for exchange in &mut exchanges {
        assert_error(&exchange.next().await.body, 4, Some("job not found"));
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_worker_waits_for_nobody() {
    // Longer than the patience of any test.
    let bench = Bench::start(|worker| worker.config("interrupt_peers_ms = 600000"));
    let client = bench.client().await;
    assert_error(&client.interrupt(&new_job()).await, 4, Some("job not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_of_another_worker_is_answered_on_the_same_subject() {
    let bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    let mut said = client.nats.subscribe(peers()).await.expect("subscribe");
    let mut exchange = client.stream("a", endless(3000)).await;
    let ack = exchange.ack("a").await;
    let ask = json!({"ask": {"from": "tester", "number": 7, "job": "a", "mark": true}});
    client.nats.publish(peers(), ask.to_string().into()).await.expect("publish");
    // The question itself comes back to this client.
    for expected in [None, Some(false), Some(true)] {
        let message = within("an answer", said.next()).await.expect("a message");
        let body: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let wanted = match expected {
            None => ask.clone(),
            Some(ended) => json!({"answer": {
                "from": ack.header("Llm-Worker"), "to": "tester", "number": 7, "job": "a",
                "ended": ended,
            }}),
        };
        assert_eq!(body, wanted);
        assert!(message.reply.is_none(), "{message:?}");
    }
    assert_error(&exchange.finish_acked("a").await.last.body, 8, INTERRUPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_between_workers_does_nothing() {
    let bench = Bench::start(|worker| worker);
    let client = bench.client().await;
    let mut running = client.stream("running", endless(150)).await;
    running.first_fragment("running").await;
    let mut replies = Exchange::open(&client).await;
    let payloads = [
        String::new(),
        "\u{0}\u{7f}{".to_owned(),
        "[".repeat(100_000),
        " ".repeat(500_000),
        done("running").to_string(),
        json!({"hook": {"action": "list"}}).to_string(),
        json!({"ask": {"from": "x", "number": 1, "job": ""}}).to_string(),
        json!({"ask": {"from": "x", "number": 1, "job": "r".repeat(2000)}}).to_string(),
        json!({"ask": {"from": "x".repeat(200), "number": 1, "job": "running"}}).to_string(),
        json!({"ask": {"from": "x", "number": "1", "job": "running"}}).to_string(),
        json!({"ask": {"number": 1, "job": "running"}}).to_string(),
        json!({"ask": {"from": "x", "number": 1, "job": "nobody's"}}).to_string(),
        json!({"answer": {"from": "x", "to": "y", "number": 1, "job": "running", "ended": true}})
            .to_string(),
    ];
    for payload in payloads {
        for reply in [replies.reply_subject(), SUBJECT.to_owned(), "$SYS.x".to_owned()] {
            let sent = client.nats.publish_with_reply(peers(), reply, payload.clone().into());
            sent.await.expect("publish");
        }
    }
    client.round_trip().await;
    replies.assert_silence().await;
    let outcome = running.finish_acked("running").await;
    assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 150, "{outcome:?}");
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_not_to_ask_do_not_listen_either() {
    let fleet = Fleet::start(|worker| worker.config("interrupt_peers_ms = 0"));
    let client = fleet.client().await;
    let asked = client.nats.request(peers(), "{}".into()).await;
    let refused = asked.err().map(|error| error.kind());
    assert_eq!(refused, Some(RequestErrorKind::NoResponders));
    assert_error(&client.interrupt(&new_job()).await, 4, Some("job not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_of_the_readme_are_enough() {
    let nats = Nats::with(
        r#"authorization { users = [
            { user: worker, password: secret, permissions: {
                subscribe: ["llm.worker.default llm-worker", "llm.worker.default._peers",
                            "llm.worker.default._ctl", "llm.worker.default._w.*", "_INBOX.>"]
                publish: ["llm.worker.default._peers", "_INBOX.>"] } }
            { user: client, password: secret, permissions: {
                subscribe: ["_INBOX.>"], publish: ["llm.worker.default"] } }
        ] }
        no_auth_user: client"#,
    );
    let fleet = Fleet::on(nats, "worker:secret@", |worker| worker);
    let client = fleet.client().await;
    interrupt_streams(&client, 6).await;
    assert_error(&client.interrupt(&new_job()).await, 4, Some("job not found"));
    for worker in &fleet.workers {
        assert!(!worker.log().to_lowercase().contains("permission"), "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_ask_others_serves_all_the_same() {
    let nats = Nats::with(
        r#"authorization { users = [
            { user: worker, password: secret, permissions: {
                subscribe: { deny: ["llm.worker.default._peers"] } } }
            { user: client, password: secret }
        ] }
        no_auth_user: client"#,
    );
    let models = ModelsDir::real();
    let url = nats.url().replace("nats://", "nats://worker:secret@");
    let worker = Worker::at(&url).flag("--models", models.path()).start();
    let client = Client::connect(&nats.url()).await;
    assert_error(&client.interrupt(&new_job()).await, 4, Some("job not found"));
    client.assert_alive().await;
    worker.logs(&["interrupts are not passed on"]).await;
}
