//! A small typed client of the worker protocol: list, predict, interrupt, embed.
//!
//! It owns subjects, inboxes and what NATS itself may answer (nobody listens,
//! too large). The meaning of a job's messages is [`crate::collector`]'s, the
//! JSON is `llamero-protocol`'s, and what is printed is the commands'.

use std::time::Duration;

use async_nats::{PublishErrorKind, RequestErrorKind, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use llamero_protocol::{
    EmbedRequest, InterruptRequest, ListRequest, PredictRequest, WorkerRequest, WorkerResponse,
    decode_response, encode_request,
};

use crate::collector::{Collector, FinalOutput, Step};
use crate::exit::{Exit, Failure};

/// Header of a final message whose output stands in the fragments only.
const OUTPUT_OMITTED: &str = "Llm-Output-Omitted";

/// Whether a prediction is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Fragments as they are generated, then the whole.
    Streamed,
    /// The whole output in one message.
    Whole,
}

/// Why no answer of the worker could be had.
#[derive(Debug)]
pub enum ClientError {
    /// The NATS server knows no subscriber of the subject.
    NoWorker {
        /// The worker subject.
        subject: String,
        /// The server that said so.
        url: String,
    },
    /// The request is larger than the server allows.
    TooLarge {
        /// The size of the request in bytes.
        bytes: usize,
        /// The server's `max_payload` in bytes.
        max: usize,
    },
    /// No answer in this time.
    Timeout(Duration),
    /// The answer is no response of the protocol.
    Illegible(String),
    /// NATS failed otherwise.
    Nats(String),
    /// What came cannot be written to standard output.
    Output(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoWorker { subject, url } => {
                Self::new(Exit::Unavailable, format!("no worker listens on {subject} at {url}"))
                    .with_hint(
                        "start one with `llamero worker`, or name its subject with --subject",
                    )
            }
            ClientError::TooLarge { bytes, max } => Self::new(
                Exit::Usage,
                format!(
                    "the request of {bytes} bytes exceeds the server's max_payload of {max} bytes"
                ),
            )
            .with_hint(
                "shorten the prompt, or raise max_payload in the NATS server's configuration",
            ),
            ClientError::Timeout(wait) => {
                Self::new(Exit::Timeout, format!("no answer within {} s", wait.as_secs_f64()))
            }
            ClientError::Illegible(reason) => Self::new(
                Exit::Failure,
                format!("the answer is no message of the worker protocol: {reason}"),
            )
            .with_hint("another program may be listening on this subject; check --subject"),
            ClientError::Output(reason) => {
                Self::new(Exit::Failure, format!("standard output cannot be written: {reason}"))
            }
            ClientError::Nats(reason) => Self::new(Exit::Unavailable, format!("NATS: {reason}")),
        }
    }
}

/// A connection to the workers of one subject. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    subject: String,
    url: String,
}

impl Client {
    /// A client of the workers on `subject`. `url` is for messages only and
    /// must not contain a password.
    pub fn new(
        nats: async_nats::Client,
        subject: impl Into<String>,
        url: impl Into<String>,
    ) -> Self {
        Self { nats, subject: subject.into(), url: url.into() }
    }

    /// Asks a worker for its models.
    ///
    /// # Errors
    /// [`ClientError`]; an error of the worker is part of the answer.
    pub async fn list(&self, wait: Duration) -> Result<WorkerResponse, ClientError> {
        let request = WorkerRequest {
            job: nuid::next().to_string(),
            list: Some(ListRequest::default()),
            ..WorkerRequest::default()
        };
        self.ask(&request, wait).await
    }

    /// Interrupts all jobs of this id.
    ///
    /// # Errors
    /// [`ClientError`]; an error of the worker, such as code 4 for an unknown
    /// job, is part of the answer.
    pub async fn interrupt(
        &self,
        job: &str,
        wait: Duration,
    ) -> Result<WorkerResponse, ClientError> {
        let request = WorkerRequest {
            job: job.to_owned(),
            interrupt: Some(InterruptRequest::default()),
            ..WorkerRequest::default()
        };
        self.ask(&request, wait).await
    }

    /// Asks for the vectors of texts.
    ///
    /// # Errors
    /// [`ClientError`]; an error of the worker is part of the answer.
    pub async fn embed(
        &self,
        job: &str,
        embed: EmbedRequest,
        wait: Duration,
    ) -> Result<WorkerResponse, ClientError> {
        let request =
            WorkerRequest { job: job.to_owned(), embed: Some(embed), ..WorkerRequest::default() };
        self.ask(&request, wait).await
    }

    /// Sends a prediction. Its messages are read with [`Prediction::next`].
    ///
    /// # Errors
    /// [`ClientError`] if the request cannot be sent. That nobody listens is
    /// known only when the server answers, in [`Prediction::next`].
    pub async fn predict(
        &self,
        job: &str,
        mut predict: PredictRequest,
        delivery: Delivery,
    ) -> Result<Prediction, ClientError> {
        // One wildcard subscription for the reply and the stream: NATS keeps
        // the order within a subscription, so the ack cannot be overtaken.
        let inbox = self.nats.new_inbox();
        let messages = self
            .nats
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| ClientError::Nats(error.to_string()))?;
        predict.stream = match delivery {
            Delivery::Streamed => format!("{inbox}.stream"),
            Delivery::Whole => String::new(),
        };
        let request = WorkerRequest {
            job: job.to_owned(),
            predict: Some(predict),
            ..WorkerRequest::default()
        };
        let payload = encode_request(&request);
        let bytes = payload.len();
        self.nats
            .publish_with_reply(
                self.subject.clone(),
                format!("{inbox}.reply"),
                Bytes::from(payload),
            )
            .await
            .map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => self.too_large(bytes),
                _ => ClientError::Nats(error.to_string()),
            })?;
        Ok(Prediction {
            messages,
            collector: Collector::new(job),
            subject: self.subject.clone(),
            url: self.url.clone(),
        })
    }

    async fn ask(
        &self,
        request: &WorkerRequest,
        wait: Duration,
    ) -> Result<WorkerResponse, ClientError> {
        let payload = encode_request(request);
        let bytes = payload.len();
        let message = self
            .nats
            .send_request(
                self.subject.clone(),
                async_nats::Request::new().payload(Bytes::from(payload)).timeout(Some(wait)),
            )
            .await
            .map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => {
                    ClientError::NoWorker { subject: self.subject.clone(), url: self.url.clone() }
                }
                RequestErrorKind::TimedOut => ClientError::Timeout(wait),
                RequestErrorKind::MaxPayloadExceeded => self.too_large(bytes),
                _ => ClientError::Nats(error.to_string()),
            })?;
        decode_response(&message.payload).map_err(|error| ClientError::Illegible(error.to_string()))
    }

    /// The connection, for questions that are none of the worker protocol.
    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// The worker subject.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    pub(crate) fn no_worker(&self) -> ClientError {
        ClientError::NoWorker { subject: self.subject.clone(), url: self.url.clone() }
    }

    fn too_large(&self, bytes: usize) -> ClientError {
        ClientError::TooLarge { bytes, max: self.nats.max_payload() }
    }
}

/// A prediction under way. Dropping it stops listening, not the job; the job is
/// stopped with [`Client::interrupt`].
#[derive(Debug)]
pub struct Prediction {
    messages: async_nats::Subscriber,
    collector: Collector,
    subject: String,
    url: String,
}

impl Prediction {
    /// The next message that belongs to the job. Cancel safe: a message is
    /// either returned or still to come.
    ///
    /// # Errors
    /// [`ClientError::NoWorker`], an illegible message, or a closed connection.
    pub async fn next(&mut self) -> Result<Step, ClientError> {
        loop {
            let Some(message) = self.messages.next().await else {
                return Err(ClientError::Nats("the connection was closed".to_owned()));
            };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(ClientError::NoWorker {
                    subject: self.subject.clone(),
                    url: self.url.clone(),
                });
            }
            let output = match message.headers.as_ref().and_then(|h| h.get(OUTPUT_OMITTED)) {
                Some(value) if value.as_str() == "true" => FinalOutput::InFragments,
                _ => FinalOutput::InMessage,
            };
            let response = decode_response(&message.payload)
                .map_err(|error| ClientError::Illegible(error.to_string()))?;
            match self.collector.push(response, output) {
                Step::Ignored => {}
                step => return Ok(step),
            }
        }
    }

    /// The text streamed so far.
    pub fn seen(&self) -> &str {
        self.collector.seen()
    }
}
