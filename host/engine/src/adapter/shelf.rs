//! Which adapters are kept: a plain value without threads, and without files but
//! for what tells two versions of one apart.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::AdapterError;

/// What a file was like when it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    changed: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, AdapterError> {
        let metadata = std::fs::metadata(path).map_err(AdapterError::Io)?;
        Ok(Self { length: metadata.len(), changed: metadata.modified().ok() })
    }
}

#[derive(Debug)]
struct Kept<A> {
    path: PathBuf,
    stamp: Stamp,
    adapter: A,
    /// Grows with every use.
    used: u64,
}

/// The adapters of one model.
#[derive(Debug)]
pub(super) struct Shelf<A> {
    max: usize,
    clock: u64,
    kept: Vec<Kept<A>>,
}

impl<A: Clone> Shelf<A> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, clock: 0, kept: Vec::new() }
    }

    /// The adapter of a file, if it is there and the file is as it was.
    pub(super) fn get(&mut self, path: &Path, stamp: Stamp) -> Option<A> {
        self.clock += 1;
        let kept = self.kept.iter_mut().find(|kept| kept.path == path && kept.stamp == stamp)?;
        kept.used = self.clock;
        Some(kept.adapter.clone())
    }

    /// Takes out those used longest ago until there is room for one more, and
    /// returns them. One that is in use stays.
    pub(super) fn make_room(
        &mut self,
        in_use: impl Fn(&A) -> bool,
    ) -> Result<Vec<A>, AdapterError> {
        if self.max == 0 {
            return Err(AdapterError::Off);
        }
        let mut removed = Vec::new();
        while self.kept.len() >= self.max {
            let oldest = self.take_unused(&in_use);
            removed.push(oldest.ok_or(AdapterError::Full { max: self.max })?);
        }
        Ok(removed)
    }

    /// Takes out the one used longest ago of those that are not in use.
    pub(super) fn take_unused(&mut self, in_use: impl Fn(&A) -> bool) -> Option<A> {
        let unused = self.kept.iter().enumerate().filter(|(_, kept)| !in_use(&kept.adapter));
        let (at, _) = unused.min_by_key(|(_, kept)| kept.used)?;
        Some(self.kept.swap_remove(at).adapter)
    }

    /// Adds one for which there is room, in place of an older version of its file:
    /// that one leaves memory with its last job.
    pub(super) fn insert(&mut self, path: &Path, stamp: Stamp, adapter: A) {
        self.clock += 1;
        self.kept.retain(|kept| kept.path != path);
        self.kept.push(Kept { path: path.to_path_buf(), stamp, adapter, used: self.clock });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;

    const STAMP: Stamp = Stamp { length: 1, changed: None };

    fn add(shelf: &mut Shelf<&'static str>, name: &'static str) -> Vec<&'static str> {
        let removed = shelf.make_room(|_| false).unwrap();
        shelf.insert(Path::new(name), STAMP, name);
        removed
    }

    #[test]
    fn the_one_used_longest_ago_goes() {
        let mut shelf = Shelf::new(2);
        assert!(add(&mut shelf, "a").is_empty());
        assert!(add(&mut shelf, "b").is_empty());
        assert_eq!(shelf.get(Path::new("a"), STAMP), Some("a"));
        assert_eq!(add(&mut shelf, "c"), ["b"]);
        assert_eq!(shelf.get(Path::new("b"), STAMP), None);
        assert_eq!(shelf.get(Path::new("a"), STAMP), Some("a"));
    }

    #[test]
    fn those_in_use_stay() {
        let mut shelf = Shelf::new(2);
        add(&mut shelf, "a");
        add(&mut shelf, "b");
        assert_eq!(shelf.make_room(|name| *name == "a").unwrap(), ["b"]);
        add(&mut shelf, "b");
        let full = shelf.make_room(|_| true);
        assert!(matches!(full, Err(AdapterError::Full { max: 2 })), "{full:?}");
        // Nothing was taken out for nothing.
        assert!(shelf.get(Path::new("a"), STAMP).is_some());
        assert!(shelf.get(Path::new("b"), STAMP).is_some());
    }

    #[test]
    fn unused_ones_are_taken_one_by_one() {
        let mut shelf = Shelf::new(3);
        for name in ["a", "b", "c"] {
            add(&mut shelf, name);
        }
        let in_use = |name: &&str| *name == "b";
        let taken: Vec<_> = std::iter::from_fn(|| shelf.take_unused(in_use)).collect();
        assert_eq!(taken, ["a", "c"]);
        assert!(shelf.get(Path::new("b"), STAMP).is_some());
    }

    #[test]
    fn a_changed_file_is_another_adapter() {
        let mut shelf = Shelf::new(2);
        add(&mut shelf, "a");
        let changed = Stamp { length: 2, changed: None };
        assert_eq!(shelf.get(Path::new("a"), changed), None);
        shelf.insert(Path::new("a"), changed, "new");
        assert_eq!(shelf.get(Path::new("a"), changed), Some("new"));
        assert_eq!(shelf.get(Path::new("a"), STAMP), None);
        assert!(add(&mut shelf, "b").is_empty(), "the old one takes no place");
    }

    #[test]
    fn none_can_be_kept() {
        let mut shelf = Shelf::<&str>::new(0);
        assert!(matches!(shelf.make_room(|_| false), Err(AdapterError::Off)));
    }
}
