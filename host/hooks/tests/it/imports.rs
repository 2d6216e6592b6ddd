//! What plugins import: configuration, secrets, tokenizer, notes, facts of the
//! call, and the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use llamero_hooks::{HookHost, LimitOverrides, PluginSettings};
use serde_json::json;

use crate::guest::{Guest, TEXT};
use crate::support::{chain, context, continued, host, on_request, request, responded, runtime};

/// A plugin that answers with the string which `call` leaves at its return area,
/// at `offset`, where the word at 0 is the case and must be `case`.
fn answers(call: impl FnOnce(&mut Guest, u32) -> String, case: u32, offset: u32) -> Guest {
    let mut guest = Guest::new();
    let area = guest.image.words(&[0; 16]);
    let respond = guest.image.respond_raw(0, 0);
    let call = call(&mut guest, area);
    guest.on_request(&format!(
        "{call}
         (if (i32.ne (i32.load8_u (i32.const {area})) (i32.const {case})) (then unreachable))
         (i32.store offset=8 (i32.const {respond}) (i32.load offset={offset} (i32.const {area})))
         (i32.store offset=12 (i32.const {respond}) (i32.load offset={} (i32.const {area})))
         (i32.const {respond})",
        offset + 4
    ))
}

fn with_settings(host: &HookHost, guest: &Guest, settings: PluginSettings) -> String {
    let module = guest.module();
    let chain = host.load_bytes(&[("a", &module, settings)]).unwrap();
    responded(on_request(&chain))
}

fn configured() -> PluginSettings {
    PluginSettings {
        config: json!({"words": ["x", "y"], "limits": {"max": 3}}),
        secrets: BTreeMap::from([("token".to_owned(), "s3cret".to_owned())]),
        ..PluginSettings::default()
    }
}

#[test]
fn the_configuration_document() {
    // A plain string comes back without a case: pointer and length at 0.
    let reads = || {
        let mut guest = Guest::new();
        let area = guest.image.words(&[0; 4]);
        let respond = guest.image.respond_raw(0, 0);
        guest.import("config", "document", "(param i32)").on_request(&format!(
            "(call $document (i32.const {area}))
                 (i32.store offset=8 (i32.const {respond}) (i32.load (i32.const {area})))
                 (i32.store offset=12 (i32.const {respond}) (i32.load offset=4 (i32.const {area})))
                 (i32.const {respond})"
        ))
    };
    let host = host();
    assert_eq!(
        with_settings(&host, &reads(), configured()),
        r#"{"words":["x","y"],"limits":{"max":3}}"#
    );
    assert_eq!(with_settings(&host, &reads(), PluginSettings::default()), "{}");
}

#[test]
fn configuration_values_by_pointer() {
    let gets = |pointer: &str, case| {
        let reads = |guest: &mut Guest, area| {
            let [at, length] = guest.image.text(pointer);
            format!("(call $get (i32.const {at}) (i32.const {length}) (i32.const {area}))")
        };
        answers(reads, case, 4).import("config", "get", "(param i32 i32 i32)")
    };
    let host = host();
    for (pointer, expected) in
        [("/limits/max", "3"), ("/words/1", "\"y\""), ("/limits", "{\"max\":3}")]
    {
        assert_eq!(with_settings(&host, &gets(pointer, 1), configured()), expected);
    }
    // `none`: the answer is the empty string that the zeroed area holds.
    assert_eq!(with_settings(&host, &gets("/nothing", 0), configured()), "");
}

#[test]
fn secrets_are_granted_by_name() {
    let asks = |name: &str, case| {
        let reads = |guest: &mut Guest, area| {
            let [at, length] = guest.image.text(name);
            format!("(call $secret (i32.const {at}) (i32.const {length}) (i32.const {area}))")
        };
        answers(reads, case, 4).import("config", "secret", "(param i32 i32 i32)")
    };
    let host = host();
    assert_eq!(with_settings(&host, &asks("token", 0), configured()), "s3cret");
    // The error case; `not-granted` is case 0 of it, and its payload is empty.
    let refused = with_settings(&host, &asks("password", 1), configured());
    assert_eq!(refused, "");
}

/// Asks for the token count of a text of `length` bytes, and traps unless the case
/// of the result and the first byte of its payload are these.
fn counts(model: &str, length: u32, case: u32, value: u32) -> Guest {
    let mut guest = Guest::new();
    let [at, model_length] = guest.image.text(model);
    let area = guest.image.words(&[0; 8]);
    let pass = guest.image.pass();
    guest.memory("40").import("tokenizer", "count", "(param i32 i32 i32 i32 i32)").on_request(
        &format!(
            "(call $count (i32.const {at}) (i32.const {model_length})
                (i32.const 1048576) (i32.const {length}) (i32.const {area}))
             (if (i32.ne (i32.load8_u (i32.const {area})) (i32.const {case})) (then unreachable))
             (if (i32.ne (i32.load8_u offset=8 (i32.const {area})) (i32.const {value}))
                (then unreachable))
             (i32.const {pass})"
        ),
    )
}

#[test]
fn the_tokenizer_counts_and_refuses() {
    let host = host();
    // `result<u32, error>`: the error is a variant with a u64 inside, so that
    // everything is aligned to eight bytes.
    continued(on_request(&chain(&host, &[&counts("m", 5, 0, 5)])));
    // Long enough to move to another thread.
    continued(on_request(&chain(&host, &[&counts("m", 20_000, 0, 20_000 % 256)])));
    let unknown = counts("nope", 5, 1, 0);
    continued(on_request(&chain(&host, &[&unknown])));

    let module = counts("m", 101, 1, 1).module();
    let settings = PluginSettings {
        limits: LimitOverrides { tokenizer_bytes: Some(100), ..LimitOverrides::default() },
        ..PluginSettings::default()
    };
    let small = host.load_bytes(&[("a", &module, settings)]).unwrap();
    continued(on_request(&small));
}

#[test]
fn the_call_knows_its_model_after_the_plugins_before() {
    let host = host();
    let patches = Guest::returning(|image| image.patch(Some("other"), None, &[]));
    let mut asks = Guest::new();
    let area = asks.image.words(&[0; 4]);
    let respond = asks.image.respond_raw(0, 0);
    let asks = asks.import("call", "model", "(param i32)").on_request(&format!(
        "(call $model (i32.const {area}))
         (i32.store offset=8 (i32.const {respond}) (i32.load (i32.const {area})))
         (i32.store offset=12 (i32.const {respond}) (i32.load offset=4 (i32.const {area})))
         (i32.const {respond})"
    ));
    let chain = chain(&host, &[&patches, &asks]);
    assert_eq!(responded(on_request(&chain)), "other");
}

#[test]
fn a_plugin_reads_the_notes_of_those_before_it() {
    let host = host();
    let mut writes = Guest::new();
    let [key, key_length] = writes.image.text("seen");
    let [value, value_length] = writes.image.text("yes");
    let pass = writes.image.pass();
    let writes = writes.import("call", "note", "(param i32 i32 i32 i32)").on_request(&format!(
        "(call $note (i32.const {key}) (i32.const {key_length})
                (i32.const {value}) (i32.const {value_length}))
             (i32.const {pass})"
    ));
    let reads = |name: &str, case| {
        let read = |guest: &mut Guest, area| {
            let [at, length] = guest.image.text(name);
            format!("(call $read-note (i32.const {at}) (i32.const {length}) (i32.const {area}))")
        };
        answers(read, case, 4).import("call", "read-note", "(param i32 i32 i32)")
    };
    let chain1 = chain(&host, &[&writes, &reads("a.seen", 1)]);
    assert_eq!(responded(on_request(&chain1)), "yes");
    // Notes belong to one job.
    let chain2 = chain(&host, &[&reads("a.seen", 0)]);
    assert_eq!(responded(on_request(&chain2)), "");
}

#[test]
fn the_budget_is_told() {
    let host = host();
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let guest = guest
        .import("call", "remaining-ms", "(result i32)")
        .import("call", "cancelled", "(result i32)")
        .on_request(&format!(
            "(local.set $n (call $remaining-ms))
             (if (i32.or (i32.eqz (local.get $n)) (i32.gt_u (local.get $n) (i32.const 60000)))
                (then unreachable))
             ;; budget-ms of the context
             (local.set $n (i32.load offset=36 (local.get $args)))
             (if (i32.or (i32.eqz (local.get $n)) (i32.gt_u (local.get $n) (i32.const 60000)))
                (then unreachable))
             (if (call $cancelled) (then unreachable))
             (i32.const {pass})"
        ));
    continued(on_request(&chain(&host, &[&guest])));
    assert_eq!(TEXT, 60, "the context is 60 bytes, budget-ms at 36");
}

/// Collects what is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Visitor(String);

impl tracing::field::Visit for Visitor {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "llamero::plugin"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut visitor = Visitor(format!("{} ", event.metadata().level()));
        event.record(&mut visitor);
        self.0.lock().unwrap().push(visitor.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn log_messages_name_their_plugin_and_are_limited() {
    let log = Log::default();
    // The hooks' threads log, so that it has to be for the whole process; the
    // plugin's id tells this test's messages from others.
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let host = host();
    let mut guest = Guest::new();
    let [text, length] = guest.image.text("line one\nline two");
    let pass = guest.image.pass();
    let guest = guest.import("log", "write", "(param i32 i32 i32 i32 i32)").on_request(&format!(
        "(local.set $n (i32.const 100))
             (loop $again
                (call $write (i32.const 3) (i32.const {text}) (i32.const {length})
                    (i32.const 0) (i32.const 0))
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
             (i32.const {pass})"
    ));
    let settings = PluginSettings {
        limits: LimitOverrides { log_bytes_per_s: Some(300), ..LimitOverrides::default() },
        ..PluginSettings::default()
    };
    let module = guest.module();
    let chain = host.load_bytes(&[("chatty", &module, settings)]).unwrap();
    continued(runtime().block_on(chain.begin(context()).on_request(request())));
    let lines = log.0.lock().unwrap();
    let mine: Vec<_> = lines.iter().filter(|line| line.contains("chatty")).collect();
    assert!((1..10).contains(&mine.len()), "{mine:?}");
    assert!(mine[0].starts_with("WARN"), "{mine:?}");
    assert!(mine[0].contains("line one\\nline two"), "{mine:?}");
    assert!(mine[0].contains("job-1"), "{mine:?}");
}
