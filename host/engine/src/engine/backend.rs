//! What computes a step.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adapter::{AdapterKey, AdapterSet};
use crate::ffi::{Batch, Context, Decoded};
use crate::vocabulary::Vocabulary;

/// A part of a sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    /// The slot, which is also the number of its sequence.
    pub(crate) slot: usize,
    /// The position of the first token.
    pub(crate) from: usize,
    pub(crate) tokens: &'a [u32],
    /// Tokens that may come next: computed behind the others, and of the sequence as
    /// they are until it is told to forget them.
    pub(crate) draft: &'a [u32],
    /// Whether the logits behind the last token are wanted, and those behind each
    /// token of the draft.
    pub(crate) output: bool,
}

/// The sizes a plan has to respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackendLimits {
    pub(crate) n_batch: usize,
    /// Tokens up to which those who generate and prompts are cheaper in one step than
    /// in two.
    pub(crate) n_together: usize,
    /// Sequences that compute: 0 to `n_slots`.
    pub(crate) n_slots: usize,
    /// Sequences that only keep cells: those that follow.
    pub(crate) n_leaves: usize,
    pub(crate) n_cells: usize,
}

/// Computes steps and remembers sequences.
pub(crate) trait Backend {
    fn limits(&self) -> BackendLimits;

    /// Computes the chunks as one batch, all of them with these adapters. Unless it
    /// returns [`Decoded::Ok`], nothing of the step may be relied on, and the caller
    /// resets every sequence of it with [`Self::forget`].
    fn decode(&mut self, chunks: &[Chunk<'_>], adapters: &AdapterSet) -> Decoded;

    /// The logits behind a chunk of the last step, or behind the first `ahead` tokens
    /// of its draft, if they were wanted.
    fn logits(&mut self, chunk: usize, ahead: usize) -> Option<&mut [f32]>;

    /// Removes a sequence from a position on; false if that is impossible for
    /// a part of a sequence.
    fn forget(&mut self, slot: usize, from: usize) -> bool;

    /// Whether sequences can share cells and drop a part of them.
    fn can_share(&self) -> bool;

    /// The sequence `to`, which holds nothing, shares the first `n` positions of
    /// `from` without computing them; false if that is impossible.
    fn copy_prefix(&mut self, from: usize, to: usize, n: usize) -> bool;

    /// Forgets everything.
    fn clear(&mut self);

    /// How long the last step took.
    fn last_step(&self) -> Duration;

    /// The bytes of a token.
    fn piece(&self, token: u32) -> Vec<u8>;
}

/// llama.cpp.
#[derive(Debug)]
pub(crate) struct LlamaBackend {
    context: Context,
    batch: Batch,
    /// Where each chunk's outputs are in the batch.
    outputs: Vec<Range<usize>>,
    /// What is set in the context. The key alone: whether an adapter is in use is
    /// up to the jobs.
    adapters: AdapterKey,
    vocabulary: Arc<Vocabulary>,
    n_slots: usize,
    shares: bool,
    n_together: usize,
    last_step: Duration,
}

/// On the CPU, llama.cpp's attention takes the rows of a batch of 64 and more in tiles
/// of 64 (`GGML_FA_TILE_Q`), and a tile computes with every cell that any of its rows
/// sees. Jobs that generate have one row each, so their tile computes with the cells of
/// all of them. Smaller batches are computed row by row.
const ROWS_OF_A_TILE: usize = 64;

impl LlamaBackend {
    /// The first `n_slots` of the context's sequences compute, the rest are for
    /// leaves. `shares`: whether the model's memory can share cells; `on_cpu`: whether
    /// all of it is computed there.
    pub(crate) fn new(
        context: Context,
        vocabulary: Arc<Vocabulary>,
        n_slots: usize,
        shares: bool,
        on_cpu: bool,
    ) -> Self {
        Self {
            batch: Batch::new(context.limits()),
            outputs: Vec::new(),
            adapters: AdapterKey::default(),
            context,
            vocabulary,
            n_slots,
            shares,
            n_together: if on_cpu { ROWS_OF_A_TILE - 1 } else { usize::MAX },
            last_step: Duration::ZERO,
        }
    }

    fn fill(&mut self, chunks: &[Chunk<'_>]) -> Result<(), crate::ffi::batch::BatchError> {
        self.batch.clear();
        self.outputs.clear();
        for chunk in chunks {
            let last = chunk.tokens.len().saturating_sub(1);
            let first_output = self.batch.len() + last;
            for (n, token) in chunk.tokens.iter().chain(chunk.draft).enumerate() {
                let wanted = chunk.output && n >= last;
                self.batch.add(*token, chunk.from + n, chunk.slot, wanted)?;
            }
            let end = self.batch.len();
            self.outputs.push(if chunk.output { first_output..end } else { end..end });
        }
        Ok(())
    }

    /// Sets the adapters of a step unless they are; false if they cannot be.
    fn adapt(&mut self, set: &AdapterSet) -> bool {
        if self.adapters == *set.key() {
            return true;
        }
        let adapters: Vec<_> = set
            .adapters()
            .iter()
            .map(|(adapter, scale)| (Arc::clone(adapter.raw()), *scale))
            .collect();
        let adapted = self.context.adapt(&adapters);
        if adapted {
            self.adapters = set.key().clone();
        }
        adapted
    }
}

impl Backend for LlamaBackend {
    fn limits(&self) -> BackendLimits {
        let limits = self.context.limits();
        BackendLimits {
            n_batch: limits.n_batch,
            n_together: self.n_together,
            n_slots: self.n_slots.min(limits.n_seq),
            n_leaves: limits.n_seq.saturating_sub(self.n_slots),
            n_cells: self.context.n_cells() as usize,
        }
    }

    fn decode(&mut self, chunks: &[Chunk<'_>], adapters: &AdapterSet) -> Decoded {
        if let Err(error) = self.fill(chunks) {
            tracing::error!(%error, "step was planned beyond the context's limits");
            return Decoded::Invalid;
        }
        let started = Instant::now();
        if !self.adapt(adapters) {
            tracing::error!("the adapters of a step are of another model");
            return Decoded::Invalid;
        }
        let decoded = self.context.decode(&mut self.batch);
        self.last_step = started.elapsed();
        decoded
    }

    fn logits(&mut self, chunk: usize, ahead: usize) -> Option<&mut [f32]> {
        let index = self.outputs.get(chunk)?.clone().nth(ahead)?;
        self.context.logits(&self.batch, index)
    }

    fn forget(&mut self, slot: usize, from: usize) -> bool {
        self.context.forget(slot, from)
    }

    fn can_share(&self) -> bool {
        self.shares
    }

    fn copy_prefix(&mut self, from: usize, to: usize, n: usize) -> bool {
        self.shares && self.context.copy_prefix(from, to, n)
    }

    fn clear(&mut self) {
        self.context.clear();
    }

    fn last_step(&self) -> Duration {
        self.last_step
    }

    fn piece(&self, token: u32) -> Vec<u8> {
        self.vocabulary.piece(token, false)
    }
}
