//! Each limit, exceeded by itself.

use std::time::Duration;

use llamero_hooks::{FailureKind, HookHost, HostConfig, LimitOverrides, Limits, PluginSettings};

use crate::guest::{Guest, Image};
use crate::support::{
    Letters, chain, context, failed, host, host_with, on_request, refusal, refusal_with, request,
    responded, runtime,
};

#[test]
fn host_call_bytes() {
    let host = host_with(|config| config.limits.host_call_bytes = 100_000);
    let logs = |bytes: u32| {
        Guest::doing(&format!(
            "(call $write (i32.const 2) (i32.const 0) (i32.const {bytes}) (i32.const 0) (i32.const 0))"
        ))
        .import("log", "write", "(param i32 i32 i32 i32 i32)")
        .memory("20")
    };
    on_request(&chain(&host, &[&logs(90_000)]));
    let outcome = on_request(&chain(&host, &[&logs(200_000)]));
    let failure = failed(outcome, "a", FailureKind::Quota);
    assert!(failure.detail.contains("host_call_bytes"), "{failure:?}");
}

/// A component whose `fields` run when it is instantiated, and whose export has a
/// wrong type: what it is refused with tells how far it came.
fn at_instantiation(fields: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            {fields}
            (core module $m (func (export "f") (param i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $f (param "x" u32) (result u32) (canon lift (core func $i "f")))
            (instance $hook (export "on-request" (func $f)))
            (export "llamero:hooks/request-hook@0.1.0" (instance $hook)))"#
    ))
    .unwrap()
}

const REACHED: &str = "does not have the types";

#[test]
fn handles() {
    let makes = |count: u32| {
        at_instantiation(&format!(
            r#"(type $r (resource (rep i32)))
            (core func $new (canon resource.new $r))
            (core module $bomb
                (import "" "new" (func $new (param i32) (result i32)))
                (func $start (local $n i32)
                    (local.set $n (i32.const {count}))
                    (loop $l
                        (drop (call $new (i32.const 0)))
                        (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
                (start $start))
            (core instance (instantiate $bomb
                (with "" (instance (export "new" (func $new))))))"#
        ))
    };
    let host = host_with(|config| config.limits.handles = 50);
    let text = refusal(&host, &makes(50));
    assert!(text.contains(REACHED), "{text}");
    let text = refusal(&host, &makes(51));
    assert!(text.contains("trial, instantiate: quota"), "{text}");
}

#[test]
fn wasi_has_nothing_in_it() {
    // Traps at instantiation unless the list that it asks for is empty. The test's
    // own environment is not.
    let asks = |interface: &str, function: &str, item: &str| {
        at_instantiation(&format!(
            r#"(import "{interface}" (instance $wasi
                {item}
                (export "{function}" (func (result (list $item))))))
            (core module $memory (memory (export "memory") 4)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $memory (instantiate $memory))
            (core func $get (canon lower (func $wasi "{function}")
                (memory (core memory $memory "memory"))
                (realloc (core func $memory "realloc"))))
            (core module $main
                (import "" "get" (func $get (param i32)))
                (import "" "memory" (memory 4))
                (func $start
                    (call $get (i32.const 16))
                    (if (i32.load (i32.const 20)) (then unreachable)))
                (start $start))
            (core instance (instantiate $main (with "" (instance
                (export "get" (func $get))
                (export "memory" (memory $memory "memory"))))))"#
        ))
    };
    assert!(std::env::vars_os().next().is_some());
    for (function, item) in [
        ("get-environment", "(type $item (tuple string string))"),
        ("get-arguments", "(type $item string)"),
    ] {
        let component = asks("wasi:cli/environment@0.2.0", function, item);
        let text = refusal(&host(), &component);
        assert!(text.contains(REACHED), "{text}");
    }
}

#[test]
fn memory_is_summed_and_may_be_set_for_one_plugin() {
    let host = host();
    let guest = Guest::doing(
        "(if (i32.eq (memory.grow (i32.const 32)) (i32.const -1)) (then unreachable))",
    );
    let module = guest.module();
    let load = |memory_bytes| {
        let settings = PluginSettings {
            limits: LimitOverrides {
                memory_bytes: Some(memory_bytes),
                ..LimitOverrides::default()
            },
            ..PluginSettings::default()
        };
        host.load_bytes(&[("a", &module, settings)]).unwrap()
    };
    on_request(&load(34 * 65536));
    failed(on_request(&load(34 * 65536 - 1)), "a", FailureKind::Memory);
}

#[test]
fn memory_at_the_beginning_counts() {
    let host = host_with(|config| config.limits.memory_bytes = 1 << 20);
    let text = refusal(&host, &Guest::doing("").memory("20").module());
    assert!(text.contains("memory") && text.contains("memory_bytes"), "{text}");
}

#[test]
fn the_length_of_a_reason() {
    let host = host_with(|config| config.limits.reason_bytes = 10);
    let rejects = |reason: &str| Guest::returning(|image| image.reject(3, None, reason));
    on_request(&chain(&host, &[&rejects("ten bytes!")]));
    let outcome = on_request(&chain(&host, &[&rejects("eleven byte")]));
    failed(outcome, "a", FailureKind::InvalidOutput);
}

#[test]
fn busy_when_every_instance_is_taken() {
    let host = host_with(|config| {
        config.max_instances = 1;
        config.limits.wall = Duration::from_millis(300);
    });
    let chain = chain(&host, &[&Guest::returning(Image::pass)]);
    runtime().block_on(async {
        let mut first = chain.begin(context());
        first.on_request(request()).await;
        let mut second = chain.begin(context());
        let failure = failed(second.on_request(request()).await, "a", FailureKind::Busy);
        assert!(failure.retryable);
        drop(first);
        let mut third = chain.begin(context());
        crate::support::continued(third.on_request(request()).await);
    });
}

#[test]
fn busy_when_every_call_slot_is_taken() {
    let host = host_with(|config| config.concurrency = 1);
    let endless = chain(&host, &[&Guest::doing("(loop $l (br $l))")]);
    let settings = PluginSettings {
        limits: LimitOverrides {
            wall: Some(Duration::from_millis(300)),
            ..LimitOverrides::default()
        },
        ..PluginSettings::default()
    };
    let module = Guest::returning(Image::pass).module();
    let quick = host.load_bytes(&[("a", &module, settings)]).unwrap();
    runtime().block_on(async {
        let mut stuck = endless.begin(context());
        let canceller = stuck.canceller();
        let stuck = tokio::spawn(async move { stuck.on_request(request()).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let outcome = quick.begin(context()).on_request(request()).await;
        failed(outcome, "a", FailureKind::Busy);
        canceller.cancel();
        failed(stuck.await.unwrap(), "a", FailureKind::Cancelled);
        crate::support::continued(quick.begin(context()).on_request(request()).await);
    });
}

#[test]
fn more_plugins_than_allowed() {
    let host = host_with(|config| config.max_plugins = 1);
    let module = Guest::returning(Image::pass).module();
    let given = ["a", "b"].map(|id| (id, module.as_slice(), PluginSettings::default()));
    let errors = host.load_bytes(&given).unwrap_err();
    assert!(errors[0].to_string().contains("2 plugins"), "{errors:?}");
}

#[test]
fn a_component_that_is_too_large() {
    let host = host_with(|config| config.max_component_bytes = 100);
    let text = refusal(&host, &Guest::returning(Image::pass).module());
    assert!(text.contains("the limit is 100"), "{text}");
}

#[test]
fn limits_that_cannot_work_are_refused() {
    let config = HostConfig {
        limits: Limits { cpu: Duration::ZERO, ..Limits::default() },
        ..HostConfig::default()
    };
    let error = HookHost::new(config, llamero_hooks::Services::new(std::sync::Arc::new(Letters)))
        .unwrap_err();
    assert!(error.to_string().contains("`cpu` is 0"), "{error}");

    let settings = PluginSettings {
        limits: LimitOverrides { memory_bytes: Some(1 << 40), ..LimitOverrides::default() },
        ..PluginSettings::default()
    };
    let module = Guest::returning(Image::pass).module();
    let text = refusal_with(&host(), &module, settings);
    assert!(text.contains("memory_bytes"), "{text}");
}

#[test]
fn notes_are_limited_in_number() {
    let host = host_with(|config| config.limits.notes = 2);
    let mut guest = Guest::new();
    let keys = guest.image.place(b"abc");
    let area = guest.image.respond("done");
    let note = |n: u32| {
        format!(
            "(call $note (i32.const {}) (i32.const 1) (i32.const {keys}) (i32.const 3))",
            keys + n
        )
    };
    let guest = guest.import("call", "note", "(param i32 i32 i32 i32)").on_request(&format!(
        "{} {} {} {} (i32.const {area})",
        note(0),
        note(0),
        note(1),
        note(2)
    ));
    let chain = chain(&host, &[&guest]);
    let mut job = chain.begin(context());
    assert_eq!(responded(runtime().block_on(job.on_request(request()))), "done");
    let pair = |name: &str| (name.to_owned(), "abc".to_owned());
    assert_eq!(job.notes(), [pair("a.a"), pair("a.b")]);
}
