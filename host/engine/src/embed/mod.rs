//! Texts to vectors.
//!
//! The context that generates cannot do this: whether a context gives logits of
//! single tokens or one pooled vector for a sequence is decided for all of it. So
//! a model that is asked for vectors gets a second context over the same weights,
//! with a thread of its own ([`service`]), which is there from the first text until
//! none has come for a while. Texts are packed into batches as sequences
//! ([`pack`]), pooled by llama.cpp as the model's file says, by their mean if it
//! says nothing, and brought to length 1, as llama-server and most services do.
//!
//! A text is never cut: one that is too long is an error, and how long it may be
//! is decided here, before anything is computed.

mod pack;
mod service;
mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::EmbedError;
use crate::vocabulary::Vocabulary;
pub(crate) use service::{Plan, Service};
pub(crate) use support::{is_causal, pooling};

/// More bytes than this for each token that is allowed are not even tokenized.
/// Only runs of white space have tokens that long.
const MAX_BYTES_PER_TOKEN: usize = 64;

/// Texts whose vectors can be computed; made by [`crate::Model::prepare_texts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTokens {
    texts: Vec<Vec<u32>>,
}

impl TextTokens {
    /// The tokens of each text, with those that the model wants around it.
    ///
    /// # Errors
    /// [`EmbedError`] names the first text that cannot be used.
    pub(crate) fn new(
        vocabulary: &Vocabulary,
        texts: &[String],
        limit: usize,
    ) -> Result<Self, EmbedError> {
        let max_bytes = limit.saturating_mul(MAX_BYTES_PER_TOKEN);
        let tokens = |(index, text): (usize, &String)| {
            let bytes = text.len();
            if bytes > max_bytes {
                return Err(EmbedError::TooManyBytes { index, bytes, max_bytes, limit });
            }
            let tokens = vocabulary
                .encode_whole(text)
                .map_err(|error| EmbedError::Tokenizer(error.to_string()))?;
            match tokens.len() {
                0 => Err(EmbedError::Empty { index }),
                tokens if tokens > limit => Err(EmbedError::TooLong { index, tokens, limit }),
                _ => Ok(tokens),
            }
        };
        Ok(Self { texts: texts.iter().enumerate().map(tokens).collect::<Result<_, _>>()? })
    }

    /// Tokens of all texts together.
    pub fn total(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// The vectors of some texts, to be waited for. Dropping it stops the work.
#[derive(Debug)]
pub struct Embedding {
    answer: oneshot::Receiver<Result<Vec<Vec<f32>>, EmbedError>>,
    cancel: Arc<service::Cancel>,
}

impl Future for Embedding {
    /// One vector for each text, in their order.
    type Output = Result<Vec<Vec<f32>>, EmbedError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(EmbedError::Stopped)))
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
