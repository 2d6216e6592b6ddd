//! The leaves of the prefix cache: what is kept, and what goes first.
//!
//! A leaf is a sequence id of its own that keeps the cells of a job that has
//! ended. The tree over the tokens of leaves and of running jobs is here as well,
//! so that both are found in one look. Which cells a leaf holds, and how to copy
//! or drop them, is [`super::kv`]'s business: nothing here computes or copies.

use crate::engine::prefix::PrefixTree;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheLimits {
    /// Matches are cut to a multiple of this, in tokens.
    pub(crate) block: usize,
    /// Cells that leaves may hold together.
    pub(crate) cells: usize,
    /// Cells that pinned leaves may hold together.
    pub(crate) pinned_cells: usize,
}

/// A beginning that somebody wants to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) sequence: usize,
    pub(crate) n_tokens: usize,
}

#[derive(Debug)]
struct Leaf {
    n_tokens: usize,
    pinned: bool,
    /// Grows with every use.
    used: u64,
}

/// Leaves by their sequence ids, which follow those of the slots.
#[derive(Debug)]
pub(crate) struct Cache {
    tree: PrefixTree,
    leaves: Vec<Option<Leaf>>,
    n_slots: usize,
    clock: u64,
    limits: CacheLimits,
}

impl Cache {
    pub(crate) fn new(n_slots: usize, n_leaves: usize, limits: CacheLimits) -> Self {
        Self {
            tree: PrefixTree::default(),
            leaves: std::iter::repeat_with(|| None).take(n_leaves).collect(),
            n_slots,
            clock: 0,
            limits: CacheLimits { block: limits.block.max(1), ..limits },
        }
    }

    pub(crate) fn limits(&self) -> CacheLimits {
        self.limits
    }

    /// Makes the prompt of a running job known, computed or not.
    pub(crate) fn announce(&mut self, slot: usize, salt: &str, tokens: &[u32]) {
        self.tree.insert(slot, salt, tokens);
    }

    /// A running job has ended or has lost its cells.
    pub(crate) fn retract(&mut self, slot: usize) {
        self.tree.remove(slot);
    }

    /// The longest usable beginning among all members. `usable` says how many
    /// positions of a sequence there are, or will be; whole blocks count.
    pub(crate) fn find(
        &self,
        salt: &str,
        tokens: &[u32],
        usable: impl Fn(usize) -> usize,
    ) -> Option<Found> {
        self.tree
            .matches(salt, tokens)
            .into_iter()
            .map(|(sequence, n)| {
                let n = n.min(usable(sequence));
                Found { sequence, n_tokens: n - n % self.limits.block }
            })
            .filter(|found| found.n_tokens > 0)
            .max_by_key(|found| found.n_tokens)
    }

    /// Notes a use; without effect for a running job.
    pub(crate) fn touch(&mut self, sequence: usize) {
        self.clock += 1;
        if let Some(Some(leaf)) = self.leaves.get_mut(sequence.wrapping_sub(self.n_slots)) {
            leaf.used = self.clock;
        }
    }

    /// The leaf that holds all of these tokens already, if there is one; a pin
    /// is passed on to it.
    pub(crate) fn covering(&mut self, salt: &str, tokens: &[u32], pin: bool) -> Option<usize> {
        let found = self.tree.matches(salt, tokens).into_iter();
        let (sequence, _) = found
            .filter(|(sequence, n)| *sequence >= self.n_slots && *n == tokens.len())
            .max_by_key(|(sequence, _)| self.leaf(*sequence).is_some_and(|leaf| leaf.pinned))?;
        self.touch(sequence);
        if let Some(Some(leaf)) = self.leaves.get_mut(sequence - self.n_slots) {
            leaf.pinned |= pin;
        }
        Some(sequence)
    }

    /// Leaves whose tokens are a beginning of these, and which are not pinned:
    /// nothing is lost if one that holds all of these takes their place.
    pub(crate) fn covered(&self, salt: &str, tokens: &[u32]) -> Vec<usize> {
        let found = self.tree.matches(salt, tokens).into_iter();
        found
            .filter(|(sequence, n)| {
                self.leaf(*sequence).is_some_and(|leaf| !leaf.pinned && leaf.n_tokens == *n)
            })
            .map(|(sequence, _)| sequence)
            .collect()
    }

    /// An id that is not in use.
    pub(crate) fn vacant(&self) -> Option<usize> {
        self.leaves.iter().position(Option::is_none).map(|at| at + self.n_slots)
    }

    pub(crate) fn insert(&mut self, sequence: usize, salt: &str, tokens: &[u32], pinned: bool) {
        self.clock += 1;
        if let Some(place) = self.leaves.get_mut(sequence.wrapping_sub(self.n_slots)) {
            *place = Some(Leaf { n_tokens: tokens.len(), pinned, used: self.clock });
            self.tree.insert(sequence, salt, tokens);
        }
    }

    pub(crate) fn remove(&mut self, sequence: usize) {
        if let Some(place) = self.leaves.get_mut(sequence.wrapping_sub(self.n_slots)) {
            *place = None;
            self.tree.remove(sequence);
        }
    }

    /// The least recently used leaf that is pinned, or that is not.
    pub(crate) fn oldest(&self, pinned: bool) -> Option<usize> {
        let leaves = self.leaves.iter().enumerate();
        leaves
            .filter_map(|(at, leaf)| Some((at, leaf.as_ref()?)))
            .filter(|(_, leaf)| leaf.pinned == pinned)
            .min_by_key(|(_, leaf)| leaf.used)
            .map(|(at, _)| at + self.n_slots)
    }

    pub(crate) fn unpin(&mut self, sequence: usize) {
        if let Some(Some(leaf)) = self.leaves.get_mut(sequence.wrapping_sub(self.n_slots)) {
            leaf.pinned = false;
        }
    }

    /// The ids of all leaves, or of the pinned ones only.
    pub(crate) fn ids(&self, pinned_only: bool) -> impl Iterator<Item = usize> {
        let leaves = self.leaves.iter().enumerate();
        leaves
            .filter(move |(_, leaf)| leaf.as_ref().is_some_and(|l| l.pinned || !pinned_only))
            .map(|(at, _)| at + self.n_slots)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.n_slots, self.leaves.len(), self.limits);
    }

    fn leaf(&self, sequence: usize) -> Option<&Leaf> {
        self.leaves.get(sequence.checked_sub(self.n_slots)?)?.as_ref()
    }
}
