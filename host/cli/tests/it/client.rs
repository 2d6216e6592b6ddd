//! The client against a real NATS server, with messages written by hand where a
//! worker of this version would not send them.
//!
//! Needs a `nats-server`; without one the tests say so and pass on a developer's
//! machine, and fail where `CI` is set.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use llamero_cli::client::{Client, ClientError, Delivery};
use llamero_cli::collector::{Fragments, Step};
use llamero_cli::commands::connect_to;
use llamero_cli::commands::demo::server::{self, Server};
use llamero_protocol::{PredictRequest, decode_request};

const SUBJECT: &str = "llm.worker.default";

/// Generous: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(20);

struct Bench {
    server: Server,
    _folder: tempfile::TempDir,
    client: Client,
    raw: async_nats::Client,
}

impl Bench {
    async fn new() -> Option<Self> {
        let executable = match server::find(None) {
            Ok(path) => path,
            Err(failure) => {
                assert!(std::env::var_os("CI").is_none(), "{failure}");
                eprintln!("SKIPPED: {failure}");
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&executable, folder.path()).await.unwrap();
        let client = connect_to(&server.url).await.unwrap();
        let raw = async_nats::connect(&server.url).await.unwrap();
        Some(Self { server, _folder: folder, client, raw })
    }

    /// Answers the next request with these messages: `true` goes to the stream
    /// subject, `false` to the reply subject. `JOB` in a message is replaced.
    async fn answer(&self, messages: Vec<(bool, &'static str, HeaderMap)>) {
        let mut requests = self.raw.subscribe(SUBJECT).await.unwrap();
        self.raw.flush().await.unwrap();
        let raw = self.raw.clone();
        tokio::spawn(async move {
            let message = requests.next().await.unwrap();
            let request = decode_request(&message.payload).unwrap();
            let stream = request.predict.map(|predict| predict.stream).unwrap_or_default();
            for (is_stream, body, headers) in messages {
                let subject =
                    if is_stream { stream.clone().into() } else { message.reply.clone().unwrap() };
                let body = body.replace("JOB", &request.job);
                raw.publish_with_headers(subject, headers, body.into()).await.unwrap();
            }
            raw.flush().await.unwrap();
        });
        // The subscription must be known before the request is sent.
        self.raw.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Sends a prediction and collects its steps until it ends.
    async fn predict(&self, delivery: Delivery) -> Result<Vec<Step>, ClientError> {
        let request = PredictRequest { input: vec!["x".to_owned()], ..PredictRequest::default() };
        let mut prediction = self.client.predict("a-job", request, delivery).await?;
        let mut steps = Vec::new();
        loop {
            let step = tokio::time::timeout(LIMIT, prediction.next()).await.expect("no hang")?;
            let is_end = matches!(step, Step::Done(_) | Step::Failed(_));
            steps.push(step);
            if is_end {
                return Ok(steps);
            }
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_told_at_once() {
    let Some(bench) = Bench::new().await else { return };
    for delivery in [Delivery::Streamed, Delivery::Whole] {
        let error = bench.predict(delivery).await.expect_err("no worker");
        assert!(matches!(error, ClientError::NoWorker { .. }), "{error:?}");
    }
    let error = bench.client.list(LIMIT).await.expect_err("no worker");
    assert!(matches!(error, ClientError::NoWorker { .. }), "{error:?}");
    bench.server.stop().await;
}

#[tokio::test]
async fn a_stream_is_put_together() {
    let Some(bench) = Bench::new().await else { return };
    let none = HeaderMap::new;
    bench
        .answer(vec![
            (false, r#"{"job":"JOB"}"#, none()),
            (true, r#"{"job":"JOB","stream":{"output":"one "}}"#, none()),
            (true, r#"{"job":"another","stream":{"output":"foreign"}}"#, none()),
            (true, r#"{"job":"JOB","stream":{"output":"two"}}"#, none()),
            (true, r#"{"job":"JOB","predict":{"output":"one two three"},"later":1}"#, none()),
        ])
        .await;
    let steps = bench.predict(Delivery::Streamed).await.unwrap();
    assert_eq!(
        steps[..3],
        [Step::Accepted, Step::Fragment("one ".into()), Step::Fragment("two".into())]
    );
    let Step::Done(done) = &steps[3] else { panic!("{steps:?}") };
    assert_eq!((done.rest.as_str(), done.fragments), (" three", Fragments::Intact));
    bench.server.stop().await;
}

#[tokio::test]
async fn an_output_too_large_for_one_message_comes_from_the_fragments() {
    let Some(bench) = Bench::new().await else { return };
    let mut omitted = HeaderMap::new();
    omitted.insert("Llm-Output-Omitted", "true");
    bench
        .answer(vec![
            (false, r#"{"job":"JOB"}"#, HeaderMap::new()),
            (true, r#"{"job":"JOB","stream":{"output":"all of it"}}"#, HeaderMap::new()),
            (true, r#"{"job":"JOB","predict":{"finish_reason":"stop"}}"#, omitted),
        ])
        .await;
    let steps = bench.predict(Delivery::Streamed).await.unwrap();
    let Some(Step::Done(done)) = steps.last() else { panic!("{steps:?}") };
    assert_eq!(done.response.output, "all of it");
    assert_eq!(done.rest, "");
    bench.server.stop().await;
}

#[tokio::test]
async fn an_answer_of_something_else_is_illegible() {
    let Some(bench) = Bench::new().await else { return };
    bench.answer(vec![(false, "hello?", HeaderMap::new())]).await;
    let error = bench.predict(Delivery::Whole).await.expect_err("illegible");
    assert!(matches!(error, ClientError::Illegible(_)), "{error:?}");
    bench.server.stop().await;
}

#[tokio::test]
async fn a_request_over_max_payload_is_refused_with_both_sizes() {
    let Some(bench) = Bench::new().await else { return };
    let request = PredictRequest { input: vec!["x".repeat(2 << 20)], ..PredictRequest::default() };
    let error = bench.client.predict("a", request, Delivery::Whole).await.expect_err("too large");
    let ClientError::TooLarge { bytes, max } = error else { panic!("{error:?}") };
    assert!(bytes > max && max == 1 << 20, "{bytes} {max}");
    bench.server.stop().await;
}
