//! Whose adapters the next step has.
//!
//! A step is for jobs of one set of adapters. Where there are several, they take
//! turns in the order in which they came, and one that is new goes to the end: so
//! however many come and go, a set that has something to compute waits for no
//! more than one turn of each set that was there before it.
//!
//! A turn is several steps, because every change costs the planning of a graph,
//! but ends before a step for which there is no time: all sets together are to be
//! through within that for which prompts may hold up others. A step takes about as
//! long for one job as for many, so that equal turns give all jobs their tokens at
//! the same pace.

use std::time::Duration;

use crate::adapter::AdapterKey;

/// The most steps in a turn.
pub(crate) const MAX_STEPS: usize = 8;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// The sets that had something to compute, in order; the first has its turn.
    order: Vec<AdapterKey>,
    /// Steps of the turn, and what they took, and the last of them.
    steps: usize,
    spent: Duration,
    last: Duration,
}

impl Turns {
    /// The set whose step is next. `present` are those with something to compute,
    /// each once; a round of all of them is to take `round`.
    pub(crate) fn next(&mut self, present: &[AdapterKey], round: Duration) -> Option<AdapterKey> {
        let gone = self.order.first().is_some_and(|first| !present.contains(first));
        self.order.retain(|set| present.contains(set));
        for set in present {
            if !self.order.contains(set) {
                self.order.push(set.clone());
            }
        }
        let is_over = self.order.len() > 1
            && self.steps > 0
            && (self.steps >= MAX_STEPS || self.spent + self.last > share(round, self.order.len()));
        if is_over && !gone {
            self.order.rotate_left(1);
        }
        if is_over || gone {
            (self.steps, self.spent) = (0, Duration::ZERO);
        }
        self.order.first().cloned()
    }

    /// The one whose turn it is has had a step.
    pub(crate) fn record(&mut self, took: Duration) {
        self.steps += 1;
        self.spent += took;
        self.last = took;
    }
}

/// What each of `n` sets may take of a round.
pub(crate) fn share(round: Duration, n: usize) -> Duration {
    round / u32::try_from(n.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUND: Duration = Duration::from_millis(200);

    /// The sets of the next steps, each of which takes this long.
    fn steps(turns: &mut Turns, present: &[u64], took: u64, n: usize) -> Vec<u64> {
        let keys: Vec<AdapterKey> = present.iter().map(|set| AdapterKey::fake(*set)).collect();
        (0..n)
            .filter_map(|_| {
                let set = turns.next(&keys, ROUND)?;
                turns.record(Duration::from_millis(took));
                Some(set.number())
            })
            .collect()
    }

    #[test]
    fn nobody_is_present() {
        assert!(steps(&mut Turns::default(), &[], 1, 3).is_empty());
    }

    #[test]
    fn slow_steps_alternate() {
        let mut turns = Turns::default();
        assert_eq!(steps(&mut turns, &[0, 1], 100, 5), [0, 1, 0, 1, 0]);
        // Two steps of 50 ms are a turn of 100.
        let mut turns = Turns::default();
        assert_eq!(steps(&mut turns, &[0, 1], 50, 6), [0, 0, 1, 1, 0, 0]);
    }

    #[test]
    fn turns_of_quick_steps_have_an_end() {
        let mut turns = Turns::default();
        let expected: Vec<u64> = (0..32).map(|n| (n / MAX_STEPS as u64) % 2).collect();
        assert_eq!(steps(&mut turns, &[0, 1], 0, 32), expected);
    }

    #[test]
    fn who_has_been_alone_makes_way_at_once() {
        let mut turns = Turns::default();
        steps(&mut turns, &[0], 1, 100);
        assert_eq!(steps(&mut turns, &[0, 1], 1, 2), [1, 1]);
    }

    #[test]
    fn newcomers_go_to_the_end() {
        let mut turns = Turns::default();
        assert_eq!(steps(&mut turns, &[0, 1], 200, 1), [0]);
        // Another new one comes at every step.
        let mut seen = Vec::new();
        for new in 2..20 {
            seen.extend(steps(&mut turns, &[0, 1, new, new + 1], 200, 1));
        }
        let gap = |set| {
            let at = seen.iter().enumerate().filter(|(_, s)| **s == set).map(|(at, _)| at);
            let at: Vec<usize> = at.collect();
            at.windows(2).map(|two| two[1] - two[0]).max()
        };
        assert!(gap(0) <= Some(4) && gap(1) <= Some(4), "{seen:?}");
        assert!(gap(0).is_some() && gap(1).is_some(), "{seen:?}");
    }

    proptest! {
        /// However sets come and go, who is there all the time has a step after at
        /// most one turn of each that was there before, and turns keep their bounds.
        #[test]
        fn no_set_starves(
            moments in prop::collection::vec(
                (prop::collection::vec(1u64..6, 0..5), 0u64..120), 1..400),
        ) {
            let mut turns = Turns::default();
            let (mut waited, mut alone) = (0, 0);
            let mut last = None;
            for (mut others, took) in moments {
                others.sort_unstable();
                others.dedup();
                // The one that is watched comes last in the list.
                let present: Vec<u64> = others.iter().copied().chain([9]).collect();
                let step = steps(&mut turns, &present, took, 1);
                prop_assert_eq!(step.len(), 1);
                prop_assert!(present.contains(&step[0]));
                alone = if last == Some(step[0]) { alone + 1 } else { 1 };
                prop_assert!(alone <= MAX_STEPS || present.len() == 1 || waited == 0);
                last = Some(step[0]);
                waited = if step[0] == 9 { 0 } else { waited + 1 };
                // There are five others, and who comes back goes behind.
                prop_assert!(waited <= 5 * MAX_STEPS, "waited for {} steps", waited);
            }
        }
    }
}
