//! The parts of the benchmarks that can be tested by themselves: prompts of an
//! exact length, the statistics, and the bars that figures are held to. Pure: no clock, no process, no network.
//!
//! The end-to-end tests are in `it/`, the benchmarks in `bench/`; `README.md`
//! tells how to run them.

pub mod bars;
pub mod prompts;
pub mod random;
pub mod stats;
