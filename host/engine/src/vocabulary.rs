//! The vocabulary of a loaded model, for every thread.
//!
//! Holds the weights, whose part it is. Tokenizing only reads them, so it needs
//! no lock and runs beside the engine thread.

use std::fmt;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::error::PromptError;
use crate::prompt::Encode;
use crate::prompt::escape::ControlTexts;
use crate::specials::SpecialTexts;

/// The longest text that is tokenized at once, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;

/// Texts up to this size are tokenized on the caller's stack.
const SMALL_TEXT: usize = 4 * 1024;
/// Some vocabularies split text with `std::regex`, which recurses once for every
/// character and has no way to fail; so a larger text gets a stack of its size.
const STACK_PER_BYTE: usize = 1024;
const BASE_STACK: usize = 8 * 1024 * 1024;
const MAX_STACK: usize = 2 * 1024 * 1024 * 1024;

/// The vocabulary with what is often asked about it.
pub(crate) struct Vocabulary {
    model: Arc<LlamaModel>,
    n_vocab: u32,
    bos: Option<u32>,
    eos: Option<u32>,
    newline: Option<u32>,
    add_bos: bool,
    /// Every token that ends a generation.
    eog: Vec<u32>,
    control: ControlTexts,
    /// What is found in every text.
    always: SpecialTexts,
    /// What is found where control tokens are parsed as well.
    special: SpecialTexts,
}

impl Vocabulary {
    /// Walks the vocabulary once.
    ///
    /// # Errors
    /// A message, if the model has no vocabulary to speak of.
    pub(crate) fn new(model: Arc<LlamaModel>) -> Result<Self, String> {
        let vocab = model.vocab();
        let n_vocab = u32::try_from(vocab.n_tokens()).unwrap_or(0);
        if n_vocab == 0 {
            return Err("it has no vocabulary".to_string());
        }
        if matches!(
            model.meta_val_str("tokenizer.ggml.model").as_deref(),
            Err(_) | Ok("none" | "no_vocab")
        ) {
            return Err("it has no tokenizer".to_string());
        }
        let known =
            |token: LlamaToken| u32::try_from(token.0).ok().filter(|token| *token < n_vocab);
        let mut eog = Vec::new();
        let mut control = Vec::new();
        let (mut always, mut special) = (Vec::new(), Vec::new());
        for id in 0..n_vocab {
            let token = LlamaToken(id.cast_signed());
            if vocab.is_eog(token) {
                eog.push(id);
            }
            // What llama.cpp parses as control tokens when it is asked to, and what it
            // looks for in any case.
            let attributes = vocab.attr(token);
            let is_control = attributes.contains(LlamaTokenAttr::Control)
                || attributes.contains(LlamaTokenAttr::Unknown);
            if (is_control || attributes.contains(LlamaTokenAttr::UserDefined))
                && let Some(text) = vocab.text(token)
            {
                let text = text.to_string_lossy().into_owned();
                let strips = attributes.contains(LlamaTokenAttr::RStrip);
                special.push((text.clone(), strips));
                if is_control {
                    control.push(text);
                } else {
                    always.push((text, strips));
                }
            }
        }
        Ok(Self {
            n_vocab,
            bos: known(vocab.bos()),
            eos: known(vocab.eos()),
            newline: known(vocab.nl()),
            add_bos: vocab.should_add_bos(),
            eog,
            control: ControlTexts::new(control)?,
            always: SpecialTexts::new(always)?,
            special: SpecialTexts::new(special)?,
            model,
        })
    }

    pub(crate) fn model(&self) -> &Arc<LlamaModel> {
        &self.model
    }

    pub(crate) fn n_vocab(&self) -> u32 {
        self.n_vocab
    }

    pub(crate) fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub(crate) fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub(crate) fn newline(&self) -> Option<u32> {
        self.newline
    }

    pub(crate) fn eog(&self) -> &[u32] {
        &self.eog
    }

    pub(crate) fn control(&self) -> &ControlTexts {
        &self.control
    }

    /// The bytes of a token; control tokens have none unless `special`.
    pub(crate) fn piece(&self, token: u32, special: bool) -> Vec<u8> {
        if token >= self.n_vocab {
            return Vec::new();
        }
        self.model.vocab().token_to_piece(LlamaToken(token.cast_signed()), special, None)
    }

    /// The token that this text is, control tokens included.
    pub(crate) fn token_by_text(&self, text: &str) -> Option<u32> {
        match self.encode(text, true).ok()?.as_slice() {
            [token] => Some(*token),
            _ => None,
        }
    }

    /// The tokens of a text that stands alone, with those that the vocabulary wants
    /// before and behind it. Control-token text is text.
    pub(crate) fn encode_whole(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.encode_on_stack(text, Special { add: true, parse: false })
    }

    fn encode_here(&self, text: &str, special: Special) -> Vec<u32> {
        let parts = match special {
            // What is added stands around the whole.
            Special { add: true, .. } => vec![text],
            Special { parse: true, .. } => self.special.parts(text),
            Special { parse: false, .. } => self.always.parts(text),
        };
        let vocab = self.model.vocab();
        let tokens = parts
            .into_iter()
            .flat_map(|part| vocab.tokenize(part.as_bytes(), special.add, special.parse));
        tokens.map(|token| token.0.cast_unsigned()).collect()
    }

    /// Tokenizes on a stack that is large enough for the text.
    fn encode_on_stack(&self, text: &str, special: Special) -> Result<Vec<u32>, PromptError> {
        if text.len() <= SMALL_TEXT {
            return Ok(self.encode_here(text, special));
        }
        if text.len() > MAX_TEXT_BYTES {
            return Err(PromptError::Tokenizer(format!(
                "text of {} bytes is longer than {MAX_TEXT_BYTES}",
                text.len()
            )));
        }
        let stack =
            BASE_STACK.saturating_add(text.len().saturating_mul(STACK_PER_BYTE)).min(MAX_STACK);
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("llamero-tokenize".to_string())
                .stack_size(stack)
                .spawn_scoped(scope, || self.encode_here(text, special))
                .map_err(|e| PromptError::Tokenizer(format!("no thread: {e}")))?
                .join()
                .map_err(|_| PromptError::Tokenizer("the tokenizer failed".to_string()))
        })
    }
}

/// What becomes of control tokens.
#[derive(Debug, Clone, Copy)]
struct Special {
    /// Whether those that the vocabulary wants around a text are added.
    add: bool,
    /// Whether text that reads like one becomes one.
    parse: bool,
}

impl Encode for Vocabulary {
    fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, PromptError> {
        self.encode_on_stack(text, Special { add: false, parse: parse_special })
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, PromptError> {
        let mut bytes = Vec::new();
        for &token in tokens {
            if token >= self.n_vocab {
                return Err(PromptError::Tokenizer(format!(
                    "token {token} is not in the vocabulary of {} tokens",
                    self.n_vocab
                )));
            }
            bytes.extend(self.piece(token, true));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn leading_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary")
            .field("n_vocab", &self.n_vocab)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
