//! The input of one step.

use llama_cpp_sys_2 as sys;

/// Why a token was not added. Each of these would make llama.cpp abort, write
/// out of bounds, or refuse the whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("batch is full")]
    Full,
    #[error("token is not in the vocabulary")]
    Token,
    #[error("sequence does not exist")]
    Sequence,
    #[error("position is too large")]
    Position,
    #[error("too many outputs")]
    Outputs,
}

/// The bounds of the context a batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) n_batch: usize,
    pub(crate) n_seq: usize,
    pub(crate) n_vocab: usize,
    pub(crate) n_outputs: usize,
}

/// Tokens of one or more sequences, each in one sequence only.
#[derive(Debug)]
pub(crate) struct Batch {
    limits: BatchLimits,
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequences: Vec<sys::llama_seq_id>,
    outputs: Vec<i8>,
    n_outputs: usize,
}

impl Batch {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            tokens: Vec::with_capacity(limits.n_batch),
            positions: Vec::with_capacity(limits.n_batch),
            sequences: Vec::with_capacity(limits.n_batch),
            outputs: Vec::with_capacity(limits.n_batch),
            n_outputs: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
        self.n_outputs = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds a token; returns its index in the batch.
    pub(crate) fn add(
        &mut self,
        token: u32,
        position: usize,
        sequence: usize,
        output: bool,
    ) -> Result<usize, BatchError> {
        let index = self.tokens.len();
        if index >= self.limits.n_batch {
            return Err(BatchError::Full);
        }
        if token as usize >= self.limits.n_vocab {
            return Err(BatchError::Token);
        }
        if sequence >= self.limits.n_seq {
            return Err(BatchError::Sequence);
        }
        if output && self.n_outputs >= self.limits.n_outputs {
            return Err(BatchError::Outputs);
        }
        let token = i32::try_from(token).map_err(|_| BatchError::Token)?;
        let position = i32::try_from(position).map_err(|_| BatchError::Position)?;
        let sequence = i32::try_from(sequence).map_err(|_| BatchError::Sequence)?;
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
        self.outputs.push(i8::from(output));
        self.n_outputs += usize::from(output);
        Ok(index)
    }

    pub(super) fn limits(&self) -> BatchLimits {
        self.limits
    }

    pub(super) fn is_output(&self, index: usize) -> bool {
        self.outputs.get(index).is_some_and(|output| *output != 0)
    }

    /// Calls `run` with the batch in llama.cpp's form.
    pub(super) fn with_raw<R>(&mut self, run: impl FnOnce(sys::llama_batch) -> R) -> R {
        let n = self.tokens.len();
        let mut counts = vec![1i32; n];
        let mut pointers: Vec<*mut sys::llama_seq_id> =
            self.sequences.iter_mut().map(std::ptr::from_mut).collect();
        // Every array has `n` entries: `add` pushes to all of them or to none.
        run(sys::llama_batch {
            n_tokens: i32::try_from(n).unwrap_or(0),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: pointers.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use proptest::prelude::*;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits { n_batch: 8, n_seq: 3, n_vocab: 100, n_outputs: 2 };

    #[test]
    fn every_bound_is_an_error() {
        let mut batch = Batch::new(LIMITS);
        assert_eq!(batch.add(100, 0, 0, false), Err(BatchError::Token));
        assert_eq!(batch.add(u32::MAX, 0, 0, false), Err(BatchError::Token));
        assert_eq!(batch.add(0, 0, 3, false), Err(BatchError::Sequence));
        assert_eq!(batch.add(0, usize::MAX, 0, false), Err(BatchError::Position));
        batch.add(1, 0, 0, true).unwrap();
        batch.add(1, 0, 1, true).unwrap();
        assert_eq!(batch.add(1, 0, 2, true), Err(BatchError::Outputs));
        for n in 2..8 {
            assert_eq!(batch.add(1, n, 2, false), Ok(n));
        }
        assert_eq!(batch.add(1, 9, 2, false), Err(BatchError::Full));
        assert_eq!(batch.len(), 8);
        batch.clear();
        assert_eq!(batch.add(1, 0, 0, true), Ok(0));
    }

    proptest! {
        /// Whatever is added, what llama.cpp sees is within the bounds.
        #[test]
        fn raw_batch_is_within_bounds(
            adds in prop::collection::vec((any::<u32>(), any::<usize>(), 0usize..6, any::<bool>()), 0..20)
        ) {
            let mut batch = Batch::new(LIMITS);
            for (token, position, sequence, output) in adds {
                let _ = batch.add(token % 120, position, sequence, output);
            }
            let (limits, outputs) = (batch.limits(), batch.outputs.clone());
            prop_assert!(batch.len() <= limits.n_batch);
            prop_assert!(outputs.iter().filter(|o| **o != 0).count() <= limits.n_outputs);
            prop_assert!(batch.tokens.iter().all(|t| (0..100).contains(t)));
            prop_assert!(batch.sequences.iter().all(|s| (0..3).contains(s)));
            prop_assert!(batch.positions.iter().all(|p| *p >= 0));
            let n = batch.with_raw(|raw| raw.n_tokens);
            prop_assert_eq!(n as usize, batch.len());
        }
    }
}
