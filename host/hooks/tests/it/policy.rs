//! The operator's word, checked against the plugin when it is loaded: the pinned
//! sum, grants, phases and mode, the configuration's schema, and golden cases.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use llamero_hooks::{
    Chain, Grant, HookHost, LoadCause, LoadError, Mode, Phase, PluginSettings, Policy, golden_cases,
};
use serde_json::{Value, json};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::guest::{Guest, Image};
use crate::support::{
    continued, host, host_with, on_prompt, on_request, refusal_with, request, responded,
};

fn with(policy: Policy) -> PluginSettings {
    PluginSettings { policy, ..PluginSettings::default() }
}

fn load(host: &HookHost, bytes: &[u8], settings: PluginSettings) -> Result<Chain, Vec<LoadError>> {
    host.load_bytes(&[("p", bytes, settings)])
}

#[test]
fn a_pinned_sum_lets_one_file_in() {
    let host = host();
    let module = Guest::returning(Image::pass).module();
    let chain = load(&host, &module, PluginSettings::default()).unwrap();
    let digest = chain.plugins()[0].digest.clone();
    for sum in [digest.clone(), digest.to_uppercase()] {
        load(&host, &module, with(Policy { sha256: Some(sum), ..Policy::default() })).unwrap();
    }
    let other = "0".repeat(64);
    let pinned = with(Policy { sha256: Some(other.clone()), ..Policy::default() });
    let text = refusal_with(&host, &module, pinned);
    assert!(text.contains(&digest) && text.contains(&other) && text.contains("sha256"), "{text}");
}

#[test]
fn settings_with_mistakes_refuse_their_plugin_alone() {
    let host = host();
    let module = Guest::returning(Image::pass).module();
    let unusable = Some("mode (file p.toml): is not known".to_owned());
    let settings = PluginSettings { unusable, ..PluginSettings::default() };
    let text = refusal_with(&host, &module, settings);
    assert!(text.contains("settings: mode (file p.toml)"), "{text}");
}

#[test]
fn an_import_that_is_not_granted_is_refused_with_the_line_to_add() {
    let host = host();
    let guest = Guest::doing("").import("state", "get", "(param i32 i32 i32)").module();
    let text = refusal_with(&host, &guest, PluginSettings::default());
    assert!(text.contains("wants `llamero:hooks/state@0.1.0`, which it is not granted"), "{text}");
    assert!(text.contains("`grant = [\"state\"]`"), "{text}");
    let granted = with(Policy { grants: vec![Grant::State], ..Policy::default() });
    if let Err(errors) = load(&host, &guest, granted) {
        assert!(!errors[0].to_string().contains("not granted"), "{errors:?}");
    }
}

/// Answers requests and replaces prompts.
fn busy() -> Guest {
    let mut guest = Guest::new();
    let respond = guest.image.respond("answered");
    let replace = guest.image.replace("replaced");
    guest.on_request(&format!("(i32.const {respond})")).on_prompt(&format!("(i32.const {replace})"))
}

#[test]
fn phases_narrow_where_a_plugin_is_called() {
    let host = host();
    let module = busy().module();
    let chain = load(&host, &module, PluginSettings::default()).unwrap();
    assert_eq!(responded(on_request(&chain)), "answered");
    let phases = Some(vec![Phase::Prompt]);
    let chain = load(&host, &module, with(Policy { phases, ..Policy::default() })).unwrap();
    assert_eq!(continued(on_request(&chain)), request());
    assert!(!chain.has(Phase::Request) && chain.has(Phase::Prompt));
    assert_eq!(chain.plugins()[0].phases, [Phase::Prompt]);
    assert!(format!("{:?}", on_prompt(&chain)).contains("replaced"));
}

#[test]
fn phases_that_would_never_come_are_refused() {
    let host = host();
    let module = busy().module();
    let refused = |phases| {
        refusal_with(&host, &module, with(Policy { phases: Some(phases), ..Policy::default() }))
    };
    let text = refused(vec![Phase::Request, Phase::Observer]);
    assert!(text.contains("names `observer`") && text.contains("request, prompt"), "{text}");
    let text = refused(Vec::new());
    assert!(text.contains("`phases` is empty") && text.contains("mode"), "{text}");
}

#[test]
fn a_plugin_that_is_off_is_loaded_and_not_called() {
    let host = host();
    let off = with(Policy { mode: Mode::Off, ..Policy::default() });
    let chain = load(&host, &busy().module(), off).unwrap();
    assert_eq!(continued(on_request(&chain)), request());
    assert_eq!(chain.plugins()[0].phases, [Phase::Request, Phase::Prompt]);
}

/// A plugin that answers requests and gives a schema.
fn described(schema: &str, configure: &str) -> Vec<u8> {
    let mut guest = Guest::new();
    let respond = guest.image.respond("configured");
    let description = guest.image.description("Strict", "1", Some(schema));
    let fine = guest.image.result(None);
    let constant = |address| format!("(i32.const {address})");
    guest
        .on_request(&constant(respond))
        .lifecycle(
            &constant(description),
            &format!("{configure} {}", constant(fine)),
            &constant(fine),
        )
        .module()
}

#[test]
fn a_configuration_is_checked_against_the_schema_before_the_plugin_sees_it() {
    let host = host();
    let schema = json!({
        "type": "object",
        "properties": {"limits": {"properties": {"max": {"type": "integer", "maximum": 10}}}},
        "required": ["limits"],
        "additionalProperties": false,
    });
    let configured = |config| PluginSettings { config, ..PluginSettings::default() };
    let module = described(&schema.to_string(), "");
    let chain = load(&host, &module, configured(json!({"limits": {"max": 3}}))).unwrap();
    assert_eq!(responded(on_request(&chain)), "configured");

    // `configure` would trap.
    let module = described(&schema.to_string(), "unreachable");
    let text = refusal_with(&host, &module, configured(json!({"limits": {"max": "many"}, "x": 1})));
    assert!(text.contains("does not match the plugin's schema"), "{text}");
    assert!(text.contains("at `/limits/max`") && text.contains('x'), "{text}");
    assert!(!text.contains("many") && !text.contains("trap"), "{text}");
    // No configuration is an empty one.
    let errors = load(&host, &module, PluginSettings::default()).unwrap_err();
    assert!(matches!(&errors[0].cause, LoadCause::Schema(problems) if problems.len() == 1));
}

#[test]
fn schemas_that_would_harm_the_host_are_refused() {
    let host = host();
    let mut doubling = json!({"d40": true});
    for level in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        doubling[format!("d{level}")] = json!({"allOf": [next, next]});
    }
    for (schema, expected) in [
        (json!({"$ref": "#"}), "refers to itself without end"),
        (json!({"$ref": "https://example.com/s.json"}), "nothing is fetched"),
        (json!({"$ref": "#/$defs/d0", "$defs": doubling}), "against more than"),
        (json!({"type": "strnig"}), "is not valid"),
    ] {
        let text =
            refusal_with(&host, &described(&schema.to_string(), ""), PluginSettings::default());
        assert!(text.contains("config-schema") && text.contains(expected), "{text}");
    }
}

fn golden(cases: &Value) -> PluginSettings {
    let golden = golden_cases(&cases.to_string()).unwrap();
    with(Policy { golden, ..Policy::default() })
}

fn ask(want: &Value) -> Value {
    json!([{"name": "the case", "request": {"model": "m", "input": ["hello"]}, "want": want}])
}

/// The plugin decides what the first says and not what the second says.
#[track_caller]
fn decides(host: &HookHost, module: &[u8], cases: impl Fn(&Value) -> Value, is: Value, not: Value) {
    load(host, module, golden(&cases(&is))).unwrap();
    let text = refusal_with(host, module, golden(&cases(&not)));
    assert!(text.contains("golden case `the case`"), "{text}");
    let verdict = is["verdict"].as_str().unwrap();
    assert!(text.contains(verdict) && text.contains(&not.to_string()), "{text}");
}

#[test]
fn golden_requests_are_decided_as_written() {
    let host = host();
    let pass = Guest::returning(Image::pass).module();
    decides(&host, &pass, ask, json!({"verdict": "pass"}), json!({"verdict": "respond"}));
    let respond = Guest::returning(|image| image.respond("pong")).module();
    let is = json!({"verdict": "respond", "text": "pong"});
    decides(&host, &respond, ask, is, json!({"text": "ping"}));
    let reject = Guest::returning(|image| image.reject(3, Some(1403), "not here")).module();
    let is = json!({"verdict": "reject", "code": 1403, "reason": "not here"});
    decides(&host, &reject, ask, is, json!({"code": 1404}));
    let patch = Guest::returning(|image| {
        image.patch(Some("big"), Some(("kind", "hi")), &[("seed", "null"), ("top_k", "3")])
    });
    let is = json!({
        "verdict": "patch",
        "model": "big",
        "content": {"system": "kind", "input": ["hi"]},
        "options": {"seed": null, "top_k": 3.0},
    });
    decides(&host, &patch.module(), ask, is, json!({"options": {"top_k": 3}}));
}

#[test]
fn golden_failures_have_their_kind() {
    let host = host_with(|config| {
        config.limits.cpu = Duration::from_millis(30);
        config.option_check = Some(Arc::new(|request| match request.options.as_slice() {
            [(name, _)] if name == "top_k" => Err("top_k is not allowed".to_owned()),
            _ => Ok(()),
        }));
    });
    let trap = Guest::doing("unreachable").module();
    let is = json!({"verdict": "failed", "kind": "trap"});
    decides(&host, &trap, ask, is, json!({"verdict": "pass"}));
    let endless = Guest::doing("(loop $l (br $l))").module();
    let is = json!({"verdict": "failed", "kind": "cpu"});
    decides(&host, &endless, ask, is, json!({"verdict": "pass"}));
    let error = Guest::returning(|image| image.error(2, "broken")).module();
    let is = json!({"verdict": "failed", "kind": "guest"});
    decides(&host, &error, ask, is, json!({"verdict": "pass"}));
    let patch = Guest::returning(|image| image.patch(None, None, &[("top_k", "3")])).module();
    let is = json!({"verdict": "failed", "kind": "invalid-output"});
    decides(&host, &patch, ask, is, json!({"verdict": "patch"}));
}

#[test]
fn golden_prompts_are_decided_as_written() {
    let host = host();
    let case = |want: &Value| json!([{"name": "the case", "prompt": {"text": "t"}, "want": want}]);
    let replace = Guest::prompting(|image| image.replace("u")).module();
    let is = json!({"verdict": "replace", "text": "u", "markup": []});
    decides(&host, &replace, case, is, json!({"text": "t"}));
    let marks = Guest::prompting(|image| image.replace_marked("<s>u", &[[0, 3]])).module();
    let is = json!({"verdict": "replace", "text": "<s>u", "markup": [[0, 3]]});
    decides(&host, &marks, case, is, json!({"markup": []}));
    let text = refusal_with(&host, &replace, golden(&ask(&json!({"verdict": "pass"}))));
    assert!(text.contains("phase request, which the plugin does not export"), "{text}");
}

#[test]
fn each_golden_case_has_a_fresh_instance() {
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let module = guest
        .on_request(&format!(
            "(if (global.get $calls) (then unreachable))
             (global.set $calls (i32.const 1)) (i32.const {pass})"
        ))
        .module();
    let case =
        |name: &str| json!({"name": name, "request": {"input": "x"}, "want": {"verdict": "pass"}});
    load(&host(), &module, golden(&json!([case("one"), case("two")]))).unwrap();
}

/// A plugin that answers each call of a function with the next of some prepared
/// results, written as a core module.
struct Script {
    bytes: Vec<u8>,
    functions: String,
}

/// Where the prepared results begin.
const BASE: usize = 4096;

impl Script {
    fn new() -> Self {
        Self { bytes: Vec::new(), functions: String::new() }
    }

    fn place(&mut self, bytes: &[u8]) -> u32 {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        let address = BASE + self.bytes.len();
        self.bytes.extend(bytes);
        u32::try_from(address).unwrap()
    }

    fn words(&mut self, words: &[u32]) -> u32 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.place(&bytes)
    }

    /// A result: its case, and then numbers and texts.
    fn area(&mut self, case: u32, parts: &[Part<'_>]) -> u32 {
        let mut words = vec![0, case];
        for part in parts {
            match part {
                Part::Number(number) => words.push(*number),
                Part::Text(text) => {
                    let address = self.place(text.as_bytes());
                    words.extend([address, u32::try_from(text.len()).unwrap()]);
                }
            }
        }
        words.resize(8, 0);
        self.words(&words)
    }

    /// Adds a function whose calls are answered with `areas` in turn.
    fn function(&mut self, name: &str, params: usize, areas: &[u32]) {
        let table = self.words(areas);
        let params = "i32 ".repeat(params);
        let global = name.replace('-', "_");
        let _ = write!(
            self.functions,
            r#"(global ${global} (mut i32) (i32.const {table}))
            (func (export "llamero:hooks/{name}") (param {params}) (result i32)
                (global.set ${global} (i32.add (global.get ${global}) (i32.const 4)))
                (i32.load (i32.sub (global.get ${global}) (i32.const 4))))"#,
            global = global.replace(['/', '@', '#', '.'], "_"),
        );
    }

    fn module(&self, interface: &str) -> Vec<u8> {
        let mut data = String::new();
        for byte in &self.bytes {
            let _ = write!(data, "\\{byte:02x}");
        }
        let text = format!(
            r#"(module (memory (export "memory") 2)
            (data (i32.const {BASE}) "{data}")
            (global $heap (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (global.get $heap) (local.get 3)))
                (i32.sub (global.get $heap) (local.get 3)))
            {})"#,
            self.functions
        );
        let mut module = wat::parse_str(text).unwrap();
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        resolve.push_dir(&wit).unwrap();
        let world = format!(
            "package test:script; world script {{ export llamero:hooks/{interface}@0.1.0; }}"
        );
        let package = resolve.push_str("script.wit", &world).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        module
    }
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Number(u32),
    Text(&'a str),
}

type Verdict<'a> = (u32, &'a [Part<'a>]);

/// A stream filter with these verdicts, one for each chunk, and this tail.
fn filter(max_hold: u32, verdicts: &[Verdict<'_>], tail: Verdict<'_>) -> Vec<u8> {
    let mut script = Script::new();
    let plan = script
        .area(1, &[Part::Number(0), Part::Number(0), Part::Number(max_hold), Part::Number(0)]);
    script.function("stream-filter@0.1.0#open", 15, &[plan]);
    let areas: Vec<u32> = verdicts.iter().map(|(case, parts)| script.area(*case, parts)).collect();
    script.function("stream-filter@0.1.0#push", 6, &areas);
    let tail = script.area(tail.0, tail.1);
    script.function("stream-filter@0.1.0#close", 7, &[tail]);
    script.module("stream-filter")
}

const PASS: Verdict<'_> = (0, &[]);
const HOLD: Verdict<'_> = (1, &[]);
const RELEASE_HELD: Verdict<'_> = (0, &[]);

#[test]
fn golden_streams_are_decided_as_written() {
    let host = host();
    let case =
        |want: &Value| json!([{"name": "the case", "chunks": ["ab", "cé", "fg"], "want": want}]);
    // Held text comes out with the next pass, in order.
    let passing = filter(100, &[HOLD, PASS, (2, &[Part::Number(1)])], RELEASE_HELD);
    let is = json!({"verdict": "done", "text": "abcéfg"});
    decides(&host, &passing, case, is, json!({"text": "abc"}));
    // What is left at the end can be thrown away.
    let discarding = filter(100, &[PASS, HOLD, HOLD], (2, &[]));
    let is = json!({"verdict": "done", "text": "ab"});
    decides(&host, &discarding, case, is, json!({"text": "abcéfg"}));
    let rewriting =
        filter(100, &[HOLD, (3, &[Part::Text("[x]"), Part::Text("y")]), PASS], RELEASE_HELD);
    let is = json!({"verdict": "done", "text": "[x]yfg"});
    decides(&host, &rewriting, case, is, json!({"text": "[x]fg"}));
    let halting = filter(100, &[PASS, (4, &[Part::Text("!"), Part::Text("enough")])], RELEASE_HELD);
    let is = json!({"verdict": "halt", "text": "ab!", "reason": "enough"});
    decides(&host, &halting, case, is, json!({"reason": "more"}));
    let rejecting =
        filter(100, &[(5, &[Part::Number(1), Part::Number(1500), Part::Text("no")])], RELEASE_HELD);
    let is = json!({"verdict": "reject", "code": 1500, "reason": "no"});
    decides(&host, &rejecting, case, is, json!({"code": null}));
    // Three bytes of "cé" end inside a character; three bytes cannot be held.
    let torn = filter(100, &[PASS, (2, &[Part::Number(2)])], RELEASE_HELD);
    let is = json!({"verdict": "failed", "kind": "invalid-output"});
    decides(&host, &torn, case, is, json!({"verdict": "done"}));
    let hoarding = filter(3, &[HOLD, HOLD, HOLD], RELEASE_HELD);
    let is = json!({"verdict": "failed", "kind": "hold"});
    decides(&host, &hoarding, case, is, json!({"verdict": "done"}));
}

#[test]
fn golden_responses_are_decided_as_written() {
    let host = host();
    let case = |want: &Value| json!([{"name": "the case", "response": "abc", "want": want}]);
    let hook = |verdict: Verdict<'_>| {
        let mut script = Script::new();
        let area = script.area(verdict.0, verdict.1);
        script.function("response-hook@0.1.0#on-response", 1, &[area]);
        script.module("response-hook")
    };
    let is = json!({"verdict": "replace", "text": "xyz"});
    decides(&host, &hook((1, &[Part::Text("xyz")])), case, is, json!({"verdict": "pass"}));
    let reject = [Part::Number(0), Part::Number(0), Part::Text("no")];
    let is = json!({"verdict": "reject", "code": null, "reason": "no"});
    decides(&host, &hook((2, &reject)), case, is, json!({"code": 9}));
}
