//! End-to-end tests of Llamero: the real binary, a real nats-server, the real
//! model, real components. One binary, so that everything links once.
//!
//! A worker is seen as its clients see it: through NATS messages, exit codes and
//! its log. What can be tested inside one crate is tested there; the decode
//! tables, the job table, the sampling and the sandbox have their tests beside
//! their code.
//!
//! Nothing here measures speed. Every wait has one generous limit
//! (`harness::PATIENCE`), which tells "never" from "slow" and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and what it prints is read when it failed"
)]

mod harness;
mod lora_file;

mod adapters;
mod cli;
mod cli_config;
mod context;
mod demo;
mod embed;
mod errors;
mod go_client;
mod hook_examples;
mod hook_reload;
mod hooks;
mod hooks_examples_out;
mod hooks_guard;
mod hooks_out;
mod hostile;
mod interrupts;
mod load;
mod max_payload;
mod memory;
mod options;
mod restart;
mod seed;
mod shutdown;
mod streams;
mod third_party;
mod wire;
