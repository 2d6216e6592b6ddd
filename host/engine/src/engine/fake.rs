//! A backend that computes nothing, checks everything, and fails on demand.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::adapter::AdapterSet;
use crate::config::MAX_SPECULATE_TOKENS;
use crate::engine::backend::{Backend, BackendLimits, Chunk};
use crate::engine::speculate::MAX_JOBS;
use crate::ffi::Decoded;

pub(super) const N_VOCAB: u32 = 64;
pub(super) const EOG: u32 = 0;
/// A step with this token fails.
pub(super) const POISON: u32 = 63;
/// A step with this token panics.
pub(super) const BOMB: u32 = 62;
/// A text that begins with this token goes in circles.
pub(super) const CIRCLES: u32 = 61;

/// What follows a text, and what is refused, without any batch.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    next_token_with(0, tokens)
}

/// The same with a set of adapters, which changes all of it.
pub(super) fn next_token_with(adapters: u64, tokens: &[u32]) -> u32 {
    if tokens.first() == Some(&CIRCLES) {
        return next_in_circle(adapters, tokens);
    }
    let hash = tokens.iter().fold(7 + adapters as u32 * 101, |hash, token| {
        hash.wrapping_mul(31).wrapping_add(*token).rotate_left(5)
    });
    // About one in twenty ends the text.
    match hash % 61 {
        0..3 => EOG,
        token => token,
    }
}

/// A few letters, each with a successor of its own; after a while with another one.
/// The text ends now and then where that changes.
fn next_in_circle(adapters: u64, tokens: &[u32]) -> u32 {
    let (last, era) = (tokens.last().copied().unwrap_or_default(), tokens.len() as u32 / 16);
    let mixed = (last + 1).wrapping_mul(0x9E37_79B1) ^ (era + 7).wrapping_mul(0x85EB_CA77);
    let hash = (mixed ^ (adapters as u32).wrapping_mul(0xC2B2_AE3D)).rotate_left(13);
    match hash.wrapping_mul(0x27D4_EB2F) >> 16 {
        hash if hash.is_multiple_of(40) => EOG,
        hash => 1 + hash % 6,
    }
}

/// The bytes of a token: letters, and halves of a two-byte character.
pub(super) fn piece(token: u32) -> Vec<u8> {
    match token {
        58 => vec![0xC3],
        59 => vec![0xA4],
        60 => Vec::new(),
        token => vec![b'a' + (token % 26) as u8],
    }
}

/// A cell of the cache, as long as somebody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    token: u32,
    position: usize,
    /// The set of adapters it was computed with.
    adapters: u64,
}

/// What the backend computes hangs on what its cells hold, and on nothing else:
/// a wrong copy or a lost cell changes the output.
#[derive(Debug)]
pub(super) struct FakeBackend {
    limits: BackendLimits,
    cells: Vec<Cell>,
    /// For each sequence the cells that it holds.
    sequences: Vec<Vec<usize>>,
    /// For each chunk the logits behind its last token, and behind its draft's.
    logits: Vec<Vec<Vec<f32>>>,
    /// Results of the next steps; then all succeed.
    pub(super) script: VecDeque<Decoded>,
    /// Results of the next steps that hold several jobs.
    pub(super) shared_script: VecDeque<Decoded>,
    /// Whether a part of a sequence can be forgotten, and cells be shared.
    shares: bool,
    /// What a step takes, and each of its tokens.
    pub(super) fixed: Duration,
    pub(super) each: Duration,
    last_step: Duration,
    pub(super) steps: usize,
    /// Tokens computed so far, and those of the last step.
    pub(super) computed: usize,
    pub(super) last_tokens: Vec<(usize, usize)>,
    /// Tokens of drafts in the last step.
    pub(super) last_drafted: usize,
    /// The set of adapters of the last step.
    pub(super) last_adapters: u64,
}

impl FakeBackend {
    pub(super) fn new(limits: BackendLimits, shares: bool) -> Self {
        Self {
            limits,
            cells: Vec::new(),
            sequences: vec![Vec::new(); limits.n_slots + limits.n_leaves],
            logits: Vec::new(),
            script: VecDeque::new(),
            shared_script: VecDeque::new(),
            shares,
            fixed: Duration::ZERO,
            each: Duration::ZERO,
            last_step: Duration::ZERO,
            steps: 0,
            computed: 0,
            last_tokens: Vec::new(),
            last_drafted: 0,
            last_adapters: 0,
        }
    }

    /// Cells that somebody holds.
    pub(super) fn cells(&self) -> usize {
        self.sequences.iter().flatten().collect::<HashSet<_>>().len()
    }

    fn push(&mut self, sequence: usize, token: u32) {
        let position = self.sequences[sequence].len();
        self.cells.push(Cell { token, position, adapters: self.last_adapters });
        self.sequences[sequence].push(self.cells.len() - 1);
    }

    /// The logits behind a text.
    fn row(&self, mut history: Vec<u32>) -> Vec<f32> {
        let mut logits = vec![0.0; N_VOCAB as usize];
        let next = next_token_with(self.last_adapters, &history);
        logits[next as usize] = 2.0;
        // A second choice, for who bans the first.
        history.push(next);
        let second = 1 + next_token_with(self.last_adapters, &history) % 57;
        if second != next {
            logits[second as usize] = 1.0;
        }
        logits
    }

    /// What has to be true of drafts.
    fn check_drafts(&self, chunks: &[Chunk<'_>], total: usize) {
        assert!(chunks.len() <= MAX_JOBS as usize, "drafts in a full step");
        assert!(self.cells() + total <= self.limits.n_cells, "a draft without room");
        for chunk in chunks {
            assert!(chunk.output && chunk.tokens.len() == 1, "a draft beside a prompt");
            assert!(chunk.draft.len() <= MAX_SPECULATE_TOKENS as usize, "a long draft");
            assert!(!chunk.draft.contains(&EOG), "a draft behind an end");
        }
    }

    /// The tokens of a sequence, read from its cells.
    fn history(&self, sequence: usize) -> Vec<u32> {
        let held = self.sequences[sequence].iter().enumerate();
        held.map(|(position, cell)| {
            let cell = self.cells[*cell];
            assert_eq!(cell.position, position, "a cell at the wrong position");
            assert_eq!(cell.adapters, self.last_adapters, "a cell of other adapters");
            cell.token
        })
        .collect()
    }
}

impl Backend for FakeBackend {
    fn limits(&self) -> BackendLimits {
        self.limits
    }

    fn decode(&mut self, chunks: &[Chunk<'_>], adapters: &AdapterSet) -> Decoded {
        self.steps += 1;
        self.last_adapters = adapters.key().number();
        self.last_drafted = chunks.iter().map(|c| c.draft.len()).sum();
        let total = self.last_drafted + chunks.iter().map(|c| c.tokens.len()).sum::<usize>();
        if self.last_drafted > 0 {
            self.check_drafts(chunks, total);
        }
        assert!(total > 0 && total <= self.limits.n_batch, "{total} tokens");
        let mut slots: Vec<usize> = chunks.iter().map(|c| c.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), chunks.len(), "a slot twice in one step");
        for chunk in chunks {
            assert!(chunk.slot < self.limits.n_slots, "a leaf computes");
            // Whatever a sequence holds already was computed with the same adapters.
            self.history(chunk.slot);
            assert!(!chunk.tokens.is_empty(), "empty chunk");
            assert_eq!(
                chunk.from,
                self.sequences[chunk.slot].len(),
                "positions of slot {} do not continue",
                chunk.slot
            );
        }
        assert!(!chunks.iter().any(|c| c.tokens.contains(&BOMB)), "the bomb went off");
        let poisoned = chunks.iter().any(|c| c.tokens.contains(&POISON));
        let scripted = match self.script.pop_front() {
            None if chunks.len() > 1 => self.shared_script.pop_front(),
            result => result,
        };
        let result = match scripted.unwrap_or(Decoded::Ok) {
            Decoded::Ok if poisoned => Decoded::Failed(-3),
            Decoded::Ok if self.cells() + total > self.limits.n_cells => Decoded::NoSpace,
            result => result,
        };
        self.last_step = self.fixed + self.each * total as u32;
        self.logits.clear();
        self.last_tokens = chunks.iter().map(|c| (c.slot, c.tokens.len())).collect();
        if result == Decoded::Ok {
            self.computed += total;
        }
        for (n, chunk) in chunks.iter().enumerate() {
            if result == Decoded::Ok {
                for token in chunk.tokens.iter().chain(chunk.draft) {
                    self.push(chunk.slot, *token);
                }
            } else if n % 2 == 0 {
                // A failed step may leave anything behind.
                self.push(chunk.slot, chunk.tokens[0]);
            }
            let history = self.history(chunk.slot);
            let known = history.len().saturating_sub(chunk.draft.len());
            let ends = (known..=history.len()).filter(|_| chunk.output);
            let rows = ends.map(|end| self.row(history[..end].to_vec())).collect();
            self.logits.push(rows);
        }
        result
    }

    fn logits(&mut self, chunk: usize, ahead: usize) -> Option<&mut [f32]> {
        self.logits.get_mut(chunk)?.get_mut(ahead).map(Vec::as_mut_slice)
    }

    fn forget(&mut self, slot: usize, from: usize) -> bool {
        if from > 0 && from < self.sequences[slot].len() && !self.shares {
            return false;
        }
        self.sequences[slot].truncate(from);
        true
    }

    fn can_share(&self) -> bool {
        self.shares
    }

    fn copy_prefix(&mut self, from: usize, to: usize, n: usize) -> bool {
        assert!(self.shares && from != to && n > 0);
        assert!(self.sequences[to].is_empty(), "copied over something");
        assert!(n <= self.sequences[from].len(), "copied more than there is");
        self.sequences[to] = self.sequences[from][..n].to_vec();
        true
    }

    fn clear(&mut self) {
        self.sequences.iter_mut().for_each(Vec::clear);
    }

    fn last_step(&self) -> Duration {
        self.last_step
    }

    fn piece(&self, token: u32) -> Vec<u8> {
        piece(token)
    }
}
