//! Where the last tokens of a text stood before, in the text itself.
//!
//! An index from runs of three and of two tokens to the place behind them. It grows
//! with the text and reads every token once, so that a look-up costs the same
//! however long the text is. What is made of a place is up to [`super::draft`].

use std::collections::HashMap;

/// The index of one text. Whose runs collide is in the hands of clients, who choose
/// their tokens; so the standard library's hasher it is.
#[derive(Debug, Default)]
pub(crate) struct Ngrams {
    /// For each run the place behind its last occurrence. Something stands there:
    /// the end of the text is no answer.
    threes: HashMap<[u32; 3], usize>,
    twos: HashMap<[u32; 2], usize>,
    /// How much of the text is known.
    known: usize,
}

impl Ngrams {
    /// Reads what is new. A text only ever grows.
    pub(crate) fn learn(&mut self, text: &[u32]) {
        for place in self.known..text.len() {
            if let Some(run) = text[..place].last_chunk::<3>() {
                self.threes.insert(*run, place);
            }
            if let Some(run) = text[..place].last_chunk::<2>() {
                self.twos.insert(*run, place);
            }
        }
        self.known = text.len();
    }

    /// The place behind the last earlier occurrence of the text's last three tokens;
    /// without one, of its last two.
    pub(crate) fn find(&self, text: &[u32]) -> Option<usize> {
        let three = text.last_chunk::<3>().and_then(|run| self.threes.get(run));
        let two = || text.last_chunk::<2>().and_then(|run| self.twos.get(run));
        three.or_else(two).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(text: &[u32]) -> Option<usize> {
        let mut ngrams = Ngrams::default();
        ngrams.learn(text);
        ngrams.find(text)
    }

    #[test]
    fn the_last_earlier_occurrence_is_found() {
        assert_eq!(find(&[1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3]), Some(7));
        // Three tokens are better evidence than two, however long ago.
        assert_eq!(find(&[1, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3]), Some(3));
        assert_eq!(find(&[1, 2, 3, 9, 4, 2, 3]), Some(3));
    }

    #[test]
    fn the_end_is_no_occurrence_of_itself() {
        assert_eq!(find(&[1, 2, 3]), None);
        assert_eq!(find(&[1, 2]), None);
        assert_eq!(find(&[1]), None);
        assert_eq!(find(&[]), None);
        // But it may overlap with one.
        assert_eq!(find(&[7, 7, 7]), Some(2));
        assert_eq!(find(&[7, 7, 7, 7]), Some(3));
    }

    /// The same, by looking at every place.
    fn searched(text: &[u32]) -> Option<usize> {
        [3, 2].into_iter().find_map(|n| {
            let run = &text[text.len().checked_sub(n)?..];
            (n..text.len()).rev().find(|place| text[place - n..*place] == *run)
        })
    }

    proptest! {
        /// Learning a text piece by piece, with questions in between, gives what a
        /// search through all of it gives.
        #[test]
        fn the_index_equals_a_search(
            text in prop::collection::vec(0u32..5, 0..80),
            cuts in prop::collection::vec(0usize..80, 0..20),
        ) {
            let mut ngrams = Ngrams::default();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            for cut in cuts {
                ngrams.learn(&text[..cut]);
                prop_assert_eq!(ngrams.find(&text[..cut]), searched(&text[..cut]));
            }
        }
    }
}
