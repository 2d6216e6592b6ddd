//! Names that are remembered for a while, bounded in time and number.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{JobName, Time};

/// A set of names, each forgotten after `keep`; the oldest goes first when there
/// are more than `capacity`.
#[derive(Debug)]
pub struct Recent {
    keep: Duration,
    capacity: usize,
    /// When each name was last inserted.
    names: HashMap<JobName, Time>,
    /// All insertions in order of time. A name that was inserted again, or removed,
    /// has older entries here, which count for nothing.
    order: VecDeque<(Time, JobName)>,
}

impl Recent {
    pub fn new(keep: Duration, capacity: usize) -> Self {
        Self { keep, capacity, names: HashMap::new(), order: VecDeque::new() }
    }

    pub fn insert(&mut self, now: Time, name: JobName) {
        self.order.push_back((now, name.clone()));
        self.names.insert(name, now);
        // `order` is what is bounded: it is never shorter than `names`.
        while self.order.len() > self.capacity {
            self.drop_oldest();
        }
    }

    /// Valid for the time of the last [`Recent::expire`].
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Forgets a name before its time.
    pub fn remove(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// Forgets what is older than `keep`.
    pub fn expire(&mut self, now: Time) {
        while let Some((at, _)) = self.order.front()
            && *at + self.keep <= now
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((at, name)) = self.order.pop_front()
            && self.names.get(&name) == Some(&at)
            // Inserted again at the very same moment: a later entry stands for it.
            && !self.order.iter().take_while(|(later, _)| *later == at).any(|(_, other)| *other == name)
        {
            self.names.remove(&name);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn names_are_forgotten_after_their_time() {
        let mut recent = Recent::new(s(5), 10);
        recent.insert(s(0), "a".into());
        recent.insert(s(3), "b".into());
        recent.expire(s(4));
        assert!(recent.contains("a") && recent.contains("b"));
        recent.expire(s(5));
        assert!(!recent.contains("a") && recent.contains("b"));
    }

    #[test]
    fn a_name_that_comes_again_lives_from_its_last_time() {
        let mut recent = Recent::new(s(5), 10);
        recent.insert(s(0), "a".into());
        recent.insert(s(3), "a".into());
        recent.insert(s(3), "a".into());
        recent.expire(s(5));
        assert!(recent.contains("a"));
        recent.expire(s(8));
        assert!(!recent.contains("a"));
        assert_eq!(recent.len(), 0);
    }

    #[test]
    fn a_name_that_was_removed_can_come_again() {
        let mut recent = Recent::new(s(5), 10);
        recent.insert(s(0), "a".into());
        recent.remove("a");
        recent.remove("b");
        assert!(!recent.contains("a"));
        recent.insert(s(3), "a".into());
        recent.expire(s(7));
        assert!(recent.contains("a"), "the first time of it counts for nothing");
        recent.expire(s(8));
        assert!(!recent.contains("a"));
        assert_eq!(recent.len(), 0);
    }

    #[test]
    fn the_oldest_goes_first_when_there_are_too_many() {
        let mut recent = Recent::new(s(5), 2);
        for (at, name) in [(0, "a"), (1, "b"), (2, "c")] {
            recent.insert(s(at), name.into());
        }
        assert!(!recent.contains("a") && recent.contains("b") && recent.contains("c"));
        assert_eq!(recent.len(), 2);
    }
}
