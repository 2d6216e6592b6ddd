//! Short answers: errors before a job begins, interrupts, lists, and what other
//! workers are told about interrupts.
//!
//! One task sends them in order, so that nobody who decides has to wait for the
//! network. What belongs to a running job is sent by the job itself
//! ([`crate::job`], [`crate::publish`]).

use std::sync::Arc;
use std::time::Duration;

use async_nats::message::OutboundMessage;
use llamero_protocol::WorkerResponse;
use tokio::sync::{mpsc, oneshot};

use crate::nats::outbox::{Outbox, SendError};
use crate::nats::throttle::Throttle;

/// Answers that wait. Each is small; a flood that outruns the connection by more
/// loses the rest, with a warning.
const CAPACITY: usize = 8192;

/// Takes answers without waiting. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Replies {
    queue: mpsc::Sender<Reply>,
    outbox: Outbox,
    overflow: Arc<Throttle>,
}

struct Reply {
    message: OutboundMessage,
    sent: Option<oneshot::Sender<Result<(), SendError>>>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl Replies {
    /// The queue, and the task that empties it; the task ends with the last
    /// clone of the queue.
    pub fn new(outbox: Outbox) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, receiver) = mpsc::channel(CAPACITY);
        let replies = Self {
            queue,
            outbox: outbox.clone(),
            overflow: Arc::new(Throttle::new(Duration::from_secs(10))),
        };
        (replies, run(receiver, outbox))
    }

    /// A queue that a test empties itself.
    #[cfg(test)]
    pub fn held(outbox: Outbox) -> (Self, HeldReplies) {
        let (queue, receiver) = mpsc::channel(CAPACITY);
        let replies =
            Self { queue, outbox, overflow: Arc::new(Throttle::new(Duration::from_secs(10))) };
        (replies, HeldReplies(receiver))
    }

    /// Sends a response.
    pub fn send(&self, reply: &str, response: &WorkerResponse) {
        self.push(self.outbox.message(reply, response), None);
    }

    /// Sends a message that need not be a response.
    pub fn post(&self, message: OutboundMessage) {
        self.push(message, None);
    }

    /// Sends a message; what is returned completes once it has been handed to
    /// the connection, or could not be.
    pub fn send_message(
        &self,
        message: OutboundMessage,
    ) -> oneshot::Receiver<Result<(), SendError>> {
        let (sent, receiver) = oneshot::channel();
        self.push(message, Some(sent));
        receiver
    }

    /// The message for a response.
    pub fn message(&self, reply: &str, response: &WorkerResponse) -> OutboundMessage {
        self.outbox.message(reply, response)
    }

    fn push(&self, message: OutboundMessage, sent: Option<oneshot::Sender<Result<(), SendError>>>) {
        if self.queue.try_send(Reply { message, sent }).is_err() && self.overflow.pass() {
            tracing::warn!("answers dropped: more than {CAPACITY} wait to be sent");
        }
    }
}

/// The messages that would be sent.
#[cfg(test)]
pub struct HeldReplies(mpsc::Receiver<Reply>);

#[cfg(test)]
impl HeldReplies {
    /// Subject and body of the next one, if there is one already.
    pub fn take(&mut self) -> Option<(String, String)> {
        let message = self.0.try_recv().ok()?.message;
        let body = String::from_utf8_lossy(&message.payload).into_owned();
        Some((message.subject.to_string(), body))
    }
}

async fn run(mut queue: mpsc::Receiver<Reply>, outbox: Outbox) {
    while let Some(reply) = queue.recv().await {
        let result = outbox.send(reply.message).await;
        if let Err(error) = &result {
            tracing::debug!(%error, "an answer was not sent");
        }
        if let Some(sent) = reply.sent {
            let _ = sent.send(result);
        }
    }
}
