//! The worker: requests come in over NATS, go through hooks and a model, and
//! their answers go out again.
//!
//! This crate joins the protocol, the engine and the hooks, which do not know
//! each other, and is the only one that knows NATS. It is a library without a
//! face: flags, signals and printing are the command line's.
//!
//! ```text
//!             ┌───────── nats::intake ─────────┐  decodes, waits for nothing
//!             ▼                                ▼
//!          lister             peers ◀────▶ dispatch ──▶ table   decides, pure
//!             │                                │
//!             │                                ▼ one task for each job
//!             │             models ◀───────── job ──▶ llamero-hooks, llamero-engine
//!             ▼                                │
//!          replies                          publish   text in, paced messages out
//!             └─────────▶ nats::outbox ◀───────┘
//! ```
//!
//! Reading order, which is the way of a request: [`settings`] and [`run`] for
//! the beginning and the end, then `nats`, `table` and `dispatch`, `job` with
//! `models` and `wire`, and `publish`, `replies` and `lister` for the answers; `peers`
//! is about jobs that another worker has.
//!
//! What holds everywhere: the receive loop waits for nothing but messages, the
//! job table does no I/O, generating never waits for the network, and prompt or
//! output text is never logged.

pub mod settings;

mod control;
mod hook_watch;
pub mod offline;
mod startup;
mod worker;

mod nats;

mod dispatch;
mod peers;
mod table;

mod hook_services;
mod job;
pub mod metrics;
mod models;
mod wire;

mod lister;
mod publish;
mod replies;

/// Connecting to NATS as the settings say; for the worker and for clients.
pub mod connection {
    pub use crate::nats::connection::{Changes, ConnectError, Connection, Link, Role, connect};
}

/// The instruction sets and options that llama.cpp computes with.
pub use llamero_engine::{BackendError, Kernels, SystemInfo, system_info};
/// Ends the process of a worker: the only safe way, see the engine's own words.
pub use llamero_engine::{exit_process, return_large_blocks};
pub use models::{LoadEvent, LoadProgress, ModelError};
pub use nats::state::HookStateError;
pub use tokio_util::sync::CancellationToken;
pub use worker::{Callbacks, Exit, ShutdownSignals, WorkerError, run};
