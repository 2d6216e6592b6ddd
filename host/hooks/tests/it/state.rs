//! What plugins keep and count beyond one job: the imports `state` and `metrics`.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llamero_hooks::{
    Chain, FailureKind, Grant, HookHost, LimitOverrides, Measurement, MetricsService,
    PluginSettings, Policy, ServiceFuture, Services, StateError, StateQuota, StateService,
};

use crate::guest::Guest;
use crate::support::{Letters, config, continued, failed, host, on_request, responded};

const INCREMENT: &str = "(param i32 i32 i64 i32 i64 i32)";
const GET: &str = "(param i32 i32 i32)";
const SET: &str = "(param i32 i32 i32 i32 i32 i64 i32)";
const COUNTER_ADD: &str = "(param i32 i32 i64 i32 i32)";

fn load(host: &HookHost, id: &str, guest: &Guest, limits: LimitOverrides) -> Chain {
    let policy = Policy { grants: vec![Grant::State], ..Policy::default() };
    let settings = PluginSettings { limits, policy, ..PluginSettings::default() };
    host.load_bytes(&[(id, &guest.module(), settings)]).unwrap()
}

/// Adds one to `n` and answers with what it then reads.
fn counter() -> Guest {
    let mut guest = Guest::new();
    let [key, length] = guest.image.text("n");
    let area = guest.image.words(&[0; 8]);
    let respond = guest.image.respond_raw(0, 0);
    guest.import("state", "increment", INCREMENT).import("state", "get", GET).on_request(&format!(
        "(call $increment (i32.const {key}) (i32.const {length}) (i64.const 1)
            (i32.const 0) (i64.const 0) (i32.const {area}))
         (if (i32.load8_u (i32.const {area})) (then unreachable))
         (call $get (i32.const {key}) (i32.const {length}) (i32.const {area}))
         (if (i32.load8_u (i32.const {area})) (then unreachable))
         (i32.store offset=8 (i32.const {respond}) (i32.load offset=8 (i32.const {area})))
         (i32.store offset=12 (i32.const {respond}) (i32.load offset=12 (i32.const {area})))
         (i32.const {respond})"
    ))
}

#[test]
fn state_outlives_a_job_and_a_load_and_belongs_to_the_id() {
    let host = host();
    let chain = load(&host, "a", &counter(), LimitOverrides::default());
    assert_eq!(responded(on_request(&chain)), "1");
    assert_eq!(responded(on_request(&chain)), "2");
    let other = load(&host, "b", &counter(), LimitOverrides::default());
    assert_eq!(responded(on_request(&other)), "1");
    let again = load(&host, "a", &counter(), LimitOverrides::default());
    assert_eq!(responded(on_request(&again)), "3");
}

/// Sets a key and value of these lengths, and traps unless the answer is this case
/// of the error, or none.
fn setter(key: usize, value: u32, error: Option<u32>) -> Guest {
    let mut guest = Guest::new();
    let [key, length] = guest.image.text(&"k".repeat(key));
    let area = guest.image.words(&[0; 8]);
    let pass = guest.image.pass();
    let (failed, case) = error.map_or((0, 0), |case| (1, case));
    guest.memory("40").import("state", "set", SET).on_request(&format!(
        "(call $set (i32.const {key}) (i32.const {length}) (i32.const 1048576)
            (i32.const {value}) (i32.const 0) (i64.const 0) (i32.const {area}))
         (if (i32.ne (i32.load8_u (i32.const {area})) (i32.const {failed})) (then unreachable))
         (if (i32.ne (i32.load8_u offset=4 (i32.const {area})) (i32.const {case}))
            (then unreachable))
         (i32.const {pass})"
    ))
}

#[test]
fn keys_and_values_have_their_limits() {
    let host = host();
    let limits =
        LimitOverrides { state_bytes: Some(1100), state_keys: Some(1), ..Default::default() };
    let set = |key, value, error| {
        continued(on_request(&load(&host, "a", &setter(key, value, error), limits.clone())));
    };
    // The cases of the error: quota-exceeded, unavailable, other.
    set(1025, 0, Some(2));
    set(0, 0, Some(2));
    set(1024, 77, Some(0));
    set(1024, 76, None);
    set(1, 1, Some(0));
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl MetricsService for Seen {
    fn record(&self, plugin: &str, name: &str, labels: &[(String, String)], value: Measurement) {
        self.0.lock().unwrap().push(format!("{plugin} {name} {labels:?} {value:?}"));
    }
}

#[test]
fn measurements_arrive_and_bad_ones_are_counted() {
    let seen = Arc::new(Seen::default());
    let mut services = Services::new(Arc::new(Letters));
    services.metrics = seen.clone();
    let host = HookHost::new(config(), services).unwrap();

    let mut guest = Guest::new();
    let [good, good_length] = guest.image.text("seen_total");
    let [bad, bad_length] = guest.image.text("Seen Total");
    let label: Vec<u32> =
        ["tier", "gold"].into_iter().flat_map(|text| guest.image.text(text)).collect();
    let labels = guest.image.words(&label);
    let pass = guest.image.pass();
    let guest = guest.import("metrics", "counter-add", COUNTER_ADD).on_request(&format!(
        "(call $counter-add (i32.const {good}) (i32.const {good_length}) (i64.const 3)
            (i32.const {labels}) (i32.const 1))
         (call $counter-add (i32.const {bad}) (i32.const {bad_length}) (i64.const 3)
            (i32.const 0) (i32.const 0))
         (i32.const {pass})"
    ));
    continued(on_request(&load(&host, "a", &guest, LimitOverrides::default())));
    assert_eq!(
        *seen.0.lock().unwrap(),
        [r#"a seen_total [("tier", "gold")] Counter(3)"#, "a llamero_dropped [] Counter(1)"]
    );
}

/// Never answers.
struct Silent;

fn never<'a, T: Send + 'a>() -> ServiceFuture<'a, Result<T, StateError>> {
    Box::pin(pending())
}

impl StateService for Silent {
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> ServiceFuture<'a, Result<Option<Vec<u8>>, StateError>> {
        never()
    }

    fn set<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Vec<u8>,
        _: Option<Duration>,
        _: StateQuota,
    ) -> ServiceFuture<'a, Result<(), StateError>> {
        never()
    }

    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> ServiceFuture<'a, Result<(), StateError>> {
        never()
    }

    fn increment<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: i64,
        _: Option<Duration>,
        _: StateQuota,
    ) -> ServiceFuture<'a, Result<i64, StateError>> {
        never()
    }

    fn compare_and_set<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<Vec<u8>>,
        _: Vec<u8>,
        _: StateQuota,
    ) -> ServiceFuture<'a, Result<bool, StateError>> {
        never()
    }
}

#[test]
fn a_store_that_does_not_answer_costs_no_more_than_the_wall_time() {
    let mut services = Services::new(Arc::new(Letters));
    services.state = Arc::new(Silent);
    let host = HookHost::new(config(), services).unwrap();
    let limits =
        LimitOverrides { wall: Some(Duration::from_millis(100)), ..LimitOverrides::default() };
    let chain = load(&host, "a", &counter(), limits);
    failed(on_request(&chain), "a", FailureKind::Wall);
}
