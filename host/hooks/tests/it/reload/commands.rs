//! What operators do: settings, order, rollback, disable.

use std::collections::BTreeMap;
use std::fs;

use llamero_hooks::{PluginSettings, PluginState, Policy, RegistryError};
use serde_json::json;

use super::{Bench, answer, ids, pass, refused, says};

#[test]
fn the_operators_order_comes_before_the_id() {
    let bench = Bench::new();
    for (id, order) in [("a", 5), ("b", -1), ("c", 0), ("d", -1)] {
        bench.put(id, &pass());
        let policy = Policy { order, ..Policy::default() };
        bench.set(id, PluginSettings { policy, ..PluginSettings::default() });
    }
    let registry = bench.open();
    assert_eq!(ids(&registry), ["b", "d", "c", "a"]);
    // Settings are read again at each look.
    bench.set(
        "a",
        PluginSettings {
            policy: Policy { order: -2, ..Policy::default() },
            ..PluginSettings::default()
        },
    );
    assert_eq!(registry.sync(false).loaded, ["a"]);
    assert_eq!(ids(&registry), ["a", "b", "d", "c"]);
}

#[test]
fn rollback_brings_the_version_before_back() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    assert_eq!(registry.rollback("a"), Err(RegistryError::NoPrevious("a".to_owned())));
    let text = registry.rollback("b").unwrap_err().to_string();
    assert_eq!(text, "there is no plugin `b` (there is a)");
    bench.put("a", &says("two"));
    registry.sync(false);
    assert_eq!(registry.list()[0].state, PluginState::Probation);
    let done = registry.rollback("a").unwrap();
    assert_eq!((answer(&registry), done.generation), ("one".to_owned(), 3));
    // It is remembered: not by its file alone, but by what is in it.
    assert!(refused(&registry.sync(true)).1.contains("an operator took it out of service"));
    bench.put("a", &says("two"));
    assert!(refused(&registry.sync(false)).1.contains("stays out"));
    assert_eq!(answer(&registry), "one");
    // Over a restart as well.
    drop(registry);
    let registry = bench.open();
    assert_eq!(answer(&registry), "one");
    bench.put("a", &says("three"));
    registry.sync(false);
    assert_eq!(answer(&registry), "three");
}

#[test]
fn a_disabled_plugin_stays_loaded_and_is_not_called() {
    let bench = Bench::new();
    bench.put("a", &says("a"));
    bench.put("b", &says("b"));
    let registry = bench.open();
    assert_eq!(registry.disable("a"), Ok(true));
    assert_eq!(registry.disable("a"), Ok(false));
    assert_eq!(answer(&registry), "b");
    assert_eq!(registry.list()[0].state, PluginState::Disabled);
    // A new version does not bring it back behind the operator's back.
    bench.put("a", &says("a2"));
    registry.sync(false);
    assert_eq!(answer(&registry), "b");
    assert_eq!(registry.enable("a"), Ok(true));
    assert_eq!(answer(&registry), "a2");
}

#[test]
fn a_required_plugin_cannot_be_lost() {
    let bench = Bench::new();
    bench.put("a", &says("a"));
    bench.require("a");
    let registry = bench.open();
    fs::remove_file(bench.file("a")).unwrap();
    for _ in 0..2 {
        let (id, error) = refused(&registry.sync(false));
        assert!(id == "a" && error.contains("`required`"), "{error}");
        assert_eq!(answer(&registry), "a");
    }
    assert_eq!(registry.disable("a"), Err(RegistryError::Required("a".to_owned())));
    // The next start has nothing to serve.
    let error = bench.try_open().unwrap_err();
    assert!(error.starts_with("plugin a: its policy says `required`"), "{error}");
    // The operator may change the policy; then it goes.
    bench.set("a", PluginSettings::default());
    assert_eq!(registry.sync(false).removed, ["a"]);
}

#[test]
fn settings_that_cannot_be_read_change_nothing() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    bench.put("a", &says("two"));
    *bench.settings.lock().unwrap() = Err("llamero.toml: line 3".to_owned());
    let (id, error) = refused(&registry.sync(false));
    assert_eq!((id.as_str(), error.as_str()), ("", "settings: llamero.toml: line 3"));
    assert_eq!(answer(&registry), "one");
    *bench.settings.lock().unwrap() = Ok(BTreeMap::new());
    assert_eq!(registry.sync(false).loaded, ["a"]);
    // Settings of a plugin without a file refuse a start, and are no more than
    // worth a warning later.
    bench.set("typo", PluginSettings::default());
    assert!(registry.sync(false).kept.is_empty());
    assert!(bench.try_open().unwrap_err().starts_with("plugin typo: settings: "));
}

#[test]
fn new_settings_are_a_new_version_that_can_be_rolled_back() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    bench.set("a", PluginSettings { config: json!([1]), ..PluginSettings::default() });
    assert!(refused(&registry.sync(false)).1.contains("must be a table"));
    bench.set("a", PluginSettings { config: json!({"x": 1}), ..PluginSettings::default() });
    assert_eq!(registry.sync(false).loaded, ["a"]);
    registry.rollback("a").unwrap();
    assert!(refused(&registry.sync(false)).1.contains("stays out"));
    // Other settings for the same file are another matter.
    bench.set("a", PluginSettings { config: json!({"x": 2}), ..PluginSettings::default() });
    assert_eq!(registry.sync(false).loaded, ["a"]);
}
