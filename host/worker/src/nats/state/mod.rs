//! State of hooks in a bucket of NATS, so that the workers of a fleet share it.
//!
//! A key is `PLUGIN.KEY`, the key in base64url and dots of the plugin's id as `=`;
//! the value stands in an [`envelope`] with its end. What has ended is absent for
//! every reader from that moment on, by the reader's clock: the clocks of a fleet
//! should agree to well below the shortest time to live.
//!
//! Writing is atomic by the revisions of the bucket: an increment reads, writes
//! against the revision that it has read, and tries again when another worker was
//! faster. Quotas are kept as [`tally`] describes: exact for what this worker
//! writes, late by some seconds for what others write. The size of a single value
//! is always exact. A write that was not answered may have happened.
//!
//! Hooks are loaded before the worker connects, so the store exists before the
//! bucket does; until then, and while the connection is down, it is unavailable.

mod bucket;
mod envelope;
mod error;
mod key;
mod open;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use llamero_hooks::{ServiceFuture, StateError, StateQuota, StateService, check_state_key};
use tokio::runtime::Handle;
use tokio::sync::{MutexGuard, oneshot};

use self::bucket::{Bucket, Found, WriteError};
use self::envelope::{Content, Envelope};
pub use self::error::HookStateError;
use self::key::{plugin_token, token};
use self::tally::{Before, Line, RECHECK, Tally};
use super::connection::{Connection, random_fraction};
use super::throttle::Throttle;

/// How often a write against a revision is tried.
const TRIES: u32 = 10;

/// Longest pause between two of them.
const MAX_PAUSE: Duration = Duration::from_millis(32);

/// How long after its end a value is swept out: a worker whose clock is ahead
/// should not remove what others still see.
const SWEEP_GRACE: Duration = Duration::from_secs(5);

/// Keys that are changed by one call of this worker at a time, by their hash.
/// Calls of the same worker then wait for each other instead of trying again.
const LANES: usize = 64;

/// Tells how a listing ended.
type Listing = oneshot::Receiver<Result<(), StateError>>;

/// A store in a bucket. Clones are the same store.
#[derive(Debug, Clone)]
pub struct NatsState {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: OnceLock<Open>,
    tallies: Mutex<HashMap<String, Arc<Tally>>>,
    lanes: [tokio::sync::Mutex<()>; LANES],
    hasher: std::hash::RandomState,
    list_log: Throttle,
}

#[derive(Debug)]
struct Open {
    bucket: Bucket,
    /// The worker's own runtime: listings go on when the call that began them is
    /// stopped.
    runtime: Handle,
}

impl Default for NatsState {
    fn default() -> Self {
        let shared = Shared {
            open: OnceLock::new(),
            tallies: Mutex::default(),
            lanes: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            hasher: std::hash::RandomState::new(),
            list_log: Throttle::new(Duration::from_secs(10)),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl NatsState {
    /// Opens the bucket, and makes it if there is none, for values of up to
    /// `value_bytes`.
    ///
    /// # Errors
    /// [`HookStateError`]; the store then stays unavailable.
    pub async fn open(
        &self,
        connection: &Connection,
        bucket: &str,
        value_bytes: usize,
    ) -> Result<(), HookStateError> {
        let bucket = Bucket::open(connection, bucket, value_bytes).await?;
        // A second opening changes nothing.
        let _ = self.shared.open.set(Open { bucket, runtime: Handle::current() });
        Ok(())
    }

    fn bucket(&self) -> Result<&Bucket, StateError> {
        Ok(&self.opened()?.bucket)
    }

    fn opened(&self) -> Result<&Open, StateError> {
        self.shared.open.get().ok_or_else(|| {
            StateError::Unavailable("the worker is not connected to NATS yet".to_owned())
        })
    }

    fn tally(&self, plugin: &str) -> Arc<Tally> {
        let mut tallies = self.shared.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        match tallies.get(plugin) {
            Some(tally) => Arc::clone(tally),
            None => Arc::clone(tallies.entry(plugin.to_owned()).or_default()),
        }
    }

    /// Waits until no other call of this worker changes the key.
    async fn lane(&self, token: &str) -> MutexGuard<'_, ()> {
        let hash = self.shared.hasher.hash_one(token);
        // The remainder is less than the number of lanes.
        let lane = usize::try_from(hash % LANES as u64).unwrap_or_default();
        self.shared.lanes[lane].lock().await
    }

    /// Makes room for a key, by the books or by a new listing. Returns what was
    /// there before.
    async fn room(
        &self,
        plugin: &str,
        tally: &Arc<Tally>,
        token: &str,
        line: Line,
        quota: StateQuota,
    ) -> Result<Option<Line>, StateError> {
        match tally.before(quota, Instant::now()) {
            Before::Nothing => {}
            Before::List => drop(self.list(plugin, tally)?),
            Before::ListFirst => wait(self.list(plugin, tally)?).await?,
        }
        let reserved = tally.reserve(token, line.clone(), quota, now());
        let listed_long_ago = tally.age(Instant::now()).is_none_or(|age| age >= RECHECK);
        match reserved {
            Err(StateError::QuotaExceeded) if listed_long_ago => {
                wait(self.list(plugin, tally)?).await?;
                tally.reserve(token, line, quota, now())
            }
            other => other,
        }
    }

    /// Lists the keys of a plugin, unless somebody just has, and then sweeps out
    /// what has ended.
    fn list(&self, plugin: &str, tally: &Arc<Tally>) -> Result<Listing, StateError> {
        let open = self.opened()?;
        let (done, listed) = oneshot::channel();
        let (shared, tally) = (Arc::clone(&self.shared), Arc::clone(tally));
        let (bucket, prefix) = (open.bucket.clone(), plugin_token(plugin));
        open.runtime.spawn(async move {
            let _one_at_a_time = tally.listing.lock().await;
            if tally.age(Instant::now()).is_some_and(|age| age < RECHECK) {
                let _ = done.send(Ok(()));
                return;
            }
            let lines = match bucket.list(&prefix).await {
                Ok(lines) => lines,
                Err(error) => {
                    if shared.list_log.pass() {
                        tracing::warn!(hook = prefix, %error, "the keys of a hook cannot be listed");
                    }
                    let _ = done.send(Err(error));
                    return;
                }
            };
            let ended_at = now().saturating_sub(millis(SWEEP_GRACE));
            let ended = tally.begin(lines, ended_at, Instant::now());
            // Nobody waits for the sweeping.
            let _ = done.send(Ok(()));
            let n_swept = bucket.sweep(&ended, |line| tally.swept(line)).await;
            if n_swept > 0 {
                tracing::debug!(hook = prefix, n_swept, "ended values of a hook removed");
            }
        });
        Ok(listed)
    }

    async fn read(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        check_state_key(key)?;
        let found = self.bucket()?.read(&token(plugin, key), now()).await?;
        Ok(found.live.map(|envelope| envelope.content.into_bytes()))
    }

    async fn write(
        &self,
        plugin: &str,
        key: &str,
        value: Vec<u8>,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> Result<(), StateError> {
        check_state_key(key)?;
        let bucket = self.bucket()?;
        let token = token(plugin, key);
        let envelope = Envelope { ends: end(ttl), content: Content::Value(value) };
        let tally = self.tally(plugin);
        let line = envelope.line(key);
        let before = self.room(plugin, &tally, &token, line, quota).await?;
        let error = match bucket.write(&token, &envelope, None).await {
            Ok(()) => return Ok(()),
            Err(WriteError::State(error)) => error,
            // Only a write with a revision can come too late.
            Err(WriteError::Conflict) => too_busy(),
        };
        tally.undo(&token, before);
        Err(error)
    }

    async fn forget(&self, plugin: &str, key: &str) -> Result<(), StateError> {
        check_state_key(key)?;
        let token = token(plugin, key);
        self.bucket()?.remove(&token, None).await?;
        self.tally(plugin).removed(&token);
        Ok(())
    }

    async fn count(
        &self,
        plugin: &str,
        key: &str,
        delta: i64,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> Result<i64, StateError> {
        check_state_key(key)?;
        let token = token(plugin, key);
        let _lane = self.lane(&token).await;
        let written = self.change(plugin, key, &token, quota, |found| match &found.live {
            None => Ok(Some(Envelope { ends: end(ttl), content: Content::Counter(delta) })),
            Some(Envelope { ends, content: Content::Counter(number) }) => {
                let number = number.checked_add(delta).ok_or_else(StateError::counter_overflow)?;
                Ok(Some(Envelope { ends: *ends, content: Content::Counter(number) }))
            }
            Some(Envelope { content: Content::Value(_), .. }) => Err(StateError::no_counter()),
        });
        match written.await?.map(|envelope| envelope.content) {
            Some(Content::Counter(number)) => Ok(number),
            _ => Err(StateError::no_counter()),
        }
    }

    async fn swap(
        &self,
        plugin: &str,
        key: &str,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        quota: StateQuota,
    ) -> Result<bool, StateError> {
        check_state_key(key)?;
        let token = token(plugin, key);
        let _lane = self.lane(&token).await;
        let written = self.change(plugin, key, &token, quota, |found| {
            let current = found.live.clone().map(|envelope| envelope.content.into_bytes());
            if current != expected {
                return Ok(None);
            }
            let ends = found.live.as_ref().and_then(|envelope| envelope.ends);
            Ok(Some(Envelope { ends, content: Content::Value(value.clone()) }))
        });
        Ok(written.await?.is_some())
    }

    /// Reads, lets `next` say what is to be written, and writes that unless
    /// somebody was faster; then again. `None` writes nothing.
    async fn change(
        &self,
        plugin: &str,
        key: &str,
        token: &str,
        quota: StateQuota,
        next: impl Fn(&Found) -> Result<Option<Envelope>, StateError>,
    ) -> Result<Option<Envelope>, StateError> {
        let bucket = self.bucket()?;
        for attempt in 0..TRIES {
            if attempt > 0 {
                let bound = Duration::from_millis(1 << attempt.min(16)).min(MAX_PAUSE);
                tokio::time::sleep(bound.mul_f64(random_fraction())).await;
            }
            let found = bucket.read(token, now()).await?;
            let Some(envelope) = next(&found)? else {
                return Ok(None);
            };
            let tally = self.tally(plugin);
            let (line, there) = (envelope.line(key), found.live.map(|there| there.line(key)));
            // What takes no more than before needs no room, and costs no listing.
            let before = match there {
                Some(there) if line.bytes <= there.bytes => {
                    tally.wrote(token, line);
                    Some(there)
                }
                _ => self.room(plugin, &tally, token, line, quota).await?,
            };
            let written = bucket.write(token, &envelope, Some(found.revision)).await;
            if written.is_err() {
                tally.undo(token, before);
            }
            match written {
                Ok(()) => return Ok(Some(envelope)),
                Err(WriteError::Conflict) => {}
                Err(WriteError::State(error)) => return Err(error),
            }
        }
        Err(too_busy())
    }
}

fn too_busy() -> StateError {
    StateError::Unavailable("too many write this key at the same time".to_owned())
}

/// Waits for a listing.
async fn wait(listing: Listing) -> Result<(), StateError> {
    let gone = || StateError::Unavailable("the worker is stopping".to_owned());
    listing.await.unwrap_or_else(|_| Err(gone()))
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map(millis).unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When what is written now ends.
fn end(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| now().saturating_add(millis(ttl)))
}

impl StateService for NatsState {
    fn get<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
    ) -> ServiceFuture<'a, Result<Option<Vec<u8>>, StateError>> {
        Box::pin(self.read(plugin, key))
    }

    fn set<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        value: Vec<u8>,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<(), StateError>> {
        Box::pin(self.write(plugin, key, value, ttl, quota))
    }

    fn delete<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
    ) -> ServiceFuture<'a, Result<(), StateError>> {
        Box::pin(self.forget(plugin, key))
    }

    fn increment<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        delta: i64,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<i64, StateError>> {
        Box::pin(self.count(plugin, key, delta, ttl, quota))
    }

    fn compare_and_set<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<bool, StateError>> {
        Box::pin(self.swap(plugin, key, expected, value, quota))
    }
}
