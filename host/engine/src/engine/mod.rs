//! The engine of one model: jobs in, batches through the backend, events out.
//!
//! ```text
//!   Submission ──▶ waiting ──admit──▶ sequence in a slot ──▶ finished
//!                     │                 │    ▲      │
//!                  cancelled         prefill │   paused (reader does not keep up)
//!                                       └──▶ decode ──┘
//! ```
//!
//! * [`plan`] decides what goes into a step; it is a pure function.
//! * [`scheduler`] keeps the slots, runs a step and deals with its failures.
//! * [`sequence`] is one job on its way; [`outlet`] its channel to the reader.
//! * [`backend`] is what computes: llama.cpp, or a stand-in in tests.
//! * [`thread`] owns all of it on one OS thread and waits for commands.
//!
//! Nothing here locks, awaits or blocks on a reader. Tokenizing, templates and
//! compiling have been done before a job comes here.

pub(crate) mod backend;
pub(crate) mod outlet;
pub(crate) mod plan;
pub(crate) mod scheduler;
pub(crate) mod sequence;
pub(crate) mod thread;

#[cfg(test)]
#[path = "fake.rs"]
mod fake;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
#[cfg(test)]
#[path = "thread_tests.rs"]
mod thread_tests;
