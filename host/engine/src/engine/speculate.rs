//! Computes tokens ahead, on the guess that a text repeats itself.
//!
//! A step that only continues one or two jobs leaves most of what the machine can
//! compute unused: it reads every weight for a token or two. There a job's draft
//! ([`super::draft`]) is computed with its next token, with logits behind each. From
//! the first of them the job chooses as always, and as long as what it chooses is
//! what the draft has, the next logits are there without another step. What is wrong
//! of a draft is removed from the KV cache in the same step.
//!
//! A draft never decides anything: each token is chosen from the logits behind the
//! tokens before it, by a sampler that has seen what it would have seen without
//! drafts. And it takes nothing from anybody: it has no part in steps with prompts,
//! uses free cells only, and a step that fails with one is repeated without.

use crate::engine::backend::Backend;
use crate::engine::plan::Share;
use crate::engine::scheduler::Engine;
use crate::engine::sequence::Sequence;
use crate::engine::stats::add;

/// The most jobs in a step that has drafts. With more of them steps are full enough,
/// and what is computed in vain is missed.
pub(crate) const MAX_JOBS: u32 = 2;

impl<B: Backend> Engine<B> {
    /// A draft for each share of a step of `n_tokens`; nothing if there is none at all.
    pub(super) fn draft(&mut self, shares: &[Share], n_tokens: usize) -> Vec<Vec<u32>> {
        let most = self.policy.speculate;
        let continues =
            |share: &Share| self.slots[share.slot].as_ref().is_some_and(Sequence::is_decoding);
        if most == 0 || shares.len() > MAX_JOBS as usize || !shares.iter().all(continues) {
            return Vec::new();
        }
        let free = self.kv.cells().free().min(self.n_batch);
        let mut room = free.saturating_sub(n_tokens);
        let mut drafts = Vec::with_capacity(shares.len());
        for share in shares {
            let job = self.slots[share.slot].as_mut();
            let draft = job.map(|job| job.draft(most.min(room), &self.eog)).unwrap_or_default();
            room -= draft.len();
            drafts.push(draft);
        }
        if drafts.iter().all(Vec::is_empty) { Vec::new() } else { drafts }
    }

    /// Chooses the tokens behind a chunk and, as far as they are those of its draft,
    /// behind the draft's.
    pub(super) fn verify(&mut self, chunk: usize, slot: usize, draft: &[u32]) {
        // Before its reader hears of the end and asks.
        add(&self.stats.draft_tokens, draft.len());
        if let Some(job) = &mut self.slots[slot] {
            job.note_draft(draft.len());
        }
        self.sample(chunk, 0, slot);
        let mut n = 0;
        while n < draft.len() && self.accept(slot, draft[n]) {
            n += 1;
            self.sample(chunk, n, slot);
        }
        // One that has ended has let go of everything.
        let Some(job) = &mut self.slots[slot] else { return };
        job.judge_draft(draft.len(), n, self.cost.share_of_another(1 + draft.len()));
        if n < draft.len() {
            let held = self.kv.rewind(slot, job.n_past());
            job.rewind(held);
        }
    }

    /// Whether a job goes on with a token that is computed already.
    fn accept(&mut self, slot: usize, token: u32) -> bool {
        let job = self.slots[slot].as_mut();
        let accepted = job.is_some_and(|job| !job.is_cancelled() && job.accept(token));
        add(&self.stats.accepted_draft_tokens, usize::from(accepted));
        accepted
    }

    /// After a step that failed: false if it had no drafts. They may be to blame, so
    /// their jobs go on without for a while.
    pub(super) fn drop_drafts(&mut self, shares: &[Share], drafts: &[Vec<u32>]) -> bool {
        for (share, _) in shares.iter().zip(drafts).filter(|(_, draft)| !draft.is_empty()) {
            if let Some(job) = &mut self.slots[share.slot] {
                job.stop_drafting();
            }
        }
        !drafts.is_empty()
    }
}
