//! The first look at a folder, and the last good versions.

use std::collections::BTreeMap;
use std::fs;

use llamero_hooks::PluginState;

use super::{Bench, answer, refused, says};
use crate::support::host_with;

#[test]
fn a_missing_folder_is_reported_as_a_folder() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    fs::rename(bench.dir(), bench.temp.path().join("away")).unwrap();
    let (id, error) = refused(&registry.sync(false));
    assert!(id.is_empty() && error.starts_with("the hooks folder "), "{error}");
    assert_eq!(answer(&registry), "one");
    let error = bench.try_open().unwrap_err();
    assert!(error.starts_with("the hooks folder ") && error.contains("No such file"), "{error}");
    fs::rename(bench.temp.path().join("away"), bench.dir()).unwrap();
    assert_eq!(registry.sync(false).unchanged, ["a"]);
}

#[test]
fn a_start_on_a_damaged_file_serves_the_last_good_version() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    drop(bench.open());
    for damage in [b"prose".as_slice(), b"\0asm"] {
        bench.put("a", damage);
        let registry = bench.open();
        assert_eq!(answer(&registry), "one");
        let status = registry.list().remove(0);
        assert_eq!(status.state, PluginState::Serving);
        assert!(status.last_error.is_some(), "{status:?}");
    }
    // Mended, it is a new version like any other.
    let registry = bench.open();
    bench.put("a", &says("two"));
    assert_eq!(registry.sync(false).loaded, ["a"]);
    assert_eq!(answer(&registry), "two");
}

#[test]
fn without_a_last_good_version_a_damaged_file_refuses_the_start() {
    let bench = Bench::new();
    bench.put("a", b"prose");
    assert!(bench.try_open().unwrap_err().contains("not a WebAssembly file"));
    // A plugin that the operator removed leaves nothing behind to fall back to.
    bench.put("a", &says("one"));
    let registry = bench.open();
    fs::remove_file(bench.file("a")).unwrap();
    registry.sync(false);
    drop(registry);
    bench.put("a", b"prose");
    assert!(bench.try_open().unwrap_err().contains("not a WebAssembly file"));
    // Nor does another folder with a plugin of the same name.
    let other = Bench::new();
    other.put("a", &says("another"));
    drop(other.open());
    let host = host_with(|config| config.cache_dir = Some(other.temp.path().join("cache")));
    assert!(host.open(&bench.dir(), Box::new(|| Ok(BTreeMap::new()))).is_err());
}
