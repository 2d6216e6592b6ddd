//! Sends messages: waits for the connection, measures sizes, sets headers, and
//! makes sure that the last message of a job arrives.
//!
//! Core NATS forgets what is in a socket's buffer when the connection breaks,
//! and delivers nothing to a subscriber that has not come back yet. For most
//! messages that is the client's loss to bear, but a client that misses the end
//! of its job waits for ever. [`Outbox::confirm`] therefore asks the server
//! after such a message whether it got there. What is sent, and when, is decided
//! in [`crate::publish`] and [`crate::job`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, PublishErrorKind, Subject};
use bytes::Bytes;
use llamero_protocol::{
    ErrorBody, SERVICE_ERROR_CODE_HEADER, SERVICE_ERROR_HEADER, WorkerResponse, encode_response,
};

use super::connection::Connection;
use super::inbox::Inbox;

/// Names the worker that answered.
const WORKER_HEADER: &str = "Llm-Worker";

/// How long an answer to the question "did it arrive" is waited for while the
/// connection is up. A server answers in a round trip; without an answer, for
/// example because the inbox is not permitted, the message counts as arrived.
const RECEIPT_WAIT: Duration = Duration::from_secs(2);

/// For how long after a reconnect a message is offered again while nobody
/// listens. Go and Python clients wait two seconds between two attempts to
/// connect; this covers several.
const RETURN_WAIT: Duration = Duration::from_secs(10);

/// The pause between two offers of the same message.
const OFFER_EVERY: Duration = Duration::from_millis(250);

/// A message that was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It is larger than the server allows; header lines count.
    #[error("message exceeds the server's max_payload of {max} bytes")]
    TooLarge {
        /// The server's limit in bytes.
        max: usize,
    },
    /// The subject cannot be published to.
    #[error("invalid subject")]
    Subject,
    /// The connection was closed for good.
    #[error("connection closed")]
    Closed,
}

/// Whether a delivered message met a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// The server passed it on, or did not say otherwise.
    Yes,
    /// Nobody listens on its subject.
    Nobody,
}

/// Sends messages over one connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Outbox {
    connection: Connection,
    inbox: Arc<Inbox>,
    worker: Arc<str>,
    /// Whether the own inbox works. Permissions may deny it.
    can_ask: Arc<AtomicBool>,
}

impl Outbox {
    /// Sends as the worker of this id.
    pub fn new(connection: Connection, inbox: Arc<Inbox>, worker: &str) -> Self {
        Self { connection, inbox, worker: worker.into(), can_ask: Arc::new(AtomicBool::new(true)) }
    }

    /// Finds out whether the own inbox works; without it, nothing is asked and
    /// every message counts as arrived.
    pub async fn probe(&self) -> bool {
        let works = tokio::time::timeout(RECEIPT_WAIT, self.round_trip()).await.unwrap_or(false);
        self.can_ask.store(works, Ordering::Relaxed);
        works
    }

    /// The connection that is sent over.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The message for a response, with the headers that go with it.
    pub fn message(&self, subject: &str, response: &WorkerResponse) -> OutboundMessage {
        let mut headers = HeaderMap::new();
        if let Some(error) = &response.error {
            error_headers(&mut headers, error);
        }
        // Fragments and list answers are many or large and carry no headers.
        if response.stream.is_none() && response.list.is_none() {
            headers.insert(WORKER_HEADER, &*self.worker);
        }
        OutboundMessage {
            subject: Subject::from(subject),
            reply: None,
            payload: Bytes::from(encode_response(response)),
            headers: (!headers.is_empty()).then_some(headers),
        }
    }

    /// The message for an answer that is none of the worker protocol, as JSON.
    pub fn control_message(
        &self,
        subject: &str,
        answer: &serde_json::Value,
        error: Option<&ErrorBody>,
    ) -> OutboundMessage {
        let mut headers = HeaderMap::new();
        if let Some(error) = error {
            error_headers(&mut headers, error);
        }
        headers.insert(WORKER_HEADER, &*self.worker);
        OutboundMessage {
            subject: Subject::from(subject),
            reply: None,
            payload: Bytes::from(answer.to_string()),
            headers: Some(headers),
        }
    }

    /// Sends a message as soon as the connection is up.
    pub async fn send(&self, message: OutboundMessage) -> Result<(), SendError> {
        if !self.connection.wait_up().await {
            return Err(SendError::Closed);
        }
        match self.connection.client.publish_message(message).await {
            Ok(()) => Ok(()),
            Err(error) => Err(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => {
                    SendError::TooLarge { max: self.connection.client.max_payload() }
                }
                PublishErrorKind::InvalidSubject => SendError::Subject,
                PublishErrorKind::Send => SendError::Closed,
            }),
        }
    }

    /// Waits until what was sent has been written to the socket, for a bounded
    /// time: a connection that is down is no reason to wait longer.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(RECEIPT_WAIT, self.connection.client.flush()).await;
    }

    /// Sends a message and returns its receipt, which [`Outbox::confirm`] takes.
    /// It has then been handed to the connection in order with all others.
    pub async fn send_with_receipt(
        &self,
        mut message: OutboundMessage,
    ) -> Result<Receipt, SendError> {
        if !self.connection.wait_up().await {
            return Err(SendError::Closed);
        }
        let epoch = self.connection.epoch();
        let slot = self.inbox.receipt();
        message.reply = Some(Subject::from(slot.subject()));
        self.send(message.clone()).await?;
        Ok(Receipt { message, slot, epoch })
    }

    /// Makes sure that a message has got to the server, and, after a reconnect,
    /// to a subscriber. It is sent again only if it was lost with a connection,
    /// or if nobody got it.
    pub async fn confirm(&self, receipt: Receipt) -> Delivered {
        let Receipt { message, mut slot, mut epoch } = receipt;
        loop {
            let passed = self.fence(epoch).await;
            if passed == Fence::Lost {
                // Whether the server had it is not known. A second copy is
                // ignored by clients: their job has ended with the first.
                tracing::debug!("the connection was lost after a last message, sending it again");
            } else if !slot.nobody() {
                return Delivered::Yes;
            } else if self.is_returning() {
                tokio::time::sleep(OFFER_EVERY).await;
            } else {
                return Delivered::Nobody;
            }
            slot = self.inbox.receipt();
            self.connection.wait_up().await;
            epoch = self.connection.epoch();
            let again =
                OutboundMessage { reply: Some(Subject::from(slot.subject())), ..message.clone() };
            // The size may have become too large, or the connection have been
            // closed for good: then there is nothing left to try.
            if self.send(again).await.is_err() {
                return Delivered::Nobody;
            }
        }
    }

    /// Waits until the server has seen everything sent so far on the connection
    /// of this epoch.
    async fn fence(&self, epoch: u64) -> Fence {
        let lost = || !self.connection.is_up() || self.connection.epoch() != epoch;
        if lost() {
            return Fence::Lost;
        }
        if !self.can_ask.load(Ordering::Relaxed) {
            return Fence::Unknown;
        }
        let fence = self.round_trip();
        tokio::pin!(fence);
        let mut changes = self.connection.link.changes();
        let give_up = tokio::time::sleep(RECEIPT_WAIT);
        tokio::pin!(give_up);
        loop {
            tokio::select! {
                back = &mut fence => {
                    return if back { Fence::Passed } else { Fence::Lost };
                }
                is_open = self.connection.change(&mut changes) => if !is_open {
                    return Fence::Unknown;
                },
                () = &mut give_up => return Fence::Unknown,
            }
            if lost() {
                return Fence::Lost;
            }
        }
    }

    /// Sends an empty message to the own inbox and waits for it. True once it
    /// is back: the server has then handled everything sent before, and
    /// everything it sent before has been received.
    pub async fn round_trip(&self) -> bool {
        let (subject, back) = self.inbox.fence();
        let message = OutboundMessage {
            subject: Subject::from(subject),
            reply: None,
            payload: Bytes::new(),
            headers: None,
        };
        let sent = self.connection.client.publish_message(message).await;
        sent.is_ok() && back.await.is_ok()
    }

    /// Whether the connection was made anew so lately that clients may still be
    /// on their way back.
    fn is_returning(&self) -> bool {
        let first = self.connection.epoch() <= 1;
        let since = self.connection.link.connected_for();
        !first && since.is_some_and(|since| since < RETURN_WAIT)
    }
}

/// A message that was sent and whose arrival can be asked for.
#[derive(Debug)]
pub struct Receipt {
    message: OutboundMessage,
    slot: super::inbox::ReceiptSlot,
    epoch: u64,
}

impl Receipt {
    /// The connection over which the message was sent.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    Passed,
    Lost,
    Unknown,
}

/// The headers by which NATS tools recognise an error.
fn error_headers(headers: &mut HeaderMap, error: &ErrorBody) {
    headers.insert(SERVICE_ERROR_HEADER, error.service_error());
    headers.insert(SERVICE_ERROR_CODE_HEADER, error.service_code().to_string());
}

#[cfg(test)]
mod tests;
