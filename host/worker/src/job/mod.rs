//! One job's way through the worker, from its start to its last message.
//!
//! ```text
//!  model ─▶ request hooks ─▶ options ─▶ prompt ─▶ prompt hooks ─▶ submit ─▶ ack ─▶ text ... ─▶ last message
//!  (stages)                            (convert)                          (stream only)  (publish)
//! ```
//!
//! [`run`] sees to it that exactly one last message goes out, whatever happens:
//! the stages end with an output or an error, an interrupt ends them from
//! outside, and a panic in them is caught. Until the acknowledgement, errors go
//! to the reply subject, afterwards to the stream. What the stages do is
//! [`stages`], what neighbours' types look like is [`convert`], which error
//! becomes what is [`crate::wire`]. When a job may run is decided by
//! [`crate::table`]. A job that wants vectors instead of text has a short way of
//! its own, without hooks and without a stream: [`embed`].

mod account;
mod convert;
mod embed;
mod outgoing;
mod stages;
mod trace;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use llamero_hooks::Registry;
use llamero_protocol::{
    EmbedRequest, ErrorBody, OptionDefaults, PredictRequest, PredictResponse, WorkerResponse,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::job::account::Account;
use crate::models::ModelStore;
use crate::nats::outbox::{Outbox, SendError};
use crate::publish::{Buckets, Ending, Pace, Publisher, StreamSettings};
use crate::wire;

/// A job that was received.
#[derive(Debug)]
pub struct Incoming<W = Work> {
    /// The client's name of it.
    pub job: Arc<str>,
    /// When it was received.
    pub arrived: Instant,
    /// Where its answer goes.
    pub reply: String,
    /// The request.
    pub work: W,
    /// Who sent it.
    pub caller: Caller,
}

/// The commands that are jobs.
#[derive(Debug)]
pub enum Work {
    /// Text is wanted.
    Predict(PredictRequest),
    /// Vectors are wanted.
    Embed(EmbedRequest),
}

/// What headers tell about who sent a request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The account, for requests from another one.
    pub account: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Headers that hooks may see.
    pub headers: Vec<(String, String)>,
}

impl Caller {
    /// Whom the model's time is shared between: accounts, and where those are not
    /// known connections, which give their inboxes a name of their own.
    pub fn tenant(&self, reply: &str) -> String {
        match &self.account {
            Some(account) => account.clone(),
            None => reply.split('.').take(2).collect::<Vec<_>>().join("."),
        }
    }
}

/// What all jobs share.
pub struct Shared {
    /// The worker's id.
    pub worker: String,
    /// The subject that requests arrive on.
    pub subject: String,
    /// Defaults for options.
    pub options: OptionDefaults,
    /// Whether clients may send a grammar.
    pub allow_grammar: bool,
    /// Whether the protocol's extensions are sent.
    pub extras: bool,
    /// From the acknowledgement to the first message of a stream.
    pub ack_delay: Duration,
    /// How streamed text is joined.
    pub pace: Pace,
    /// The rate of each stream subject.
    pub buckets: Arc<Buckets>,
    /// The models.
    pub models: ModelStore,
    /// The hooks; a job takes the chain that is in service when it begins.
    pub hooks: Registry,
    /// Whether the texts that hooks change are logged.
    pub log_hook_text: bool,
    /// Where messages go.
    pub outbox: Outbox,
    /// Tasks that outlive their jobs: publishers, and asking whether a last
    /// message arrived.
    pub tracker: TaskTracker,
    /// Whether the option without effect has been warned about.
    pub tfs_z_warned: AtomicBool,
}

/// Runs a job to its last message. `generated` is called once nothing is
/// computed for it any more.
pub async fn run(
    shared: Arc<Shared>,
    incoming: Incoming,
    cancel: CancellationToken,
    generated: impl FnOnce() + Send,
) {
    let span = tracing::info_span!(
        "job",
        job = ?incoming.job,
        worker = shared.worker,
        model = tracing::field::Empty
    );
    let Incoming { job, arrived, reply, work, caller } = incoming;
    async move {
        match work {
            Work::Predict(work) => {
                let incoming = Incoming { job, arrived, reply, work, caller };
                predict(shared, incoming, cancel, generated).await;
            }
            Work::Embed(work) => {
                let incoming = Incoming { job, arrived, reply, work, caller };
                embed::run(shared, incoming, cancel, generated).await;
            }
        }
    }
    .instrument(span)
    .await;
}

async fn predict(
    shared: Arc<Shared>,
    incoming: Incoming<PredictRequest>,
    cancel: CancellationToken,
    generated: impl FnOnce() + Send,
) {
    let began = Instant::now();
    let mut answer = Answer {
        shared: &shared,
        job: Arc::clone(&incoming.job),
        reply: incoming.reply.clone(),
        acknowledging: None,
        publisher: None,
    };
    let mut account = Account::new(incoming.arrived);
    let stages = stages::run(&shared, incoming, &mut answer, &mut account);
    let result = stopped_by(&cancel, stages).await;
    generated();
    log_end(&result, began.elapsed());
    let outcome = account.outcome(&result);
    let job = Arc::clone(&answer.job);
    answer.end(result).await;
    account.close(&job, outcome, shared.log_hook_text);
}

/// Runs stages until they end, are cancelled, or panic.
async fn stopped_by<T>(
    cancel: &CancellationToken,
    stages: impl Future<Output = Result<T, ErrorBody>>,
) -> Result<T, ErrorBody> {
    let stages = AssertUnwindSafe(stages).catch_unwind();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(ErrorBody::interrupted()),
        result = stages => result.unwrap_or_else(|_| {
            // The panic's own message has been printed by the panic hook.
            tracing::error!("a job panicked");
            Err(wire::panicked())
        }),
    }
}

fn log_end(result: &Result<PredictResponse, ErrorBody>, took: Duration) {
    let took_ms = took.as_millis() as u64;
    match result {
        Ok(predict) => {
            let usage = predict.usage.unwrap_or_default();
            tracing::info!(
                took_ms,
                prompt_tokens = usage.prompt_tokens,
                completion_tokens = usage.completion_tokens,
                finish_reason = predict.finish_reason.as_ref().map(|reason| reason.as_str()),
                "job done"
            );
        }
        // The text is written for clients, so it is fit for a log as well.
        Err(error) => {
            tracing::info!(took_ms, code = error.code, error = %error.error, "job failed");
        }
    }
}

/// The client's side of a job: where its messages go.
struct Answer<'a> {
    shared: &'a Arc<Shared>,
    job: Arc<str>,
    reply: String,
    /// There while the acknowledgement is being sent.
    acknowledging: Option<JoinHandle<Result<Publisher, SendError>>>,
    /// There once the job was acknowledged.
    publisher: Option<Publisher>,
}

impl Answer<'_> {
    /// Acknowledges a stream and starts its publisher.
    ///
    /// A task of its own sees it through: an interrupt may end the stages at any
    /// point, and whether the client has been sent an acknowledgement decides where
    /// its last message goes.
    async fn acknowledge(&mut self, stream: String) -> Result<(), ErrorBody> {
        let settings = StreamSettings {
            job: Arc::clone(&self.job),
            subject: stream,
            ack_delay: self.shared.ack_delay,
            pace: self.shared.pace,
        };
        let (shared, reply) = (Arc::clone(self.shared), self.reply.clone());
        let task = async move {
            let outbox = &shared.outbox;
            let message = outbox.message(&reply, &WorkerResponse::ack(&*settings.job));
            let receipt = outbox.send_with_receipt(message).await?;
            outbox.flush().await;
            let buckets = Arc::clone(&shared.buckets);
            let (publisher, task) = Publisher::new(outbox.clone(), buckets, settings, receipt);
            shared.tracker.spawn(task.in_current_span());
            Ok(publisher)
        };
        self.acknowledging = Some(tokio::spawn(task.in_current_span()));
        self.acknowledged().await
    }

    /// Waits for the acknowledgement that is under way, if one is. Can be dropped
    /// and called again.
    async fn acknowledged(&mut self) -> Result<(), ErrorBody> {
        let Some(task) = &mut self.acknowledging else {
            return Ok(());
        };
        let sent = task.await;
        self.acknowledging = None;
        match sent {
            Ok(Ok(publisher)) => {
                self.publisher = Some(publisher);
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a job cannot be acknowledged");
                Err(wire::panicked())
            }
            Err(error) => {
                tracing::error!(%error, "acknowledging a job panicked");
                Err(wire::panicked())
            }
        }
    }

    /// Hands over generated text, if the job streams.
    fn text(&self, text: &str) {
        if let Some(publisher) = &self.publisher {
            publisher.text(text.to_owned());
        }
    }

    /// Sends the last message; completes when it has been handed to the
    /// connection. Whether it arrives is seen to in the background.
    async fn end(mut self, result: Result<PredictResponse, ErrorBody>) {
        // Without an acknowledgement the last message goes to the reply subject,
        // like that of a job that failed before.
        let _ = self.acknowledged().await;
        let sent = match self.publisher {
            Some(publisher) => publisher.end(match result {
                Ok(predict) => Ending::Done(predict),
                Err(error) => Ending::Failed(error),
            }),
            None => {
                let bytes = result.as_ref().map_or(0, |predict| predict.output.len());
                let response = match result {
                    Ok(predict) => WorkerResponse::predicted(&*self.job, predict),
                    Err(error) => WorkerResponse::failed(&*self.job, error),
                };
                reply_once(self.shared, self.reply, response, move |max| {
                    wire::output_too_large(bytes, max)
                })
            }
        };
        // Fails only if the runtime is ending.
        let _ = sent.await;
    }
}

/// Sends the last message of a job that does not stream, or failed before it did;
/// `too_large` is its error if the server takes no message of that size, whose
/// limit it is given. What is returned completes when the message has been handed
/// to the connection.
fn reply_once(
    shared: &Shared,
    reply: String,
    response: WorkerResponse,
    too_large: impl FnOnce(usize) -> ErrorBody + Send + 'static,
) -> oneshot::Receiver<()> {
    let (sent, receiver) = oneshot::channel();
    let outbox = shared.outbox.clone();
    let task = async move {
        let mut receipt = outbox.send_with_receipt(outbox.message(&reply, &response)).await;
        if let Err(SendError::TooLarge { max }) = receipt {
            tracing::info!(max, "output too large for one message");
            let response = WorkerResponse::failed(response.job, too_large(max));
            let message = outbox.message(&reply, &response);
            receipt = outbox.send_with_receipt(message).await;
        }
        let _ = sent.send(());
        match receipt {
            Ok(receipt) => {
                let delivered = outbox.confirm(receipt).await;
                tracing::debug!(?delivered, "answer of a job");
            }
            Err(error) => tracing::warn!(%error, "the answer of a job cannot be sent"),
        }
    };
    shared.tracker.spawn(task.in_current_span());
    receiver
}
