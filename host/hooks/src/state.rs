//! State in memory: a store for workers that do not share theirs.

use std::time::Duration;

use crate::services::{ServiceFuture, StateError, StateQuota, StateService};

/// Keeps everything in this process, and forgets it with the process.
#[derive(Debug, Default)]
pub struct MemoryState {}

fn none<'a, T: Send + 'a>() -> ServiceFuture<'a, Result<T, StateError>> {
    Box::pin(async { Err(StateError::Unavailable("no store".to_owned())) })
}

impl StateService for MemoryState {
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> ServiceFuture<'a, Result<Option<Vec<u8>>, StateError>> {
        none()
    }

    fn set<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Vec<u8>,
        _: Option<Duration>,
        _: StateQuota,
    ) -> ServiceFuture<'a, Result<(), StateError>> {
        none()
    }

    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> ServiceFuture<'a, Result<(), StateError>> {
        none()
    }

    fn increment<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: i64,
        _: Option<Duration>,
        _: StateQuota,
    ) -> ServiceFuture<'a, Result<i64, StateError>> {
        none()
    }

    fn compare_and_set<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<Vec<u8>>,
        _: Vec<u8>,
        _: StateQuota,
    ) -> ServiceFuture<'a, Result<bool, StateError>> {
        none()
    }
}
