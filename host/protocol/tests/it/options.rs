//! The option table and its resolution: each option with right, wrong and
//! extreme values.

use llamero_protocol::{
    ErrorBody, MAX_GRAMMAR_BYTES, MAX_LOGIT_BIASES, MAX_LORAS, MAX_SALT_BYTES, MAX_SCHEMA_BYTES,
    MAX_STOP_BYTES, MAX_STOPS, OPTIONS, OptionDefaults, Options, ResolvedOptions, known_option,
    list_options, resolve,
};
use serde_json::{Map, Value, json};

/// The members of a JSON object as options.
pub fn options(value: Value) -> Options {
    match value {
        Value::Object(members) => members.into_iter().collect(),
        other => panic!("not an object: {other}"),
    }
}

/// A single option.
pub fn one(name: &str, value: Value) -> Options {
    [(name.to_owned(), value)].into_iter().collect()
}

/// No configuration.
pub fn unconfigured() -> OptionDefaults {
    OptionDefaults::default()
}

/// A right configuration.
pub fn configured(value: Value) -> OptionDefaults {
    OptionDefaults::new(options(value)).unwrap()
}

fn accept(request: Value) -> ResolvedOptions {
    resolve(&options(request.clone()), &unconfigured(), true)
        .unwrap_or_else(|error| panic!("{request}: {error}"))
}

#[track_caller]
fn refuse(request: Value) -> ErrorBody {
    match resolve(&options(request.clone()), &unconfigured(), true) {
        Err(error) => error.into(),
        Ok(_) => panic!("{request} was accepted"),
    }
}

#[test]
fn the_typed_defaults_are_those_of_the_table() {
    let table: Options =
        OPTIONS.iter().map(|spec| (spec.name.to_owned(), spec.default.to_value())).collect();
    let mut resolved = resolve(&table, &unconfigured(), true).unwrap();
    // The table's value was "set" here; nothing else may differ.
    assert!(std::mem::replace(&mut resolved.repeat_penalty_set, false));
    assert_eq!(resolved, ResolvedOptions::default());
    assert_eq!(
        resolve(&Options::default(), &unconfigured(), false).unwrap(),
        ResolvedOptions::default()
    );
}

#[test]
fn each_right_value_arrives_at_its_member() {
    let all = accept(json!({
        "model": "m.gguf", "ctx_size": 100, "repeat_penalty": 1.5, "temperature": 0.25, "top_k": -3, "top_p": 0.5,
        "tfs_z": 0.75, "typical_p": 0.125, "mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.5,
        "penalize_newline": false, "seed": 7, "frequency_penalty": -1, "presence_penalty": 2, "instructions": "i",
        "stop": ["a", "b"], "max_tokens": 9, "min_p": 0.0625, "repeat_last_n": -1, "json_schema": {"type": "object"},
        "logit_bias": {"7": -1.5, "3": 100}, "ignore_eos": true, "parse_special": true, "input_separator": "\n",
        "cache_prompt": false, "cache_pin": true, "cache_salt": "s", "lora": {"b.gguf": 0.5, "a.gguf": -1}
    }));
    let expected = ResolvedOptions {
        model: Some("m.gguf".into()),
        ctx_size: 100,
        repeat_penalty: 1.5,
        temperature: 0.25,
        top_k: -3,
        top_p: 0.5,
        tfs_z: 0.75,
        typical_p: 0.125,
        mirostat: 2,
        mirostat_tau: 3.0,
        mirostat_eta: 0.5,
        penalize_newline: false,
        seed: 7,
        frequency_penalty: -1.0,
        presence_penalty: 2.0,
        instructions: "i".into(),
        stop: vec!["a".into(), "b".into()],
        max_tokens: 9,
        min_p: 0.0625,
        repeat_last_n: -1,
        grammar: None,
        json_schema: Some(json!({"type": "object"})),
        logit_bias: vec![(3, 100.0), (7, -1.5)],
        ignore_eos: true,
        parse_special: true,
        input_separator: "\n".into(),
        cache_prompt: false,
        cache_pin: true,
        cache_salt: "s".into(),
        lora: vec![("a.gguf".into(), -1.0), ("b.gguf".into(), 0.5)],
        repeat_penalty_set: true,
    };
    assert_eq!(all, expected);
    assert_eq!(accept(json!({"grammar": "root ::= \"x\""})).grammar.unwrap(), "root ::= \"x\"");
}

#[test]
fn every_option_refuses_foreign_types_with_its_code_and_takes_null() {
    let values = [
        json!(true),
        json!(3),
        json!(0.5),
        json!("text"),
        json!([1]),
        json!(["x"]),
        json!({"x": "y"}),
    ];
    for spec in OPTIONS {
        let right: &[usize] = match spec.type_name() {
            "string" => &[3],
            "int" | "u32" if spec.name == "mirostat" => &[],
            "int" | "u32" => &[1],
            "f32" if matches!(spec.name, "top_p" | "typical_p" | "min_p") => &[2],
            "f32" => &[1, 2],
            "bool" => &[0],
            "list of strings" => &[3, 5],
            "object, or JSON text" => &[6],
            "object: token id to f32" | "string, or object: file name to f32" => &[],
            other => panic!("a type without a test: {other}"),
        };
        for (index, value) in values.iter().enumerate() {
            // `ignore_eos` needs an end; what is tested comes last and wins.
            let request =
                [("max_tokens".to_owned(), json!(1)), (spec.name.to_owned(), value.clone())];
            let request = request.into_iter().collect();
            match resolve(&request, &unconfigured(), true) {
                Ok(_) => assert!(right.contains(&index), "{} took {value}", spec.name),
                Err(error) => {
                    assert!(!right.contains(&index), "{value}: {error}");
                    let body = ErrorBody::from(error);
                    assert_eq!(body.code, if spec.init { 10 } else { 7 });
                    assert!(
                        body.error.starts_with(&format!("option {}: ", spec.name)),
                        "{}",
                        body.error
                    );
                }
            }
        }
        assert_eq!(accept(json!({(spec.name): null})), ResolvedOptions::default());
        assert_eq!(spec.check(&Value::Null), Ok(()));
    }
}

#[test]
fn limits_of_numbers() {
    let limits = [
        ("ctx_size", json!(1), json!(0)),
        ("ctx_size", json!(2147483647), json!(2147483648_u64)),
        ("top_k", json!(-2147483648_i64), json!(-2147483649_i64)),
        ("top_k", json!(2147483647), json!(u64::MAX)),
        ("seed", json!(0), json!(-1)),
        ("seed", json!(4294967295_u32), json!(4294967296_u64)),
        ("mirostat", json!(2), json!(3)),
        ("mirostat", json!(0), json!(-1)),
        ("max_tokens", json!(0), json!(-1)),
        ("max_tokens", json!(2147483647), json!(1e300)),
        ("repeat_last_n", json!(-1), json!(-2)),
        ("top_p", json!(0), json!(-0.001)),
        ("top_p", json!(1), json!(1.001)),
        ("typical_p", json!(1), json!(2)),
        ("min_p", json!(1), json!(-1)),
        ("repeat_penalty", json!(0.001), json!(0)),
        ("repeat_penalty", json!(1000), json!(-1)),
        ("mirostat_tau", json!(100), json!(101)),
        ("mirostat_eta", json!(0), json!(-0.1)),
        ("frequency_penalty", json!(-1e9), json!(-1.1e9)),
        ("presence_penalty", json!(1e9), json!(1e10)),
        ("temperature", json!(3e38), json!(3.5e38)),
        ("temperature", json!(-3e38), json!(-1e300)),
        ("tfs_z", json!(-5), json!(1e39)),
    ];
    for (name, inside, outside) in limits {
        accept(json!({ (name): inside }));
        let error = refuse(json!({ (name): outside }));
        assert_eq!(error.code, if name == "ctx_size" { 10 } else { 7 }, "{}", error.error);
    }
}

#[test]
fn whole_numbers_may_be_written_with_a_fraction_of_zero() {
    assert_eq!(accept(json!({"top_k": 40.0, "seed": 1e3, "ctx_size": 4096.0})).seed, 1000);
    for value in [json!(40.5), json!(1e-3)] {
        assert_eq!(refuse(json!({"top_k": value})).error, "option top_k: must be a whole number");
    }
    assert_eq!(refuse(json!({"ctx_size": "4096"})).code, 10);
}

#[test]
fn stop_lists() {
    assert_eq!(accept(json!({"stop": "one"})).stop, ["one"]);
    assert!(accept(json!({"stop": []})).stop.is_empty());
    assert_eq!(refuse(json!({"stop": ["x", null]})).code, 7);
    accept(json!({"stop": vec!["x"; MAX_STOPS]}));
    refuse(json!({"stop": vec!["x"; MAX_STOPS + 1]}));
    accept(json!({"stop": "x".repeat(MAX_STOP_BYTES)}));
    refuse(json!({"stop": "x".repeat(MAX_STOP_BYTES + 1)}));
}

#[test]
fn logit_biases() {
    assert!(accept(json!({"logit_bias": {}})).logit_bias.is_empty());
    for value in [
        json!({"x": 1}),
        json!({"-1": 1}),
        json!({"4294967296": 1}),
        json!({"1": "x"}),
        json!({"1": 1e10}),
        json!({"1": 1, "01": 2}),
        json!({"": 1}),
    ] {
        assert_eq!(refuse(json!({"logit_bias": value})).code, 7);
    }
    let many = |count: usize| -> Map<String, Value> {
        (0..count).map(|token| (token.to_string(), json!(1))).collect()
    };
    assert_eq!(
        accept(json!({"logit_bias": many(MAX_LOGIT_BIASES)})).logit_bias.len(),
        MAX_LOGIT_BIASES
    );
    refuse(json!({"logit_bias": many(MAX_LOGIT_BIASES + 1)}));
}

#[test]
fn adapters() {
    let lora = |value: Value| accept(json!({"lora": value})).lora;
    assert_eq!(lora(json!("a.gguf")), [("a.gguf".to_owned(), 1.0)]);
    assert!(lora(json!("")).is_empty() && lora(json!({})).is_empty());
    assert_eq!(lora(json!({"a.bin": 0})), [("a.bin".to_owned(), 0.0)]);
    for value in [
        json!("a"),
        json!("../a.gguf"),
        json!("x\\a.gguf"),
        json!(".a.gguf"),
        json!("a\u{0}.gguf.txt"),
        json!(format!("{}.gguf", "x".repeat(256))),
        json!(["a.gguf"]),
        json!({"": 1}),
        json!({"a.gguf": "1"}),
        json!({"a.gguf": 10.5}),
        json!({"a.gguf": -11}),
        json!({"a.gguf": 1e300}),
        json!({"a.gguf": {"scale": 1}}),
    ] {
        let refused = refuse(json!({"lora": value}));
        assert_eq!(refused.code, 7);
        assert!(refused.error.starts_with("option lora: "), "{}", refused.error);
    }
    let many = |count: usize| -> Map<String, Value> {
        (0..count).map(|n| (format!("{n}.gguf"), json!(1))).collect()
    };
    assert_eq!(accept(json!({"lora": many(MAX_LORAS)})).lora.len(), MAX_LORAS);
    refuse(json!({"lora": many(MAX_LORAS + 1)}));
    // A configured adapter can be taken away.
    let defaults = configured(json!({"lora": "a.gguf"}));
    let with = |request| resolve(&options(request), &defaults, false).unwrap().lora;
    assert_eq!(with(json!({})).len(), 1);
    assert!(with(json!({"lora": ""})).is_empty());
    let listed = list_options(&defaults, false, true).pop().unwrap();
    assert_eq!((listed.name.as_str(), listed.value), ("lora", json!({"a.gguf": 1})));
}

#[test]
fn schemas_and_grammars() {
    assert_eq!(
        accept(json!({"json_schema": r#"{"type":"string"}"#})).json_schema,
        Some(json!({"type": "string"}))
    );
    for nothing in ["", " ", "null"] {
        assert_eq!(accept(json!({"json_schema": nothing})).json_schema, None);
    }
    for wrong in [json!("{"), json!("[]"), json!("5"), json!([]), json!(true)] {
        assert_eq!(refuse(json!({"json_schema": wrong})).code, 7);
    }
    refuse(json!({"json_schema": {"x": "y".repeat(MAX_SCHEMA_BYTES)}}));
    refuse(json!({"json_schema": " ".repeat(MAX_SCHEMA_BYTES + 1)}));
    accept(json!({"grammar": "x".repeat(MAX_GRAMMAR_BYTES)}));
    refuse(json!({"grammar": "x".repeat(MAX_GRAMMAR_BYTES + 1)}));
    accept(json!({"cache_salt": "x".repeat(MAX_SALT_BYTES)}));
    refuse(json!({"cache_salt": "x".repeat(MAX_SALT_BYTES + 1)}));
    let both = refuse(json!({"grammar": "x", "json_schema": {}}));
    assert_eq!(
        (both.code, both.error.as_str()),
        (7, "option grammar: cannot be used together with json_schema")
    );
    accept(json!({"grammar": "", "json_schema": {}}));
}

#[test]
fn grammar_needs_permission_and_schema_does_not() {
    let run = |request: Value| resolve(&options(request), &unconfigured(), false);
    assert_eq!(ErrorBody::from(run(json!({"GRAMMAR": "x"})).unwrap_err()).code, 7);
    assert_eq!(run(json!({"grammar": ""})).unwrap().grammar, None);
    assert!(run(json!({"json_schema": {}})).unwrap().json_schema.is_some());
    // The operator's own grammar needs no permission, and gives way to a request.
    let defaults = configured(json!({"grammar": "root ::= \"d\""}));
    assert!(resolve(&Options::default(), &defaults, false).unwrap().grammar.is_some());
    let replaced = resolve(&one("json_schema", json!({})), &defaults, false).unwrap();
    assert_eq!((replaced.grammar, replaced.json_schema), (None, Some(json!({}))));
}

#[test]
fn ignore_eos_needs_an_end() {
    assert_eq!(refuse(json!({"ignore_eos": true})).code, 7);
    assert!(accept(json!({"ignore_eos": true, "max_tokens": 1})).ignore_eos);
}

#[test]
fn a_default_penalty_is_off_under_a_constraint() {
    let penalty = |request: Value| accept(request).effective_repeat_penalty();
    assert_eq!(penalty(json!({})), 1.1);
    assert_eq!(penalty(json!({"json_schema": {}})), 1.0);
    assert_eq!(penalty(json!({"grammar": "x"})), 1.0);
    assert_eq!(penalty(json!({"grammar": "x", "Repeat_Penalty": 1.1})), 1.1);
    let defaults = configured(json!({"repeat_penalty": 1.3}));
    assert_eq!(
        resolve(&one("json_schema", json!({})), &defaults, false)
            .unwrap()
            .effective_repeat_penalty(),
        1.3
    );
}

#[test]
fn tiny_temperatures_are_greedy() {
    assert_eq!(accept(json!({"temperature": 1e-40})).temperature, 0.0);
    assert_eq!(accept(json!({"temperature": 0.001})).temperature, 0.001);
    assert_eq!(accept(json!({"temperature": -1})).temperature, -1.0);
}

#[test]
fn spelling() {
    assert_eq!(accept(json!({"TOP_K": 3})).top_k, 3);
    assert_eq!(accept(json!({"TOP_K": 3, "top_k": 4, "Top_k": 5})).top_k, 4);
    assert_eq!(accept(json!({"TOP_K": 3, "Top_k": 5})).top_k, 5);
    // A variant that lost is not even checked, one beside a null applies.
    assert_eq!(accept(json!({"TOP_K": "x", "top_k": 4})).top_k, 4);
    assert_eq!(accept(json!({"TOP_K": 3, "top_k": null})).top_k, 3);
    // Init options go by their exact names.
    assert_eq!(accept(json!({"MODEL": 5, "Ctx_Size": "x"})), ResolvedOptions::default());
}

#[test]
fn unknown_names_have_no_effect_and_no_row() {
    let sent = json!({"type": "nats", "nats_nk": "/k", "2048": 2048, "dir": "/", "queue": 0, "nats_url": "x"});
    assert_eq!(accept(sent.clone()), ResolvedOptions::default());
    for (name, _) in options(sent).iter() {
        assert!(known_option(name).is_none(), "{name}");
    }
    assert!(
        known_option("Top_P").is_some()
            && known_option("model").is_some()
            && known_option("Model").is_none()
    );
}

#[test]
fn errors_never_contain_the_value() {
    for spec in OPTIONS {
        for value in [
            json!("hunter2 {"),
            json!(["hunter2", 5]),
            json!({"hunter2": "hunter2"}),
            json!(77177177177.5),
        ] {
            if let Err(error) = resolve(&one(spec.name, value), &unconfigured(), true) {
                let text = error.to_string();
                assert!(!text.contains("hunter") && !text.contains("77177"), "{text}");
            }
        }
    }
}
