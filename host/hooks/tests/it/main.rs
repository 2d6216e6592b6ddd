//! The plugin host from outside: real components, made from WebAssembly text,
//! loaded and run through the public interface only.
//!
//! One binary for all topics, because linking wasmtime takes longer than running
//! the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod chain;
mod failures;
mod guest;
mod imports;
mod limits;
mod load;
mod observer;
mod outgoing;
mod outgoing_ends;
mod outgoing_guest;
mod outgoing_support;
mod policy;
mod reload;
mod slices;
mod state;
mod stop;
mod support;
