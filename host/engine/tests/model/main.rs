//! The engine with a real model.
//!
//! The model is `SmolLM2-135M-Instruct.Q4_1.gguf` in the folder that
//! `LLAMERO_MODEL_DIR` names (default: the cache folder of Llamero). It is
//! loaded once for all tests; those that load it in another way do so
//! themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

mod adapters;
mod chat;
mod constraints;
mod embedding;
mod generation;
mod guard;
mod hostile;
mod jobs;
mod loading;
#[path = "../../../../tests/it/lora_file.rs"]
mod lora_file;
mod sharing;
mod speculate;
mod support;
