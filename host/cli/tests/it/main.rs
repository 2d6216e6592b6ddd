//! The command line's tests: one binary, because each one would compile and link
//! all of the worker again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why it did not run"
)]

mod arguments;
mod client;
mod help;
mod process;
