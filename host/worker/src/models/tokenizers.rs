//! The vocabularies of loaded models, for hooks.

use std::ops::Range;

use llamero_engine::{PromptError, Tokenizer};
use llamero_hooks::{ModelInfo, TokenizerError, TokenizerService};

use super::store::ModelStore;

/// Looks models up by name among those that are loaded. A job's model is loaded
/// before its hooks run, and stays so until the job ends.
#[derive(Debug, Clone)]
pub struct LoadedTokenizers(pub ModelStore);

impl LoadedTokenizers {
    fn tokenizer(&self, name: &str) -> Result<Tokenizer, TokenizerError> {
        let model = self.0.loaded(name);
        let model = model.ok_or_else(|| TokenizerError::UnknownModel(name.to_owned()))?;
        Ok(model.tokenizer())
    }
}

impl TokenizerService for LoadedTokenizers {
    fn describe(&self, name: &str) -> Result<ModelInfo, TokenizerError> {
        let model = self.0.loaded(name);
        let model = model.ok_or_else(|| TokenizerError::UnknownModel(name.to_owned()))?;
        let info = model.info();
        Ok(ModelInfo {
            name: name.to_owned(),
            context_length: info.n_ctx,
            vocabulary_size: info.n_vocab,
            bos: info.bos,
            eos: info.eos,
        })
    }

    fn count(&self, model: &str, text: &str) -> Result<u32, TokenizerError> {
        let count = self.tokenizer(model)?.count(text).map_err(refused)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn encode(
        &self,
        model: &str,
        text: &str,
        parse_special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = self.tokenizer(model)?;
        tokenizer.encode(text, parse_special).map_err(refused)
    }

    fn count_prompt(
        &self,
        model: &str,
        text: &str,
        markup: &[Range<usize>],
    ) -> Result<u32, TokenizerError> {
        let count = self.tokenizer(model)?.count_text(text, markup).map_err(refused)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn decode(&self, model: &str, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.tokenizer(model)?.decode(tokens).map_err(refused)
    }
}

fn refused(error: PromptError) -> TokenizerError {
    TokenizerError::Other(error.to_string())
}
