//! What the host needs from outside to serve its plugins: a tokenizer, a store
//! for their state, and a place for their metrics.
//!
//! The traits are implemented by the worker. `state` is also implemented here, in
//! memory, because most workers need no more.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::state::MemoryState;
use crate::tokenizer::TokenizerService;

/// A future of a service that is called through a trait object.
pub type ServiceFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything that plugins reach through the host.
#[derive(Clone)]
pub struct Services {
    /// Vocabularies of loaded models.
    pub tokenizer: Arc<dyn TokenizerService>,
    /// Values that outlive an instance.
    pub state: Arc<dyn StateService>,
    /// Where plugins' metrics go.
    pub metrics: Arc<dyn MetricsService>,
}

impl Services {
    /// A tokenizer, state in memory, and metrics that nobody keeps.
    pub fn new(tokenizer: Arc<dyn TokenizerService>) -> Self {
        Self { tokenizer, state: Arc::new(MemoryState::default()), metrics: Arc::new(NoMetrics) }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// How much state one plugin may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateQuota {
    /// Bytes of all keys and values together.
    pub bytes: usize,
    /// Keys.
    pub keys: usize,
}

/// Why the state of a plugin cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// More bytes or keys than the plugin may have.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// The store does not answer; retrying may help.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Anything else, such as a key that holds no counter.
    #[error("{0}")]
    Other(String),
}

/// A store of small values, separate for each plugin id. Every operation is
/// atomic. A time to live counts from the writing; for a counter, from its
/// creation. A value that is swapped in by [`Self::compare_and_set`] keeps the
/// time that was left to the one before it. A counter reads as its number in
/// decimal digits.
pub trait StateService: Send + Sync {
    /// The value of a key.
    fn get<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
    ) -> ServiceFuture<'a, Result<Option<Vec<u8>>, StateError>>;

    /// Writes a key.
    fn set<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        value: Vec<u8>,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<(), StateError>>;

    /// Forgets a key; it is no error if there is none.
    fn delete<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
    ) -> ServiceFuture<'a, Result<(), StateError>>;

    /// Adds to a counter, which is made at 0, and returns the new value.
    fn increment<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        delta: i64,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<i64, StateError>>;

    /// Writes `value` if the key still holds `expected` (`None`: absent), and
    /// says whether it did.
    fn compare_and_set<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<bool, StateError>>;
}

/// One measurement of a plugin's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measurement {
    /// Adds to a counter.
    Counter(u64),
    /// Sets a gauge.
    Gauge(f64),
    /// Adds a value to a histogram.
    Histogram(f64),
}

/// What the names of the host's own metrics about a plugin begin with.
pub const RESERVED_METRICS: &str = "llamero_";

/// Counts measurements of a plugin that were dropped because of their names,
/// labels or values.
pub const DROPPED_METRICS: &str = "llamero_dropped";

/// Takes the metrics of plugins. Names and labels have been checked, and labels
/// come sorted by their names; the number of series is the service's to bound.
pub trait MetricsService: Send + Sync {
    /// Records one measurement.
    fn record(&self, plugin: &str, name: &str, labels: &[(String, String)], value: Measurement);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetrics;

impl MetricsService for NoMetrics {
    fn record(&self, _: &str, _: &str, _: &[(String, String)], _: Measurement) {}
}
