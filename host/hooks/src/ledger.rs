//! The books of one plugin's state: which keys there are, what they take, when
//! they end, and whether one more fits.
//!
//! Stores keep one for each plugin. [`crate::MemoryState`] keeps the values in it
//! too; a store on the network keeps the values there, and here what it knows of
//! them. Nothing here waits, and there is no clock: time comes in with each call,
//! in the unit that the store counts in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::services::{StateError, StateQuota};

/// Ended keys that one writing forgets beside what it needs itself, so that a
/// plugin which writes without ever reading leaves no heap of them.
const HOUSEKEEPING: usize = 32;

/// What a plugin has stored.
#[derive(Debug)]
pub struct Ledger<T, V> {
    slots: HashMap<Arc<str>, Slot<T, V>>,
    /// The keys that end, the next one first.
    due: BTreeSet<(T, Arc<str>)>,
    bytes: usize,
    ended: Total,
}

/// One key's line in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot<T, V> {
    /// What the store keeps for the key.
    pub value: V,
    /// Bytes that the key takes: its name and its value.
    pub bytes: usize,
    /// From when on it is absent; `None` is never.
    pub ends: Option<T>,
}

/// A number of keys, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Keys.
    pub keys: usize,
    /// Bytes of names and values.
    pub bytes: usize,
}

impl<T: Ord + Copy, V> Slot<T, V> {
    fn is_over(&self, now: T) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

impl<T, V> Default for Ledger<T, V> {
    fn default() -> Self {
        Self { slots: HashMap::new(), due: BTreeSet::new(), bytes: 0, ended: Total::default() }
    }
}

impl<T: Ord + Copy, V> Ledger<T, V> {
    /// The line of a key that has not ended.
    pub fn get(&self, key: &str, now: T) -> Option<&Slot<T, V>> {
        self.slots.get(key).filter(|slot| !slot.is_over(now))
    }

    /// The value of a key that has not ended, to be changed into one of the same
    /// size.
    pub fn get_mut(&mut self, key: &str, now: T) -> Option<&mut V> {
        let slot = self.slots.get_mut(key).filter(|slot| !slot.is_over(now))?;
        Some(&mut slot.value)
    }

    /// Whether `key` may now take `bytes`. Forgets keys that have ended: always a
    /// few, and as many more as it takes for `bytes` to fit, which is never more
    /// than the keys that the quota allows.
    ///
    /// What grows neither in keys nor in bytes always may, also over a quota that
    /// has become smaller.
    ///
    /// # Errors
    /// [`StateError::QuotaExceeded`], and nothing that has not ended was changed.
    pub fn admit(
        &mut self,
        key: &str,
        bytes: usize,
        quota: StateQuota,
        now: T,
    ) -> Result<(), StateError> {
        if self.slots.get(key).is_some_and(|slot| slot.is_over(now)) {
            self.end(key);
        }
        for _ in 0..HOUSEKEEPING {
            if !self.end_next(now) {
                break;
            }
        }
        while !self.fits(key, bytes, quota) {
            if !self.end_next(now) {
                return Err(StateError::QuotaExceeded);
            }
        }
        Ok(())
    }

    fn fits(&self, key: &str, bytes: usize, quota: StateQuota) -> bool {
        let old = self.slots.get(key).map(|slot| slot.bytes);
        if old.is_none() && self.slots.len() >= quota.keys {
            return false;
        }
        let old = old.unwrap_or(0);
        bytes <= old || (self.bytes - old).saturating_add(bytes) <= quota.bytes
    }

    /// Writes the line of a key, whether it fits or not.
    pub fn put(&mut self, key: &str, slot: Slot<T, V>) {
        self.remove(key);
        let key: Arc<str> = key.into();
        self.bytes += slot.bytes;
        if let Some(ends) = slot.ends {
            self.due.insert((ends, Arc::clone(&key)));
        }
        self.slots.insert(key, slot);
    }

    /// Strikes a key out, if it is there.
    pub fn remove(&mut self, key: &str) -> Option<Slot<T, V>> {
        let (key, slot) = self.slots.remove_entry(key)?;
        self.bytes -= slot.bytes;
        if let Some(ends) = slot.ends {
            self.due.remove(&(ends, key));
        }
        Some(slot)
    }

    /// What is there, with what has ended and is not forgotten yet.
    pub fn total(&self) -> Total {
        Total { keys: self.slots.len(), bytes: self.bytes }
    }

    /// What has been forgotten because it ended, since the ledger was made.
    pub fn ended(&self) -> Total {
        self.ended
    }

    /// Forgets the key that ended first; false if none has.
    fn end_next(&mut self, now: T) -> bool {
        match self.due.first() {
            Some((ends, key)) if *ends <= now => {
                let key = Arc::clone(key);
                self.end(&key);
                true
            }
            _ => false,
        }
    }

    fn end(&mut self, key: &str) {
        if let Some(slot) = self.remove(key) {
            self.ended.keys += 1;
            self.ended.bytes = self.ended.bytes.saturating_add(slot.bytes);
        }
    }
}
