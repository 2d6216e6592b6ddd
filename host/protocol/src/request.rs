//! What a client sends: the request types and their JSON form.
//!
//! Writing only. Reading a request is not a derive, because Go's rules (case,
//! duplicates, `null`) differ from serde's: that is `decode`.

use serde::Serialize;

use crate::Options;

/// One message on the worker subject. Exactly one of the commands is meant to be
/// present; when several are, the worker serves list, interrupt, predict, embed in
/// this order, each with an answer of its own.
///
/// `Debug` shows prompt text; a log must not contain it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WorkerRequest {
    /// Names the request; it comes back in every answer and is what an interrupt
    /// refers to. Required, at most [`MAX_JOB_BYTES`](crate::MAX_JOB_BYTES).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// Asks which models there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<ListRequest>,
    /// Asks to stop the job of this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupt: Option<InterruptRequest>,
    /// Asks for generated text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict: Option<PredictRequest>,
    /// Asks for the vectors of texts. An extension of Llamero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<EmbedRequest>,
}

/// The list command. It has no members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ListRequest {}

/// The interrupt command. It has no members: the job of the message is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InterruptRequest {}

/// The predict command. Every member may be empty, which means the same as
/// absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PredictRequest {
    /// Text that is kept whole whatever the context limit; if it does not fit,
    /// the request fails instead of the text being cut.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// The text to go on from. Elements are dropped from the front when the
    /// prompt is too long. Not together with `messages`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<String>,
    /// A conversation, rendered with the model's chat template. An extension of
    /// Llamero. Not together with `input`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The NATS subject for fragments and the final message; empty: no
    /// streaming, the answer is one message on the reply subject.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// Settings of the generation, laid over the worker's defaults.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub options: Options,
}

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the chat template knows.
    /// Never empty in a decoded request.
    pub role: String,
    /// What was said. Control tokens in it are plain text to the model.
    pub content: String,
}

/// The embed command: one vector is wanted for each text.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EmbedRequest {
    /// The texts. In a decoded request there is at least one, and none is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<String>,
    /// The model; empty: the one that `options` name, or the worker's own choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Only `model` has an effect.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub options: Options,
}

/// Writes a request as the payload of a NATS message.
#[allow(
    clippy::expect_used,
    reason = "serialising has no failing part: no I/O, and every map key is a string"
)]
pub fn encode_request(request: &WorkerRequest) -> Vec<u8> {
    serde_json::to_vec(request).expect("a request always serialises")
}
