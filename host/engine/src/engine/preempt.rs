//! Who has to go when there is no room.
//!
//! Leaves of the cache go first; then the youngest running job loses its cells
//! and waits at the front of its tenant's queue, to be computed again later;
//! pinned leaves go last. The oldest job of a step never has to go, so the engine
//! always gets on, and a job that fits alone is never failed for want of room.
//! Where jobs of several sets of adapters take turns, it is the oldest one of all
//! that never has to: else two of them could push each other out for ever.
//!
//! A slot is taken from a tenant that has several when another one has waited
//! long enough for its first. That one's cells are not wanted, so they stay as a
//! leaf, from which it goes on for next to nothing.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::engine::backend::Backend;
use crate::engine::plan::Share;
use crate::engine::queue::Waits;
use crate::engine::scheduler::Engine;
use crate::engine::sequence::Sequence;

impl<B: Backend> Engine<B> {
    /// Makes sure that the step finds its cells. False if a job had to go, so
    /// that the step has to be planned again.
    /// `oldest` is whose arrival counts, if it is not the step's own oldest job.
    pub(super) fn make_room(
        &mut self,
        shares: &[Share],
        n_tokens: usize,
        oldest: Option<u64>,
    ) -> bool {
        if self.kv.make_room(n_tokens, false) {
            return true;
        }
        match self.victim(shares, oldest) {
            Some(slot) => {
                self.preempt(slot);
                false
            }
            None => {
                // Should even this not do, the backend says so.
                self.kv.make_room(n_tokens, true);
                true
            }
        }
    }

    /// The backend has found no room in spite of the books: something goes, and
    /// the step is tried again. False if nothing is left that could go.
    pub(super) fn give_way(&mut self, shares: &[Share], oldest: Option<u64>) -> bool {
        if self.kv.evict(false) {
            return true;
        }
        match self.victim(shares, oldest) {
            Some(slot) => {
                self.preempt(slot);
                true
            }
            None => self.kv.evict(true),
        }
    }

    /// Takes a slot from the tenant that has most, for one that has none and has
    /// waited long enough. False if it has to wait on.
    pub(super) fn yield_slot(&mut self, tenant: &str, now: Instant) -> bool {
        let Some(wait) = self.policy.fair_preempt else { return false };
        let waited = self.queue.iter().filter(|job| **job.tenant() == *tenant);
        let waited = waited.map(|job| now.saturating_duration_since(job.submitted())).max();
        if self.running(tenant) > 0 || waited.is_none_or(|waited| waited < wait) {
            return false;
        }
        let youngest = self
            .occupied()
            .map(|(slot, job)| (self.running(job.tenant()), job.arrival(), slot))
            .filter(|(n, ..)| *n > 1)
            .max();
        let Some((.., slot)) = youngest else { return false };
        if let Some(job) = self.slots[slot].take() {
            self.keep(slot, &job);
            self.slots[slot] = Some(job);
        }
        self.preempt(slot);
        true
    }

    /// The youngest job that holds cells or wants some, but never the oldest one.
    fn victim(&self, shares: &[Share], oldest: Option<u64>) -> Option<usize> {
        let arrival = |slot: usize| self.slots[slot].as_ref().map(Sequence::arrival);
        let oldest = oldest.or_else(|| shares.iter().filter_map(|share| arrival(share.slot)).min());
        let wants = |slot: usize| shares.iter().any(|share| share.slot == slot);
        let cells = self.kv.cells();
        self.occupied()
            .filter(|(slot, job)| {
                (cells.len(*slot) > 0 || wants(*slot)) && Some(job.arrival()) != oldest
            })
            // Who only shares what others hold, and computes nothing, makes no room.
            .max_by_key(|(slot, job)| (cells.alone(*slot) > 0 || wants(*slot), job.arrival()))
            .map(|(slot, _)| slot)
    }

    fn preempt(&mut self, slot: usize) {
        let Some(mut job) = self.slots[slot].take() else { return };
        tracing::debug!(job = job.label(), cells = job.n_past(), "job makes way");
        self.kv.release(slot);
        job.displace();
        self.queue.insert(job);
        self.stats.preemptions.fetch_add(1, Ordering::Relaxed);
    }

    fn occupied(&self) -> impl Iterator<Item = (usize, &Sequence)> {
        self.slots.iter().enumerate().filter_map(|(slot, job)| Some((slot, job.as_ref()?)))
    }
}
