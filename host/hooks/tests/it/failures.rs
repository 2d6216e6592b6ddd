//! Plugins that fail: each ends with the right plugin, phase and kind, and takes
//! nothing with it.

use std::time::Duration;

use llamero_hooks::{FailureKind, HookHost};

use crate::guest::{Guest, Image};
use crate::support::{chain, failed, host, host_with, on_request, responded};

/// Runs `bad` between two good plugins, twice, and then a chain without it on the
/// same host.
#[track_caller]
fn check_on(host: &HookHost, bad: &Guest, kind: FailureKind) -> String {
    let good = Guest::returning(Image::pass);
    let answers = Guest::returning(|image| image.respond("still here"));
    let broken = chain(host, &[&good, bad, &answers]);
    let first = failed(on_request(&broken), "b", kind);
    let second = failed(on_request(&broken), "b", kind);
    assert_eq!(first.retryable, second.retryable);
    let whole = chain(host, &[&good, &answers]);
    assert_eq!(responded(on_request(&whole)), "still here");
    first.detail
}

#[track_caller]
fn check(bad: &Guest, kind: FailureKind) -> String {
    check_on(&host(), bad, kind)
}

#[test]
fn unreachable_is_a_trap_with_a_backtrace() {
    let detail = check(
        &Guest::doing("(call $culprit)").with("(func $culprit unreachable)"),
        FailureKind::Trap,
    );
    assert!(detail.contains("unreachable"), "{detail}");
    assert!(detail.contains("culprit"), "{detail}");
}

#[test]
fn other_traps() {
    for body in [
        "(drop (i32.load (i32.const 0x7fffffff)))",
        "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
    ] {
        check(&Guest::doing(body), FailureKind::Trap);
    }
}

#[test]
fn a_loop_ends_by_its_cpu_time() {
    let host = host_with(|config| config.limits.cpu = Duration::from_millis(30));
    let detail = check_on(&host, &Guest::doing("(loop $l (br $l))"), FailureKind::Cpu);
    assert!(detail.contains("limit `cpu`"), "{detail}");
}

#[test]
fn a_loop_ends_by_its_wall_time_where_that_is_shorter() {
    let host = host_with(|config| config.limits.wall = Duration::from_millis(100));
    let good = chain(&host, &[&Guest::doing("")]);
    let endless = chain(&host, &[&Guest::doing("(loop $l (br $l))")]);
    failed(on_request(&endless), "a", FailureKind::Wall);
    on_request(&good);
}

#[test]
fn a_loop_of_calls_ends_too() {
    let host = host_with(|config| config.limits.cpu = Duration::from_millis(30));
    let guest = Guest::doing("(call $spin)")
        .with("(func $spin (loop $l (call $nothing) (br $l))) (func $nothing)");
    check_on(&host, &guest, FailureKind::Cpu);
}

#[test]
fn deep_recursion_is_the_stack() {
    check(
        &Guest::doing("(call $deep)").with("(func $deep (call $deep) (drop (memory.size)))"),
        FailureKind::Stack,
    );
}

#[test]
fn a_memory_bomb_is_memory() {
    // Grows until it may not, and then gives up as an allocator does.
    let detail = check(
        &Guest::doing(
            "(block $full (loop $more
                (br_if $full (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
                (br $more)))
             unreachable",
        ),
        FailureKind::Memory,
    );
    assert!(detail.contains("limit `memory_bytes` is 67108864"), "{detail}");
}

#[test]
fn a_table_bomb_is_memory() {
    let host = host_with(|config| config.limits.memory_bytes = 1 << 20);
    let bomb = Guest::doing(
        "(if (i32.eq (table.grow $t (ref.null func) (i32.const 150000)) (i32.const -1))
            (then unreachable))",
    )
    .with("(table $t 1 funcref)");
    check_on(&host, &bomb, FailureKind::Memory);
}

#[test]
fn refused_memory_that_a_plugin_lives_with_is_no_failure() {
    let host = host();
    let mut guest = Guest::new();
    let area = guest.image.respond("fine");
    let guest =
        guest.on_request(&format!("(drop (memory.grow (i32.const 30000))) (i32.const {area})"));
    assert_eq!(responded(on_request(&chain(&host, &[&guest]))), "fine");
}

#[test]
fn a_returned_error_is_the_guests() {
    for (case, retryable) in [(0, false), (1, true), (2, false)] {
        let guest = Guest::returning(|image| image.error(case, "no idea"));
        let host = host();
        let failure = failed(on_request(&chain(&host, &[&guest])), "a", FailureKind::Guest);
        assert_eq!(failure.retryable, retryable);
        assert!(failure.detail.contains("no idea"), "{failure:?}");
    }
}

#[test]
fn invalid_output() {
    let cases: [(Guest, &str); 9] = [
        (Guest::returning(|i| i.patch(None, None, &[("seed", "{\"a\":")])), "option `seed`"),
        (Guest::returning(|i| i.patch(Some(""), None, &[])), "model name is empty"),
        (Guest::returning(|i| i.patch(None, None, &[("", "1")])), "name of an option"),
        (Guest::returning(|i| i.reject(3, Some(11), "no")), "rejection code 11"),
        (Guest::returning(|i| i.reject(3, Some(0), "no")), "rejection code 0"),
        (Guest::returning(|i| i.reject(3, None, "")), "without a reason"),
        // What is not even a value of the type: a verdict that does not exist, a
        // string outside the memory, and one that is no UTF-8.
        (Guest::returning(|i| i.words(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), ""),
        (Guest::returning(|i| i.respond_raw(0xffff_0000, 100)), ""),
        (
            Guest::returning(|i| {
                let bytes = i.place(&[0xff, 0xfe]);
                i.respond_raw(bytes, 2)
            }),
            "",
        ),
    ];
    for (guest, expected) in cases {
        let detail = check(&guest, FailureKind::InvalidOutput);
        assert!(detail.contains(expected), "{detail}");
    }
}

#[test]
fn oversized_output_is_invalid_whether_it_is_copied_or_not() {
    // Above `output_bytes`, below `host_call_bytes`: copied, measured, refused.
    let large = Guest::returning(|i| i.respond_raw(1 << 20, 5 << 20)).memory("100");
    let detail = check(&large, FailureKind::InvalidOutput);
    assert!(detail.contains("limit `output_bytes`"), "{detail}");
    // Above both: never copied out of the plugin.
    let huge = Guest::returning(|i| i.respond_raw(1 << 20, 10 << 20)).memory("200");
    let detail = check(&huge, FailureKind::InvalidOutput);
    assert!(detail.contains("too much data"), "{detail}");
}

#[test]
fn an_instance_that_cannot_be_made_for_a_job() {
    // It passes its trial, which has more time than a job, and refuses to be
    // configured for a job.
    let mut guest = Guest::new();
    let fine = guest.image.result(None);
    let error = guest.image.result(Some("in a hurry"));
    let description = guest.image.description("picky", "1", None);
    let pass = guest.image.pass();
    let guest = guest
        .import("call", "remaining-ms", "(result i32)")
        .on_request(&format!("(i32.const {pass})"))
        .lifecycle(
            &format!("(i32.const {description})"),
            // A trial has a minute, a job ten seconds.
            &format!(
                "(if (result i32) (i32.gt_u (call $remaining-ms) (i32.const 15000))
                    (then (i32.const {fine})) (else (i32.const {error})))"
            ),
            &format!("(i32.const {fine})"),
        );
    let host = host_with(|config| {
        config.limits.wall = Duration::from_secs(10);
        // Instances that are made ahead have as much time as a trial.
        config.limits.ready = 0;
    });
    let detail = check_on(&host, &guest, FailureKind::Instantiate);
    assert!(detail.contains("in a hurry"), "{detail}");
}
