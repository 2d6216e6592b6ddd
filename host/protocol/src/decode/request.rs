//! Decodes requests, and says which answer an unusable one gets.

use super::fields::{Field, Fields};
use super::{Node, read_object};
use crate::{
    EmbedRequest, ErrorBody, InterruptRequest, ListRequest, Message, Options, PredictRequest,
    WorkerRequest, WorkerResponse,
};

/// Longest job id. Go clients send 22 characters; the bound keeps the job table
/// small whatever arrives.
pub const MAX_JOB_BYTES: usize = 1024;

/// A request that is not run. Exactly one answer is due, and it is this one,
/// whatever commands the request may have carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Rejected {
    /// The job, if one could be read. It is echoed as sent, even when it is
    /// refused for its length.
    pub job: Option<String>,
    /// Code 1, 2 or 3.
    pub error: ErrorBody,
}

impl Rejected {
    fn new(job: &str, error: ErrorBody) -> Self {
        Self { job: Some(job.to_owned()).filter(|job| !job.is_empty()), error }
    }

    /// The answer to send.
    pub fn into_response(self) -> WorkerResponse {
        WorkerResponse::failed(self.job.unwrap_or_default(), self.error)
    }
}

/// Decodes the payload of a request.
///
/// Left to the caller, because they depend on configuration: `predict.stream`
/// ([`check_stream_subject`](crate::check_stream_subject)), the options
/// ([`resolve`](crate::resolve)) and the number and length of the texts of `embed`.
pub fn decode_request(payload: &[u8]) -> Result<WorkerRequest, Rejected> {
    let mut fields =
        read_object(payload).map_err(|reason| Rejected::new("", ErrorBody::illegible(reason)))?;
    // The job first: whatever else is wrong, the answer has to carry it.
    let job =
        fields.text("job").map_err(|reason| Rejected::new("", ErrorBody::illegible(reason)))?;
    let commands = decode_commands(fields);
    let mut request =
        commands.map_err(|reason| Rejected::new(&job, ErrorBody::illegible(reason)))?;
    if let Err(error) = check(&job, &request) {
        return Err(Rejected::new(&job, error));
    }
    request.job = job;
    Ok(request)
}

fn check(job: &str, request: &WorkerRequest) -> Result<(), ErrorBody> {
    if job.is_empty() {
        return Err(ErrorBody::job_required());
    }
    if job.len() > MAX_JOB_BYTES {
        return Err(ErrorBody::invalid_request(format!(
            "job id is longer than {MAX_JOB_BYTES} bytes"
        )));
    }
    let WorkerRequest { list, interrupt, predict, embed, .. } = request;
    if list.is_none() && interrupt.is_none() && predict.is_none() && embed.is_none() {
        return Err(ErrorBody::unsupported_command());
    }
    predict.as_ref().map_or(Ok(()), check_predict)?;
    embed.as_ref().map_or(Ok(()), check_embed)
}

fn check_predict(predict: &PredictRequest) -> Result<(), ErrorBody> {
    if !predict.input.is_empty() && !predict.messages.is_empty() {
        return Err(ErrorBody::invalid_request("predict takes input or messages, not both"));
    }
    if let Some(index) = predict.messages.iter().position(|message| message.role.is_empty()) {
        return Err(ErrorBody::invalid_request(format!(
            "predict.messages[{index}].role is required"
        )));
    }
    Ok(())
}

fn check_embed(embed: &EmbedRequest) -> Result<(), ErrorBody> {
    if embed.input.is_empty() {
        return Err(ErrorBody::invalid_request("embed.input is required"));
    }
    match embed.input.iter().position(String::is_empty) {
        Some(index) => Err(ErrorBody::invalid_request(format!("embed.input[{index}] is empty"))),
        None => Ok(()),
    }
}

fn decode_commands(mut fields: Fields) -> Result<WorkerRequest, String> {
    let list = fields.object("list")?;
    let interrupt = fields.object("interrupt")?;
    let predict = fields.object("predict")?;
    let embed = fields.object("embed")?;
    Ok(WorkerRequest {
        job: String::new(),
        list: list.map(|_| ListRequest {}),
        interrupt: interrupt.map(|_| InterruptRequest {}),
        predict: predict.map(decode_predict).transpose()?,
        embed: embed.map(decode_embed).transpose()?,
    })
}

fn decode_predict(mut fields: Fields) -> Result<PredictRequest, String> {
    Ok(PredictRequest {
        system: fields.text("system")?,
        input: fields.take("input").map_or(Ok(Vec::new()), decode_input)?,
        messages: fields
            .list("messages")?
            .into_iter()
            .map(decode_message)
            .collect::<Result<_, _>>()?,
        stream: fields.text("stream")?,
        options: fields.object("options")?.map(decode_options).unwrap_or_default(),
    })
}

fn decode_embed(mut fields: Fields) -> Result<EmbedRequest, String> {
    Ok(EmbedRequest {
        input: fields.take("input").map_or(Ok(Vec::new()), decode_input)?,
        model: fields.text("model")?,
        options: fields.object("options")?.map(decode_options).unwrap_or_default(),
    })
}

/// A list of strings, or one string as the first published revision sent it.
fn decode_input(field: Field) -> Result<Vec<String>, String> {
    if field.is_text() {
        let text = field.text()?;
        return Ok(if text.is_empty() { Vec::new() } else { vec![text] });
    }
    field.list()?.into_iter().map(Field::text_or_empty).collect()
}

fn decode_message(field: Field) -> Result<Message, String> {
    let mut fields = field.object_or_empty()?;
    Ok(Message { role: fields.text("role")?, content: fields.text("content")? })
}

fn decode_options(fields: Fields) -> Options {
    fields
        .into_members()
        .into_iter()
        .map(|(name, node): (String, Node)| (name, node.into_value()))
        .collect()
}
