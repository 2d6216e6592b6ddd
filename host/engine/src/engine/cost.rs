//! How long a step takes, learned from the steps before.
//!
//! A step costs something fixed (every weight is read once) and something for
//! each token. Both depend on model, machine and load, so they are measured.
//! Steps fall into classes by size, each with a moving average: a thousand small
//! steps then do not wash out what the last large one has taught. A line through
//! the averages predicts any size.
//!
//! It knows nothing of plans: it only turns a time into a number of tokens.

use std::time::Duration;

/// How much a new measurement counts against the average of its class.
const WEIGHT: f64 = 0.25;
/// The least part of a prompt in a step, so that prompts always get on; also
/// what is tried before anything was measured.
pub(crate) const MIN_PREFILL: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Average {
    tokens: f64,
    seconds: f64,
}

/// The running estimate of one model.
#[derive(Debug, Default)]
pub(crate) struct CostModel {
    /// By the number of binary digits of the step's tokens.
    classes: [Option<Average>; 20],
}

impl CostModel {
    /// A step of `n_tokens` has taken this long.
    pub(crate) fn record(&mut self, n_tokens: usize, took: Duration) {
        let class = self.class(n_tokens);
        let new = Average { tokens: n_tokens as f64, seconds: took.as_secs_f64() };
        let average = self.classes[class].get_or_insert(new);
        average.tokens += WEIGHT * (new.tokens - average.tokens);
        average.seconds += WEIGHT * (new.seconds - average.seconds);
    }

    /// What a step of `n_tokens` takes by estimate; `None` before the first.
    pub(crate) fn estimate(&self, n_tokens: usize) -> Option<Duration> {
        let (fixed, each) = self.line()?;
        Duration::try_from_secs_f64(fixed + each * n_tokens as f64).ok()
    }

    /// What each token beyond the first adds to a step of `n_tokens`, as a share of
    /// what a step of one token takes; `None` until both were measured. The line
    /// would not do: large steps lay it, and small ones are off it.
    pub(crate) fn share_of_another(&self, n_tokens: usize) -> Option<f64> {
        let one = self.classes[self.class(1)]?;
        let many = self.classes[self.class(n_tokens)]?;
        let each = (many.seconds - one.seconds) / (many.tokens - one.tokens);
        Some(each / one.seconds).filter(|share| share.is_finite())
    }

    /// How many tokens of prompts a step may hold: with `n_decoding` tokens of
    /// others in it, it is to end within `target`. A step in which nobody else
    /// waits for a token is filled.
    pub(crate) fn prefill_budget(
        &self,
        target: Duration,
        n_decoding: usize,
        n_batch: usize,
    ) -> usize {
        let room = n_batch.saturating_sub(n_decoding);
        if n_decoding == 0 {
            return room;
        }
        let wanted = match self.line() {
            None => MIN_PREFILL,
            Some((fixed, each)) => {
                let tokens = (target.as_secs_f64() - fixed) / each;
                // A float becomes the nearest integer there is; NaN becomes 0.
                (tokens as usize).saturating_sub(n_decoding)
            }
        };
        wanted.max(MIN_PREFILL).min(room)
    }

    fn class(&self, n_tokens: usize) -> usize {
        let digits = (usize::BITS - n_tokens.leading_zeros()) as usize;
        digits.min(self.classes.len() - 1)
    }

    /// Seconds that every step takes, and seconds for each token.
    fn line(&self) -> Option<(f64, f64)> {
        let points = || self.classes.iter().flatten();
        let n = points().count() as f64;
        if n == 0.0 {
            return None;
        }
        let sum = |value: fn(&Average) -> f64| points().map(value).sum::<f64>();
        let (tokens, seconds) = (sum(|p| p.tokens), sum(|p| p.seconds));
        let squares = sum(|p| p.tokens * p.tokens);
        let products = sum(|p| p.tokens * p.seconds);
        let spread = n * squares - tokens * tokens;
        // One size says nothing about the fixed part, and noise must not make
        // either part negative: then all is put down to the tokens.
        let each = (n * products - tokens * seconds) / spread;
        let fixed = (seconds - each * tokens) / n;
        if n > 1.0 && spread > 0.0 && each > 0.0 && fixed >= 0.0 {
            return Some((fixed, each));
        }
        Some((0.0, (products / squares).max(1e-9)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: Duration = Duration::from_millis(200);

    #[test]
    fn a_line_is_found_again() {
        let mut cost = CostModel::default();
        for n in [1, 8, 70, 300, 512, 8, 8, 8] {
            cost.record(n, Duration::from_micros(10_000 + 3_000 * n as u64));
        }
        // (200 - 10) / 3 = 63 tokens, four of which are taken.
        assert_eq!(cost.prefill_budget(TARGET, 4, 512), 59);
        let estimate = cost.estimate(100).map_or(0.0, |d| d.as_secs_f64());
        assert!((estimate - 0.31).abs() < 0.001, "{estimate}");
    }

    #[test]
    fn small_steps_do_not_wash_out_large_ones() {
        let mut cost = CostModel::default();
        cost.record(512, Duration::from_secs(2));
        for _ in 0..10_000 {
            cost.record(4, Duration::from_millis(20));
        }
        let budget = cost.prefill_budget(TARGET, 4, 512);
        assert!((40..50).contains(&budget), "{budget}");
    }

    #[test]
    fn it_follows_the_machine() {
        let mut cost = CostModel::default();
        for factor in [1, 4] {
            for _ in 0..40 {
                cost.record(8, Duration::from_millis(factor * 10));
                cost.record(64, Duration::from_millis(factor * 66));
            }
        }
        let budget = cost.prefill_budget(TARGET, 8, 512);
        assert!((35..45).contains(&budget), "{budget}");
    }

    #[test]
    fn a_further_token_is_a_share_of_a_step() {
        let mut cost = CostModel::default();
        assert_eq!(cost.share_of_another(5), None);
        for n in [5, 1, 5, 1] {
            cost.record(n, Duration::from_millis(6 + 4 * n as u64));
        }
        // A step of one takes 10 ms, and each further token 4.
        let share = cost.share_of_another(5).unwrap_or_default();
        assert!((share - 0.4).abs() < 1e-9, "{share}");
        // What other sizes cost is not known, and what no time passes for never is.
        assert_eq!(cost.share_of_another(9), None);
        assert_eq!(cost.share_of_another(1), None);
        let mut cost = CostModel::default();
        cost.record(1, Duration::ZERO);
        cost.record(5, Duration::ZERO);
        assert_eq!(cost.share_of_another(5), None);
    }

    #[test]
    fn nobody_decoding_fills_the_step() {
        let mut cost = CostModel::default();
        assert_eq!(cost.prefill_budget(TARGET, 0, 512), 512);
        assert_eq!(cost.prefill_budget(TARGET, 1, 512), MIN_PREFILL);
        cost.record(512, Duration::from_secs(100));
        assert_eq!(cost.prefill_budget(TARGET, 0, 512), 512);
        assert_eq!(cost.prefill_budget(TARGET, 1, 512), MIN_PREFILL);
        cost.record(512, Duration::ZERO);
        assert_eq!(cost.prefill_budget(TARGET, 500, 512), 12);
    }

    proptest! {
        #[test]
        fn budgets_are_within_bounds(
            steps in prop::collection::vec((1usize..70_000, 0u64..10_000_000), 0..40),
            target in 0u64..100_000,
            n_batch in 32usize..2048,
            decoding in 0usize..32,
        ) {
            let mut cost = CostModel::default();
            for (n, micros) in steps {
                cost.record(n, Duration::from_micros(micros));
            }
            let budget = cost.prefill_budget(Duration::from_millis(target), decoding, n_batch);
            prop_assert!(budget + decoding <= n_batch);
            prop_assert!(budget >= MIN_PREFILL.min(n_batch - decoding));
        }
    }
}
