//! Which models there are, which one a job gets, and when it is loaded and
//! released.
//!
//! [`dir`] reads the folder, [`store`] loads, [`shelf`] decides what is kept,
//! [`tokenizers`] offers the vocabularies of loaded models to hooks. Loading itself, and
//! everything about the contents of model files, is `llamero-engine`'s.

pub mod dir;
mod shelf;
pub mod store;
pub mod tokenizers;
mod types;

pub use store::{Lease, ModelStore};
pub use types::{AdapterCause, AdapterFailure, LoadEvent, LoadProgress, ModelError};
