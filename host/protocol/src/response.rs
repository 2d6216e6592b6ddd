//! What a worker answers: the response types, the constructors for each kind of
//! answer, and their JSON form.
//!
//! Who gets which of them, and when, is decided in `llamero-worker`. Errors are
//! in `error`, reading a response (the client's side) in `decode`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::{ErrorBody, wire_enum::wire_enum};

/// One message from a worker, on the request's reply subject or on its stream
/// subject. At most one member besides `job` is present; none at all is the
/// acknowledgement of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WorkerResponse {
    /// The job of the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// The answer to a list command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<ListResponse>,
    /// The final message of a prediction, with the whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict: Option<PredictResponse>,
    /// The answer to an interrupt, once the job has stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupt: Option<InterruptResponse>,
    /// A fragment of a streamed prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamResponse>,
    /// The end of a request that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The answer to an embed command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<EmbedResponse>,
}

impl WorkerResponse {
    /// Says that a stream is about to begin. It carries the job and nothing else.
    pub fn ack(job: impl Into<String>) -> Self {
        Self { job: job.into(), ..Self::default() }
    }

    /// Answers a list command.
    pub fn listed(job: impl Into<String>, models: Vec<ModelInfo>) -> Self {
        Self { list: Some(ListResponse { models }), ..Self::ack(job) }
    }

    /// Ends a prediction well.
    pub fn predicted(job: impl Into<String>, predict: PredictResponse) -> Self {
        Self { predict: Some(predict), ..Self::ack(job) }
    }

    /// Answers an interrupt whose job has stopped.
    pub fn interrupted(job: impl Into<String>) -> Self {
        Self { interrupt: Some(InterruptResponse {}), ..Self::ack(job) }
    }

    /// Carries new text of a stream. `output` must not be empty: a Go client
    /// would call its callback with nothing.
    pub fn fragment(job: impl Into<String>, output: impl Into<String>) -> Self {
        Self { stream: Some(StreamResponse { output: output.into() }), ..Self::ack(job) }
    }

    /// Answers an embed command.
    pub fn embedded(job: impl Into<String>, embed: EmbedResponse) -> Self {
        Self { embed: Some(embed), ..Self::ack(job) }
    }

    /// Ends a request with an error.
    pub fn failed(job: impl Into<String>, error: ErrorBody) -> Self {
        Self { error: Some(error), ..Self::ack(job) }
    }
}

/// The models a worker offers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ListResponse {
    /// One entry per model file, in byte order of the names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelInfo>,
}

/// A model and the options a request may set for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelInfo {
    /// The file name, as the option `model` takes it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// The option table with this worker's defaults, see
    /// [`list_options`](crate::list_options).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<ModelOption>,
}

/// An entry of the option table as `list` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelOption {
    /// The option's name.
    pub name: String,
    /// What applies when a request does not set the option.
    pub value: Value,
    /// Help text for people.
    #[serde(rename = "use")]
    pub use_text: String,
    /// True for options that decide which model is loaded and how.
    #[serde(skip_serializing_if = "is_false")]
    pub init: bool,
}

/// The result of a prediction. All members but `output` are extensions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PredictResponse {
    /// The whole text, even when all of it was streamed before.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Why the text ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Token counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where the time went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

wire_enum! {
    /// Why a generated text ends where it ends.
    pub enum FinishReason {
        /// An end-of-generation token or a stop string.
        Stop => "stop",
        /// `max_tokens` reached, or the context is full.
        Length => "length",
        /// A hook ended it.
        Filtered => "filtered",
    }
}

/// Token counts of one prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt after truncation, BOS and kept text included.
    pub prompt_tokens: u32,
    /// Those of them that came from the prefix cache and were not evaluated.
    pub cached_tokens: u32,
    /// Sampled tokens, without the end-of-generation token.
    pub completion_tokens: u32,
    /// Tokens of the input that were dropped to make the prompt fit.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_tokens: u32,
}

/// Durations of one prediction, in milliseconds, and what was done to shorten them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Arrival to start, model load included.
    pub queue_ms: f64,
    /// Wall time inside hooks, all phases together.
    pub hooks_ms: f64,
    /// Start of the prompt's evaluation to the first sampled token.
    pub prompt_ms: f64,
    /// The first sampled token to the end.
    pub predict_ms: f64,
    /// Tokens that were computed ahead, on a guess.
    #[serde(skip_serializing_if = "is_zero")]
    pub draft_tokens: u32,
    /// Those of them that were right.
    #[serde(skip_serializing_if = "is_zero")]
    pub accepted_draft_tokens: u32,
}

impl Timings {
    /// Converts measured durations; finer than a microsecond is noise and is
    /// rounded away.
    pub fn from_durations(
        queue: Duration,
        hooks: Duration,
        prompt: Duration,
        predict: Duration,
    ) -> Self {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            queue_ms: ms(queue),
            hooks_ms: ms(hooks),
            prompt_ms: ms(prompt),
            predict_ms: ms(predict),
            ..Self::default()
        }
    }
}

/// The vectors of an embed command. `model` and `usage` are left out where the
/// worker sends no extras.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EmbedResponse {
    /// One vector for each text, in the order of the request. Each has the length
    /// 1, unless it is all zeros.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<Vec<f32>>,
    /// The model that made them; vectors of different models cannot be compared.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Token counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<EmbedUsage>,
}

/// Token counts of one embed command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EmbedUsage {
    /// Tokens of all texts, with those that the model puts around each.
    pub prompt_tokens: u32,
}

/// The answer to an interrupt. It has no members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InterruptResponse {}

/// New text of a streamed prediction. The fragments of a job, joined, are a
/// prefix of its final output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StreamResponse {
    /// Whole characters, never empty when a worker of Llamero sends it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// Writes a response as the payload of a NATS message.
#[allow(
    clippy::expect_used,
    reason = "serialising has no failing part: no I/O, and every map key is a string"
)]
pub fn encode_response(response: &WorkerResponse) -> Vec<u8> {
    serde_json::to_vec(response).expect("a response always serialises")
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}
