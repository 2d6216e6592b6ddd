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
//! # What may block
//!
//! [`Model::load`], [`Model::adapter`] and [`Model::compile`] may take long and
//! belong on a thread that may block. [`Model::prepare`] is CPU work in proportion to the text.
//! [`Model::submit`] never blocks. A job whose [`Generation`] is not read
//! pauses when its channel is full, and nothing else waits for it.
//!
//! # Threads and memory
//!
//! One OS thread owns a model's context and computes. It ends, and frees the
//! context, when the last [`Model`] and [`Generation`] is gone; the weights go
//! with the last [`Tokenizer`] or [`CompiledConstraint`].

mod config;
mod error;
mod job;

mod adapter;
mod check;
mod gguf;
mod load;
mod memory;
mod model;
mod tokenizer;
mod vocabulary;

mod constraint;
mod prompt;

mod engine;
mod ffi;
mod generation;
mod sampling;
mod text;

pub use adapter::{Adapter, MAX_JOB_ADAPTERS, is_adapter};
pub use config::{
    ConstraintLimits, EngineStats, FlashAttention, MAX_SLOTS, ModelConfig, ModelInfo,
};
pub use constraint::{CompiledConstraint, Constraint};
pub use error::{
    AdapterError, ConstraintError, DecideError, GenerationError, LoadError, PromptError,
    SubmitError,
};
pub use generation::{Canceller, Generation};
pub use job::{Event, FinishReason, Finished, GuardPlan, GuardVerdict, Job, Piece, Sampling};
pub use model::{Model, exit_process, system_info};
pub use prompt::{ChatMessage, Content, Prompt, PromptLimits};
pub use tokenizer::Tokenizer;
