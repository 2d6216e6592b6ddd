//! Options of the worker's configuration: how they are checked, how they lie
//! under a request, and how `list` shows them.

use llamero_protocol::{
    OPTIONS, OptionDefaults, OptionGroup, Options, list_options, model_choice, resolve,
};
use serde_json::{Value, json};

use crate::options::{configured, one, options, unconfigured};

#[test]
fn configuration_lies_under_the_request() {
    let defaults = configured(
        json!({"TOP_K": 7, "temperature": 0.5, "model": "m.gguf", "ctx_size": 512.0, "stop": "s"}),
    );
    let resolved =
        resolve(&options(json!({"top_k": 9, "temperature": null})), &defaults, false).unwrap();
    assert_eq!((resolved.top_k, resolved.temperature, resolved.ctx_size), (9, 0.5, 512));
    assert_eq!(resolved.stop, ["s"]);
    let choice = |request: Value| model_choice(&options(request), &defaults).unwrap();
    assert_eq!(
        (choice(json!({})).model.unwrap(), choice(json!({})).ctx_size),
        ("m.gguf".to_owned(), 512)
    );
    assert_eq!(choice(json!({"model": "n.bin", "ctx_size": 1024.0})).ctx_size, 1024);
    assert_eq!(choice(json!({"model": "n.bin"})).model.unwrap(), "n.bin");
    // An empty name names no model; other options are not this function's.
    assert_eq!(choice(json!({"model": "", "top_k": "x"})).model, None);
    assert!(model_choice(&one("model", json!(5)), &defaults).unwrap_err().init);
}

#[test]
fn configuration_reports_every_problem() {
    let wrong = json!({"top_k": "x", "nats_url": "u", "seed": 1, "model": "../m", "min_p": 2, "ctx_size": 0});
    let errors = OptionDefaults::new(options(wrong)).unwrap_err();
    let names: Vec<&str> = errors.iter().map(|error| error.name.as_str()).collect();
    assert_eq!(names, ["top_k", "nats_url", "model", "min_p", "ctx_size"]);
    for wrong in [json!({"grammar": "x", "json_schema": {}}), json!({"ignore_eos": true})] {
        assert_eq!(OptionDefaults::new(options(wrong)).unwrap_err().len(), 1);
    }
    let last = OptionDefaults::new([
        ("seed", json!(1)),
        ("Seed", json!(2)),
        ("top_k", json!(1)),
        ("top_k", json!(null)),
    ]);
    let last = last.unwrap();
    assert!(!last.is_set("top_k"));
    assert_eq!(resolve(&Options::default(), &last, false).unwrap().seed, 2);
}

#[test]
fn the_list_of_an_unconfigured_worker_is_gos() {
    let listed = list_options(&unconfigured(), false, false);
    let listed: Vec<Value> =
        listed.iter().map(|option| json!([option.name, option.value, option.init])).collect();
    let expected = json!([
        ["model", "", true],
        ["ctx_size", 4096, true],
        ["repeat_penalty", 1.1, false],
        ["temperature", 0.8, false],
        ["top_k", 40, false],
        ["top_p", 0.9, false],
        ["tfs_z", 1, false],
        ["typical_p", 1, false],
        ["mirostat", 0, false],
        ["mirostat_tau", 5, false],
        ["mirostat_eta", 0.1, false],
        ["penalize_newline", true, false],
        ["seed", 0, false],
    ]);
    assert_eq!(Value::from(listed), expected);
}

#[test]
fn extensions_follow_in_order() {
    let rest = |allow_grammar| -> Vec<(String, Value)> {
        let all = list_options(&unconfigured(), allow_grammar, true);
        all.into_iter().skip(13).map(|option| (option.name, option.value)).collect()
    };
    let expected = [
        ("frequency_penalty", json!(0)),
        ("presence_penalty", json!(0)),
        ("instructions", json!("")),
        ("stop", json!([])),
        ("max_tokens", json!(0)),
        ("min_p", json!(0)),
        ("repeat_last_n", json!(64)),
        ("grammar", json!("")),
        ("json_schema", json!(null)),
        ("logit_bias", json!({})),
        ("ignore_eos", json!(false)),
        ("parse_special", json!(false)),
        ("input_separator", json!("")),
        ("cache_prompt", json!(true)),
        ("cache_pin", json!(false)),
        ("cache_salt", json!("")),
        ("lora", json!({})),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    assert_eq!(rest(true), expected);
    assert_eq!(
        rest(false),
        expected.iter().filter(|(name, _)| name != "grammar").cloned().collect::<Vec<_>>()
    );
    let groups = |group| OPTIONS.iter().filter(|spec| spec.group == group).count();
    assert_eq!(
        (
            groups(OptionGroup::Listed13),
            groups(OptionGroup::Accepted),
            groups(OptionGroup::Extension)
        ),
        (13, 4, 13)
    );
}

#[test]
fn the_list_shows_the_configured_values() {
    let defaults = configured(
        json!({"temperature": 0.7, "ctx_size": 2048.0, "stop": "x", "json_schema": "{\"a\":1}", "top_p": 1.0}),
    );
    let listed = list_options(&defaults, false, true);
    let value =
        |name: &str| listed.iter().find(|option| option.name == name).unwrap().value.to_string();
    assert_eq!(
        ["temperature", "ctx_size", "stop", "json_schema", "top_p", "top_k"].map(value),
        ["0.7", "2048", "[\"x\"]", "{\"a\":1}", "1", "40"]
    );
}
