//! The store in memory: each operation, its limits, and long runs of all of them
//! against a store that keeps plain lists.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

const QUOTA: StateQuota = StateQuota { bytes: 1 << 20, keys: 100 };
const SECOND: Duration = Duration::from_secs(1);

/// A store whose time stands still until it is moved.
struct Bench {
    store: MemoryState,
    millis: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        let millis = Arc::new(AtomicU64::new(0));
        let elapsed = Arc::clone(&millis);
        let clock =
            Box::new(move || start + Duration::from_millis(elapsed.load(Ordering::Relaxed)));
        Self { store: MemoryState::with_clock(clock), millis }
    }

    fn pass(&self, time: Duration) {
        self.millis.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    fn get(&self, key: &str) -> Option<String> {
        let value = self.store.read("p", key).unwrap();
        value.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<(), StateError> {
        self.store.write("p", key, value.into(), ttl, QUOTA)
    }

    fn keys(&self) -> usize {
        lock(&self.store.books("p")).total().keys
    }
}

#[test]
fn what_is_set_is_there_until_it_is_deleted() {
    let bench = Bench::new();
    assert_eq!(bench.get("a"), None);
    bench.set("a", "one", None).unwrap();
    assert_eq!(bench.get("a").as_deref(), Some("one"));
    bench.set("a", "two", None).unwrap();
    assert_eq!(bench.get("a").as_deref(), Some("two"));
    bench.store.forget("p", "a").unwrap();
    bench.store.forget("p", "a").unwrap();
    assert_eq!(bench.get("a"), None);
    assert_eq!(bench.keys(), 0);
}

#[test]
fn plugins_do_not_see_each_other() {
    let bench = Bench::new();
    bench.set("a", "mine", None).unwrap();
    assert_eq!(bench.store.read("q", "a"), Ok(None));
    assert_eq!(bench.store.count("q", "a", 3, None, QUOTA), Ok(3));
    assert_eq!(bench.get("a").as_deref(), Some("mine"));
    // Reading alone makes no books.
    assert_eq!(bench.store.read("r", "a"), Ok(None));
    assert!(bench.store.known("r").is_none());
}

#[test]
fn a_value_ends_with_its_time() {
    let bench = Bench::new();
    bench.set("a", "x", Some(10 * SECOND)).unwrap();
    bench.pass(10 * SECOND - Duration::from_millis(1));
    assert_eq!(bench.get("a").as_deref(), Some("x"));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.get("a"), None);
    // Writing anew counts anew, and without a time it stays.
    bench.set("a", "y", Some(SECOND)).unwrap();
    bench.set("a", "z", None).unwrap();
    bench.pass(100 * SECOND);
    assert_eq!(bench.get("a").as_deref(), Some("z"));
    // No time at all is over at once, and more than the clock has is never.
    bench.set("a", "x", Some(Duration::ZERO)).unwrap();
    assert_eq!(bench.get("a"), None);
    bench.set("a", "x", Some(Duration::MAX)).unwrap();
    bench.pass(1_000_000 * SECOND);
    assert_eq!(bench.get("a").as_deref(), Some("x"));
}

#[test]
fn a_counters_time_counts_from_its_creation() {
    let bench = Bench::new();
    let count = |delta| bench.store.count("p", "n", delta, Some(10 * SECOND), QUOTA);
    assert_eq!(count(5), Ok(5));
    bench.pass(6 * SECOND);
    assert_eq!(count(-7), Ok(-2));
    assert_eq!(bench.get("n").as_deref(), Some("-2"));
    bench.pass(4 * SECOND);
    assert_eq!(bench.get("n"), None);
    assert_eq!(count(1), Ok(1));
}

#[test]
fn only_counters_count_and_only_in_their_range() {
    let bench = Bench::new();
    bench.set("text", "5", None).unwrap();
    let error = bench.store.count("p", "text", 1, None, QUOTA).unwrap_err();
    assert!(error.to_string().contains("no counter"), "{error}");
    assert_eq!(bench.store.count("p", "n", i64::MAX, None, QUOTA), Ok(i64::MAX));
    let error = bench.store.count("p", "n", 1, None, QUOTA).unwrap_err();
    assert!(error.to_string().contains("range"), "{error}");
    assert_eq!(bench.get("n"), Some(i64::MAX.to_string()));
}

#[test]
fn a_value_is_swapped_for_the_expected_one_only() {
    let bench = Bench::new();
    let swap = |expected: Option<&str>, value: &str| {
        bench.store.swap("p", "a", expected.map(str::as_bytes), value.into(), QUOTA).unwrap()
    };
    assert!(!swap(Some(""), "x"), "an absent key holds no empty value");
    assert!(swap(None, "x"));
    assert!(!swap(None, "y"));
    assert!(!swap(Some("z"), "y"));
    assert!(swap(Some("x"), "y"));
    assert_eq!(bench.get("a").as_deref(), Some("y"));
    // A counter reads as its number, and is none any more afterwards.
    bench.store.count("p", "n", 41, None, QUOTA).unwrap();
    assert_eq!(bench.store.swap("p", "n", Some(b"41"), b"42".to_vec(), QUOTA), Ok(true));
    assert!(bench.store.count("p", "n", 1, None, QUOTA).is_err());
}

#[test]
fn a_swapped_value_keeps_its_end() {
    let bench = Bench::new();
    bench.set("lock", "a", Some(10 * SECOND)).unwrap();
    bench.pass(5 * SECOND);
    assert_eq!(bench.store.swap("p", "lock", Some(b"a"), b"b".to_vec(), QUOTA), Ok(true));
    bench.pass(5 * SECOND);
    assert_eq!(bench.get("lock"), None);
    // What has ended is absent, and what takes its place does not end.
    assert_eq!(bench.store.swap("p", "lock", None, b"c".to_vec(), QUOTA), Ok(true));
    bench.pass(1000 * SECOND);
    assert_eq!(bench.get("lock").as_deref(), Some("c"));
}

#[test]
fn keys_have_a_length() {
    let bench = Bench::new();
    let longest = "k".repeat(MAX_STATE_KEY_BYTES);
    bench.set(&longest, "x", None).unwrap();
    assert_eq!(bench.get(&longest).as_deref(), Some("x"));
    for key in [String::new(), "k".repeat(MAX_STATE_KEY_BYTES + 1)] {
        let refused = |error: StateError| {
            assert!(error.to_string().contains("1 to 1024 bytes"), "{error}");
        };
        refused(bench.store.read("p", &key).unwrap_err());
        refused(bench.set(&key, "", None).unwrap_err());
        refused(bench.store.forget("p", &key).unwrap_err());
        refused(bench.store.count("p", &key, 1, None, QUOTA).unwrap_err());
        refused(bench.store.swap("p", &key, None, Vec::new(), QUOTA).unwrap_err());
    }
}

#[test]
fn quotas_are_exact_and_free_again_after_the_end() {
    let bench = Bench::new();
    let quota = StateQuota { bytes: 20, keys: 3 };
    let set = |key: &str, length: usize, ttl: Option<u64>| {
        let ttl = ttl.map(Duration::from_secs);
        bench.store.write("p", key, vec![b'x'; length], ttl, quota)
    };
    let full = Err(StateError::QuotaExceeded);
    assert_eq!(set("a", 20, None), full);
    assert_eq!(set("a", 19, None), Ok(()));
    assert_eq!(set("b", 0, None), full);
    assert_eq!(set("a", 4, Some(10)), Ok(()));
    assert_eq!(set("b", 4, None), Ok(()));
    assert_eq!(bench.store.count("p", "n", 1, Some(20 * SECOND), quota), Ok(1));
    // 5 + 5 + 9 bytes; a fourth key is one too many, however small it is.
    assert_eq!(set("d", 0, None), full);
    assert_eq!(bench.store.count("p", "d", 1, None, quota), full.clone().map(|()| 0));
    assert_eq!(set("b", 6, None), full);
    assert_eq!(set("b", 5, None), Ok(()));
    bench.pass(10 * SECOND);
    assert_eq!(set("d", 4, None), Ok(()));
    // Counting needs no room, however full it is.
    assert_eq!(bench.store.count("p", "n", 1, None, quota), Ok(2));
    assert_eq!(bench.store.swap("p", "b", Some(b"xxxxx"), vec![0; 6], quota), full.map(|()| false));
    assert_eq!(bench.get("b").as_deref(), Some("xxxxx"));
}

#[test]
fn what_does_not_grow_may_be_written_over_a_smaller_quota() {
    let bench = Bench::new();
    bench.set("a", "12345678", None).unwrap();
    let small = StateQuota { bytes: 4, keys: 0 };
    let set = |value: &str| bench.store.write("p", "a", value.into(), None, small);
    assert_eq!(set("123456789"), Err(StateError::QuotaExceeded));
    assert_eq!(set("87654321"), Ok(()));
    assert_eq!(set("1"), Ok(()));
    assert_eq!(set("123456"), Err(StateError::QuotaExceeded));
}

#[test]
fn ended_keys_are_forgotten_a_few_at_a_time() {
    let bench = Bench::new();
    for n in 0..90 {
        bench.set(&format!("k{n}"), "x", Some(SECOND)).unwrap();
    }
    bench.pass(SECOND);
    assert_eq!(bench.keys(), 90);
    bench.set("other", "x", None).unwrap();
    let left = bench.keys();
    assert!((2..=90).contains(&left), "{left}");
    for _ in 0..90 {
        bench.set("other", "x", None).unwrap();
    }
    assert_eq!(bench.keys(), 1);
}

#[test]
fn counting_from_many_threads_loses_nothing() {
    let store = MemoryState::default();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    store.count("p", "n", 1, None, QUOTA).unwrap();
                }
            });
        }
    });
    assert_eq!(store.count("p", "n", 0, None, QUOTA), Ok(4000));
}

/// The same rules, with a list and without any bookkeeping.
#[derive(Default)]
struct Naive {
    now: u64,
    entries: Vec<Line>,
}

struct Line {
    key: String,
    text: Vec<u8>,
    counter: Option<i64>,
    ends: Option<u64>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.key.len() + if self.counter.is_some() { 8 } else { self.text.len() }
    }
}

impl Naive {
    fn find(&mut self, key: &str) -> Option<&mut Line> {
        let now = self.now;
        self.entries.retain(|line| line.ends.is_none_or(|ends| ends > now));
        self.entries.iter_mut().find(|line| line.key == key)
    }

    fn write(&mut self, line: Line, quota: StateQuota) -> Result<(), StateError> {
        let old = self.find(&line.key).map(|line| line.bytes());
        let sum: usize = self.entries.iter().map(Line::bytes).sum();
        let too_many = old.is_none() && self.entries.len() + 1 > quota.keys;
        let grows = line.bytes() > old.unwrap_or(0);
        if too_many || (grows && sum - old.unwrap_or(0) + line.bytes() > quota.bytes) {
            return Err(StateError::QuotaExceeded);
        }
        self.entries.retain(|other| other.key != line.key);
        self.entries.push(line);
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Op {
    Get(usize),
    Set {
        key: usize,
        length: usize,
        ttl: Option<u64>,
    },
    Delete(usize),
    Count {
        key: usize,
        delta: i64,
        ttl: Option<u64>,
    },
    /// Expects what is there, or something else.
    Swap {
        key: usize,
        right: bool,
        length: usize,
    },
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..12usize;
    let ttl = proptest::option::of(0..400u64);
    prop_oneof![
        key.clone().prop_map(Op::Get),
        (key.clone(), 0..30usize, ttl.clone()).prop_map(|(key, length, ttl)| Op::Set {
            key,
            length,
            ttl
        }),
        key.clone().prop_map(Op::Delete),
        (key.clone(), -5..5i64, ttl).prop_map(|(key, delta, ttl)| Op::Count { key, delta, ttl }),
        (key, any::<bool>(), 0..30usize).prop_map(|(key, right, length)| Op::Swap {
            key,
            right,
            length
        }),
        (0..300u64).prop_map(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_list_would_do(
        ops in proptest::collection::vec(op(), 1..200),
        bytes in 0..120usize,
        keys in 0..10usize,
    ) {
        let quota = StateQuota { bytes, keys };
        let bench = Bench::new();
        let mut naive = Naive::default();
        for (index, op) in ops.into_iter().enumerate() {
            let name = |key: usize| "key-name"[..=key % 8].to_owned() + &key.to_string();
            let at = |naive: &Naive, ttl: Option<u64>| ttl.map(|ttl| naive.now + ttl);
            let text = |length: usize| vec![u8::try_from(index % 256).unwrap(); length];
            match op {
                Op::Get(key) => {
                    let expected = naive.find(&name(key)).map(|line| line.text.clone());
                    prop_assert_eq!(bench.store.read("p", &name(key)), Ok(expected));
                }
                Op::Set { key, length, ttl } => {
                    let ends = at(&naive, ttl);
                    let line = Line { key: name(key), text: text(length), counter: None, ends };
                    let ttl = ttl.map(Duration::from_millis);
                    prop_assert_eq!(
                        bench.store.write("p", &name(key), text(length), ttl, quota),
                        naive.write(line, quota)
                    );
                }
                Op::Delete(key) => {
                    let key = name(key);
                    naive.entries.retain(|line| line.key != key);
                    prop_assert_eq!(bench.store.forget("p", &key), Ok(()));
                }
                Op::Count { key, delta, ttl } => {
                    let ends = at(&naive, ttl);
                    let expected = match naive.find(&name(key)) {
                        Some(Line { counter: Some(number), text, .. }) => {
                            *number += delta;
                            *text = number.to_string().into_bytes();
                            Ok(*number)
                        }
                        Some(_) => Err(StateError::no_counter()),
                        None => {
                            let text = delta.to_string().into_bytes();
                            let line = Line { key: name(key), text, counter: Some(delta), ends };
                            naive.write(line, quota).map(|()| delta)
                        }
                    };
                    let ttl = ttl.map(Duration::from_millis);
                    prop_assert_eq!(
                        bench.store.count("p", &name(key), delta, ttl, quota),
                        expected
                    );
                }
                Op::Swap { key, right, length } => {
                    let old = naive.find(&name(key)).map(|line| (line.text.clone(), line.ends));
                    let given = match (&old, right) {
                        (Some((text, _)), true) => Some(text.clone()),
                        (Some(_), false) => None,
                        (None, true) => None,
                        (None, false) => Some(Vec::new()),
                    };
                    let ends = old.and_then(|(_, ends)| ends);
                    let line = Line { key: name(key), text: text(length), counter: None, ends };
                    let expected = if right {
                        naive.write(line, quota).map(|()| true)
                    } else {
                        Ok(false)
                    };
                    prop_assert_eq!(
                        bench.store.swap("p", &name(key), given.as_deref(), text(length), quota),
                        expected
                    );
                }
                Op::Pass(millis) => {
                    naive.now += millis;
                    bench.pass(Duration::from_millis(millis));
                }
            }
        }
        // The books still add up: everything can be deleted, and nothing is left.
        for key in 0..12 {
            bench.store.forget("p", &("key-name"[..=key % 8].to_owned() + &key.to_string())).unwrap();
        }
        bench.pass(SECOND);
        prop_assert_eq!(lock(&bench.store.books("p")).total(), Default::default());
    }
}
