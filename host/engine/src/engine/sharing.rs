//! What jobs take from each other instead of computing it.
//!
//! A job that has just got its slot looks for the longest beginning of its
//! prompt that a leaf of the cache or a running job holds, and takes it. If an
//! earlier job is going to compute more of it, it waits for that one: of many
//! jobs that come together with one prefix, one computes it. A job only ever
//! waits for earlier ones that get on, so nobody waits in a circle; should the
//! other one end, pause or lose its slot, the next step looks again.
//!
//! At least one token of a prompt is always computed: its logits are needed.

use crate::engine::backend::Backend;
use crate::engine::cache::Found;
use crate::engine::plan::Candidate;
use crate::engine::queue::Waits;
use crate::engine::scheduler::Engine;
use crate::engine::sequence::Sequence;
use crate::engine::stats::add;

impl<B: Backend> Engine<B> {
    /// Gives every fresh job its prefix, or makes it wait for one.
    pub(super) fn share(&mut self) {
        self.flights.fill(None);
        let fresh = |job: &Sequence| job.is_fresh() && !job.is_asking();
        let mut slots: Vec<(u64, usize)> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, job)| Some((job.as_ref().filter(|j| fresh(j))?.arrival(), slot)))
            .collect();
        slots.sort_unstable();
        for (_, slot) in slots {
            let (there, coming) = self.offers(slot);
            let n = |found: &Option<Found>| found.map_or(0, |found| found.n_tokens);
            if n(&coming) > n(&there) {
                self.flights[slot] = coming;
                continue;
            }
            let taken = there.filter(|found| self.kv.take(*found, slot));
            if taken.is_some() {
                add(&self.stats.cache_hits, 1);
                add(&self.stats.cache_tokens, n(&taken));
            }
            if let Some(job) = &mut self.slots[slot] {
                job.place(n(&taken));
            }
        }
    }

    /// The longest beginning that is there, and the longest that is coming.
    fn offers(&self, slot: usize) -> (Option<Found>, Option<Found>) {
        let Some(job) = &self.slots[slot] else { return (None, None) };
        let Some(caching) = job.caching() else { return (None, None) };
        let wanted = &job.tokens()[..job.tokens().len().saturating_sub(1)];
        let held = |other: usize| if other == slot { 0 } else { self.kv.cells().len(other) };
        let there = self.kv.find(&caching.salt, wanted, held);
        let gets_on = |other: usize| {
            let other = self.slots.get(other).and_then(Option::as_ref);
            other.is_some_and(|other| {
                other.arrival() < job.arrival()
                    && !other.is_paused()
                    && !other.is_asking()
                    && !other.is_cancelled()
            })
        };
        let coming = |other: usize| if gets_on(other) { usize::MAX } else { 0 };
        (there, self.kv.find(&caching.salt, wanted, coming))
    }

    /// What a slot waits for in the end: a job that it waits for may wait itself.
    pub(super) fn flight(&self, slot: usize) -> Option<Found> {
        let mut found = self.flights[slot]?;
        while let Some(further) = self.flights.get(found.sequence).copied().flatten() {
            found = further;
        }
        Some(found)
    }

    /// The place in a step that a waiting job lends to the one it waits for, so
    /// that it is not kept waiting by that one's tenant.
    pub(super) fn lend(&self, wanted: Found, turn: u64, arrival: u64) -> Option<Candidate> {
        let other = self.slots.get(wanted.sequence)?.as_ref()?;
        let remaining = wanted.n_tokens.saturating_sub(other.n_past()).min(other.remaining());
        let lends = remaining > 0 && !other.is_decoding() && !other.is_fresh();
        lends.then_some(Candidate {
            slot: wanted.sequence,
            remaining,
            generating: false,
            turn,
            arrival,
        })
    }

    /// Leaves what a job has computed in the cache.
    pub(super) fn keep(&mut self, slot: usize, job: &Sequence) {
        let Some(caching) = job.caching() else { return };
        let pin = caching.pin && job.n_past() >= job.n_prompt();
        let n = if pin { job.n_prompt() } else { job.n_past() };
        self.kv.keep(slot, &caching.salt, &job.tokens()[..n], pin);
    }
}
