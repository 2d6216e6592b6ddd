//! One publisher for each streamed job: it takes text as fast as it is
//! generated and sends it as the client can take it.
//!
//! The job hands text over without waiting; the publisher joins it, keeps to the
//! pace ([`pacer`]) and to the rate of the stream subject ([`bucket`]), cuts what
//! is larger than the server allows, and sends the end of the job. It never
//! drops text that it could still send, so the fragments add up to the output,
//! with one exception: when the connection is lost, fragments may be lost with
//! it. What follows would then leave a gap, so nothing but the final message,
//! which carries the whole output, is sent any more. Fragments are a beginning of
//! the output in any case.
//!
//! How a message gets to the server is [`crate::nats::outbox`]'s business, and
//! what the messages are is the protocol's.

mod bucket;
mod pacer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::message::OutboundMessage;
use llamero_protocol::{ErrorBody, PredictResponse, WorkerResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

pub use bucket::Buckets;
pub use pacer::Pace;
use pacer::{Pacer, split_at_char};

use crate::nats::outbox::{Outbox, Receipt, SendError};

/// Tells the client that the output stands in the fragments only.
const OUTPUT_OMITTED: &str = "Llm-Output-Omitted";

/// Room that a fragment's text is given less than the limit, for the JSON around
/// it. A fragment that does not fit all the same is cut again.
const FRAGMENT_ROOM: usize = 64;

/// How a job ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With its output.
    Done(PredictResponse),
    /// With an error.
    Failed(ErrorBody),
}

/// Where a stream goes and how fast.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// The client's name of the job.
    pub job: Arc<str>,
    /// The subject of fragments and the final message.
    pub subject: String,
    /// From the acknowledgement to the first message.
    pub ack_delay: Duration,
    /// How text is joined.
    pub pace: Pace,
}

enum Item {
    Text(String),
    End(Ending, oneshot::Sender<()>),
}

/// The job's end of its publisher.
#[derive(Debug)]
pub struct Publisher {
    items: mpsc::UnboundedSender<Item>,
}

impl Publisher {
    /// A publisher and the task that runs it. `ack` is the acknowledgement,
    /// which has been sent and flushed just now.
    pub fn new(
        outbox: Outbox,
        buckets: Arc<Buckets>,
        settings: StreamSettings,
        ack: Receipt,
    ) -> (Self, impl Future<Output = ()> + Send) {
        // Unbounded, because generating must not wait for the network; what is
        // in it is at most the output of one job, which its context bounds.
        let (items, receiver) = mpsc::unbounded_channel();
        let acked = Instant::now();
        let stream = Stream {
            pacer: Pacer::new(settings.pace, acked + settings.ack_delay),
            outbox,
            buckets,
            settings,
            items: receiver,
            ending: None,
            epoch: ack.epoch(),
            is_broken: false,
        };
        (Self { items }, stream.run(ack))
    }

    /// Hands over generated text.
    pub fn text(&self, text: String) {
        // Nobody receives only if the runtime is ending.
        let _ = self.items.send(Item::Text(text));
    }

    /// Hands over the end of the job. What is returned completes when the last
    /// message has been handed to the connection.
    pub fn end(self, ending: Ending) -> oneshot::Receiver<()> {
        let (sent, receiver) = oneshot::channel();
        let _ = self.items.send(Item::End(ending, sent));
        receiver
    }
}

struct Stream {
    outbox: Outbox,
    buckets: Arc<Buckets>,
    settings: StreamSettings,
    items: mpsc::UnboundedReceiver<Item>,
    pacer: Pacer,
    ending: Option<(Ending, oneshot::Sender<()>)>,
    /// The connection over which the job was acknowledged.
    epoch: u64,
    /// Whether fragments may have been lost.
    is_broken: bool,
}

impl Stream {
    async fn run(mut self, ack: Receipt) {
        // The client waits for nothing but the acknowledgement, so it is asked
        // for, too; this takes a round trip, within the delay.
        self.outbox.confirm(ack).await;
        while self.ending.is_none() {
            let due = self.pacer.due(Instant::now());
            tokio::select! {
                item = self.items.recv() => match item {
                    Some(item) => self.take(item),
                    // The job was dropped with the runtime.
                    None => return,
                },
                () = wait(due) => self.fragment().await,
            }
        }
        let Some((ending, sent)) = self.ending.take() else {
            return;
        };
        if let Ending::Done(_) = ending {
            if let Some(due) = self.pacer.due(Instant::now()) {
                // The tail is due at once, but not within the first delay.
                let at = self.pacer.last_due().unwrap_or(due.min(Instant::now()));
                sleep_until(at.into()).await;
                self.fragment().await;
            }
        } else {
            // Text that has not been sent belongs to no error.
            self.pacer.clear();
        }
        self.last(ending, sent).await;
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Text(_) if self.is_broken => {}
            Item::Text(text) => self.pacer.push(&text),
            Item::End(ending, sent) => self.ending = Some((ending, sent)),
        }
    }

    /// Sends the text that waits, as one fragment if it fits.
    async fn fragment(&mut self) {
        self.token().await;
        // More may have come while the token was waited for.
        while let Ok(item) = self.items.try_recv() {
            self.take(item);
        }
        if let Some((Ending::Failed(_), _)) = self.ending {
            return;
        }
        let text = self.pacer.take(Instant::now());
        let mut rest = text.as_str();
        let mut limit = self
            .outbox
            .connection()
            .client
            .max_payload()
            .saturating_sub(FRAGMENT_ROOM + self.settings.job.len());
        let mut is_first = true;
        while !rest.is_empty() {
            let (piece, behind) = split_at_char(rest, limit);
            if !std::mem::replace(&mut is_first, false) {
                self.token().await;
            }
            if !self.is_unbroken() {
                return;
            }
            let response = WorkerResponse::fragment(&*self.settings.job, piece);
            let message = self.outbox.message(&self.settings.subject, &response);
            match self.outbox.send(message).await {
                Ok(()) => rest = behind,
                // Escapes in JSON can make the text six times as long.
                Err(SendError::TooLarge { .. }) if piece.chars().nth(1).is_some() => {
                    limit = piece.len() / 2;
                }
                Err(error) => {
                    tracing::warn!(%error, "a fragment cannot be sent, the stream goes on with its final message");
                    self.is_broken = true;
                    return;
                }
            }
        }
    }

    /// Whether everything since the acknowledgement went over the connection that
    /// is up now. Once that is not so, it stays so: even if nothing was lost,
    /// the client may not have come back yet.
    fn is_unbroken(&mut self) -> bool {
        let connection = self.outbox.connection();
        let same = connection.is_up() && connection.epoch() == self.epoch;
        if !self.is_broken && !same {
            tracing::info!("connection lost while streaming, only the final message follows");
            self.is_broken = true;
        }
        !self.is_broken
    }

    async fn token(&self) {
        let at = self.buckets.reserve(&self.settings.subject, Instant::now());
        sleep_until(at.into()).await;
    }

    /// Sends the end of the job and makes sure that it arrives.
    async fn last(&mut self, ending: Ending, sent: oneshot::Sender<()>) {
        if let Some(at) = self.pacer.last_due() {
            sleep_until(at.into()).await;
        }
        self.token().await;
        let job = &*self.settings.job;
        let first = match &ending {
            Ending::Done(predict) => WorkerResponse::predicted(job, predict.clone()),
            Ending::Failed(error) => WorkerResponse::failed(job, error.clone()),
        };
        let message = self.outbox.message(&self.settings.subject, &first);
        let receipt = match (self.outbox.send_with_receipt(message).await, ending) {
            (Err(SendError::TooLarge { max }), Ending::Done(predict)) => {
                let message = self.without_output(predict, max);
                self.outbox.send_with_receipt(message).await
            }
            (result, _) => result,
        };
        let _ = sent.send(());
        match receipt {
            Ok(receipt) => {
                let delivered = self.outbox.confirm(receipt).await;
                tracing::debug!(?delivered, "last message of a stream");
            }
            Err(error) => tracing::warn!(%error, "the last message of a stream cannot be sent"),
        }
    }

    /// The final message for an output that does not fit into one.
    fn without_output(&self, predict: PredictResponse, max: usize) -> OutboundMessage {
        let job = &*self.settings.job;
        if self.is_broken {
            // The fragments do not have all of it either.
            let error = ErrorBody::prediction_failed(format!(
                "output of {} bytes exceeds the server's max_payload of {max} bytes, and the connection was lost while it was streamed",
                predict.output.len()
            ));
            let response = WorkerResponse::failed(job, error);
            return self.outbox.message(&self.settings.subject, &response);
        }
        let response =
            WorkerResponse::predicted(job, PredictResponse { output: String::new(), ..predict });
        let mut message = self.outbox.message(&self.settings.subject, &response);
        message.headers.get_or_insert_default().insert(OUTPUT_OMITTED, "true");
        message
    }
}

/// Waits for a moment, or for ever if there is none.
async fn wait(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
