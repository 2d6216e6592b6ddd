//! A job that wants vectors: model, tokens, vectors, one answer.
//!
//! No hook sees it, in none of its phases: they are made for text that is generated.
//! Whether such jobs are served beside hooks at all is the operator's decision
//! ([`crate::settings::EmbedPolicy`]), and enforced before they get here.

use std::sync::Arc;
use std::time::Instant;

use llamero_protocol::{
    EmbedRequest, EmbedResponse, EmbedUsage, ErrorBody, Options, WorkerResponse,
};
use tokio_util::sync::CancellationToken;

use super::{Incoming, Shared, reply_once, stages, stopped_by};
use crate::wire;

/// Runs the job to its answer. `generated` is called once nothing is computed for
/// it any more.
pub async fn run(
    shared: Arc<Shared>,
    incoming: Incoming<EmbedRequest>,
    cancel: CancellationToken,
    generated: impl FnOnce() + Send,
) {
    let began = Instant::now();
    let Incoming { job, reply, work, .. } = incoming;
    let texts = work.input.len();
    let result = stopped_by(&cancel, vectors(&shared, work)).await;
    generated();
    let took_ms = began.elapsed().as_millis() as u64;
    let response = match result {
        Ok(embed) => {
            tracing::info!(took_ms, texts, "embed job done");
            WorkerResponse::embedded(&*job, embed)
        }
        Err(error) => {
            let code = error.code;
            tracing::info!(took_ms, texts, code, error = %error.error, "embed job failed");
            WorkerResponse::failed(&*job, error)
        }
    };
    // Fails only if the runtime is ending.
    let _ = reply_once(&shared, reply, response, wire::vectors_too_large).await;
}

async fn vectors(shared: &Shared, request: EmbedRequest) -> Result<EmbedResponse, ErrorBody> {
    let EmbedRequest { input, model, options } = request;
    let lease = stages::lease(shared, &model_of(model, &options)).await?;
    tracing::Span::current().record("model", lease.name());
    let model = lease.model().clone();
    let tokens =
        stages::blocking(move || model.prepare_texts(&input).map_err(|error| wire::embed(&error)));
    let tokens = tokens.await?;
    let prompt_tokens = u32::try_from(tokens.total()).unwrap_or(u32::MAX);
    let embedding = lease.model().embed(tokens).map_err(|error| wire::embed(&error))?;
    let embeddings = embedding.await.map_err(|error| wire::embed(&error))?;
    if !shared.extras {
        return Ok(EmbedResponse { embeddings, ..EmbedResponse::default() });
    }
    Ok(EmbedResponse {
        embeddings,
        model: lease.name().to_owned(),
        usage: Some(EmbedUsage { prompt_tokens }),
    })
}

/// The one option that counts. A `ctx_size` would make the generating context
/// larger, which embeds nothing.
fn model_of(model: String, options: &Options) -> Options {
    let mut chosen = Options::default();
    if !model.is_empty() {
        chosen.insert("model", model.into());
    } else if let Some(model) = options.get("model") {
        chosen.insert("model", model.clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_member_goes_before_the_option() {
        let options: Options =
            [("model", json!("o.gguf")), ("ctx_size", json!(9)), ("MODEL", json!("x"))]
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect();
        let model = |model: &str, options: &Options| {
            let chosen = model_of(model.to_owned(), options);
            assert_eq!(chosen.get("ctx_size"), None);
            chosen.get("model").cloned()
        };
        assert_eq!(model("m.gguf", &options), Some(json!("m.gguf")));
        assert_eq!(model("", &options), Some(json!("o.gguf")));
        assert_eq!(model("", &Options::default()), None::<Value>);
    }
}
