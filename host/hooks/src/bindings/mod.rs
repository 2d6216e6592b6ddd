//! Generated bindings, one module for each line of the WIT package.
//!
//! Nothing outside these modules names a generated type of a request or verdict:
//! they convert to and from the types in `data`, so that a second line can be
//! served beside the first.

pub(crate) mod experimental;
pub(crate) mod v0_1;
