//! Which loaded models are kept: a plain value without threads, files or clocks.
//!
//! [`super::store`] holds one under its lock and does what it says.

use std::time::Duration;

/// The store's number of one loaded model.
pub type Id = u64;

/// Loaded models, of the type `M`.
#[derive(Debug)]
pub struct Shelf<M> {
    max_ready: usize,
    next_id: Id,
    entries: Vec<Entry<M>>,
}

#[derive(Debug)]
struct Entry<M> {
    id: Id,
    name: String,
    n_ctx: u32,
    model: M,
    leases: usize,
    last_used: Duration,
    is_retired: bool,
}

impl<M: Clone> Shelf<M> {
    /// A shelf for this many ready models, at least one.
    pub fn new(max_ready: usize) -> Self {
        Self { max_ready: max_ready.max(1), next_id: 0, entries: Vec::new() }
    }

    /// Takes a lease on a model of this name with at least this context. A
    /// retired one is ready again by it, which may retire another one: what
    /// nobody uses any more is returned, to be freed.
    pub fn lease(&mut self, now: Duration, name: &str, n_ctx: u32) -> Option<(Id, M, Vec<M>)> {
        let entry =
            self.entries.iter_mut().find(|entry| entry.name == name && entry.n_ctx >= n_ctx)?;
        entry.leases += 1;
        entry.last_used = now;
        let (id, model) = (entry.id, entry.model.clone());
        if std::mem::replace(&mut entry.is_retired, false) {
            self.retire_surplus(id);
        }
        Some((id, model, self.take_unused()))
    }

    /// Gives a lease back; returns what is to be freed.
    pub fn give_back(&mut self, id: Id) -> Vec<M> {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.leases -= 1;
        }
        self.take_unused()
    }

    /// Adds a loaded model, in place of one with the same name and of those used
    /// longest ago; returns what is to be freed.
    pub fn admit(&mut self, now: Duration, name: &str, n_ctx: u32, model: M) -> Vec<M> {
        let id = self.next_id;
        self.next_id += 1;
        for entry in &mut self.entries {
            entry.is_retired |= entry.name == name;
        }
        self.entries.push(Entry {
            id,
            name: name.to_owned(),
            n_ctx,
            model,
            leases: 0,
            last_used: now,
            is_retired: false,
        });
        self.retire_surplus(id);
        self.take_unused()
    }

    /// Retires everything; returns what is to be freed.
    pub fn retire_all(&mut self) -> Vec<M> {
        for entry in &mut self.entries {
            entry.is_retired = true;
        }
        self.take_unused()
    }

    /// The model of this name, the largest if there are several.
    pub fn get(&self, name: &str) -> Option<M> {
        let entries = self.entries.iter().filter(|entry| entry.name == name);
        entries.max_by_key(|entry| entry.n_ctx).map(|entry| entry.model.clone())
    }

    /// Retires the models used longest ago until there are few enough. `keep`
    /// stays.
    fn retire_surplus(&mut self, keep: Id) {
        while self.entries.iter().filter(|entry| !entry.is_retired).count() > self.max_ready {
            let oldest = self
                .entries
                .iter_mut()
                .filter(|entry| !entry.is_retired && entry.id != keep)
                .min_by_key(|entry| entry.last_used);
            let Some(oldest) = oldest else { return };
            oldest.is_retired = true;
        }
    }

    fn take_unused(&mut self) -> Vec<M> {
        let gone = self.entries.extract_if(.., |entry| entry.is_retired && entry.leases == 0);
        let gone = gone.map(|entry| {
            tracing::info!(model = entry.name, "model released");
            entry.model
        });
        gone.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Leases a model that must be there and frees nothing.
    #[track_caller]
    fn lease(shelf: &mut Shelf<&'static str>, at: u64, name: &str, n_ctx: u32) -> Id {
        let (id, _, freed) = shelf.lease(s(at), name, n_ctx).unwrap();
        assert_eq!(freed, Vec::<&str>::new());
        id
    }

    #[test]
    fn a_context_that_is_large_enough_is_used() {
        let mut shelf = Shelf::new(1);
        assert!(shelf.lease(s(0), "a", 1).is_none());
        assert!(shelf.admit(s(0), "a", 4096, "a4096").is_empty());
        assert!(shelf.lease(s(0), "a", 4097).is_none());
        assert!(shelf.lease(s(0), "b", 1).is_none());
        let (_, model, _) = shelf.lease(s(0), "a", 4096).unwrap();
        assert_eq!(model, "a4096");
    }

    #[test]
    fn a_replaced_model_is_freed_with_its_last_lease() {
        let mut shelf = Shelf::new(1);
        shelf.admit(s(0), "a", 1, "a");
        let (one, two) = (lease(&mut shelf, 1, "a", 1), lease(&mut shelf, 2, "a", 1));
        assert!(shelf.admit(s(3), "b", 1, "b").is_empty());
        assert!(shelf.give_back(one).is_empty());
        assert_eq!(shelf.give_back(two), ["a"]);
        assert_eq!(shelf.get("a"), None);
        assert_eq!(shelf.get("b"), Some("b"));
    }

    #[test]
    fn an_unused_model_is_freed_at_once_when_replaced() {
        let mut shelf = Shelf::new(1);
        shelf.admit(s(0), "a", 1, "a");
        let id = lease(&mut shelf, 1, "a", 1);
        assert!(shelf.give_back(id).is_empty());
        assert_eq!(shelf.admit(s(2), "b", 1, "b"), ["a"]);
    }

    #[test]
    fn the_one_used_longest_ago_goes_first() {
        let mut shelf = Shelf::new(2);
        shelf.admit(s(0), "a", 1, "a");
        shelf.admit(s(1), "b", 1, "b");
        let id = lease(&mut shelf, 2, "a", 1);
        shelf.give_back(id);
        assert_eq!(shelf.admit(s(3), "c", 1, "c"), ["b"]);
        assert!(shelf.get("a").is_some() && shelf.get("c").is_some());
    }

    #[test]
    fn a_larger_context_replaces_the_smaller_one_of_the_same_model() {
        let mut shelf = Shelf::new(4);
        shelf.admit(s(0), "a", 10, "small");
        let id = lease(&mut shelf, 1, "a", 10);
        assert!(shelf.admit(s(2), "a", 20, "large").is_empty());
        // Hooks of either job find the vocabulary, which is the same.
        assert_eq!(shelf.get("a"), Some("large"));
        assert_eq!(shelf.give_back(id), ["small"]);
    }

    #[test]
    fn a_retired_model_is_taken_back_into_use() {
        let mut shelf = Shelf::new(1);
        shelf.admit(s(0), "a", 1, "a");
        let first = lease(&mut shelf, 1, "a", 1);
        shelf.admit(s(2), "b", 1, "b");
        // While its job runs, another one wants it: now b is the one too many.
        let (second, model, freed) = shelf.lease(s(3), "a", 1).unwrap();
        assert_eq!((model, freed), ("a", vec!["b"]));
        assert!(shelf.give_back(first).is_empty());
        assert!(shelf.give_back(second).is_empty());
        assert_eq!(shelf.get("a"), Some("a"));
    }

    #[test]
    fn at_the_end_everything_is_freed() {
        let mut shelf = Shelf::new(2);
        shelf.admit(s(0), "a", 1, "a");
        shelf.admit(s(0), "b", 1, "b");
        let id = lease(&mut shelf, 1, "b", 1);
        assert_eq!(shelf.retire_all(), ["a"]);
        assert_eq!(shelf.give_back(id), ["b"]);
    }
}
