//! Options as hooks see and change them.

use llamero_protocol::{OptionDefaults, Options, check_hook_options, grammar_set_by_hook, resolve};
use serde_json::{Value, json};

use crate::options::options;

fn names(options: &Options) -> Vec<&str> {
    options.iter().map(|(name, _)| name).collect()
}

#[test]
fn hooks_see_known_options_once_and_by_their_names() {
    let sent = options(json!({
        "nats_nk": "/secret", "Seed": 1, "TOP_K": 3, "top_k": 4, "MODEL": "x", "2048": 2048, "seed": 2, "Ctx_Size": 1, "model": "m"
    }));
    let known = sent.known();
    assert_eq!(names(&known), ["seed", "top_k", "model"]);
    assert_eq!((known.get("seed"), known.get("top_k")), (Some(&json!(2)), Some(&json!(4))));
    assert!(!format!("{sent:?}").contains("secret"));
}

#[test]
fn a_patch_replaces_every_spelling() {
    let mut patched = options(json!({"TOP_K": 3, "seed": 1, "Top_k": 5}));
    let patch = |name: &str, value: Value| [(name.to_owned(), value)];
    patched.apply_patch(patch("top_k", json!(7)));
    assert_eq!(patched, options(json!({"seed": 1, "top_k": 7})));
    patched.apply_patch(patch("SEED", json!(null)));
    assert_eq!(patched, options(json!({"top_k": 7})));
    patched.apply_patch(patch("top_k", json!(null)));
    assert!(patched.is_empty());
}

#[test]
fn a_hook_answers_for_what_it_changed_only() {
    let client = options(json!({"top_k": 1.5, "seed": 1}));
    let check = |after: Value| {
        check_hook_options(&client, &options(after)).map_err(|error| error.to_string())
    };
    assert_eq!(check(json!({"top_k": 1.5, "seed": 1})), Ok(()));
    assert_eq!(check(json!({"top_k": 1.5, "temperature": 0, "grammar": "root ::= \"x\""})), Ok(()));
    assert_eq!(
        check(json!({"top_k": 2.5})),
        Err("option top_k: must be a whole number".to_owned())
    );
    assert_eq!(
        check(json!({"seed": -1})),
        Err("option seed: must be from 0 to 4294967295".to_owned())
    );
    assert_eq!(
        check(json!({"nats_url": "x"})),
        Err("option nats_url: is not an option of this worker".to_owned())
    );
}

#[test]
fn only_a_hooks_grammar_passes_where_clients_may_not_set_one() {
    let client = options(json!({"Grammar": "root ::= \"c\""}));
    let hooked = options(json!({"grammar": "root ::= \"h\""}));
    let none = OptionDefaults::default();
    let run = |before: &Options, after: &Options| {
        resolve(after, &none, grammar_set_by_hook(before, after))
    };
    assert!(run(&client, &client).is_err());
    assert!(run(&client, &client.known()).is_err());
    assert_eq!(run(&client, &hooked).unwrap().grammar.unwrap(), "root ::= \"h\"");
    assert_eq!(run(&Options::default(), &hooked).unwrap().grammar.unwrap(), "root ::= \"h\"");
    assert!(!grammar_set_by_hook(&client, &Options::default()));
}
