//! The engine of one model: jobs in, batches through the backend, events out.
//!
//! ```text
//!   Submission ──▶ waiting ──admit──▶ sequence in a slot ──▶ finished
//!                   │   ▲               │    ▲      │
//!           cancelled,  └───preempt─────┤    │   paused (reader does not keep up,
//!           expired                  prefill │   or the guard was asked)
//!                                       └──▶ decode ──┘
//! ```
//!
//! A job may lose its slot again and go back to waiting; it goes on later where it
//! was, and its reader does not notice.
//!
//! * [`scheduler`] keeps the slots, runs a step and deals with its failures;
//! * [`admission`] decides who gets a slot, [`preempt`] who has to go, [`sharing`]
//!   who takes what from whom, [`guard`] follows the answers of token guards, and
//!   [`speculate`] computes drafts: five parts of the engine, each in a file of its
//!   own;
//! * [`plan`] decides what goes into a step; it is a pure function. [`cost`] says
//!   how large a step may be, [`queue`] and [`tenants`] whose turn it is, [`turns`]
//!   which adapters it has;
//! * [`kv`] is the KV cache: the backend, [`cells`] that counts what it holds, and
//!   [`cache`] over the tree of [`prefix`], which finds what can be shared;
//! * [`sequence`] is one job on its way; [`outlet`] its channel to the reader,
//!   [`draft`] over [`ngrams`] what it guesses about its text, and [`alarm`] the way to
//!   end a step early;
//! * [`backend`] is what computes: llama.cpp, or a stand-in in tests;
//! * [`thread`] owns all of it on one OS thread and waits for commands; [`stats`]
//!   is what it tells others.
//!
//! Nothing here locks, awaits or blocks on a reader. Tokenizing, templates and
//! compiling have been done before a job comes here.

mod admission;
pub(crate) mod alarm;
pub(crate) mod backend;
pub(crate) mod cache;
mod cells;
mod cost;
mod draft;
mod guard;
mod kv;
mod ngrams;
pub(crate) mod outlet;
mod plan;
mod preempt;
mod prefix;
mod queue;
pub(crate) mod scheduler;
pub(crate) mod sequence;
mod sharing;
pub(crate) mod speculate;
pub(crate) mod stats;
mod tenants;
pub(crate) mod thread;
mod turns;

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod fairness_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod specs;
#[cfg(test)]
mod speculate_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thread_tests;
