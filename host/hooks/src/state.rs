//! State in memory: a store for workers that do not share theirs.
//!
//! What fits and what has ended is decided by [`crate::ledger::Ledger`]; what a plugin
//! may pass is checked where it calls (`imports`). A store that several workers
//! share is the worker's own.

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::ledger::{Ledger, Slot};
use crate::services::{ServiceFuture, StateError, StateQuota, StateService};

/// Longest key of `state`, in bytes.
pub const MAX_STATE_KEY_BYTES: usize = 1024;

/// What a counter takes beside its key.
const COUNTER_BYTES: usize = size_of::<i64>();

/// Keeps everything in this process, and forgets it with the process.
///
/// A plugin's state survives its reload, and its removal too. The quota counts
/// keys and values; what the maps take themselves, some 200 bytes a key, comes on
/// top.
pub struct MemoryState {
    clock: Clock,
    /// By plugin, each with a lock of its own: one that forgets many keys holds
    /// up nobody else.
    plugins: RwLock<HashMap<String, Arc<Mutex<Books>>>>,
}

type Clock = Box<dyn Fn() -> Instant + Send + Sync>;
type Books = Ledger<Instant, Value>;

/// What a key holds.
#[derive(Debug)]
enum Value {
    Bytes(Vec<u8>),
    Counter(i64),
}

impl Value {
    fn read(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Counter(number) => number.to_string().into_bytes(),
        }
    }

    /// Whether a plugin that reads the key would get `expected`.
    fn reads_as(&self, expected: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => bytes == expected,
            Self::Counter(number) => number.to_string().as_bytes() == expected,
        }
    }
}

/// Whether `key` can be one of `state`: 1 to [`MAX_STATE_KEY_BYTES`] bytes.
///
/// # Errors
/// [`StateError::Other`] with a text for the plugin's author.
pub fn check_state_key(key: &str) -> Result<(), StateError> {
    if (1..=MAX_STATE_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    let length = key.len();
    Err(StateError::Other(format!(
        "a key of `state` has 1 to {MAX_STATE_KEY_BYTES} bytes, and this one has {length}"
    )))
}

impl StateError {
    /// A key is to be counted up that holds no counter.
    pub fn no_counter() -> Self {
        Self::Other(
            "the key holds a value that was set, and no counter; delete it, or count under \
             another key"
                .to_owned(),
        )
    }

    /// A counter would leave the range of its numbers.
    pub fn counter_overflow() -> Self {
        Self::Other("the counter would leave the range of 64-bit numbers".to_owned())
    }
}

impl Default for MemoryState {
    fn default() -> Self {
        Self::with_clock(Box::new(Instant::now))
    }
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryState").finish_non_exhaustive()
    }
}

impl MemoryState {
    fn with_clock(clock: Clock) -> Self {
        Self { clock, plugins: RwLock::default() }
    }

    /// The books of a plugin, if it has ever written.
    fn known(&self, plugin: &str) -> Option<Arc<Mutex<Books>>> {
        let plugins = self.plugins.read().unwrap_or_else(PoisonError::into_inner);
        plugins.get(plugin).map(Arc::clone)
    }

    /// The books of a plugin that writes.
    fn books(&self, plugin: &str) -> Arc<Mutex<Books>> {
        self.known(plugin).unwrap_or_else(|| {
            let mut plugins = self.plugins.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(plugins.entry(plugin.to_owned()).or_default())
        })
    }

    fn read(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        check_state_key(key)?;
        let now = (self.clock)();
        Ok(self.known(plugin).and_then(|books| {
            let books = lock(&books);
            books.get(key, now).map(|slot| slot.value.read())
        }))
    }

    fn write(
        &self,
        plugin: &str,
        key: &str,
        value: Vec<u8>,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> Result<(), StateError> {
        check_state_key(key)?;
        let now = (self.clock)();
        let books = self.books(plugin);
        let mut books = lock(&books);
        let bytes = key.len() + value.len();
        books.admit(key, bytes, quota, now)?;
        books.put(key, Slot { value: Value::Bytes(value), bytes, ends: end(now, ttl) });
        Ok(())
    }

    fn forget(&self, plugin: &str, key: &str) -> Result<(), StateError> {
        check_state_key(key)?;
        if let Some(books) = self.known(plugin) {
            lock(&books).remove(key);
        }
        Ok(())
    }

    fn count(
        &self,
        plugin: &str,
        key: &str,
        delta: i64,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> Result<i64, StateError> {
        check_state_key(key)?;
        let now = (self.clock)();
        let books = self.books(plugin);
        let mut books = lock(&books);
        match books.get_mut(key, now) {
            Some(Value::Counter(number)) => {
                *number = number.checked_add(delta).ok_or_else(StateError::counter_overflow)?;
                Ok(*number)
            }
            Some(Value::Bytes(_)) => Err(StateError::no_counter()),
            None => {
                let bytes = key.len() + COUNTER_BYTES;
                books.admit(key, bytes, quota, now)?;
                books.put(key, Slot { value: Value::Counter(delta), bytes, ends: end(now, ttl) });
                Ok(delta)
            }
        }
    }

    fn swap(
        &self,
        plugin: &str,
        key: &str,
        expected: Option<&[u8]>,
        value: Vec<u8>,
        quota: StateQuota,
    ) -> Result<bool, StateError> {
        check_state_key(key)?;
        let now = (self.clock)();
        let books = self.books(plugin);
        let mut books = lock(&books);
        let current = books.get(key, now);
        let holds = match (current, expected) {
            (None, None) => true,
            (Some(slot), Some(expected)) => slot.value.reads_as(expected),
            _ => false,
        };
        if !holds {
            return Ok(false);
        }
        let ends = current.and_then(|slot| slot.ends);
        let bytes = key.len() + value.len();
        books.admit(key, bytes, quota, now)?;
        books.put(key, Slot { value: Value::Bytes(value), bytes, ends });
        Ok(true)
    }
}

/// When what is written now ends. A time that is too far for the clock is never.
fn end(now: Instant, ttl: Option<Duration>) -> Option<Instant> {
    ttl.and_then(|ttl| now.checked_add(ttl))
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing here waits, so every answer is there at once.
impl StateService for MemoryState {
    fn get<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
    ) -> ServiceFuture<'a, Result<Option<Vec<u8>>, StateError>> {
        Box::pin(ready(self.read(plugin, key)))
    }

    fn set<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        value: Vec<u8>,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<(), StateError>> {
        Box::pin(ready(self.write(plugin, key, value, ttl, quota)))
    }

    fn delete<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
    ) -> ServiceFuture<'a, Result<(), StateError>> {
        Box::pin(ready(self.forget(plugin, key)))
    }

    fn increment<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        delta: i64,
        ttl: Option<Duration>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<i64, StateError>> {
        Box::pin(ready(self.count(plugin, key, delta, ttl, quota)))
    }

    fn compare_and_set<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a str,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        quota: StateQuota,
    ) -> ServiceFuture<'a, Result<bool, StateError>> {
        Box::pin(ready(self.swap(plugin, key, expected.as_deref(), value, quota)))
    }
}

#[cfg(test)]
mod tests;
