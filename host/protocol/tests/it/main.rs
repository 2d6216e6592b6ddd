//! Tests of the wire protocol through its public interface, one module per
//! topic, in one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may stop at the first surprise"
)]

mod decode_rules;
mod encode;
mod errors;
mod hook_options;
mod names;
mod options;
mod properties;
mod responses;
mod wire_cases;
mod worker_options;
