//! Which cells of the KV cache each sequence holds.
//!
//! llama.cpp does not tell how many cells are free, and what copying a prefix
//! costs: nothing, until the copies part. This ledger repeats what the memory
//! does, cell by cell, so that admission and eviction can count exactly. It is
//! pure book-keeping; [`super::kv`] keeps it in step with the backend.

/// The ledger of one context. Sequences below `n_slots` are running jobs, the
/// others are leaves of the cache.
#[derive(Debug)]
pub(crate) struct Cells {
    n_cells: usize,
    n_slots: usize,
    /// For each sequence its cells by position.
    held: Vec<Vec<u32>>,
    /// For each cell that was ever used: how many sequences hold it, and how
    /// many of those are running jobs.
    holders: Vec<u16>,
    running: Vec<u16>,
    /// Cells that were used once and are free again.
    free: Vec<u32>,
    /// Cells that at least one running job holds.
    busy: usize,
}

impl Cells {
    pub(crate) fn new(n_cells: usize, n_slots: usize, n_sequences: usize) -> Self {
        Self {
            n_cells,
            n_slots,
            held: vec![Vec::new(); n_sequences],
            holders: Vec::new(),
            running: Vec::new(),
            free: Vec::new(),
            busy: 0,
        }
    }

    /// All cells there are.
    pub(crate) fn total(&self) -> usize {
        self.n_cells
    }

    /// Cells that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.n_cells.saturating_sub(self.holders.len() - self.free.len())
    }

    /// Cells that running jobs hold; what several share counts once.
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    /// Positions that a sequence holds, from 0 on.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        self.held.get(sequence).map_or(0, Vec::len)
    }

    /// Cells that would be free if only this sequence went.
    pub(crate) fn alone(&self, sequence: usize) -> usize {
        let Some(held) = self.held.get(sequence) else { return 0 };
        held.iter().filter(|cell| self.holders[**cell as usize] == 1).count()
    }

    /// Cells that these sequences hold together; what they share counts once.
    pub(crate) fn distinct(&self, sequences: impl Iterator<Item = usize>) -> usize {
        let mut seen = vec![false; self.holders.len()];
        let mut n = 0;
        for cell in sequences.filter_map(|s| self.held.get(s)).flatten() {
            n += usize::from(!std::mem::replace(&mut seen[*cell as usize], true));
        }
        n
    }

    /// The sequence grows by `n` positions. False, and without effect, if there
    /// are not so many free cells.
    #[must_use]
    pub(crate) fn append(&mut self, sequence: usize, n: usize) -> bool {
        if sequence >= self.held.len() || n > self.free() {
            return false;
        }
        for _ in 0..n {
            let cell = self.free.pop().unwrap_or_else(|| {
                self.holders.push(0);
                self.running.push(0);
                // The number of cells fits: llama.cpp counts them in 32 bits.
                (self.holders.len() - 1) as u32
            });
            self.hold(sequence, cell);
        }
        true
    }

    /// `to`, which holds nothing, shares the first `n` positions of `from`.
    pub(crate) fn copy(&mut self, from: usize, to: usize, n: usize) {
        for at in 0..n.min(self.len(from)) {
            self.hold(to, self.held[from][at]);
        }
    }

    /// The sequence lets go of every position from `from` on.
    pub(crate) fn truncate(&mut self, sequence: usize, from: usize) {
        let Some(held) = self.held.get_mut(sequence) else { return };
        for cell in held.split_off(from.min(held.len())) {
            let at = cell as usize;
            self.holders[at] -= 1;
            if sequence < self.n_slots {
                self.running[at] -= 1;
                self.busy -= usize::from(self.running[at] == 0);
            }
            if self.holders[at] == 0 {
                self.free.push(cell);
            }
        }
    }

    /// Nobody holds anything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.n_cells, self.n_slots, self.held.len());
    }

    fn hold(&mut self, sequence: usize, cell: u32) {
        let at = cell as usize;
        self.held[sequence].push(cell);
        self.holders[at] += 1;
        if sequence < self.n_slots {
            self.busy += usize::from(self.running[at] == 0);
            self.running[at] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Append(usize, usize),
        Copy(usize, usize, usize),
        Truncate(usize, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0usize..5, 0usize..12).prop_map(|(s, n)| Op::Append(s, n)),
            (0usize..5, 0usize..5, 0usize..20).prop_map(|(a, b, n)| Op::Copy(a, b, n)),
            (0usize..5, 0usize..20).prop_map(|(s, n)| Op::Truncate(s, n)),
        ]
    }

    proptest! {
        /// The counters equal what a plain look at all sequences gives.
        #[test]
        fn counters_are_exact(ops in prop::collection::vec(op(), 0..80)) {
            const CELLS: usize = 40;
            let mut cells = Cells::new(CELLS, 3, 5);
            for op in ops {
                match op {
                    Op::Append(s, n) => {
                        let (free, len) = (cells.free(), cells.len(s));
                        let fits = cells.append(s, n);
                        prop_assert_eq!(fits, n <= free);
                        prop_assert_eq!(cells.len(s), if fits { len + n } else { len });
                    }
                    Op::Copy(a, b, n) if a != b => {
                        cells.truncate(b, 0);
                        cells.copy(a, b, n);
                        prop_assert_eq!(cells.len(b), n.min(cells.len(a)));
                    }
                    Op::Copy(..) => {}
                    Op::Truncate(s, n) => cells.truncate(s, n),
                }
                let all: HashSet<u32> = cells.held.iter().flatten().copied().collect();
                let busy: HashSet<u32> = cells.held[..3].iter().flatten().copied().collect();
                prop_assert_eq!(cells.free(), CELLS - all.len());
                prop_assert_eq!(cells.busy(), busy.len());
                prop_assert_eq!(cells.distinct(0..5), all.len());
                for s in 0..5 {
                    let others: HashSet<u32> = (0..5).filter(|o| *o != s)
                        .flat_map(|o| cells.held[o].iter().copied()).collect();
                    let alone = cells.held[s].iter().filter(|c| !others.contains(c)).count();
                    prop_assert_eq!(cells.alone(s), alone);
                }
            }
        }
    }
}
