//! A backend that computes nothing, checks everything, and fails on demand.

use std::collections::VecDeque;

use crate::engine::backend::{Backend, BackendLimits, Chunk};
use crate::ffi::Decoded;

pub(super) const N_VOCAB: u32 = 64;
pub(super) const EOG: u32 = 0;
/// A step with this token fails.
pub(super) const POISON: u32 = 63;
/// A step with this token panics.
pub(super) const BOMB: u32 = 62;

/// What follows a text, and what is refused, without any batch.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    let hash = tokens
        .iter()
        .fold(7u32, |hash, token| hash.wrapping_mul(31).wrapping_add(*token).rotate_left(5));
    // About one in twenty ends the text.
    match hash % 61 {
        0..3 => EOG,
        token => token,
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

#[derive(Debug)]
pub(super) struct FakeBackend {
    limits: BackendLimits,
    sequences: Vec<Vec<u32>>,
    logits: Vec<Option<Vec<f32>>>,
    /// Results of the next steps; then all succeed.
    pub(super) script: VecDeque<Decoded>,
    /// Results of the next steps that hold several jobs.
    pub(super) shared_script: VecDeque<Decoded>,
    /// Whether a part of a sequence can be forgotten.
    pub(super) forgets_parts: bool,
    pub(super) steps: usize,
}

impl FakeBackend {
    pub(super) fn new(n_batch: usize, n_slots: usize) -> Self {
        Self {
            limits: BackendLimits { n_batch, n_slots, n_cells: 1 << 20 },
            sequences: vec![Vec::new(); n_slots],
            logits: Vec::new(),
            script: VecDeque::new(),
            shared_script: VecDeque::new(),
            forgets_parts: true,
            steps: 0,
        }
    }

    /// Tokens in the cache, of all sequences.
    pub(super) fn cells(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

impl Backend for FakeBackend {
    fn limits(&self) -> BackendLimits {
        self.limits
    }

    fn decode(&mut self, chunks: &[Chunk<'_>]) -> Decoded {
        self.steps += 1;
        let total: usize = chunks.iter().map(|c| c.tokens.len()).sum();
        assert!(total > 0 && total <= self.limits.n_batch, "{total} tokens");
        let mut slots: Vec<usize> = chunks.iter().map(|c| c.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), chunks.len(), "a slot twice in one step");
        for chunk in chunks {
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
            result => result,
        };
        self.logits.clear();
        for (n, chunk) in chunks.iter().enumerate() {
            let sequence = &mut self.sequences[chunk.slot];
            if result == Decoded::Ok {
                sequence.extend_from_slice(chunk.tokens);
            } else if n % 2 == 0 {
                // A failed step may leave anything behind.
                sequence.push(chunk.tokens[0]);
            }
            self.logits.push(chunk.output.then(|| {
                let mut logits = vec![0.0; N_VOCAB as usize];
                logits[next_token(sequence) as usize] = 1.0;
                logits
            }));
        }
        result
    }

    fn logits(&mut self, chunk: usize) -> Option<&mut [f32]> {
        self.logits.get_mut(chunk)?.as_deref_mut()
    }

    fn forget(&mut self, slot: usize, from: usize) -> bool {
        if from > 0 && from < self.sequences[slot].len() && !self.forgets_parts {
            return false;
        }
        self.sequences[slot].truncate(from);
        true
    }

    fn clear(&mut self) {
        self.sequences.iter_mut().for_each(Vec::clear);
    }

    fn piece(&self, token: u32) -> Vec<u8> {
        piece(token)
    }
}
