//! The rules of the Go client of llm-go, with all that makes it fragile.
//!
//! It has one inbox for the streams of all its jobs. What arrives there passes
//! two buffers of 16 messages, one of the connection and one of the job, and
//! each drops what does not fit, a final message too. A job is known to it only
//! after the first reply was read; messages for unknown jobs are dropped. When a
//! caller gives up while it streams, an interrupt is sent, with one second for
//! the answer.
//!
//! A worker that is polite to this client loses nothing; one that is not makes
//! callers hang. The emulation counts what it drops, so that a test can tell a
//! loss from an error, and `tests::…` in `go_client.rs` of the topics prove with
//! a rude responder that it really does drop.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::client::{SUBJECT, error_code, new_job};

/// Messages that each of the client's buffers holds.
pub const BUFFER: usize = 16;

/// How long the client waits for the answer to an interrupt.
pub const INTERRUPT_PATIENCE: Duration = Duration::from_secs(1);

/// One client with its inbox.
pub struct GoClient {
    nats: async_nats::Client,
    inbox: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<HashMap<String, Sender<Value>>>,
    dropped_by_connection: AtomicUsize,
    dropped_by_job: AtomicUsize,
    unregistered: AtomicUsize,
}

/// How a call ended, as its caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The output of the final message.
    Output(String),
    /// The worker answered with an error.
    Error {
        /// Its code, 0 when omitted.
        code: u64,
        /// Its text.
        text: String,
    },
    /// The caller gave up; whether its interrupt was answered in time.
    GaveUp {
        /// True when an answer came within [`INTERRUPT_PATIENCE`].
        answered: bool,
    },
    /// Nobody took the request.
    NoResponders,
    /// The terminal message never came: the caller of a real client hangs.
    Hung,
}

impl GoClient {
    /// Connects and subscribes the inbox.
    pub async fn connect(url: &str) -> Self {
        let nats = async_nats::connect(url).await.expect("connect");
        let inbox = nats.new_inbox();
        let mut messages = nats.subscribe(inbox.clone()).await.expect("subscribe the inbox");
        let shared = Arc::<Shared>::default();

        let (buffer, buffered) = mpsc::channel(BUFFER);
        let counters = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                counters.offer(&buffer, message.payload, &counters.dropped_by_connection);
            }
        });
        tokio::spawn(dispatch(buffered, Arc::clone(&shared)));
        Self { nats, inbox, shared }
    }

    /// Runs one prediction. `callback` gets every fragment and may be slow;
    /// `give_up` ends the wait as an expired context does; `patience` is how long
    /// silence lasts before the call counts as hung.
    pub async fn predict<C, F, G>(
        &self,
        mut predict: Value,
        mut callback: C,
        give_up: G,
        patience: Duration,
    ) -> End
    where
        C: FnMut(String) -> F,
        F: Future<Output = ()>,
        G: Future<Output = ()>,
    {
        let job = new_job();
        predict["stream"] = self.inbox.clone().into();
        let request = json!({"job": job, "predict": predict}).to_string();
        let reply = match self.request(request, patience).await {
            Ok(reply) => reply,
            Err(end) => return end,
        };
        // The first reply is the error, the final, or the ack.
        if let Some(end) = ending(&reply) {
            return end;
        }
        let mut messages = self.register(&job);
        let mut give_up = std::pin::pin!(give_up);
        let end = loop {
            tokio::select! {
                () = &mut give_up => break self.interrupt(&job).await,
                message = tokio::time::timeout(patience, messages.recv()) => {
                    let Ok(Some(message)) = message else { break End::Hung };
                    if let Some(end) = ending(&message) {
                        break end;
                    }
                    let text = message["stream"]["output"].as_str().unwrap_or_default();
                    callback(text.to_owned()).await;
                }
            }
        };
        self.shared.jobs.lock().expect("jobs").remove(&job);
        end
    }

    /// Messages that did not fit in either buffer so far.
    pub fn dropped(&self) -> usize {
        self.shared.dropped_by_connection.load(Ordering::SeqCst)
            + self.shared.dropped_by_job.load(Ordering::SeqCst)
    }

    /// Messages for jobs that were not registered, or not any more.
    pub fn unregistered(&self) -> usize {
        self.shared.unregistered.load(Ordering::SeqCst)
    }

    async fn request(&self, request: String, patience: Duration) -> Result<Value, End> {
        let request =
            async_nats::Request::new().payload(request.into_bytes().into()).timeout(Some(patience));
        match self.nats.send_request(SUBJECT, request).await {
            Ok(message) => Ok(serde_json::from_slice(&message.payload).expect("a reply is JSON")),
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                Err(End::NoResponders)
            }
            Err(_) => Err(End::Hung),
        }
    }

    fn register(&self, job: &str) -> Receiver<Value> {
        let (sender, receiver) = mpsc::channel(BUFFER);
        self.shared.jobs.lock().expect("jobs").insert(job.to_owned(), sender);
        receiver
    }

    async fn interrupt(&self, job: &str) -> End {
        let request = json!({"job": job, "interrupt": {}}).to_string();
        End::GaveUp { answered: self.request(request, INTERRUPT_PATIENCE).await.is_ok() }
    }
}

impl Shared {
    fn offer<T>(&self, buffer: &Sender<T>, message: T, dropped: &AtomicUsize) {
        if buffer.try_send(message).is_err() {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The connection's reader: hands each message to its job.
async fn dispatch(mut buffered: Receiver<Bytes>, shared: Arc<Shared>) {
    while let Some(payload) = buffered.recv().await {
        let Ok(message) = serde_json::from_slice::<Value>(&payload) else { continue };
        let job = message["job"].as_str().unwrap_or_default();
        let sender = shared.jobs.lock().expect("jobs").get(job).cloned();
        match sender {
            Some(sender) => shared.offer(&sender, message, &shared.dropped_by_job),
            None => _ = shared.unregistered.fetch_add(1, Ordering::SeqCst),
        }
    }
}

/// The end that a message means for its job, if it means one.
fn ending(message: &Value) -> Option<End> {
    if let Some(code) = error_code(message) {
        let text = message["error"]["error"].as_str().unwrap_or_default().to_owned();
        return Some(End::Error { code, text });
    }
    let predict = message.get("predict")?;
    Some(End::Output(predict["output"].as_str().unwrap_or_default().to_owned()))
}
