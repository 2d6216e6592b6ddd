//! The NATS side of the worker.
//!
//! [`connection`] connects and stays connected, [`intake`] receives and decodes
//! requests, [`outbox`] sends, [`inbox`] asks the server what became of a
//! message, [`drain`] ends the subscription without losing any, [`state`] keeps what
//! hooks share between workers. Which job runs,
//! and what it answers, is decided by [`crate::table`] and [`crate::job`].

pub mod auth;
pub mod connection;
pub mod drain;
pub mod inbox;
pub mod intake;
pub mod outbox;
#[cfg(test)]
pub mod script;
pub mod state;
pub mod throttle;
