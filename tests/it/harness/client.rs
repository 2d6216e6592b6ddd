//! A client that writes its JSON by hand and looks at every message it gets.
//!
//! It shares no code with the worker on purpose: a mistake in the protocol crate
//! must not cancel itself out here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::process::{PATIENCE, Witness};

/// The subject of a worker that was not told another one.
pub const SUBJECT: &str = "llm.worker.default";

/// A connection to the server of a test.
#[derive(Clone)]
pub struct Client {
    /// The connection itself, for what the helpers do not cover.
    pub nats: async_nats::Client,
    _witness: Option<Arc<Witness>>,
}

impl Client {
    /// Connects, and reconnects quickly when the server goes away.
    pub async fn connect(url: &str) -> Self {
        let options = async_nats::ConnectOptions::new()
            .name("llamero-test")
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(20));
        let nats = within("connection", options.connect(url)).await.expect("connect");
        Self { nats, _witness: None }
    }

    /// Keeps `witness` for as long as the test has its client.
    pub fn with(self, witness: Witness) -> Self {
        Self { _witness: Some(Arc::new(witness)), ..self }
    }

    /// Waits until the server has read everything that was sent on this connection:
    /// other connections may rely on a subscription only after that. Flushing is
    /// less, it ends when the bytes are in the socket.
    pub async fn round_trip(&self) {
        let nobody = self.nats.new_inbox();
        let refused = within("a round trip", self.nats.request(nobody, Bytes::new())).await;
        assert!(refused.is_err(), "nobody answers on a new inbox");
    }

    /// Sends `request` with a reply subject, and listens to that subject and to
    /// the stream subject beside it. [`Exchange::open`] first, when the request
    /// has to name the stream subject itself.
    pub async fn send(&self, request: &Value) -> Exchange {
        self.send_bytes(request.to_string().into_bytes()).await
    }

    /// As [`Self::send`], for bytes that need not be JSON.
    pub async fn send_bytes(&self, payload: Vec<u8>) -> Exchange {
        let exchange = Exchange::open(self).await;
        exchange.publish(self, payload).await;
        exchange
    }

    /// Sends `request` and returns the body of the first answer.
    pub async fn call(&self, request: &Value) -> Value {
        self.send(request).await.next().await.body
    }

    /// A prediction without stream under a new job id: the answer's body.
    pub async fn predict(&self, predict: Value) -> Value {
        let job = new_job();
        let mut exchange = self.send(&json!({"job": job, "predict": predict})).await;
        let seen = exchange.next().await;
        assert_eq!(seen.place, Place::Reply, "{seen:?}");
        assert_eq!(seen.body["job"], job.as_str(), "every answer carries its job: {seen:?}");
        seen.body
    }

    /// The text of a prediction without stream, which must succeed.
    pub async fn output(&self, predict: Value) -> String {
        let body = self.predict(predict).await;
        assert!(body["predict"].is_object(), "a prediction failed: {body}");
        body["predict"]["output"].as_str().unwrap_or_default().to_owned()
    }

    /// Begins a streaming prediction under the given job id.
    pub async fn stream(&self, job: &str, predict: Value) -> Exchange {
        let exchange = Exchange::open(self).await;
        exchange.request_stream(self, job, predict).await;
        exchange
    }

    /// Interrupts `job` and returns the body of the answer.
    pub async fn interrupt(&self, job: &str) -> Value {
        self.call(&json!({"job": job, "interrupt": {}})).await
    }

    /// Fails unless the worker still answers and still generates.
    pub async fn assert_alive(&self) {
        let list = self.call(&json!({"job": "alive", "list": {}})).await;
        assert!(list["list"].is_object(), "the worker does not list any more: {list}");
        let body = self.predict(json!({"input": ["The sea"], "options": {"max_tokens": 2}})).await;
        assert!(body["predict"].is_object(), "the worker does not predict any more: {body}");
    }
}

/// Where a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The request's reply subject.
    Reply,
    /// The subject that `predict.stream` named.
    Stream,
}

/// One message that came back.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it arrived.
    pub place: Place,
    /// Its body as JSON.
    pub body: Value,
    /// The bytes of the body.
    pub payload: Bytes,
    /// Its headers, empty when it had none.
    pub headers: HeaderMap,
}

impl Seen {
    /// The text of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Error code of the body: `None` without error, 0 when the code is omitted.
    pub fn code(&self) -> Option<u64> {
        error_code(&self.body)
    }
}

/// One request and all that comes back for it. Reply and stream share one
/// subscription, because only then does the order of arrival between the two
/// mean anything.
pub struct Exchange {
    base: String,
    messages: Subscriber,
}

impl Exchange {
    /// Subscribes, before anything is sent.
    pub async fn open(client: &Client) -> Self {
        let base = client.nats.new_inbox();
        let messages = client.nats.subscribe(format!("{base}.*")).await.expect("subscribe");
        Self { base, messages }
    }

    /// The reply subject of the request.
    pub fn reply_subject(&self) -> String {
        format!("{}.reply", self.base)
    }

    /// A subject to stream to.
    pub fn stream_subject(&self) -> String {
        format!("{}.stream", self.base)
    }

    /// Publishes `payload` on the worker's subject.
    pub async fn publish(&self, client: &Client, payload: Vec<u8>) {
        let reply = self.reply_subject();
        client.nats.publish_with_reply(SUBJECT, reply, payload.into()).await.expect("publish");
        client.nats.flush().await.expect("flush");
    }

    /// Publishes a streaming prediction to this exchange's own stream subject.
    pub async fn request_stream(&self, client: &Client, job: &str, mut predict: Value) {
        predict["stream"] = self.stream_subject().into();
        let request = json!({"job": job, "predict": predict});
        self.publish(client, request.to_string().into_bytes()).await;
    }

    /// The next message, which must be JSON.
    pub async fn next(&mut self) -> Seen {
        match self.next_message().await {
            Ok(seen) => seen,
            Err(NoResponders) => panic!("nobody listens on {SUBJECT}"),
        }
    }

    /// The next message, or that nobody took the request.
    pub async fn next_message(&mut self) -> Result<Seen, NoResponders> {
        let message =
            within("an answer", self.messages.next()).await.expect("the subscription is open");
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(NoResponders);
        }
        let place = if *message.subject == self.stream_subject() {
            Place::Stream
        } else {
            assert_eq!(*message.subject, self.reply_subject());
            Place::Reply
        };
        let body = serde_json::from_slice(&message.payload).unwrap_or_else(|error| {
            panic!("not JSON: {error}: {}", String::from_utf8_lossy(&message.payload))
        });
        let headers = message.headers.unwrap_or_default();
        Ok(Seen { place, body, payload: message.payload, headers })
    }

    /// Reads the ack of a stream; any other first message fails the test.
    pub async fn ack(&mut self, job: &str) -> Seen {
        let seen = self.next().await;
        assert_eq!(seen.place, Place::Reply, "the ack comes before the stream: {seen:?}");
        assert_eq!(seen.body, json!({"job": job}), "an ack has the job and nothing else");
        seen
    }

    /// Reads a whole stream from its first message to its last one and checks
    /// what holds for every stream.
    pub async fn finish(&mut self, job: &str) -> Outcome {
        let first = self.next().await;
        self.finish_after(job, first).await
    }

    /// Reads the rest of a stream whose ack was already read.
    pub async fn finish_acked(&mut self, job: &str) -> Outcome {
        self.finish_after(job, ack_of(job)).await
    }

    async fn finish_after(&mut self, job: &str, first: Seen) -> Outcome {
        assert_eq!(first.body["job"], job, "every answer carries its job: {first:?}");
        assert_eq!(
            first.place,
            Place::Reply,
            "the first answer is on the reply subject: {first:?}"
        );
        if first.body.as_object().is_some_and(|body| body.len() > 1) {
            return Outcome { acked: false, fragments: Vec::new(), last: first };
        }
        let mut fragments = Vec::new();
        loop {
            let seen = self.next().await;
            assert_eq!(seen.place, Place::Stream, "one message on the reply subject: {seen:?}");
            assert_eq!(seen.body["job"], job, "every message carries its job: {seen:?}");
            let fragment = &seen.body["stream"]["output"];
            if seen.body.get("stream").is_none() {
                return Outcome { acked: true, fragments, last: seen };
            }
            let text = fragment.as_str().expect("a fragment has text");
            assert!(!text.is_empty(), "a fragment is never empty");
            fragments.push(text.to_owned());
        }
    }

    /// Reads up to and including the first fragment of a stream: the job now
    /// generates. Returns the fragment's text.
    pub async fn first_fragment(&mut self, job: &str) -> String {
        self.ack(job).await;
        let seen = self.next().await;
        let text = seen.body["stream"]["output"].as_str();
        text.unwrap_or_else(|| panic!("not a fragment: {seen:?}")).to_owned()
    }

    /// Fails if anything more arrives within a moment.
    pub async fn assert_silence(&mut self) {
        let more = tokio::time::timeout(Duration::from_millis(300), self.messages.next()).await;
        if let Ok(Some(message)) = more {
            let text = String::from_utf8_lossy(&message.payload);
            panic!("one message too many on {}: {text}", message.subject);
        }
    }
}

fn ack_of(job: &str) -> Seen {
    Seen {
        place: Place::Reply,
        body: json!({"job": job}),
        payload: Bytes::new(),
        headers: HeaderMap::new(),
    }
}

/// How a streaming prediction went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// False when the first answer on the reply subject was also the last.
    pub acked: bool,
    /// The texts of the stream's fragments, in order.
    pub fragments: Vec<String>,
    /// The message that ended the job.
    pub last: Seen,
}

impl Outcome {
    /// The whole text of a job that ended well, after checking that the
    /// fragments add up to it.
    pub fn output(&self) -> &str {
        let body = &self.last.body;
        assert!(body["predict"].is_object(), "the job did not end well: {body}");
        let output = body["predict"]["output"].as_str().unwrap_or_default();
        assert_eq!(self.fragments.concat(), output, "fragments add up to the final output");
        output
    }

    /// Error code of a job that failed.
    pub fn code(&self) -> Option<u64> {
        self.last.code()
    }
}

/// Nobody took the request: the server said so at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoResponders;

/// Error code of an answer: `None` without error, 0 when the code is omitted.
pub fn error_code(body: &Value) -> Option<u64> {
    let error = body.get("error")?;
    assert!(error["error"].is_string(), "an error always has a text: {body}");
    Some(error.get("code").map_or(0, |code| code.as_u64().expect("a code is a number")))
}

/// A job id as Go clients make them: 22 random characters.
pub fn new_job() -> String {
    nuid::next().to_string()
}

/// Awaits `future` for as long as a test waits for anything at all.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come within {PATIENCE:?}"),
    }
}

/// Fails unless `body` is an error with this code and, if given, this text.
#[track_caller]
pub fn assert_error(body: &Value, code: u64, text: Option<&str>) {
    assert_eq!(error_code(body), Some(code), "not error {code}: {body}");
    if let Some(text) = text {
        assert_eq!(body["error"]["error"], text, "{body}");
    }
    assert!(body.get("predict").is_none(), "an error comes without a result: {body}");
}

/// A prediction that goes on for `max_tokens` tokens whatever the model thinks
/// of it. With a few thousand it lasts until it is stopped.
pub fn endless(max_tokens: u32) -> Value {
    json!({
        "input": ["Once upon a time"],
        "options": {"ignore_eos": true, "max_tokens": max_tokens},
    })
}

/// A prediction that is over after a few tokens. Greedy, because a model that draws
/// may also draw the end of the text at once.
pub fn brief() -> Value {
    json!({"input": ["The capital of France is"], "options": {"max_tokens": 4, "temperature": 0}})
}
