//! Plugins that no compiler would make, in WebAssembly text: most of them core modules
//! with the canonical ABI written by hand (`guest`), the others whole components.

use crate::guest::Guest;

/// A plugin whose `configure` or `self-test` does something; the rest is as it should
/// be.
pub struct Lifecycle {
    configure: String,
    self_test: String,
    guest: Guest,
    fine: u32,
    describe: u32,
    pass: u32,
}

impl Lifecycle {
    fn new() -> Self {
        let mut guest = Guest::new();
        let fine = guest.image.result(None);
        let describe = guest.image.description("hostile", "1", None);
        let pass = guest.image.pass();
        Self { configure: String::new(), self_test: String::new(), guest, fine, describe, pass }
    }

    fn module(self) -> Vec<u8> {
        let Self { configure, self_test, guest, fine, describe, pass } = self;
        guest
            .on_request(&format!("(i32.const {pass})"))
            .lifecycle(
                &format!("(i32.const {describe})"),
                &format!("{configure} (i32.const {fine})"),
                &format!("{self_test} (i32.const {fine})"),
            )
            .module()
    }
}

/// Its self-test never ends.
pub fn self_test_loop() -> Vec<u8> {
    Lifecycle { self_test: "(loop $l (br $l))".to_owned(), ..Lifecycle::new() }.module()
}

/// Its configuration calls itself without an end.
pub fn configure_recursion() -> Vec<u8> {
    let mut plugin = Lifecycle { configure: "(call $deep)".to_owned(), ..Lifecycle::new() };
    plugin.guest = plugin.guest.with("(func $deep (call $deep) (drop (memory.size)))");
    plugin.module()
}

/// Its configuration hands 16 MiB to the host in one call.
pub fn configure_host_call() -> Vec<u8> {
    let call = "(call $write (i32.const 2) (i32.const 0) (i32.const 16777216)
                             (i32.const 0) (i32.const 0))";
    let mut plugin = Lifecycle { configure: call.to_owned(), ..Lifecycle::new() };
    plugin.guest = plugin.guest.import("log", "write", "(param i32 i32 i32 i32 i32)").memory("300");
    plugin.module()
}

/// What it says of itself is 10 MiB long.
pub fn giant_description() -> Vec<u8> {
    let mut plugin = Lifecycle::new();
    // Name, version and description are a pointer and a length each; no schema.
    plugin.describe = plugin.guest.image.words(&[0, 10 << 20, 0, 1, 0, 1, 0, 0, 0]);
    plugin.guest = plugin.guest.memory("200");
    plugin.module()
}

/// Asked in a chat, it makes its table larger than 1 MiB of
/// memory allows; other requests pass.
pub fn table_bomb() -> Vec<u8> {
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let content = crate::guest::CONTENT;
    guest
        .on_request(&format!(
            "(if (i32.eq (i32.load8_u offset={content} (local.get $args)) (i32.const 1))
                 (then (if (i32.eq (table.grow $t (ref.null func) (i32.const 190000))
                                   (i32.const -1))
                     (then unreachable))))
             (i32.const {pass})"
        ))
        .with("(table $t 1 funcref)")
        .module()
}

/// A component whose hook has another type than it should. What else it has comes
/// first, so that its fault is found first.
fn component(fields: &str, hook: &str) -> Vec<u8> {
    let text = format!(
        r#"(component $c
            {fields}
            (core module $m {hook} (func (export "f") (param i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $f (param "x" u32) (result u32) (canon lift (core func $i "f")))
            (instance $hook (export "on-request" (func $f)))
            (export "llamero:hooks/request-hook@0.1.0" (instance $hook)))"#
    );
    wat::parse_str(text).expect("the text of a component")
}

/// Its hook has the wrong type.
pub fn wrong_types() -> Vec<u8> {
    component("", "")
}

/// It begins with 2 GiB of memory.
pub fn two_gib() -> Vec<u8> {
    component("", "(memory 32768)")
}

/// It begins with a table of ten million elements.
pub fn ten_million_elements() -> Vec<u8> {
    component("", "(table 10000000 funcref)")
}

/// It takes 5,000 handles when it is instantiated.
pub fn handles() -> Vec<u8> {
    component(
        r#"(type $r (resource (rep i32)))
        (core func $new (canon resource.new $r))
        (core module $bomb
            (import "" "new" (func $new (param i32) (result i32)))
            (func $start (local $n i32)
                (local.set $n (i32.const 5000))
                (loop $l
                    (drop (call $new (i32.const 0)))
                    (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
            (start $start))
        (core instance (instantiate $bomb (with "" (instance (export "new" (func $new))))))"#,
        "",
    )
}

/// It waits in a host call for an hour when it is instantiated.
pub fn parked() -> Vec<u8> {
    component(
        r#"(import "wasi:io/poll@0.2.0" (instance $poll
            (export "pollable" (type $p (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $p))))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (alias outer $c $pollable (type $p))
            (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
        (core func $wait (canon lower (func $clock "subscribe-duration")))
        (core func $block (canon lower (func $poll "[method]pollable.block")))
        (core module $parked
            (import "" "wait" (func $wait (param i64) (result i32)))
            (import "" "block" (func $block (param i32)))
            (func $start (call $block (call $wait (i64.const 3600000000000))))
            (start $start))
        (core instance (instantiate $parked (with "" (instance
            (export "wait" (func $wait))
            (export "block" (func $block))))))"#,
        "",
    )
}
