//! llama.cpp inference with continuous batching: one thread per loaded model.
//!
//! The engine turns the content of a request into tokens, continues them, and
//! reports text. It is responsible for everything that needs llama.cpp: loading
//! GGUF files, chat templates, truncation, sampling, grammars, stop strings,
//! and the one thread per model that computes all its jobs in common batches.
//!
//! It is NOT responsible for the wire protocol (`llamero-protocol`), for hooks
//! (`llamero-hooks`), or for which job runs when and where its text goes
//! (`llamero-worker`). It knows nothing of NATS.
//!
//! ```text
//!   Content ──prepare──▶ Prompt ─┐
//!   Constraint ──compile─────────┼─▶ Job ──submit──▶ [bounded channel] ──▶ engine thread
//!                                                                             │  scheduler: what goes into a step
//!   Generation ◀── next ── [bounded channel, one per job] ◀── text, end ──────┤  backend:   llama_decode (ffi)
//!                                                                             │  sampling, constraint
//!                                                                             └  UTF-8 hold, stop strings
//! ```
//!
//! Texts become vectors beside all that, in a context of their own (`embed`).
//!
//! # What may block
//!
//! [`Model::load`], [`Model::adapter`] and [`Model::compile`] may take long and
//! belong on a thread that may block. [`Model::prepare`] and
//! [`Model::prepare_texts`] are CPU work in proportion to the text.
//! [`Model::submit`] and [`Model::embed`] never block. A job whose [`Generation`] is
//! not read pauses when its channel is full, and nothing else waits for it.
//!
//! # Threads and memory
//!
//! One OS thread owns a model's context and computes. It ends, and frees the
//! context, when the last [`Model`] and [`Generation`] is gone; the weights go
//! with the last [`Tokenizer`] or [`CompiledConstraint`]. A second thread with a
//! context of its own computes vectors, from the first text until none has come for
//! [`EmbeddingConfig::idle`]. [`Model::unload`] waits for the end of the first
//! context; [`Model::estimate`] says beforehand how much a model takes, and
//! [`ModelInfo::memory`] afterwards.

mod config;
mod error;
mod job;

mod adapter;
mod check;
mod dimensions;
mod gguf;
mod kernels;
mod load;
mod memory;
mod model;
mod specials;
mod tokenizer;
mod vocabulary;

mod constraint;
mod embed;
mod prompt;

mod engine;
mod ffi;
mod generation;
mod sampling;
mod text;

pub use adapter::{Adapter, AdapterRoom, MAX_JOB_ADAPTERS, is_adapter};
pub use config::{
    ConstraintLimits, EmbeddingConfig, EmbeddingInfo, EngineStats, FlashAttention, KvType,
    MAX_SLOTS, MAX_SPECULATE_TOKENS, MemorySize, ModelConfig, ModelInfo,
};
pub use constraint::{CompiledConstraint, Constraint};
pub use embed::{Embedding, TextTokens};
pub use error::{
    AdapterError, BackendError, ConstraintError, DecideError, EmbedError, GenerationError,
    LoadError, PromptError, SubmitError,
};
pub use generation::{Canceller, Generation};
pub use job::{Event, FinishReason, Finished, GuardPlan, GuardVerdict, Job, Piece, Sampling};
pub use kernels::{Kernels, SystemInfo};
pub use model::{Model, exit_process, return_large_blocks, system_info};
pub use prompt::{ChatMessage, Content, Prompt, PromptLimits};
pub use tokenizer::Tokenizer;
