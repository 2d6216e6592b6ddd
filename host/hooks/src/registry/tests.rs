//! What only shows from inside: probation, which counts calls, and what an entry
//! remembers. Everything that can be seen from outside is tested in `tests/it`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::Duration;

use super::entry::{Bad, Decision, HowBad, Refusal};
use super::*;
use crate::config::{HostConfig, PluginSettings};
use crate::data::Verdict;
use crate::error::{FailureKind, Phase};
use crate::host::HookHost;
use crate::services::Services;
use crate::tokenizer::NoTokenizer;

#[allow(dead_code, reason = "shared with the tests from outside, which use all of it")]
#[path = "../../tests/it/guest.rs"]
mod guest;

use guest::Guest;

struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("hooks")).unwrap();
        Self { temp }
    }

    /// Puts a version of a plugin there, by renaming, and returns its digest.
    fn put(&self, id: &str, version: &str) -> String {
        let bytes = Guest::returning(|image| image.respond(version)).module();
        fs::write(self.temp.path().join("new"), &bytes).unwrap();
        let path = self.temp.path().join("hooks").join(format!("{id}.wasm"));
        fs::rename(self.temp.path().join("new"), path).unwrap();
        crate::artifact::digest(&bytes)
    }

    fn open(&self) -> Registry {
        let config = HostConfig {
            cache_dir: Some(self.temp.path().join("cache")),
            trial_wall: Duration::from_secs(60),
            ..HostConfig::default()
        };
        let host = HookHost::new(config, Services::new(Arc::new(NoTokenizer))).unwrap();
        let dir = self.temp.path().join("hooks");
        host.open(&dir, Box::new(|| Ok(Default::default()))).unwrap()
    }
}

/// Lets the version in service make calls, some of which fail.
fn calls(registry: &Registry, good: u64, failed: u64) {
    let state = registry.inner.state();
    let stats = &state.entries["a"].current.as_ref().unwrap().plugin.shared.stats;
    for n in 0..good + failed {
        let (verdict, failure) = match n < good {
            true => (Verdict::Pass, None),
            false => (Verdict::Failed, Some(FailureKind::Trap)),
        };
        stats.called(Phase::Request, verdict, failure, Duration::ZERO, Duration::ZERO);
    }
}

#[track_caller]
fn serves(registry: &Registry, digest: &str, state: PluginState) {
    let status = registry.list().remove(0);
    assert_eq!((status.digest.as_str(), status.state), (digest, state), "{status:?}");
    assert_eq!(registry.chain().plugins()[0].digest, digest);
}

#[test]
fn a_worse_version_is_rolled_back_and_stays_out() {
    let bench = Bench::new();
    let one = bench.put("a", "one");
    let registry = bench.open();
    serves(&registry, &one, PluginState::Serving);
    calls(&registry, 100, 2);

    let two = bench.put("a", "two");
    assert_eq!(registry.sync(false).loaded, ["a"]);
    serves(&registry, &two, PluginState::Probation);
    registry.tick(Instant::now());
    serves(&registry, &two, PluginState::Probation);
    calls(&registry, 20, 6);
    registry.tick(Instant::now() + Duration::from_secs(61));
    serves(&registry, &one, PluginState::Serving);
    let status = registry.list().remove(0);
    let why = status.last_error.unwrap();
    assert!(why.contains("23.1 % of its calls failed"), "{why}");
    assert_eq!((registry.generation(), status.generation, status.previous), (3, 3, None));

    // Neither a look nor a forced one, nor a restart, brings it back.
    for force in [false, true] {
        let report = registry.sync(force);
        assert_eq!(report.loaded, Vec::<String>::new());
        let (id, error) = &report.kept[0];
        assert!(id == "a" && error.to_string().contains("stays out until"), "{error}");
    }
    drop(registry);
    let registry = bench.open();
    serves(&registry, &one, PluginState::Serving);
    assert!(registry.list()[0].last_error.as_ref().unwrap().contains("stays out until"));

    // Another version is welcome.
    let three = bench.put("a", "three");
    assert_eq!(registry.sync(false).loaded, ["a"]);
    serves(&registry, &three, PluginState::Probation);
    // And so is the bad one, once the operator says so.
    bench.put("a", "two");
    assert_eq!(registry.sync(false).kept.len(), 1);
    registry.forgive("a").unwrap();
    assert_eq!(registry.sync(false).loaded, ["a"]);
    serves(&registry, &two, PluginState::Probation);
}

#[test]
fn a_good_version_passes_and_becomes_the_last_good_one() {
    let bench = Bench::new();
    let one = bench.put("a", "one");
    let registry = bench.open();
    let good = || registry.inner.last_good.of("a").good;
    assert_eq!(good(), Some(one.clone()));
    let two = bench.put("a", "two");
    registry.sync(false);
    assert_eq!(good(), Some(one.clone()), "it has proved nothing yet");
    calls(&registry, 100, 0);
    registry.tick(Instant::now());
    serves(&registry, &two, PluginState::Serving);
    assert_eq!(good(), Some(two));
    assert_eq!(registry.list()[0].previous, Some(one));
}

#[test]
fn a_version_without_proof_is_none_to_go_back_to() {
    let bench = Bench::new();
    let one = bench.put("a", "one");
    let registry = bench.open();
    bench.put("a", "two");
    registry.sync(false);
    let three = bench.put("a", "three");
    registry.sync(false);
    serves(&registry, &three, PluginState::Probation);
    assert_eq!(registry.list()[0].previous, Some(one.clone()));
    let rollback = registry.rollback("a").unwrap();
    assert_eq!((rollback.from, rollback.to), (three, one));
}

#[test]
fn the_oldest_bad_version_is_forgotten_first() {
    let settings = PluginSettings::default();
    let mut entry = Entry::default();
    let bad = |n: usize| Bad {
        digest: n.to_string(),
        settings: None,
        reason: "is bad".to_owned(),
        how: HowBad::TakenOut,
    };
    for n in 0..10 {
        assert!(entry.refuse(Refusal::Bad(Box::new(bad(n)))));
        assert!(!entry.refuse(Refusal::Bad(Box::new(bad(n)))), "no news");
    }
    assert_eq!(entry.bad.len(), 8);
    assert_eq!(entry.decide("1", &settings, false), Decision::Load);
    assert_eq!(entry.decide("2", &settings, true), Decision::Bad(Box::new(bad(2))));
}

#[test]
fn settings_may_be_what_is_bad() {
    let good = PluginSettings::default();
    let other = PluginSettings { config: serde_json::json!({"limit": 0}), ..good.clone() };
    let mut entry = Entry::default();
    let refused = Bad {
        digest: "d".to_owned(),
        settings: Some(other.clone()),
        reason: "limit is 0".to_owned(),
        how: HowBad::Refused,
    };
    entry.refuse(Refusal::Bad(Box::new(refused.clone())));
    assert_eq!(entry.decide("d", &other, false), Decision::Bad(Box::new(refused)));
    assert_eq!(entry.decide("d", &other, true), Decision::Load);
    assert_eq!(entry.decide("d", &good, false), Decision::Load);
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn only_the_version_in_service_has_instances_ready() {
    let bench = Bench::new();
    bench.put("a", "one");
    let registry = bench.open();
    let current = || {
        let state = registry.inner.state();
        Arc::clone(&state.entries["a"].current.as_ref().unwrap().plugin)
    };
    let wanted = HostConfig::default().limits.ready;
    assert!(wanted > 0);
    let one = current();
    eventually("the first is ready", || one.ready.len() == wanted);
    bench.put("a", "two");
    registry.sync(false);
    let two = current();
    assert_eq!(one.ready.len(), 0, "it is kept to go back to, without instances");
    eventually("the second is ready", || two.ready.len() == wanted);
    registry.rollback("a").unwrap();
    assert_eq!(two.ready.len(), 0);
    eventually("the first is ready again", || one.ready.len() == wanted);
}
