//! Loading: what is refused, with which words, and that the rest goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llamero_hooks::{Phase, PluginSettings};
use serde_json::json;

use crate::guest::{Guest, Image};
use crate::support::{
    chain, continued, host, host_with, on_request, refusal, refusal_with, request, responded,
};

fn pass() -> Vec<u8> {
    Guest::returning(Image::pass).module()
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let text = refusal(&host(), bytes);
    assert!(text.contains(expected), "{text}");
}

#[test]
fn what_is_no_plugin_is_refused_with_its_cause() {
    refused(b"", "not a WebAssembly file");
    refused(b"hello", "not a WebAssembly file");
    refused(&wat::parse_str("(module)").unwrap(), "component-type section");
    refused(&wat::parse_str("(component)").unwrap(), "exports no phase");
    let module = pass();
    refused(&module[..module.len() / 2], "invalid WebAssembly");
}

#[test]
fn precompiled_code_is_refused() {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    let engine = wasmtime::Engine::new(&config).unwrap();
    let component = wat::parse_str("(component)").unwrap();
    let compiled = engine.precompile_component(&component).unwrap();
    refused(&compiled, "never accepted");
}

/// A component that exports `request-hook` with a function of the wrong type.
fn wrong_types(function: &str, ty: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            (core module $m (func (export "f") (param i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $f (param "x" u32) (result {ty}) (canon lift (core func $i "f")))
            (instance $hook (export "{function}" (func $f)))
            (export "llamero:hooks/request-hook@0.1.0" (instance $hook)))"#
    ))
    .unwrap()
}

#[test]
fn exported_but_broken_is_not_absent() {
    refused(&wrong_types("on-request", "u32"), "does not have the types of llamero:hooks@0.1");
    refused(&wrong_types("on-something", "u32"), "on-request");
}

#[test]
fn an_import_of_the_wrong_type_is_refused() {
    let bytes = wat::parse_str(
        r#"(component
            (import "llamero:hooks/call@0.1.0" (instance
                (export "remaining-ms" (func (result string)))))
            (component $c) (instance $i (instantiate $c))
            (export "llamero:hooks/request-hook@0.1.0" (instance $i)))"#,
    )
    .unwrap();
    refused(&bytes, "remaining-ms");
}

#[test]
fn filters_that_nobody_would_run_are_refused() {
    for phase in ["stream-filter", "response-hook", "observer"] {
        let bytes = wat::parse_str(format!(
            r#"(component (component $c) (instance $i (instantiate $c))
                (export "llamero:hooks/{phase}@0.1.0" (instance $i)))"#
        ))
        .unwrap();
        refused(&bytes, phase);
    }
}

/// A plugin with a lifecycle; what its functions do may be overridden.
fn lifecycle(configure: Option<&str>, self_test: Option<&str>, schema: Option<&str>) -> Guest {
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let description = guest.image.description("Polite", "1.2.3", schema);
    let configure = guest.image.result(configure);
    let self_test = guest.image.result(self_test);
    let constant = |address| format!("(i32.const {address})");
    guest.on_request(&constant(pass)).lifecycle(
        &constant(description),
        &constant(configure),
        &constant(self_test),
    )
}

#[test]
fn the_description_is_read() {
    let host = host();
    let chain = chain(&host, &[&lifecycle(None, None, Some("{\"type\":\"object\"}"))]);
    let [info] = chain.plugins() else {
        panic!("one plugin");
    };
    assert_eq!(
        (info.id.as_str(), info.name.as_str(), info.version.as_str()),
        ("a", "Polite", "1.2.3")
    );
    assert_eq!(info.config_schema.as_deref(), Some("{\"type\":\"object\"}"));
    assert_eq!(info.phases, [Phase::Request]);
    assert_eq!(info.digest.len(), 64);
    assert_eq!(info.memory_bytes, 2 * 65536);
}

#[test]
fn an_error_of_the_lifecycle_refuses_the_plugin() {
    refused(
        &lifecycle(Some("`words` is missing"), None, None).module(),
        "refuses its configuration: `words` is missing",
    );
    refused(
        &lifecycle(None, Some("two is not one"), None).module(),
        "self-test failed: two is not one",
    );
    refused(&lifecycle(None, None, Some("{nonsense")).module(), "config-schema is not JSON");
}

#[test]
fn a_trap_or_a_loop_in_the_trial_refuses_the_plugin() {
    let host = host_with(|config| config.limits.cpu = std::time::Duration::from_millis(30));
    let body = |step: usize, body: &str| {
        let mut guest = Guest::new();
        let pass = guest.image.pass();
        let description = guest.image.description("x", "1", None);
        let fine = guest.image.result(None);
        let mut bodies = [description, fine, fine].map(|area| format!("(i32.const {area})"));
        bodies[step] = body.to_owned();
        let [describe, configure, self_test] = &bodies;
        guest
            .on_request(&format!("(i32.const {pass})"))
            .lifecycle(describe, configure, self_test)
            .module()
    };
    for (step, name) in [(0, "describe"), (1, "configure"), (2, "self-test")] {
        let text = refusal(&host, &body(step, "unreachable"));
        assert!(text.contains(&format!("trial, {name}: trap")), "{text}");
        let text = refusal(&host, &body(step, "(loop $l (br $l)) (i32.const 0)"));
        assert!(text.contains(&format!("trial, {name}: cpu")), "{text}");
    }
}

#[test]
fn a_start_function_that_fails_refuses_the_plugin() {
    let guest = Guest::doing("").with("(func $start unreachable) (start $start)");
    refused(&guest.module(), "trial, instantiate: instantiate");
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let settings = PluginSettings { config: json!([1, 2]), ..PluginSettings::default() };
    let text = refusal_with(&host(), &pass(), settings);
    assert!(text.contains("must be a table or object"), "{text}");
}

#[test]
fn ids_that_cannot_be_are_refused() {
    let host = host();
    let module = pass();
    for id in ["", "-a", "a b", "a/b", "ä", &"x".repeat(65)] {
        let errors = host.load_bytes(&[(id, &module, PluginSettings::default())]).unwrap_err();
        assert!(errors[0].to_string().contains("plugin id"), "{errors:?}");
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn a_folder_is_loaded_in_the_order_of_its_file_names() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let answers = Guest::returning(|image| image.respond("20 was asked")).module();
    write(dir.path(), "30-last.wasm", &Guest::doing("unreachable").module());
    write(dir.path(), "10-first.wasm", &pass());
    write(dir.path(), "20-second.wasm", &answers);
    write(dir.path(), "README.md", b"# Plugins");
    write(dir.path(), ".hidden.wasm", b"half written");
    fs::create_dir(dir.path().join("test")).unwrap();
    write(&dir.path().join("test"), "trap.wasm", b"not looked at");
    let chain = host.load_dir(dir.path(), &BTreeMap::new()).unwrap();
    let ids: Vec<_> = chain.plugins().iter().map(|info| info.id.as_str()).collect();
    assert_eq!(ids, ["10-first", "20-second", "30-last"]);
    assert_eq!(responded(on_request(&chain)), "20 was asked");
}

#[test]
fn a_folder_is_loaded_as_a_whole_and_every_problem_is_named() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "good.wasm", &pass());
    write(dir.path(), "text.wasm", b"(component)");
    write(dir.path(), "no id.wasm", &pass());
    let settings = BTreeMap::from([("typo".to_owned(), PluginSettings::default())]);
    let errors = host.load_dir(dir.path(), &settings).unwrap_err();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    for expected in ["plugin typo: settings", "plugin text: ", "plugin no id: "] {
        assert!(texts.iter().any(|text| text.starts_with(expected)), "{expected}: {texts:?}");
    }
    let errors = host.load_dir(&dir.path().join("nowhere"), &BTreeMap::new()).unwrap_err();
    assert!(errors[0].to_string().contains("nowhere"), "{errors:?}");
}

#[test]
fn an_empty_folder_is_an_empty_chain() {
    let dir = tempfile::tempdir().unwrap();
    let chain = host().load_dir(dir.path(), &BTreeMap::new()).unwrap();
    assert_eq!(continued(on_request(&chain)), request());
}

#[test]
fn compiled_code_is_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let load = || {
        let host = host_with(|config| config.cache_dir = Some(cache.clone()));
        let chain = chain(&host, &[&Guest::returning(|image| image.respond("cached?"))]);
        assert_eq!(responded(on_request(&chain)), "cached?");
        chain.plugins()[0].cached
    };
    assert!(!load());
    assert!(load());

    // A damaged file means compiling again, and nothing else.
    let mut damaged = 0;
    let mut folders = vec![cache.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::metadata(&path).unwrap().len() > 1000 {
                let mut bytes = fs::read(&path).unwrap();
                bytes.truncate(500);
                fs::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
    assert!(!load());
}
