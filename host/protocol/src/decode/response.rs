//! Decodes responses: the client's side.
//!
//! More patient than the request side. What the published protocol does not
//! have (extensions, in whatever shape a newer or foreign worker sends them) is
//! read where it can be read and otherwise left out, because it must never cost
//! a client its answer.

use serde_json::Number;

use super::fields::{Field, Fields};
use super::{Node, read_object};
use crate::options::whole;
use crate::{
    EmbedResponse, EmbedUsage, ErrorBody, FinishReason, HookFailure, HookFailureKind, HookPhase,
    InterruptResponse, ListResponse, ModelInfo, ModelOption, PredictResponse, StreamResponse,
    Timings, Usage, WorkerResponse,
};

/// A payload that is no response of a worker. Displays what is wrong and quotes
/// nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("response is not a valid JSON object: {reason}")]
pub struct DecodeError {
    /// What is wrong.
    pub reason: String,
}

/// Decodes the payload of a response. Unknown fields are ignored, names are read
/// in any case, and an empty object is the acknowledgement of a stream.
pub fn decode_response(payload: &[u8]) -> Result<WorkerResponse, DecodeError> {
    read_object(payload).and_then(decode_members).map_err(|reason| DecodeError { reason })
}

fn decode_members(mut fields: Fields) -> Result<WorkerResponse, String> {
    Ok(WorkerResponse {
        job: fields.text("job")?,
        list: fields.object("list")?.map(decode_list).transpose()?,
        predict: fields.object("predict")?.map(decode_predict).transpose()?,
        interrupt: fields.object("interrupt")?.map(|_| InterruptResponse {}),
        stream: fields.object("stream")?.map(decode_stream).transpose()?,
        error: fields.object("error")?.map(decode_error).transpose()?,
        embed: fields.object("embed")?.map(decode_embed).transpose()?,
    })
}

fn decode_list(mut fields: Fields) -> Result<ListResponse, String> {
    let models = fields.list("models")?.into_iter().map(decode_model).collect::<Result<_, _>>()?;
    Ok(ListResponse { models })
}

fn decode_model(field: Field) -> Result<ModelInfo, String> {
    let mut fields = field.object_or_empty()?;
    let model = fields.text("model")?;
    let options =
        fields.list("options")?.into_iter().map(decode_option).collect::<Result<_, _>>()?;
    Ok(ModelInfo { model, options })
}

fn decode_option(field: Field) -> Result<ModelOption, String> {
    let mut fields = field.object_or_empty()?;
    Ok(ModelOption {
        name: fields.text("name")?,
        value: fields.take("value").map(Field::into_node).map(Node::into_value).unwrap_or_default(),
        use_text: fields.text("use")?,
        init: fields.flag("init")?,
    })
}

fn decode_predict(mut fields: Fields) -> Result<PredictResponse, String> {
    Ok(PredictResponse {
        output: fields.text("output")?,
        finish_reason: fields
            .text("finish_reason")
            .ok()
            .filter(|word| !word.is_empty())
            .map(|word| FinishReason::from(&*word)),
        usage: fields.object("usage").ok().flatten().map(decode_usage),
        timings: fields.object("timings").ok().flatten().map(decode_timings),
    })
}

fn decode_usage(mut fields: Fields) -> Usage {
    Usage {
        prompt_tokens: count(&mut fields, "prompt_tokens"),
        cached_tokens: count(&mut fields, "cached_tokens"),
        completion_tokens: count(&mut fields, "completion_tokens"),
        truncated_tokens: count(&mut fields, "truncated_tokens"),
    }
}

fn decode_timings(mut fields: Fields) -> Timings {
    let mut ms = |name| {
        extension_number(&mut fields, name).and_then(|number| number.as_f64()).unwrap_or(0.0)
    };
    Timings {
        queue_ms: ms("queue_ms"),
        hooks_ms: ms("hooks_ms"),
        prompt_ms: ms("prompt_ms"),
        predict_ms: ms("predict_ms"),
        draft_tokens: count(&mut fields, "draft_tokens"),
        accepted_draft_tokens: count(&mut fields, "accepted_draft_tokens"),
    }
}

fn count(fields: &mut Fields, name: &str) -> u32 {
    extension_number(fields, name).map_or(0, |number| u32_or_end(&number))
}

/// Patient with what is told about the vectors, not with the vectors: one that is
/// left out would move the others.
fn decode_embed(mut fields: Fields) -> Result<EmbedResponse, String> {
    let embeddings = fields.list("embeddings")?.into_iter().map(decode_vector);
    Ok(EmbedResponse {
        embeddings: embeddings.collect::<Result<_, _>>()?,
        model: fields.text("model").unwrap_or_default(),
        usage: fields
            .object("usage")
            .ok()
            .flatten()
            .map(|mut fields| EmbedUsage { prompt_tokens: count(&mut fields, "prompt_tokens") }),
    })
}

fn decode_vector(field: Field) -> Result<Vec<f32>, String> {
    let (min, max) = (f64::from(f32::MIN), f64::from(f32::MAX));
    let float = |number: Number| number.as_f64().unwrap_or(0.0).clamp(min, max) as f32;
    field.list()?.into_iter().map(|field| field.number().map(float)).collect()
}

fn decode_stream(mut fields: Fields) -> Result<StreamResponse, String> {
    Ok(StreamResponse { output: fields.text("output")? })
}

fn decode_error(mut fields: Fields) -> Result<ErrorBody, String> {
    let code = fields.take("code").map(Field::number).transpose()?;
    Ok(ErrorBody {
        // A code outside of the range, or no whole number, is as good as none.
        code: code.and_then(|number| u32::try_from(whole(&number)?).ok()).unwrap_or(0),
        error: fields.text("error")?,
        hook: fields.object("hook").ok().flatten().and_then(decode_hook).map(Box::new),
    })
}

/// Without a plugin's id there is nothing to tell.
fn decode_hook(mut fields: Fields) -> Option<HookFailure> {
    Some(HookFailure {
        plugin: fields.text("plugin").ok().filter(|plugin| !plugin.is_empty())?,
        phase: HookPhase::from(fields.text("phase").unwrap_or_default().as_str()),
        kind: HookFailureKind::from(fields.text("kind").unwrap_or_default().as_str()),
        retryable: fields.flag("retryable").unwrap_or(false),
    })
}

fn extension_number(fields: &mut Fields, name: &str) -> Option<Number> {
    fields.take(name)?.number().ok()
}

fn u32_or_end(number: &Number) -> u32 {
    let count = whole(number).unwrap_or(0);
    count.clamp(0, i64::from(u32::MAX)) as u32
}
