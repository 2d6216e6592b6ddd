//! See `it/`.
