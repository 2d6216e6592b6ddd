//! Every way in which the engine can say no.
//!
//! Texts are lower case, carry the value at fault and name the cure where
//! there is one. The texts of [`PromptError`] that the wire protocol fixes are
//! exactly the protocol's. No text carries prompt text.

use std::path::PathBuf;

/// llama.cpp cannot compute on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A portable build whose libraries are not where they are looked for.
    #[error(
        "there are no kernels for CPUs (libggml-cpu-*.so) in {}; keep the program beside its \
         folder lib, or name the folder of these libraries with LLAMERO_BACKENDS",
        listed(places)
    )]
    NoKernels {
        /// The folders that were looked at.
        places: Vec<PathBuf>,
    },
    /// A portable build, none of whose libraries can be used.
    #[error(
        "none of the kernels in {} can be used on this machine: {reason}; unpack a portable \
         build that is made for it, or build from source",
        folder.display()
    )]
    UnusableKernels {
        /// Where they are.
        folder: PathBuf,
        /// What the system says of one of them.
        reason: String,
    },
    /// llama.cpp was not initialised.
    #[error("llama.cpp: {0}")]
    Init(String),
}

fn listed(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    if places.is_empty() { "any folder that is known".to_string() } else { places.join(" or ") }
}

/// A model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A field of [`crate::ModelConfig`] is out of range.
    #[error("{field} is {value}, but must be {expected}")]
    Config {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: String,
    },
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The path names a folder, a device or the like.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is not a GGUF file that can be used.
    #[error("{}: {reason}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// llama.cpp refused the model; the reason is what it logged.
    #[error("llama.cpp cannot load {}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The error lines of llama.cpp's log.
        reason: String,
    },
    /// The model loads, but is of a kind that cannot generate text.
    #[error("{} cannot generate text: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The context (KV cache and buffers) cannot be allocated.
    #[error("cannot allocate a context of {n_ctx} tokens for each of {slots} slots: {reason}")]
    Context {
        /// Context limit of one job.
        n_ctx: u32,
        /// Number of slots.
        slots: u32,
        /// The error lines of llama.cpp's log.
        reason: String,
    },
    /// llama.cpp cannot be used at all.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The progress callback returned false.
    #[error("loading was aborted")]
    Aborted,
    /// The engine's thread could not be started, or ended while loading.
    #[error("engine thread: {0}")]
    Thread(String),
}

/// A prompt could not be made from the content of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The text to be kept leaves no room for the rest.
    #[error("content and instructions overflow context size {n_ctx}")]
    Overflow {
        /// Context limit of the job, in tokens.
        n_ctx: u32,
    },
    /// There is nothing to generate from.
    #[error("empty prompt")]
    Empty,
    /// Chat messages were given, but the model's file has no chat template.
    #[error("model has no chat template")]
    NoChatTemplate,
    /// The model's chat template cannot be read or refused the messages.
    #[error("chat template: {0}")]
    Template(String),
    /// A role is not a short plain word.
    #[error("role of message {index} must be 1 to 64 letters, digits, \"_\" or \"-\"")]
    Role {
        /// Position of the message, from 0.
        index: usize,
    },
    /// The context limit of the job is larger than the model's.
    #[error("context size {n_ctx} is larger than the {max} tokens the model was loaded with")]
    ContextSize {
        /// What was asked for.
        n_ctx: u32,
        /// What there is.
        max: u32,
    },
    /// The separators between the elements of the input are too much.
    #[error("would be {bytes} bytes between all elements, more than {limit}")]
    Separators {
        /// All of them together.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The text cannot be tokenized.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

/// A grammar or schema was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// The GBNF grammar is wrong.
    #[error("grammar: {0}")]
    Grammar(String),
    /// The JSON schema is wrong or uses what is not supported.
    #[error("json_schema: {0}")]
    Schema(String),
    /// A limit of [`crate::ConstraintLimits`] was passed.
    #[error("{kind}: {what} exceeds the limit of {limit}")]
    Limit {
        /// `grammar` or `json_schema`.
        kind: &'static str,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// An adapter cannot be used. No text carries a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
    /// The file is a model, or says nothing of being an adapter.
    #[error("is not an adapter")]
    NotAnAdapter,
    /// The file is damaged, or an adapter of a kind that is not supported.
    #[error("cannot be used: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The adapter is for another kind of model.
    #[error("is made for the architecture {adapter:?}, and the model's is {model:?}")]
    Architecture {
        /// The adapter's.
        adapter: String,
        /// The model's.
        model: String,
    },
    /// llama.cpp refused the file: it is damaged, or its tensors are not those of
    /// the model. The reason is what it logged, for the operator.
    #[error("does not fit the model, or is damaged")]
    Refused {
        /// The error lines of llama.cpp's log.
        reason: String,
    },
    /// As many adapters as may be kept are used by jobs.
    #[error("all {max} adapters that can be loaded are in use")]
    Full {
        /// [`crate::ModelConfig::max_adapters`].
        max: usize,
    },
    /// [`crate::ModelConfig::max_adapters`] is 0.
    #[error("cannot be used: adapters are turned off")]
    Off,
}

/// A job was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Every slot and every place in the engine's queue is taken.
    #[error("engine busy")]
    Busy,
    /// The model only reads texts.
    #[error("the model cannot generate text, it gives embeddings only")]
    CannotGenerate,
    /// The engine's thread has ended.
    #[error("engine stopped")]
    Stopped,
    /// The prompt has no tokens.
    #[error("empty prompt")]
    EmptyPrompt,
    /// The prompt leaves no room for a single token of output.
    #[error("prompt of {tokens} tokens overflows context size {n_ctx}")]
    PromptTooLong {
        /// Length of the prompt.
        tokens: usize,
        /// Context limit of the job.
        n_ctx: u32,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {n_vocab} tokens")]
    InvalidToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: u32,
    },
    /// A sampling value is out of range.
    #[error("{name} {reason}")]
    Sampling {
        /// The option's name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The token guard's plan is out of range.
    #[error("guard.{field} is {value}, but must be {expected}")]
    Guard {
        /// The field of [`crate::GuardPlan`].
        field: &'static str,
        /// What it holds.
        value: u32,
        /// What it may hold.
        expected: &'static str,
    },
    /// The stop strings are too long.
    #[error("stop strings of {bytes} bytes exceed the limit of {limit}")]
    StopTooLong {
        /// All of them together.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The job has too many adapters.
    #[error("{n} adapters exceed the limit of {max}")]
    TooManyAdapters {
        /// How many it has.
        n: usize,
        /// The limit.
        max: usize,
    },
    /// A scale of an adapter is not a number.
    #[error("a scale of an adapter is not a number")]
    AdapterScale,
    /// An adapter was loaded for another model.
    #[error("adapter was loaded for another model")]
    ForeignAdapter,
    /// The constraint was compiled for another model.
    #[error("constraint was compiled for another model")]
    ForeignConstraint,
    /// The context limit of the job is larger than the model's.
    #[error("context size {n_ctx} is larger than the {max} tokens the model was loaded with")]
    ContextSize {
        /// What was asked for.
        n_ctx: u32,
        /// What there is.
        max: u32,
    },
}

/// A job failed while it ran.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// llama.cpp could not compute a step of this job.
    #[error("engine failure: {0}")]
    Engine(String),
    /// The KV cache has no room although the job is within its limit.
    #[error("no room in the context")]
    NoSpace,
    /// The grammar or schema became too complex, or allows no token at all.
    #[error("constraint: {0}")]
    Constraint(String),
    /// No token can be chosen: a logit is not a number, or all are masked.
    #[error("sampling: {0}")]
    Sampling(String),
    /// The job's deadline passed before it began.
    #[error("deadline passed before the job began")]
    Expired,
    /// The answer of the job's token guard cannot be followed.
    #[error("token guard: {0}")]
    Guard(String),
    /// The engine ended before the job did.
    #[error("engine stopped")]
    Stopped,
}

/// Texts that get no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// The model has none to give.
    #[error("the model gives no embeddings: {0}")]
    Unsupported(&'static str),
    /// A text has too many tokens. It is not cut.
    #[error("text {index} has {tokens} tokens, more than the {limit} that one text may have")]
    TooLong {
        /// Position of the text, from 0.
        index: usize,
        /// What it has, with those that the model wants around it.
        tokens: usize,
        /// What it may have.
        limit: usize,
    },
    /// A text has more bytes than so many tokens can stand for.
    #[error("text {index} has {bytes} bytes, more than the {max_bytes} for {limit} tokens")]
    TooManyBytes {
        /// Position of the text, from 0.
        index: usize,
        /// What it has.
        bytes: usize,
        /// What it may have.
        max_bytes: usize,
        /// Tokens that one text may have.
        limit: usize,
    },
    /// A text is nothing to the model.
    #[error("text {index} has no tokens")]
    Empty {
        /// Position of the text, from 0.
        index: usize,
    },
    /// A text cannot be tokenized.
    #[error("{0}")]
    Tokenizer(String),
    /// Too many requests wait.
    #[error("engine busy")]
    Busy,
    /// The context for embeddings cannot be made.
    #[error("no context for embeddings: {0}")]
    Context(String),
    /// llama.cpp could not compute a batch.
    #[error("engine failure: {0}")]
    Engine(String),
    /// The request was stopped.
    #[error("embedding was cancelled")]
    Cancelled,
    /// The thread ended before the request did.
    #[error("engine stopped")]
    Stopped,
}

/// An answer to a token guard's question was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError {
    /// There is no question that has not been answered.
    #[error("the job has not asked")]
    NotAsked,
}
