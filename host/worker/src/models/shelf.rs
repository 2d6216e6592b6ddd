//! Which loaded models are kept: a plain value without threads, files or clocks.
//!
//! [`super::store`] holds one under its lock and does what it says.
//!
//! The shelf also keeps the books of memory. A model counts from the moment a load
//! is promised its room until the store says that it is [gone](Shelf::gone): a
//! replaced model that still serves its jobs, or that is being freed just now,
//! takes as much memory as any other. Adapters count as parts of their model, one by
//! one, because they come and go while it stays.

use std::time::Duration;

/// The store's number of one loaded model.
pub type Id = u64;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Ready models, at least one.
    pub max_ready: usize,
    /// Bytes that all models may take together.
    pub budget: Option<u64>,
    /// For how long a model stays that nobody uses.
    pub keep_alive: Option<Duration>,
}

/// Loaded models, of the type `M`.
#[derive(Debug)]
pub struct Shelf<M> {
    limits: Limits,
    next_id: Id,
    entries: Vec<Entry<M>>,
    /// Models that were handed out to be freed, with their bytes.
    leaving: Vec<(Id, u64)>,
    /// Bytes promised to the load in progress.
    promised: u64,
}

#[derive(Debug)]
struct Entry<M> {
    id: Id,
    name: String,
    n_ctx: u32,
    /// With those of its adapters.
    bytes: u64,
    model: M,
    leases: usize,
    last_used: Duration,
    /// Goes with its last lease, unless it is wanted before that.
    is_retired: bool,
    /// Goes with its last lease, and takes no new ones: a load waits for its room.
    is_closed: bool,
}

/// A model that nobody uses any more, to be freed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it counts until it is said to be gone"]
pub struct Released<M> {
    /// For [`Shelf::gone`].
    pub id: Id,
    /// The model.
    pub model: M,
}

/// Whether there is room for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is, and it is promised to the caller until [`Shelf::admit`] or
    /// [`Shelf::give_up`].
    Promised,
    /// There will be, when jobs have ended and models are gone.
    Later,
    /// It is more than the budget.
    Never,
}

impl<M: Clone> Shelf<M> {
    /// An empty shelf.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { max_ready: limits.max_ready.max(1), ..limits };
        Self { limits, next_id: 0, entries: Vec::new(), leaving: Vec::new(), promised: 0 }
    }

    /// Takes a lease on a model of this name with at least this context. A
    /// retired one is ready again by it, which may retire another one: what
    /// nobody uses any more is returned, to be freed.
    pub fn lease(
        &mut self,
        now: Duration,
        name: &str,
        n_ctx: u32,
    ) -> Option<(Id, M, Vec<Released<M>>)> {
        let entry = self
            .entries
            .iter_mut()
            .filter(|entry| entry.name == name && entry.n_ctx >= n_ctx)
            .filter(|entry| !entry.is_closed)
            .min_by_key(|entry| entry.is_retired)?;
        entry.leases += 1;
        entry.last_used = now;
        let (id, model) = (entry.id, entry.model.clone());
        if std::mem::replace(&mut entry.is_retired, false) {
            self.retire_surplus(id);
        }
        Some((id, model, self.take_unused()))
    }

    /// Gives a lease back; returns what is to be freed.
    pub fn give_back(&mut self, now: Duration, id: Id) -> Vec<Released<M>> {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.leases -= 1;
            entry.last_used = now;
        }
        self.take_unused()
    }

    /// Asks for room for a model of this name; returns what is to be freed for it.
    ///
    /// Models that nobody uses make room, the one used longest ago first, and
    /// before all others those that the new one replaces anyway. If that is not
    /// enough, models in use are closed, likewise: they keep their jobs, and take
    /// no more. So a load waits for jobs that run, never for jobs that keep
    /// coming. Nothing is changed for a model that can never fit.
    pub fn make_room(&mut self, name: &str, need: u64) -> (Room, Vec<Released<M>>) {
        let Some(budget) = self.limits.budget else {
            self.promised = need;
            return (Room::Promised, Vec::new());
        };
        if need > budget {
            return (Room::Never, Vec::new());
        }
        let mut order: Vec<&mut Entry<M>> = self.entries.iter_mut().collect();
        // Of those in use, the closed ones stay closed, or models that are used in
        // turns would be closed in turns, and none would ever be left.
        order.sort_by_key(|entry| {
            let is_other = entry.name != name;
            (entry.leases > 0, !entry.is_closed, !entry.is_retired, is_other, entry.last_used)
        });
        let mut kept = order.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add);
        for entry in order {
            entry.is_closed = kept.saturating_add(need) > budget;
            if entry.is_closed {
                kept = kept.saturating_sub(entry.bytes);
            }
        }
        let released = self.take_unused();
        if self.used().saturating_add(need) > budget {
            return (Room::Later, released);
        }
        self.reopen();
        self.promised = need;
        (Room::Promised, released)
    }

    /// Counts an adapter as a part of a model, if there is room for it. It counts
    /// until [`Self::remove_adapter`], or until its model is gone.
    pub fn add_adapter(&mut self, id: Id, bytes: u64) -> bool {
        let is_beyond = |budget: u64| self.used().saturating_add(bytes) > budget;
        if self.limits.budget.is_some_and(is_beyond) {
            return false;
        }
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.bytes = entry.bytes.saturating_add(bytes);
        }
        true
    }

    /// Takes an adapter off the books, which has been freed.
    pub fn remove_adapter(&mut self, id: Id, bytes: u64) {
        let loaded = self.entries.iter_mut().map(|entry| (entry.id, &mut entry.bytes));
        let leaving = self.leaving.iter_mut().map(|(id, bytes)| (*id, bytes));
        if let Some((_, all)) = loaded.chain(leaving).find(|(of, _)| *of == id) {
            *all = all.saturating_sub(bytes);
        }
    }

    /// Makes room for an adapter by models that nobody uses, the one used longest ago
    /// first. Whether there will be enough when they are gone: if not, nothing is
    /// changed. Unlike a load, an adapter does not wait for jobs, because its own one
    /// holds a model.
    pub fn make_adapter_room(&mut self, bytes: u64) -> (bool, Vec<Released<M>>) {
        let Some(budget) = self.limits.budget else { return (true, Vec::new()) };
        let used = self.entries.iter().filter(|entry| entry.leases > 0).map(|entry| entry.bytes);
        let stays = used.fold(self.promised, u64::saturating_add);
        if stays.saturating_add(bytes) > budget {
            return (false, Vec::new());
        }
        (true, self.retire_beyond(budget - bytes - self.promised))
    }

    /// Ends a load, or the wait for its room: what was closed for it is open again.
    pub fn give_up(&mut self) {
        self.promised = 0;
        self.reopen();
    }

    fn reopen(&mut self) {
        for entry in &mut self.entries {
            entry.is_closed = false;
        }
    }

    /// Adds a loaded model with one lease, in place of one with the same name and of
    /// those used longest ago; returns what is to be freed. It may take more than it
    /// was promised; then others that nobody uses go.
    pub fn admit(
        &mut self,
        now: Duration,
        name: &str,
        n_ctx: u32,
        bytes: u64,
        model: M,
    ) -> (Id, Vec<Released<M>>) {
        let id = self.next_id;
        self.next_id += 1;
        self.give_up();
        for entry in &mut self.entries {
            entry.is_retired |= entry.name == name;
        }
        self.entries.push(Entry {
            id,
            name: name.to_owned(),
            n_ctx,
            bytes,
            model,
            leases: 1,
            last_used: now,
            is_retired: false,
            is_closed: false,
        });
        self.retire_surplus(id);
        let mut released = self.take_unused();
        if let Some(budget) = self.limits.budget {
            released.extend(self.retire_beyond(budget));
        }
        (id, released)
    }

    /// Retires models that nobody has used for as long as they are kept; returns
    /// them, to be freed.
    pub fn expire(&mut self, now: Duration) -> Vec<Released<M>> {
        let Some(keep_alive) = self.limits.keep_alive else { return Vec::new() };
        for entry in &mut self.entries {
            let unused = now.saturating_sub(entry.last_used);
            entry.is_retired |= entry.leases == 0 && unused >= keep_alive;
        }
        self.take_unused()
    }

    /// When [`Self::expire`] will have something to do, if nothing is used until
    /// then. `None`: not before a lease is given back.
    pub fn next_expiry(&self) -> Option<Duration> {
        let keep_alive = self.limits.keep_alive?;
        let unused = self.entries.iter().filter(|entry| entry.leases == 0);
        unused.map(|entry| entry.last_used.saturating_add(keep_alive)).min()
    }

    /// Takes a freed model off the books.
    pub fn gone(&mut self, id: Id) {
        self.leaving.retain(|(leaving, _)| *leaving != id);
    }

    /// Retires everything; returns what is to be freed.
    pub fn retire_all(&mut self) -> Vec<Released<M>> {
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

    /// Bytes of all models: promised, loaded, and not yet freed.
    pub fn used(&self) -> u64 {
        let loaded = self.entries.iter().map(|entry| entry.bytes);
        let leaving = self.leaving.iter().map(|(_, bytes)| *bytes);
        loaded.chain(leaving).fold(self.promised, u64::saturating_add)
    }

    /// Retires the models used longest ago until there are few enough. `keep`
    /// stays.
    fn retire_surplus(&mut self, keep: Id) {
        while self.entries.iter().filter(|entry| !entry.is_retired).count() > self.limits.max_ready
        {
            let oldest = self
                .entries
                .iter_mut()
                .filter(|entry| !entry.is_retired && entry.id != keep)
                .min_by_key(|entry| entry.last_used);
            let Some(oldest) = oldest else { return };
            oldest.is_retired = true;
        }
    }

    /// Retires models that nobody uses, the one used longest ago first, until
    /// those that are not being freed take no more than this.
    fn retire_beyond(&mut self, bytes: u64) -> Vec<Released<M>> {
        let mut kept = self.entries.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add);
        let mut unused: Vec<_> = self.entries.iter_mut().filter(|e| e.leases == 0).collect();
        unused.sort_by_key(|entry| entry.last_used);
        for entry in unused {
            if kept <= bytes {
                break;
            }
            kept = kept.saturating_sub(entry.bytes);
            entry.is_retired = true;
        }
        self.take_unused()
    }

    fn take_unused(&mut self) -> Vec<Released<M>> {
        let gone = self
            .entries
            .extract_if(.., |entry| (entry.is_retired || entry.is_closed) && entry.leases == 0);
        let gone = gone.map(|entry| {
            tracing::info!(model = entry.name, "model released");
            self.leaving.push((entry.id, entry.bytes));
            Released { id: entry.id, model: entry.model }
        });
        gone.collect()
    }
}

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod tests;
