//! The import `tokenizer`: look-ups in the vocabularies of loaded models, bounded
//! in size and moved off the hooks' threads when they are large.

use std::sync::Arc;

use super::HostFault;
use crate::bindings::v0_1::{model_info_to_wit, tokenizer, tokenizer_error_to_wit};
use crate::guest::GuestState;
use crate::tokenizer::{TokenizerError, TokenizerService};

/// Text up to this size is tokenized on the spot; more moves to a thread for
/// blocking work, so that it cannot hold up other calls.
const INLINE_TOKENIZER_BYTES: usize = 4 << 10;

/// Runs a look-up that grows with `size`, here or on a thread for blocking work.
async fn look_up<T, F>(
    service: Arc<dyn TokenizerService>,
    size: usize,
    f: F,
) -> wasmtime::Result<Result<T, tokenizer::Error>>
where
    T: Send + 'static,
    F: FnOnce(&dyn TokenizerService) -> Result<T, TokenizerError> + Send + 'static,
{
    let found = if size <= INLINE_TOKENIZER_BYTES {
        f(service.as_ref())
    } else {
        tokio::task::spawn_blocking(move || f(service.as_ref()))
            .await
            .map_err(|error| HostFault(format!("tokenizer: {error}")))?
    };
    Ok(found.map_err(tokenizer_error_to_wit))
}

impl GuestState {
    fn tokenizer(&self) -> Arc<dyn TokenizerService> {
        Arc::clone(&self.plugin.services.tokenizer)
    }

    fn check_size(&self, size: usize) -> Result<(), tokenizer::Error> {
        let limit = self.plugin.limits.tokenizer_bytes;
        if size > limit {
            return Err(tokenizer::Error::TooLarge(limit as u64));
        }
        Ok(())
    }
}

impl tokenizer::Host for GuestState {
    async fn describe(
        &mut self,
        model: String,
    ) -> wasmtime::Result<Result<tokenizer::ModelInfo, tokenizer::Error>> {
        let found = look_up(self.tokenizer(), 0, move |service| service.describe(&model)).await?;
        Ok(found.map(model_info_to_wit))
    }

    async fn count(
        &mut self,
        model: String,
        text: String,
    ) -> wasmtime::Result<Result<u32, tokenizer::Error>> {
        if let Err(error) = self.check_size(text.len()) {
            return Ok(Err(error));
        }
        look_up(self.tokenizer(), text.len(), move |service| service.count(&model, &text)).await
    }

    async fn encode(
        &mut self,
        model: String,
        text: String,
        parse_special: bool,
    ) -> wasmtime::Result<Result<Vec<u32>, tokenizer::Error>> {
        if let Err(error) = self.check_size(text.len()) {
            return Ok(Err(error));
        }
        look_up(self.tokenizer(), text.len(), move |service| {
            service.encode(&model, &text, parse_special)
        })
        .await
    }

    async fn decode(
        &mut self,
        model: String,
        tokens: Vec<u32>,
    ) -> wasmtime::Result<Result<String, tokenizer::Error>> {
        let size = tokens.len().saturating_mul(size_of::<u32>());
        if size > self.plugin.limits.tokenizer_bytes {
            let limit = self.plugin.limits.tokenizer_bytes / size_of::<u32>();
            return Ok(Err(tokenizer::Error::TooLarge(limit as u64)));
        }
        look_up(self.tokenizer(), size, move |service| service.decode(&model, &tokens)).await
    }
}
