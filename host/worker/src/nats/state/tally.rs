//! What this worker knows of one plugin's part of the bucket, for its quota.
//!
//! The bucket itself knows nothing of plugins, and counting it for every write
//! would cost more than the write. So the worker lists a plugin's keys before its
//! first new one, keeps the books of its own writes from there on, and lists anew
//! now and then, which brings in what other workers wrote meanwhile. A quota is
//! therefore exact for one worker's writes, but for those that are under way while
//! it lists, and a plugin can exceed it by what the rest of the fleet adds between
//! two listings.
//!
//! What has ended does not count, but stands in the bucket until it is swept out
//! after a listing. How much of it there may be is bounded too. This module only
//! decides; `bucket` lists and sweeps.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use llamero_hooks::ledger::{Ledger, Slot, Total};
use llamero_hooks::{StateError, StateQuota};

/// After this time a write makes the worker list again, in the background.
pub const RELIST: Duration = Duration::from_secs(10);

/// A write over the quota waits for a new listing, but not more often than this:
/// another worker may have made room.
pub const RECHECK: Duration = Duration::from_secs(1);

/// What may have ended and not be swept, if the quota is not larger.
const UNSWEPT: Total = Total { keys: 1_000, bytes: 1 << 20 };

/// A key in the books: what it takes and when it ends.
pub type Line = Slot<u64, ()>;

/// One key of the bucket, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key as it stands in the bucket, without the plugin.
    pub token: String,
    /// The number of the entry.
    pub revision: u64,
    /// What it takes, as quotas count it.
    pub bytes: usize,
    /// Milliseconds since 1970 from which on it is absent.
    pub ends: Option<u64>,
}

/// What to do before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// List in the background.
    List,
    /// List, and wait for it.
    ListFirst,
}

/// The books of one plugin.
#[derive(Debug, Default)]
pub struct Tally {
    books: Mutex<Books>,
    /// Held while the plugin's keys are listed.
    pub listing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Books {
    /// Only its own writes until the first listing.
    ledger: Ledger<u64, ()>,
    listed: Option<Instant>,
    /// What the last listing found that had ended, less what was swept.
    unswept: Total,
}

impl Tally {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago the keys were last listed, if ever.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.books().listed.map(|at| now.saturating_duration_since(at))
    }

    /// Whether to list before a new key, or a larger value, is written.
    pub fn before(&self, quota: StateQuota, now: Instant) -> Before {
        let books = self.books();
        let Some(listed) = books.listed else {
            return Before::ListFirst;
        };
        let age = now.saturating_duration_since(listed);
        let (ended, most) = (books.ended(), most_unswept(quota));
        let much = ended.keys > most.keys / 2 || ended.bytes > most.bytes / 2;
        if age >= RELIST || (much && age >= RECHECK) { Before::List } else { Before::Nothing }
    }

    /// Enters a key before it is written, if it fits, and returns what was entered
    /// for it before. Calls that write at the same time so see each other. A call
    /// that is stopped in between leaves its entry until the next listing.
    ///
    /// # Errors
    /// [`StateError::QuotaExceeded`]; [`StateError::Unavailable`] while too much
    /// that has ended waits to be swept.
    pub fn reserve(
        &self,
        token: &str,
        line: Line,
        quota: StateQuota,
        now: u64,
    ) -> Result<Option<Line>, StateError> {
        let mut books = self.books();
        books.admit(token, line.bytes, quota, now)?;
        let old = books.ledger.remove(token);
        books.ledger.put(token, line);
        Ok(old)
    }

    /// Takes back an entry whose writing failed.
    pub fn undo(&self, token: &str, old: Option<Line>) {
        let mut books = self.books();
        match old {
            Some(line) => books.ledger.put(token, line),
            None => drop(books.ledger.remove(token)),
        }
    }

    /// Enters what this worker has written.
    pub fn wrote(&self, token: &str, line: Line) {
        self.books().ledger.put(token, line);
    }

    /// Strikes out what this worker has removed.
    pub fn removed(&self, token: &str) {
        self.books().ledger.remove(token);
    }

    /// Begins anew with a listing. Returns what has ended at `ended_at`.
    pub fn begin(&self, listed: Vec<Listed>, ended_at: u64, now: Instant) -> Vec<Listed> {
        let mut books = Books { listed: Some(now), ..Books::default() };
        let mut ended = Vec::new();
        let mut seen = HashSet::new();
        for line in listed {
            // A key that was written while the bucket was listed comes twice; the
            // first line is the older one.
            if !seen.insert(line.token.clone()) {
                books.ledger.remove(&line.token);
            }
            if line.ends.is_some_and(|ends| ends <= ended_at) {
                books.unswept.keys += 1;
                books.unswept.bytes = books.unswept.bytes.saturating_add(line.bytes);
                ended.push(line);
            } else {
                let entry = Line { value: (), bytes: line.bytes, ends: line.ends };
                books.ledger.put(&line.token, entry);
            }
        }
        *self.books() = books;
        ended
    }

    /// Enters that an ended key is out of the bucket.
    pub fn swept(&self, line: &Listed) {
        let mut books = self.books();
        books.unswept.keys = books.unswept.keys.saturating_sub(1);
        books.unswept.bytes = books.unswept.bytes.saturating_sub(line.bytes);
    }
}

impl Books {
    /// Whether `token` may take `bytes`.
    fn admit(
        &mut self,
        token: &str,
        bytes: usize,
        quota: StateQuota,
        now: u64,
    ) -> Result<(), StateError> {
        self.ledger.admit(token, bytes, quota, now)?;
        let (ended, most) = (self.ended(), most_unswept(quota));
        if ended.keys > most.keys || ended.bytes > most.bytes {
            return Err(StateError::Unavailable(
                "too many values that have ended wait to be removed from the bucket".to_owned(),
            ));
        }
        Ok(())
    }

    /// What stands in the bucket and has ended, as far as is known.
    fn ended(&self) -> Total {
        let since = self.ledger.ended();
        Total {
            keys: self.unswept.keys.saturating_add(since.keys),
            bytes: self.unswept.bytes.saturating_add(since.bytes),
        }
    }
}

fn most_unswept(quota: StateQuota) -> Total {
    Total { keys: quota.keys.max(UNSWEPT.keys), bytes: quota.bytes.max(UNSWEPT.bytes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;

    const QUOTA: StateQuota = StateQuota { bytes: 100, keys: 3 };

    fn line(token: &str, bytes: usize, ends: Option<u64>) -> Listed {
        Listed { token: token.to_owned(), revision: 1, bytes, ends }
    }

    fn entry(bytes: usize, ends: Option<u64>) -> Line {
        Line { value: (), bytes, ends }
    }

    #[test]
    fn writes_at_the_same_time_see_each_other() {
        let tally = Tally::default();
        tally.begin(vec![line("a", 30, None)], 0, Instant::now());
        let reserve = |token: &str, bytes| tally.reserve(token, entry(bytes, None), QUOTA, 0);
        assert_eq!(reserve("b", 70), Ok(None));
        assert_eq!(reserve("c", 1), Err(StateError::QuotaExceeded));
        tally.undo("b", None);
        assert_eq!(reserve("c", 1), Ok(None));
        let old = reserve("a", 99).unwrap();
        assert_eq!(old, Some(entry(30, None)));
        tally.undo("a", old);
        assert_eq!(reserve("b", 70), Err(StateError::QuotaExceeded));
        assert_eq!(reserve("b", 69), Ok(None));
    }

    #[test]
    fn the_first_write_waits_for_a_listing_and_later_ones_do_not() {
        let tally = Tally::default();
        let start = Instant::now();
        assert_eq!(tally.before(QUOTA, start), Before::ListFirst);
        tally.begin(Vec::new(), 0, start);
        assert_eq!(tally.before(QUOTA, start), Before::Nothing);
        assert_eq!(tally.before(QUOTA, start + RELIST), Before::List);
        assert_eq!(tally.age(start + RELIST), Some(RELIST));
    }

    #[test]
    fn others_keys_count_from_the_next_listing_on() {
        let tally = Tally::default();
        let now = Instant::now();
        tally.begin(vec![line("a", 40, None)], 0, now);
        tally.wrote("b", entry(40, None));
        assert_eq!(tally.books().admit("c", 21, QUOTA, 0), Err(StateError::QuotaExceeded));
        assert_eq!(tally.books().admit("c", 20, QUOTA, 0), Ok(()));
        tally.removed("b");
        assert_eq!(tally.books().admit("c", 60, QUOTA, 0), Ok(()));
        let three = ["a", "x", "y"].map(|token| line(token, 1, None));
        tally.begin(three.to_vec(), 0, now);
        assert_eq!(tally.books().admit("c", 1, QUOTA, 0), Err(StateError::QuotaExceeded));
        assert_eq!(tally.books().admit("y", 90, QUOTA, 0), Ok(()));
    }

    #[test]
    fn a_key_that_is_listed_twice_counts_as_it_is_now() {
        let tally = Tally::default();
        let lines = vec![line("a", 90, None), line("b", 1, None), line("a", 10, None)];
        tally.begin(lines, 0, Instant::now());
        assert_eq!(tally.books().admit("c", 89, QUOTA, 0), Ok(()));
        assert_eq!(tally.books().admit("c", 90, QUOTA, 0), Err(StateError::QuotaExceeded));
    }

    #[test]
    fn what_has_ended_takes_no_room_but_must_be_swept_in_time() {
        let tally = Tally::default();
        let now = Instant::now();
        let ended: Vec<_> = (0..=600).map(|n| line(&format!("k{n}"), 1, Some(5))).collect();
        let to_sweep = tally.begin(ended.clone(), 10, now);
        assert_eq!(to_sweep, ended);
        // More than half of what may wait: listed, and so swept, sooner.
        assert_eq!(tally.before(QUOTA, now), Before::Nothing);
        assert_eq!(tally.before(QUOTA, now + RECHECK), Before::List);
        assert_eq!(tally.books().admit("a", 100, QUOTA, 10), Ok(()));
        // What ends later is noticed here, and waits as well.
        let quota = StateQuota { bytes: 1 << 20, keys: 500 };
        for n in 0..400 {
            tally.wrote(&format!("later{n}"), entry(1, Some(20)));
        }
        assert_eq!(tally.books().admit("a", 1, quota, 10), Ok(()));
        let refused = (0..20).find_map(|_| tally.books().admit("a", 1, quota, 20).err());
        assert!(matches!(refused, Some(StateError::Unavailable(_))), "{refused:?}");
        for line in &to_sweep {
            tally.swept(line);
        }
        assert_eq!(tally.books().admit("a", 1, quota, 20), Ok(()));
    }
}
