//! Probation: whether a plugin's new version fails more often than its old one.
//!
//! It lasts for 100 calls of the new version or 60 s, whichever is first. The new
//! version has failed it if its share of failed calls is more than 5 points above
//! the old version's; an old version that was never called stands for one that
//! never failed. It ends early where nothing can change the result: when even good
//! calls to the end would leave it above, or when it obviously does not work at
//! all. Without an old version there is nothing to go back to, and it passes.
//!
//! This is arithmetic on numbers that `stats` counted. Swapping back is done by
//! whoever asks; taking a failing plugin out of the requests' way at once is the
//! task of `breaker`.

use std::time::{Duration, Instant};

/// Calls after which it ends.
const CALLS: u64 = 100;
/// Time after which it ends.
const TIME: Duration = Duration::from_secs(60);
/// Points, that is hundredths of all calls, by which it may be worse.
const POINTS: u64 = 5;
/// This many failures, and at least every second call failing, are enough for a
/// verdict: a breaker lets so few calls of such a version through that the 100th
/// would never come.
const OBVIOUS: u64 = 5;

/// How many calls failed. Calls that say nothing about the plugin are in neither
/// number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
}

impl Rate {
    /// Failed calls as a share of all, 0 to 1; 0 without calls.
    pub(crate) fn share(self) -> f64 {
        if self.calls == 0 {
            return 0.0;
        }
        // Exact for any number of calls that a worker can live to see.
        self.failures as f64 / self.calls as f64
    }

    /// Whether it is more than [`POINTS`] above `old`. Without rounding, so that
    /// exactly 5 points are never too much.
    fn is_worse_than(self, old: Self) -> bool {
        let [calls, failures] = [self.calls, self.failures].map(u128::from);
        let [old_calls, old_failures] = [old.calls.max(1), old.failures].map(u128::from);
        failures * old_calls * 100 > calls * (old_failures * 100 + old_calls * u128::from(POINTS))
    }
}

/// What has become of a probation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Judgement {
    /// It is not over.
    Going,
    /// The new version stays.
    Passed,
    /// The new version is worse; the shares of failed calls, 0 to 1.
    Failed { old: f64, new: f64 },
}

/// One new version's probation, from the moment at which it began to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probation {
    old: Option<Rate>,
    began: Instant,
}

impl Probation {
    /// Begins. `old` is what the old version did in its whole life.
    pub(crate) fn new(old: Option<Rate>, now: Instant) -> Self {
        Self { old, began: now }
    }

    /// Judges what the new version did since the beginning.
    pub(crate) fn judge(&self, new: Rate, now: Instant) -> Judgement {
        let Some(old) = self.old else {
            return Judgement::Passed;
        };
        let over = new.calls >= CALLS || now.saturating_duration_since(self.began) >= TIME;
        // The best that can still come of it. Should the time end first, there are
        // fewer good calls and the share is only higher.
        let best = Rate { calls: new.calls.max(CALLS), failures: new.failures };
        let obvious = new.failures >= OBVIOUS && new.failures * 2 >= new.calls;
        if new.is_worse_than(old) && (over || obvious || best.is_worse_than(old)) {
            return Judgement::Failed { old: old.share(), new: new.share() };
        }
        if over { Judgement::Passed } else { Judgement::Going }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(failures: u64, calls: u64) -> Rate {
        Rate { calls, failures }
    }

    /// The judgement after `seconds`, as one word.
    fn judged(old: Option<Rate>, new: Rate, seconds: u64) -> &'static str {
        let now = Instant::now();
        match Probation::new(old, now).judge(new, now + Duration::from_secs(seconds)) {
            Judgement::Going => "going",
            Judgement::Passed => "passed",
            Judgement::Failed { .. } => "failed",
        }
    }

    #[test]
    fn verdicts() {
        let perfect = Some(rate(0, 1_000));
        let flaky = Some(rate(300, 1_000));
        for (old, new, seconds, expected) in [
            // Nothing to go back to.
            (None, rate(0, 0), 0, "passed"),
            (None, rate(100, 100), 60, "passed"),
            // By calls, and by time.
            (perfect, rate(0, 99), 59, "going"),
            (perfect, rate(0, 100), 0, "passed"),
            (perfect, rate(0, 0), 60, "passed"),
            // Exactly 5 points are not more than 5 points.
            (perfect, rate(5, 100), 0, "passed"),
            (perfect, rate(6, 100), 0, "failed"),
            (flaky, rate(35, 100), 0, "passed"),
            (flaky, rate(36, 100), 0, "failed"),
            // As good as a bad one is good enough.
            (flaky, rate(30, 100), 0, "passed"),
            // Too few to be sure, until the time is over.
            (perfect, rate(4, 4), 1, "going"),
            (perfect, rate(1, 3), 59, "going"),
            (perfect, rate(1, 3), 60, "failed"),
            // The sixth failure in a hundred cannot be made good.
            (perfect, rate(5, 25), 1, "going"),
            (perfect, rate(6, 30), 1, "failed"),
            (flaky, rate(35, 70), 1, "failed"),
            (flaky, rate(35, 71), 1, "going"),
            (flaky, rate(36, 73), 1, "failed"),
            // It does not work at all.
            (perfect, rate(5, 5), 1, "failed"),
            (perfect, rate(5, 10), 1, "failed"),
            (flaky, rate(5, 5), 1, "failed"),
            // Nor did the old one.
            (Some(rate(10, 10)), rate(5, 5), 1, "going"),
            (Some(rate(10, 10)), rate(100, 100), 1, "passed"),
            // An old version that was never called.
            (Some(rate(0, 0)), rate(5, 100), 1, "passed"),
            (Some(rate(0, 0)), rate(6, 100), 1, "failed"),
            // Looked at late.
            (perfect, rate(60, 1_000), 1, "failed"),
            (perfect, rate(50, 1_000), 1, "passed"),
        ] {
            assert_eq!(judged(old, new, seconds), expected, "{old:?} {new:?} {seconds} s");
        }
    }

    #[test]
    fn a_failed_one_says_both_shares() {
        let now = Instant::now();
        let judgement = Probation::new(Some(rate(1, 100)), now).judge(rate(20, 100), now);
        assert_eq!(judgement, Judgement::Failed { old: 0.01, new: 0.2 });
    }

    /// The rule as an operator would check it on paper.
    fn worse(old: Rate, failures: u64, calls: u64) -> bool {
        let percent = |failures: u64, calls: u64| match calls {
            0 => 0.0,
            calls => 100.0 * failures as f64 / calls as f64,
        };
        // Shares of up to a few hundred calls differ by more than this, or not at
        // all.
        percent(failures, calls) - percent(old.failures, old.calls) > 5.0 + 1e-6
    }

    /// Judges by trying every way in which the probation could end well.
    fn model(old: Rate, new: Rate, seconds: u64) -> &'static str {
        let now_worse = worse(old, new.failures, new.calls);
        if new.calls >= 100 || seconds >= 60 {
            return if now_worse { "failed" } else { "passed" };
        }
        let hopeless = (new.calls..=100).all(|calls| worse(old, new.failures, calls));
        let broken = now_worse && new.failures >= 5 && new.failures >= new.calls - new.failures;
        if hopeless || broken { "failed" } else { "going" }
    }

    fn rates(calls: u64) -> impl Strategy<Value = Rate> {
        (0..=calls)
            .prop_flat_map(|calls| (0..=calls).prop_map(move |failures| rate(failures, calls)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn it_judges_as_the_model_does(old in rates(300), new in rates(120), seconds in 0_u64..80) {
            prop_assert_eq!(judged(Some(old), new, seconds), model(old, new, seconds));
        }

        /// Watched call by call, with one failure in so many: what is judged early
        /// would have been judged so at the end.
        #[test]
        fn an_early_end_is_never_a_mistake(
            old in rates(300),
            calls in prop::collection::vec(prop::bool::weighted(0.2), 100),
        ) {
            let began = Instant::now();
            let probation = Probation::new(Some(old), began);
            let mut new = rate(0, 0);
            let mut early = None;
            for failed in calls {
                new = rate(new.failures + u64::from(failed), new.calls + 1);
                // Left out are the versions that hardly work at all.
                let obvious = new.failures >= OBVIOUS && new.failures * 2 >= new.calls;
                if early.is_none() && !obvious && judged(Some(old), new, 0) == "failed" {
                    early = Some(new);
                }
            }
            let end = probation.judge(new, began);
            if let Some(early) = early {
                prop_assert!(matches!(end, Judgement::Failed { .. }), "{:?} {:?}", early, end);
            }
        }
    }
}
