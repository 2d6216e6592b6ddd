//! What the tests are written with: real processes, a client that writes its
//! JSON by hand, and the rules of the Go client.
//!
//! No test logic lives here, and nothing of the workspace's own crates is used:
//! the tests see a worker as its clients see it.

pub mod cli;
pub mod client;
pub mod folders;
pub mod go_client;
pub mod nats;
pub mod prerequisites;
pub mod process;
pub mod shared;
pub mod worker;

pub use cli::Cli;
pub use client::{
    Client, Exchange, Place, SUBJECT, Seen, assert_error, brief, endless, error_code, new_job,
    within,
};
pub use folders::{HooksDir, ModelsDir};
pub use go_client::{End, GoClient};
pub use nats::Nats;
pub use prerequisites::MODEL;
pub use process::{PATIENCE, Process, Signal};
pub use shared::{Bench, Slot, plain, quiet};
pub use worker::Worker;
