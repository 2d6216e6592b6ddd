//! The KV cache of a context: the backend with its ledger and its prefix cache.
//!
//! Everything that changes the memory of a context goes through here, so that
//! backend, [`Cells`] and [`Cache`] always tell the same. Which job may use
//! what, and who has to go when there is no room, is decided elsewhere
//! ([`super::admission`], [`super::preempt`]); leaves go before anybody is asked.

use crate::adapter::AdapterSet;
use crate::engine::backend::{Backend, Chunk};
use crate::engine::cache::{Cache, CacheLimits, Found};
use crate::engine::cells::Cells;
use crate::ffi::Decoded;

/// Owns the backend.
#[derive(Debug)]
pub(crate) struct Kv<B> {
    backend: B,
    cells: Cells,
    /// `None`: nothing is shared and nothing is kept.
    cache: Option<Cache>,
    /// Cells of all leaves, and of the pinned ones, since the leaves changed.
    cached: usize,
    pinned: usize,
}

impl<B: Backend> Kv<B> {
    /// `cache` takes effect only if the backend can share a beginning.
    pub(crate) fn new(backend: B, cache: Option<CacheLimits>) -> Self {
        let limits = backend.limits();
        let cache = cache
            .filter(|_| backend.can_share())
            .map(|cache| Cache::new(limits.n_slots, limits.n_leaves, cache));
        Self {
            cells: Cells::new(limits.n_cells, limits.n_slots, limits.n_slots + limits.n_leaves),
            backend,
            cache,
            cached: 0,
            pinned: 0,
        }
    }

    pub(crate) fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Cells that leaves hold.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// Cells that pinned leaves hold.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Computes a step; sequences grow if it succeeds, by their drafts as well. All of
    /// them must have these adapters.
    pub(crate) fn decode(&mut self, chunks: &[Chunk<'_>], adapters: &AdapterSet) -> Decoded {
        let decoded = self.backend.decode(chunks, adapters);
        if decoded == Decoded::Ok {
            for chunk in chunks {
                if !self.cells.append(chunk.slot, chunk.tokens.len() + chunk.draft.len()) {
                    tracing::error!(slot = chunk.slot, "cells were taken that the ledger lacks");
                }
            }
        }
        decoded
    }

    /// Makes the prompt of a job known to those that come after it.
    pub(crate) fn announce(&mut self, slot: usize, salt: &str, tokens: &[u32]) {
        if let Some(cache) = &mut self.cache {
            cache.announce(slot, salt, tokens);
        }
    }

    /// The longest beginning that can be shared. `usable` bounds what a sequence
    /// has to offer, from what it holds now or will hold soon.
    pub(crate) fn find(
        &self,
        salt: &str,
        tokens: &[u32],
        usable: impl Fn(usize) -> usize,
    ) -> Option<Found> {
        self.cache.as_ref()?.find(salt, tokens, usable)
    }

    /// The slot, which holds nothing, takes a beginning from another sequence.
    pub(crate) fn take(&mut self, found: Found, slot: usize) -> bool {
        let taken = self.backend.copy_prefix(found.sequence, slot, found.n_tokens);
        if taken {
            self.cells.copy(found.sequence, slot, found.n_tokens);
            if let Some(cache) = &mut self.cache {
                cache.touch(found.sequence);
            }
        }
        taken
    }

    /// Keeps the first `tokens` of a slot as a leaf, as far as limits allow. The
    /// slot itself is not changed.
    pub(crate) fn keep(&mut self, slot: usize, salt: &str, tokens: &[u32], pin: bool) {
        let Some(limits) = self.cache.as_ref().map(Cache::limits) else { return };
        let budget = if pin { limits.cells } else { limits.cells.saturating_sub(self.pinned) };
        let n = tokens.len().min(self.cells.len(slot)).min(budget);
        let tokens = &tokens[..n];
        if n < limits.block {
            return;
        }
        if !self.is_covered(salt, tokens, pin)
            && let Some(leaf) = self.vacate(salt, tokens)
            && self.backend.copy_prefix(slot, leaf, n)
        {
            self.cells.copy(slot, leaf, n);
            if let Some(cache) = &mut self.cache {
                cache.insert(leaf, salt, tokens, pin);
            }
        }
        self.recount();
        self.trim(limits);
    }

    /// The slot lets go of everything.
    pub(crate) fn release(&mut self, slot: usize) {
        self.backend.forget(slot, 0);
        self.cells.truncate(slot, 0);
        if let Some(cache) = &mut self.cache {
            cache.retract(slot);
        }
    }

    /// After a step that failed, or a draft that was wrong: the slot holds `n`
    /// positions again. Returns how many it holds in fact.
    pub(crate) fn rewind(&mut self, slot: usize, n: usize) -> usize {
        let n = if self.backend.forget(slot, n) {
            n
        } else {
            // This model's memory cannot drop a part: begin again.
            self.backend.forget(slot, 0);
            0
        };
        self.cells.truncate(slot, n);
        n
    }

    /// Drops leaves, least recently used first, until `n` cells are free; pinned
    /// ones only if `pinned` says so. False if that does not suffice.
    pub(crate) fn make_room(&mut self, n: usize, pinned: bool) -> bool {
        while self.cells.free() < n {
            let evicted = self.evict(false) || (pinned && self.evict(true));
            if !evicted {
                return false;
            }
        }
        true
    }

    /// Drops the least recently used leaf; false if there is none.
    pub(crate) fn evict(&mut self, pinned: bool) -> bool {
        let Some(leaf) = self.cache.as_ref().and_then(|cache| cache.oldest(pinned)) else {
            return false;
        };
        self.drop_leaf(leaf);
        self.recount();
        true
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.backend.clear();
        self.cells.clear();
        if let Some(cache) = &mut self.cache {
            cache.clear();
        }
        self.recount();
    }

    fn is_covered(&mut self, salt: &str, tokens: &[u32], pin: bool) -> bool {
        self.cache.as_mut().is_some_and(|cache| cache.covering(salt, tokens, pin).is_some())
    }

    /// An id for a new leaf with these tokens: that of one which it replaces, a
    /// vacant one, or that of the least recently used.
    fn vacate(&mut self, salt: &str, tokens: &[u32]) -> Option<usize> {
        for leaf in self.cache.as_ref()?.covered(salt, tokens) {
            self.drop_leaf(leaf);
        }
        let vacant = self.cache.as_ref()?.vacant();
        vacant.or_else(|| {
            let oldest = self.cache.as_ref()?.oldest(false)?;
            self.drop_leaf(oldest);
            Some(oldest)
        })
    }

    /// Back to the limits.
    fn trim(&mut self, limits: CacheLimits) {
        while self.pinned > limits.pinned_cells
            && let Some(cache) = &mut self.cache
            && let Some(leaf) = cache.oldest(true)
        {
            cache.unpin(leaf);
            self.recount();
        }
        while self.cached > limits.cells && self.evict(false) {}
    }

    fn drop_leaf(&mut self, leaf: usize) {
        self.backend.forget(leaf, 0);
        self.cells.truncate(leaf, 0);
        if let Some(cache) = &mut self.cache {
            cache.remove(leaf);
        }
    }

    fn recount(&mut self) {
        (self.cached, self.pinned) = self.cache.as_ref().map_or((0, 0), |cache| {
            (self.cells.distinct(cache.ids(false)), self.cells.distinct(cache.ids(true)))
        });
    }
}
