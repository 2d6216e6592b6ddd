//! The breaker by example, and against a model that keeps the whole history.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Admission, Breaker, BreakerState, FIRST_OPEN, LONGEST_OPEN, PROBE_LOST, Settled};
use crate::error::FailureKind;

const MS: Duration = Duration::from_millis(1);

/// Makes one call and settles it at once.
fn call(breaker: &Breaker, how: Settled, now: Instant) -> Option<BreakerState> {
    let admission = breaker.admit(now);
    assert!(!matches!(admission, Admission::Refused { .. }), "{admission:?}");
    breaker.settle(&admission, how, now)
}

/// A breaker that has just opened for the first time.
fn opened(now: Instant) -> Breaker {
    let breaker = Breaker::new();
    for _ in 0..4 {
        assert_eq!(call(&breaker, Settled::Failed, now), None);
    }
    let open = BreakerState::Open { retry_in: FIRST_OPEN };
    assert_eq!(call(&breaker, Settled::Failed, now), Some(open));
    breaker
}

#[test]
fn five_failures_in_a_row_open_it() {
    let now = Instant::now();
    let breaker = opened(now);
    assert_eq!(breaker.state(now), BreakerState::Open { retry_in: FIRST_OPEN });
    let refused = Admission::Refused { retry_in: FIRST_OPEN - 400 * MS };
    assert_eq!(breaker.admit(now + 400 * MS), refused);
}

#[test]
fn a_good_call_breaks_the_row_and_a_void_one_does_not() {
    let now = Instant::now();
    let breaker = Breaker::new();
    for how in [Settled::Failed, Settled::Failed, Settled::Failed, Settled::Failed, Settled::Good] {
        assert_eq!(call(&breaker, how, now), None);
    }
    for how in [Settled::Failed, Settled::Failed, Settled::Failed, Settled::Failed, Settled::Void] {
        assert_eq!(call(&breaker, how, now), None);
    }
    assert!(call(&breaker, Settled::Failed, now).is_some());
}

#[test]
fn half_of_the_last_twenty_opens_it_once_there_are_twenty() {
    let now = Instant::now();
    let breaker = Breaker::new();
    for n in 0..19 {
        let how = if n % 2 == 0 { Settled::Failed } else { Settled::Good };
        assert_eq!(call(&breaker, how, now), None, "call {n}");
    }
    assert!(matches!(call(&breaker, Settled::Good, now), Some(BreakerState::Open { .. })));
}

#[test]
fn fewer_than_half_of_the_last_twenty_leave_it_closed() {
    let now = Instant::now();
    let breaker = Breaker::new();
    for n in 0..1_000 {
        // Nine of any twenty in a row.
        let how = if n % 20 < 18 && n % 2 == 0 { Settled::Failed } else { Settled::Good };
        assert_eq!(call(&breaker, how, now), None, "call {n}");
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn one_probe_at_a_time_and_a_good_one_closes() {
    let now = Instant::now();
    let breaker = opened(now);
    let later = now + FIRST_OPEN;
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    let probe = breaker.admit(later);
    assert_eq!(probe, Admission::Probe);
    assert!(matches!(breaker.admit(later + 10 * MS), Admission::Refused { .. }));
    let closed = breaker.settle(&probe, Settled::Good, later + 20 * MS);
    assert_eq!(closed, Some(BreakerState::Closed));
    assert_eq!(breaker.admit(later + 20 * MS), Admission::Call);
}

#[test]
fn failed_probes_double_the_time_up_to_a_minute_and_a_good_one_resets_it() {
    let mut now = Instant::now();
    let breaker = opened(now);
    let mut open_for = FIRST_OPEN;
    for seconds in [2, 4, 8, 16, 32, 60, 60, 60] {
        now += open_for;
        open_for = Duration::from_secs(seconds);
        let state = call(&breaker, Settled::Failed, now);
        assert_eq!(state, Some(BreakerState::Open { retry_in: open_for }));
    }
    assert_eq!(open_for, LONGEST_OPEN);
    now += open_for;
    assert_eq!(call(&breaker, Settled::Good, now), Some(BreakerState::Closed));
    for _ in 0..4 {
        assert_eq!(call(&breaker, Settled::Failed, now), None);
    }
    let first = BreakerState::Open { retry_in: FIRST_OPEN };
    assert_eq!(call(&breaker, Settled::Failed, now), Some(first));
}

#[test]
fn a_void_probe_makes_way_for_the_next() {
    let now = Instant::now();
    let breaker = opened(now);
    let later = now + FIRST_OPEN;
    assert_eq!(call(&breaker, Settled::Void, later), None);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    assert_eq!(call(&breaker, Settled::Good, later), Some(BreakerState::Closed));
}

#[test]
fn a_probe_that_is_never_settled_does_not_keep_the_plugin_out() {
    let now = Instant::now();
    let breaker = opened(now);
    let sent = now + FIRST_OPEN;
    assert_eq!(breaker.admit(sent), Admission::Probe);
    assert!(matches!(breaker.admit(sent + PROBE_LOST - MS), Admission::Refused { .. }));
    assert_eq!(breaker.admit(sent + PROBE_LOST), Admission::Probe);
}

#[test]
fn calls_from_before_it_opened_change_nothing() {
    let now = Instant::now();
    let breaker = Breaker::new();
    let early: Vec<Admission> = (0..8).map(|_| breaker.admit(now)).collect();
    for admission in &early[..5] {
        breaker.settle(admission, Settled::Failed, now);
    }
    // While it is open, and while it is half open.
    assert_eq!(breaker.settle(&early[5], Settled::Good, now + MS), None);
    assert!(matches!(breaker.state(now + MS), BreakerState::Open { .. }));
    let later = now + FIRST_OPEN;
    assert_eq!(breaker.admit(later), Admission::Probe);
    assert_eq!(breaker.settle(&early[6], Settled::Good, later), None);
    assert_eq!(breaker.settle(&early[7], Settled::Failed, later), None);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
}

#[test]
fn only_what_the_plugin_did_counts_against_it() {
    assert_eq!(Settled::of(None), Settled::Good);
    for kind in
        [FailureKind::Cancelled, FailureKind::Busy, FailureKind::Quarantined, FailureKind::Host]
    {
        assert_eq!(Settled::of(Some(kind)), Settled::Void, "{kind}");
    }
    for kind in [
        FailureKind::Trap,
        FailureKind::Cpu,
        FailureKind::Wall,
        FailureKind::Memory,
        FailureKind::Stack,
        FailureKind::Quota,
        FailureKind::Hold,
        FailureKind::Instantiate,
        FailureKind::Guest,
        FailureKind::InvalidOutput,
    ] {
        assert_eq!(Settled::of(Some(kind)), Settled::Failed, "{kind}");
    }
}

/// The rules again, from the history of the current period and nothing else.
#[derive(Default)]
struct Model {
    /// Whether each call of this closed period was good, the latest last.
    history: Vec<bool>,
    /// Openings since it was last closed, and when the last one ends.
    openings: u32,
    until: Option<Instant>,
    /// When the probe was sent that has not come back.
    probe: Option<Instant>,
}

impl Model {
    fn admit(&mut self, now: Instant) -> Admission {
        let Some(until) = self.until else {
            return Admission::Call;
        };
        if now < until {
            return Admission::Refused { retry_in: until - now };
        }
        if self.probe.is_some_and(|sent| now < sent + PROBE_LOST) {
            return Admission::Refused { retry_in: FIRST_OPEN };
        }
        self.probe = Some(now);
        Admission::Probe
    }

    fn settle(&mut self, call: Admission, how: Settled, now: Instant) -> Option<BreakerState> {
        match (call, self.until) {
            (Admission::Call, None) => {
                match how {
                    Settled::Good => self.history.push(true),
                    Settled::Failed => self.history.push(false),
                    Settled::Void => return None,
                }
                let all = &self.history;
                let row = all.iter().rev().take_while(|good| !**good).count();
                let last = &all[all.len().saturating_sub(20)..];
                let failed = last.iter().filter(|good| !**good).count();
                let opens = row >= 5 || (last.len() == 20 && failed >= 10);
                opens.then(|| self.open(now))
            }
            (Admission::Probe, Some(until)) if now >= until => match how {
                Settled::Good => {
                    *self = Self::default();
                    Some(BreakerState::Closed)
                }
                Settled::Failed => Some(self.open(now)),
                Settled::Void => {
                    self.probe = None;
                    None
                }
            },
            _ => None,
        }
    }

    fn open(&mut self, now: Instant) -> BreakerState {
        self.openings += 1;
        self.probe = None;
        let length = Duration::from_secs(2_u64.pow((self.openings - 1).min(6)).min(60));
        self.until = Some(now + length);
        BreakerState::Open { retry_in: length }
    }

    fn state(&self, now: Instant) -> BreakerState {
        match self.until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open { retry_in: until - now },
            Some(_) => BreakerState::HalfOpen,
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Admit,
    /// Settles one of the calls that are on their way.
    Settle(prop::sample::Index, Settled),
    Pass(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        4 => Just(Settled::Failed),
        3 => Just(Settled::Good),
        1 => Just(Settled::Void),
    ];
    let time = prop_oneof![
        4 => 0_u64..300,
        2 => 500_u64..5_000,
        1 => 20_000_u64..90_000,
    ];
    prop_oneof![
        5 => Just(Op::Admit),
        5 => (any::<prop::sample::Index>(), how).prop_map(|(which, how)| Op::Settle(which, how)),
        2 => time.prop_map(|ms| Op::Pass(Duration::from_millis(ms))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_does_what_the_model_does(ops in prop::collection::vec(op(), 0..400)) {
        let breaker = Breaker::new();
        let mut now = Instant::now();
        let mut model = Model::default();
        let mut on_their_way: Vec<Admission> = Vec::new();
        for op in ops {
            match op {
                Op::Admit => {
                    let admission = breaker.admit(now);
                    prop_assert_eq!(admission, model.admit(now));
                    if !matches!(admission, Admission::Refused { .. }) {
                        on_their_way.push(admission);
                    }
                }
                Op::Settle(which, how) => {
                    if on_their_way.is_empty() {
                        continue;
                    }
                    let call = on_their_way.swap_remove(which.index(on_their_way.len()));
                    let changed = breaker.settle(&call, how, now);
                    prop_assert_eq!(changed, model.settle(call, how, now));
                }
                Op::Pass(time) => now += time,
            }
            prop_assert_eq!(breaker.state(now), model.state(now));
        }
    }
}
