//! Which waiting job gets a slot, and when.
//!
//! A slot alone is not enough: the cells of the KV cache are fewer than all slots
//! could fill. A job enters when what it is going to compute and a reserve to
//! generate fit beside what the running jobs will need. That is an estimate; if
//! it turns out too low, [`super::preempt`] makes room. A job enters without
//! any estimate when nobody runs, because every job fits alone: the handle
//! accepts no other.
//!
//! Whose turn it is says [`super::queue`]. A job that is next and does not fit is
//! waited for; nobody overtakes it, or a large one would never get in.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::backend::Backend;
use crate::engine::queue::Waits;
use crate::engine::scheduler::Engine;
use crate::engine::sequence::Sequence;

impl<B: Backend> Engine<B> {
    /// Lets jobs in while they fit.
    pub(super) fn admit(&mut self, now: Instant) {
        loop {
            let next =
                self.queue.next(|tenant| self.running(tenant), |tenant| self.tenants.turn(tenant));
            let Some(next) = next else { return };
            let tenant = Arc::clone(next.tenant());
            let Some(slot) = self.slots.iter().position(Option::is_none) else {
                if self.yield_slot(&tenant, now) {
                    continue;
                }
                return;
            };
            if !self.fits(next) {
                return;
            }
            let Some(mut job) = self.queue.pop(&tenant) else { return };
            if !job.begin(now) {
                self.leave(&job);
                continue;
            }
            if let Some(caching) = job.caching() {
                self.kv.announce(slot, &caching.salt, job.tokens());
            }
            self.slots[slot] = Some(job);
        }
    }

    /// The slots that a tenant holds.
    pub(super) fn running(&self, tenant: &str) -> usize {
        self.slots.iter().flatten().filter(|job| **job.tenant() == *tenant).count()
    }

    fn fits(&self, job: &Sequence) -> bool {
        if self.slots.iter().all(Option::is_none) {
            return true;
        }
        let cells = self.kv.cells();
        // Leaves give way, pinned ones only when nobody else can.
        let left = cells.total().saturating_sub(cells.busy() + self.kv.pinned());
        let running = self.slots.iter().enumerate();
        let promised: usize =
            running.filter_map(|(slot, job)| Some(self.need(job.as_ref()?, Some(slot)))).sum();
        promised + self.need(job, None) <= left
    }

    /// Cells that a job will take yet, as far as is foreseen.
    fn need(&self, job: &Sequence, slot: Option<usize>) -> usize {
        // What running jobs compute anyway costs nothing more. What a leaf holds
        // does: it could be evicted, but not from under this job.
        let shared = match (job.caching(), slot) {
            (Some(caching), _) if job.is_fresh() => {
                let tokens = job.tokens();
                let wanted = &tokens[..tokens.len().saturating_sub(1)];
                let earlier = |other: usize| {
                    let other = self.slots.get(other).and_then(Option::as_ref);
                    other.is_some_and(|other| other.arrival() < job.arrival() || slot.is_none())
                };
                let usable = |other| if earlier(other) { usize::MAX } else { 0 };
                self.kv.find(&caching.salt, wanted, usable).map_or(0, |found| found.n_tokens)
            }
            _ => 0,
        };
        job.remaining() - shared + self.policy.reserve.min(job.may_generate())
    }
}
