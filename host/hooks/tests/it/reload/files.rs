//! What becomes of files that are put there, changed and removed.

use std::fs::{self, File};
use std::io::Write;
use std::thread;
use std::time::Duration;

use super::{Bench, answer, ids, pass, refused, says};
use crate::guest::Guest;
use crate::support::{continued, on_request, request};

#[test]
fn a_renamed_file_replaces_its_version() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    assert_eq!((answer(&registry), registry.generation()), ("one".to_owned(), 1));
    bench.put("a", &says("two"));
    let report = registry.sync(false);
    assert_eq!((report.loaded, report.generation), (vec!["a".to_owned()], 2));
    assert_eq!(answer(&registry), "two");
}

#[test]
fn a_file_written_in_place_replaces_its_version() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    fs::write(bench.file("a"), says("two")).unwrap();
    assert_eq!(registry.sync(false).loaded, ["a"]);
    assert_eq!(answer(&registry), "two");
}

#[test]
fn what_has_not_changed_is_left_alone() {
    let bench = Bench::new();
    bench.put("a", &pass());
    bench.put("b", &says("b"));
    let registry = bench.open();
    for force in [false, true] {
        let report = registry.sync(force);
        assert_eq!(report.unchanged, ["a", "b"]);
        assert!(report.loaded.is_empty() && report.kept.is_empty(), "{report:?}");
    }
    // The same bytes in another file are the same version.
    bench.put("a", &pass());
    assert_eq!(registry.sync(false).unchanged, ["a", "b"]);
    assert_eq!(registry.generation(), 1);
}

#[test]
fn a_removed_file_takes_its_plugin_along() {
    let bench = Bench::new();
    bench.put("a", &says("a"));
    bench.put("b", &says("b"));
    let registry = bench.open();
    assert_eq!(answer(&registry), "a");
    fs::remove_file(bench.file("a")).unwrap();
    assert_eq!(registry.sync(false).removed, ["a"]);
    assert_eq!(answer(&registry), "b");
    fs::remove_file(bench.file("b")).unwrap();
    registry.sync(false);
    assert_eq!(continued(on_request(&registry.chain())), request());
    assert!(registry.list().is_empty());
}

#[test]
fn many_changes_are_one_new_chain() {
    let bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.put(id, &pass());
    }
    let registry = bench.open();
    bench.put("a", &Guest::doing("nop").module());
    fs::remove_file(bench.file("b")).unwrap();
    bench.put("d", &says("d"));
    bench.put("e", b"no plugin");
    let report = registry.sync(false);
    assert_eq!(report.loaded, ["a", "d"]);
    assert_eq!(report.removed, ["b"]);
    assert_eq!(refused(&report).0, "e");
    assert_eq!((report.unchanged, report.generation), (vec!["c".to_owned()], 2));
    assert_eq!(ids(&registry), ["a", "c", "d"]);
}

#[test]
fn a_file_that_cannot_be_loaded_keeps_the_old_version_and_names_the_cause() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    let module = says("two");
    let trap = {
        let mut guest = Guest::new();
        let (pass, fine) = (guest.image.pass(), guest.image.result(None));
        let description = guest.image.description("x", "1", None);
        let constant = |area: u32| format!("(i32.const {area})");
        guest
            .on_request(&constant(pass))
            .lifecycle(&constant(description), "unreachable", &constant(fine))
            .module()
    };
    let cases: [(Vec<u8>, &str); 5] = [
        (Vec::new(), "not a WebAssembly file"),
        (b"prose".to_vec(), "not a WebAssembly file"),
        (module[..module.len() / 2].to_vec(), "invalid WebAssembly"),
        (wat::parse_str("(component)").unwrap(), "exports no phase"),
        (trap, "trial, configure: trap"),
    ];
    for (bytes, cause) in cases {
        bench.put("a", &bytes);
        let report = registry.sync(false);
        let (id, error) = refused(&report);
        assert!(id == "a" && error.contains(cause), "{error}");
        assert!(registry.list()[0].last_error.as_ref().unwrap().contains(cause));
        assert_eq!((answer(&registry), registry.generation()), ("one".to_owned(), 1));
    }
    // The old file is the version that serves anyway.
    bench.put("a", &says("one"));
    assert_eq!(registry.sync(false).unchanged, ["a"]);
    assert_eq!(registry.list()[0].last_error, None);
}

#[test]
fn a_bad_file_is_not_tried_again_until_it_changes() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    bench.put("a", b"prose");
    assert!(!refused(&registry.sync(false)).1.contains("stays out"));
    for _ in 0..2 {
        let (_, error) = refused(&registry.sync(false));
        assert!(error.contains("stays out until its file changes: not a WebAssembly"), "{error}");
    }
    // The same bytes again: known by their digest.
    bench.put("a", b"prose");
    assert!(refused(&registry.sync(false)).1.contains("stays out"));
    // An operator who insists gets the cause anew.
    assert!(!refused(&registry.sync(true)).1.contains("stays out"));
    bench.put("a", &says("two"));
    assert_eq!(registry.sync(false).loaded, ["a"]);
}

#[test]
fn a_half_written_file_is_waited_for() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    let module = says("two");
    let (first, rest) = module.split_at(module.len() / 2);
    let mut file = File::create(bench.file("a")).unwrap();
    file.write_all(first).unwrap();
    thread::scope(|scope| {
        let looking = scope.spawn(|| registry.sync(false));
        // Less than the time for which a file must be at rest.
        thread::sleep(Duration::from_millis(30));
        file.write_all(rest).unwrap();
        let report = looking.join().unwrap();
        // Where this thread did not run for a tenth of a second, the half file was
        // taken for a whole one, and refused; the next look sees the whole.
        if !report.kept.is_empty() {
            assert_eq!(answer(&registry), "one");
            registry.sync(false);
        }
    });
    assert_eq!(answer(&registry), "two");
}

#[test]
fn too_many_plugins_change_nothing() {
    let bench = Bench::new();
    bench.put("a", &says("one"));
    let registry = bench.open();
    for n in 0..8 {
        bench.put(&format!("b{n}"), &pass());
    }
    // The host of the tests has room for the instances of eight.
    let (id, error) = refused(&registry.sync(false));
    assert_eq!((id.as_str(), error.as_str()), ("", "9 plugins in the folder; the limit is 8"));
    assert_eq!(ids(&registry), ["a"]);
    fs::remove_file(bench.file("b7")).unwrap();
    assert_eq!(registry.sync(false).loaded.len(), 7);
}
