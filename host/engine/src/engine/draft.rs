//! What a job drafts, and when it had better not.
//!
//! A draft is what followed the last tokens where they stood before
//! ([`super::ngrams`]): texts that quote, rewrite or repeat go on the same way. A
//! wrong token costs time and nothing else, so a job whose drafts do not pay for
//! what they cost stops drafting for a while, and for longer each time. Which jobs
//! may draft in a step, and what becomes of it, is up to [`super::speculate`].

use crate::engine::ngrams::Ngrams;

/// After how many tokens of drafts it is judged whether they pay.
const JUDGED: usize = 32;
/// The least share of a draft that has to be right: if it is not known what drafts
/// cost, and however little that is.
const USUAL_SHARE: f64 = 0.3;
const LEAST_SHARE: f64 = 0.1;
/// Tokens of output without a draft: the first time, and at most.
const REST: usize = 64;
const LONGEST_REST: usize = 1024;

/// The drafts of one job.
#[derive(Debug, Default)]
pub(crate) struct Drafter {
    ngrams: Ngrams,
    /// Tokens since it was judged, and those of them that were right.
    drafted: usize,
    accepted: usize,
    /// How long the text has to be for the next draft.
    rests_until: usize,
    rest: usize,
}

impl Drafter {
    /// At most `n` tokens that may follow the text.
    pub(crate) fn draft(&mut self, text: &[u32], n: usize) -> Vec<u32> {
        if text.len() < self.rests_until {
            return Vec::new();
        }
        self.ngrams.learn(text);
        let Some(place) = self.ngrams.find(text) else { return Vec::new() };
        // Where the text ends the draft goes on with itself: what repeats with a
        // period shorter than the draft will do so again.
        text[place..].iter().copied().cycle().take(n).collect()
    }

    /// Of a draft so many tokens were right. `cost` is what a token of it took, as
    /// a share of what a step without it takes.
    pub(crate) fn judge(
        &mut self,
        text: &[u32],
        drafted: usize,
        accepted: usize,
        cost: Option<f64>,
    ) {
        self.drafted += drafted;
        self.accepted += accepted;
        if self.drafted < JUDGED {
            return;
        }
        // Each token that is right saves a step.
        let needed = cost.unwrap_or(USUAL_SHARE).max(LEAST_SHARE) * self.drafted as f64;
        if (self.accepted as f64) < needed {
            self.rest(text);
        } else {
            self.rest = 0;
        }
        (self.drafted, self.accepted) = (0, 0);
    }

    /// No drafts for a while.
    pub(crate) fn rest(&mut self, text: &[u32]) {
        self.rest = (self.rest * 2).clamp(REST, LONGEST_REST);
        self.rests_until = text.len() + self.rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_draft_is_what_followed() {
        let text = [1, 2, 3, 4, 5, 6, 1, 2, 3];
        assert_eq!(Drafter::default().draft(&text, 2), [4, 5]);
        assert!(Drafter::default().draft(&text, 0).is_empty());
        assert!(Drafter::default().draft(&[1, 2, 3, 4], 4).is_empty());
    }

    #[test]
    fn what_goes_in_circles_goes_on_so() {
        assert_eq!(Drafter::default().draft(&[9, 9, 9], 4), [9, 9, 9, 9]);
        assert_eq!(Drafter::default().draft(&[1, 2, 1, 2, 1], 5), [2, 1, 2, 1, 2]);
        let text = [5, 1, 2, 3, 1, 2, 3, 1];
        assert_eq!(Drafter::default().draft(&text, 7), [2, 3, 1, 2, 3, 1, 2]);
    }

    /// Judges `n` drafts of 8 tokens, of each of which so many are right, behind a
    /// text of 100 tokens; says how long the text has to be for the next one.
    fn judged(drafter: &mut Drafter, n: usize, right: usize, cost: Option<f64>) -> usize {
        for _ in 0..n {
            drafter.judge(&[7; 100], 8, right, cost);
        }
        drafter.rests_until
    }

    #[test]
    fn drafts_that_do_not_pay_come_to_rest() {
        let mut drafter = Drafter::default();
        assert_eq!(judged(&mut drafter, 3, 0, None), 0, "24 tokens are too few to judge");
        assert_eq!(judged(&mut drafter, 1, 0, None), 164);
        assert!(drafter.draft(&[7; 163], 4).is_empty());
        assert_eq!(drafter.draft(&[7; 164], 4), [7; 4]);
        // The next time for longer, but not without end.
        assert_eq!(judged(&mut drafter, 4, 2, None), 228);
        assert_eq!(judged(&mut drafter, 100, 1, None), 1124);
        // Once they are right again, all is forgiven.
        judged(&mut drafter, 4, 8, None);
        assert_eq!(judged(&mut drafter, 4, 0, None), 164);
    }

    #[test]
    fn what_a_draft_costs_decides() {
        // 3 of 8 are right.
        for (cost, until) in [(None, 0), (Some(0.37), 0), (Some(0.38), 164), (Some(-1.0), 0)] {
            assert_eq!(judged(&mut Drafter::default(), 4, 3, cost), until, "{cost:?}");
        }
        // However little it costs, some of it has to be right.
        assert_eq!(judged(&mut Drafter::default(), 4, 0, Some(0.0)), 164);
    }

    proptest! {
        /// A text with a period is continued with it, however long the draft.
        #[test]
        fn periods_are_continued(
            period in prop::collection::vec(0u32..50, 1..12),
            n_text in 0usize..40,
            n in 0usize..17,
        ) {
            let n_text = n_text + period.len() + 3;
            let text: Vec<u32> = period.iter().copied().cycle().take(n_text + n).collect();
            let draft = Drafter::default().draft(&text[..n_text], n);
            // Runs that occur twice in a period may be mistaken for each other.
            let mut runs: Vec<Vec<u32>> = (0..period.len())
                .map(|at| text.iter().copied().cycle().skip(at).take(3).collect())
                .collect();
            runs.sort_unstable();
            runs.dedup();
            prop_assert_eq!(draft.len(), n);
            if runs.len() == period.len() {
                prop_assert_eq!(draft.as_slice(), &text[n_text..]);
            }
        }
    }
}
