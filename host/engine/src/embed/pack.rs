//! Which texts are computed together.

use std::ops::Range;

/// Cuts texts of these lengths into batches of at most `n_batch` tokens and `n_seq`
/// texts, in their order. A text that is longer than a batch gets one of its own,
/// which the batch then refuses.
pub(super) fn pack(lengths: &[usize], n_batch: usize, n_seq: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0usize);
    for (index, length) in lengths.iter().enumerate() {
        let is_full = tokens.saturating_add(*length) > n_batch || index - start >= n_seq;
        if is_full && index > start {
            batches.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens = tokens.saturating_add(*length);
    }
    if start < lengths.len() {
        batches.push(start..lengths.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batches_are_filled_in_order() {
        assert!(pack(&[], 8, 4).is_empty());
        assert_eq!(pack(&[8, 8], 8, 4), [0..1, 1..2]);
        assert_eq!(pack(&[3, 5, 1], 8, 4), [0..2, 2..3]);
        assert_eq!(pack(&[1, 1, 1, 1, 1], 8, 4), [0..4, 4..5]);
        assert_eq!(pack(&[9, 1], 8, 4), [0..1, 1..2]);
    }

    proptest! {
        /// Every text once, in order, within the bounds, and no batch that the
        /// next text would have fitted into.
        #[test]
        fn nothing_is_lost_and_nothing_is_wasted(
            lengths in prop::collection::vec(1usize..20, 0..40),
            n_seq in 1usize..6,
        ) {
            let batches = pack(&lengths, 20, n_seq);
            let all: Vec<usize> = batches.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let tokens = |batch: &Range<usize>| lengths[batch.clone()].iter().sum::<usize>();
            for batch in &batches {
                prop_assert!(tokens(batch) <= 20 && batch.len() <= n_seq && !batch.is_empty());
            }
            for pair in batches.windows(2) {
                let next = lengths[pair[1].start];
                prop_assert!(tokens(&pair[0]) + next > 20 || pair[0].len() == n_seq);
            }
        }
    }
}
