//! What a plugin may import: log, config, tokenizer, state, metrics and call, each
//! in a module of its own.
//!
//! Every function here bounds what it takes and what it keeps, because its
//! caller is not trusted. Whether a plugin may import an interface at all is
//! decided when it is loaded (`inspect`).

mod call;
mod config;
mod log;
mod metrics;
mod state;
mod tokenizer;

use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::log::LogBudget;
use crate::bindings::v0_1 as wit;
use crate::guest::GuestState;

/// Target of plugins' log messages, so that a filter can name them.
const TARGET: &str = "llamero::plugin";

/// Offers everything to `linker`, WASI included.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type Own = HasSelf<GuestState>;
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wit::types::add_to_linker::<GuestState, Own>(linker, |state| state)?;
    wit::log::add_to_linker::<GuestState, Own>(linker, |state| state)?;
    wit::config::add_to_linker::<GuestState, Own>(linker, |state| state)?;
    wit::tokenizer::add_to_linker::<GuestState, Own>(linker, |state| state)?;
    wit::state::add_to_linker::<GuestState, Own>(linker, |state| state)?;
    wit::metrics::add_to_linker::<GuestState, Own>(linker, |state| state)?;
    wit::call::add_to_linker::<GuestState, Own>(linker, |state| state)
}

impl wit::types::Host for GuestState {}

/// A failure of the host inside a host call; `classify` files it as such.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostFault(pub(crate) String);

/// Whole milliseconds, as plugins see durations.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
