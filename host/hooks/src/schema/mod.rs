//! The operator's configuration against the JSON Schema that a plugin gives for
//! it, so that a mistake is named with its place before `configure` sees it.
//!
//! The schema is a plugin's word and not to be trusted. It is bounded before the
//! validator gets it (`bounds`), and the work is done on a thread of its own with
//! a large stack, because the validator recurses as the schema does. References
//! to other documents are refused, never fetched.

mod bounds;

use std::error::Error;
use std::thread;

use jsonschema::{Draft, Retrieve, Uri, ValidationError};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::error::{FailureKind, LoadCause};

/// Problems of one configuration that are reported.
const PROBLEMS: usize = 5;

/// Bytes of the text of one problem. Some of them quote a list out of the schema.
const PROBLEM_BYTES: usize = 400;

/// Stack of the thread. Only what is used of it becomes memory. The bounds allow
/// a few thousand levels, of some kilobytes each.
const STACK_BYTES: usize = 128 << 20;

/// Why a configuration is not accepted.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// The schema itself cannot be used: the plugin's mistake.
    Unusable(String),
    /// The configuration does not match: the operator's.
    Mismatch(Vec<String>),
}

/// Checks `config` against the text of a schema.
pub(crate) async fn check(schema: String, config: Value) -> Result<(), LoadCause> {
    let (result, ended) = oneshot::channel();
    let judging = thread::Builder::new()
        .name("hook-schema".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // The receiver is only gone together with the trial.
            let _ = result.send(judge(&schema, &config));
        });
    let host = |detail: String| LoadCause::Trial {
        step: "config-schema",
        kind: FailureKind::Host,
        detail,
    };
    if let Err(error) = judging {
        return Err(host(format!("no thread for the validator: {error}")));
    }
    match ended.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Refused::Mismatch(problems))) => Err(LoadCause::Schema(problems)),
        Ok(Err(Refused::Unusable(reason))) => Err(LoadCause::Trial {
            step: "describe",
            kind: FailureKind::InvalidOutput,
            detail: format!("its config-schema {reason}"),
        }),
        Err(_panicked) => Err(host("the validator panicked".to_owned())),
    }
}

fn judge(schema: &str, config: &Value) -> Result<(), Refused> {
    let schema = bounds::parse(schema).map_err(Refused::Unusable)?;
    let draft = draft_of(&schema).map_err(Refused::Unusable)?;
    bounds::check(&schema, config).map_err(Refused::Unusable)?;
    let validator = jsonschema::options()
        .with_draft(draft)
        .with_retriever(NothingRemote)
        .build(&schema)
        .map_err(|error| {
            let place = error.instance_path.to_string();
            let text = cut(error.to_string());
            Refused::Unusable(format!("is not valid, at `{place}`: {text}"))
        })?;
    let mut problems: Vec<String> =
        validator.iter_errors(config).take(PROBLEMS + 1).map(problem).collect();
    if problems.len() > PROBLEMS {
        problems.truncate(PROBLEMS);
        problems.push("and more".to_owned());
    }
    if problems.is_empty() { Ok(()) } else { Err(Refused::Mismatch(problems)) }
}

/// Place and text. The value itself is left out: configurations hold what
/// operators would not like to see in a log.
fn problem(error: ValidationError<'_>) -> String {
    let place = error.instance_path.to_string();
    let text = cut(error.masked().to_string());
    if place.is_empty() { text } else { format!("at `{place}`: {text}") }
}

fn cut(mut text: String) -> String {
    if text.len() > PROBLEM_BYTES {
        let end = (0..=PROBLEM_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// The draft that a schema is written in; 2020-12 unless it says otherwise.
fn draft_of(schema: &Value) -> Result<Draft, String> {
    let Some(named) = schema.get("$schema") else {
        return Ok(Draft::Draft202012);
    };
    let name = named.as_str().unwrap_or_default();
    match name.trim_end_matches('#') {
        "https://json-schema.org/draft/2020-12/schema" => Ok(Draft::Draft202012),
        "https://json-schema.org/draft/2019-09/schema" => Ok(Draft::Draft201909),
        "http://json-schema.org/draft-07/schema" => Ok(Draft::Draft7),
        _ => Err(format!(
            "has `$schema` {named}; write it in JSON Schema 2020-12, 2019-09 or draft 7"
        )),
    }
}

/// Refuses every reference to another document. The bounds refuse them before;
/// this holds even where they would not.
struct NothingRemote;

impl Retrieve for NothingRemote {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        Err(format!("`{uri}` is another document, and none is ever fetched").into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn judged(schema: &Value, config: &Value) -> Result<(), Refused> {
        judge(&schema.to_string(), config)
    }

    #[track_caller]
    fn unusable(schema: &Value, expected: &str) {
        match judged(schema, &json!({})) {
            Err(Refused::Unusable(text)) => assert!(text.contains(expected), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn mismatches(schema: &Value, config: &Value) -> Vec<String> {
        match judged(schema, config) {
            Err(Refused::Mismatch(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn problems_have_places_and_no_values() {
        let schema = json!({
            "type": "object",
            "properties": {
                "words": {"type": "array", "items": {"type": "string"}},
                "limits": {"$ref": "#/$defs/limits"},
            },
            "required": ["words"],
            "additionalProperties": false,
            "$defs": {"limits": {"type": "object", "properties": {"max": {"maximum": 10}}}},
        });
        assert_eq!(judged(&schema, &json!({"words": ["a"], "limits": {"max": 3}})), Ok(()));
        let config = json!({"words": ["a", 2], "limits": {"max": 424_242}});
        let found = mismatches(&schema, &config);
        assert_eq!(found.len(), 2, "{found:?}");
        let text = found.join("\n");
        assert!(text.contains("at `/words/1`") && text.contains("string"), "{text}");
        assert!(text.contains("at `/limits/max`") && text.contains("maximum of 10"), "{text}");
        assert!(!text.contains("424242"), "{text}");
        let found = mismatches(&schema, &json!({"wrods": []}));
        let text = found.join("\n");
        assert!(text.contains("wrods") && text.contains("required"), "{text}");
    }

    #[test]
    fn the_list_of_problems_is_bounded() {
        let schema = json!({"additionalProperties": {"type": "string"}});
        let config: serde_json::Map<String, Value> =
            (0..100).map(|n| (format!("k{n}"), json!(n))).collect();
        let found = mismatches(&schema, &Value::Object(config));
        assert_eq!(found.len(), PROBLEMS + 1);
        assert_eq!(found[PROBLEMS], "and more");
        let long = json!({"properties": {"a": {"enum": vec!["long word"; 500]}}});
        let found = mismatches(&long, &json!({"a": 1}));
        assert!(found[0].len() < PROBLEM_BYTES + 30, "{}", found[0].len());
    }

    #[test]
    fn drafts_are_told_apart() {
        // In draft 7 a reference hides what stands beside it.
        let schema = |draft: &str| {
            json!({
                "$schema": draft,
                "properties": {"a": {"$ref": "#/definitions/any", "type": "string"}},
                "definitions": {"any": true},
            })
        };
        let config = json!({"a": 1});
        assert_eq!(judged(&schema("http://json-schema.org/draft-07/schema#"), &config), Ok(()));
        let found = mismatches(&schema("https://json-schema.org/draft/2020-12/schema"), &config);
        assert_eq!(found.len(), 1);
        unusable(&schema("https://example.com/my-own"), "write it in JSON Schema 2020-12");
    }

    #[test]
    fn schemas_that_are_none_are_the_plugins_mistake() {
        unusable(&json!({"type": "strnig"}), "is not valid");
        unusable(&json!({"properties": {"a": 3}}), "is not valid");
        unusable(&json!([1]), "is not valid");
    }

    #[test]
    fn other_documents_are_never_fetched() {
        for reference in [
            "https://example.com/schema.json",
            "file:///etc/passwd",
            "other.json#/a",
            "https://json-schema.org/draft/2020-12/schema",
        ] {
            let schema = json!({"properties": {"a": {"$ref": reference}}});
            unusable(&schema, reference);
        }
    }

    #[test]
    fn a_recursive_schema_works_as_deep_as_the_configuration() {
        let schema = json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
            }},
        });
        let leaf = json!({"name": 7});
        let config = json!({"children": [{"children": [leaf]}]});
        let found = mismatches(&schema, &config);
        assert!(found[0].contains("/children/0/children/0/name"), "{found:?}");
    }

    /// The longest chains of references that the bounds let in: one that is only
    /// compiled, and one that the configuration is led through.
    #[tokio::test]
    async fn the_deepest_schemas_fit_the_stack() {
        let chain = |length: usize, mut root: Value, link: &dyn Fn(Value) -> Value| {
            let mut defs = serde_json::Map::new();
            for n in 0..length {
                defs.insert(n.to_string(), link(json!({"$ref": format!("#/$defs/{}", n + 1)})));
            }
            defs.insert(length.to_string(), json!({"required": ["a"]}));
            root["$defs"] = Value::Object(defs);
            root.to_string()
        };
        let aside = json!({"required": ["a"], "properties": {"x": {"$ref": "#/$defs/0"}}});
        let same = chain(1_900, aside.clone(), &|next| next);
        let deeper = chain(1_300, aside.clone(), &|next| json!({"items": next}));
        let followed = chain(480, json!({"$ref": "#/$defs/0"}), &|next| next);
        for schema in [same, deeper, followed] {
            let cause = check(schema, json!({})).await.unwrap_err();
            assert!(matches!(cause, LoadCause::Schema(_)), "{cause}");
        }
        let too_long = chain(2_100, aside, &|next| next);
        let cause = check(too_long, json!({})).await.unwrap_err();
        assert!(matches!(cause, LoadCause::Trial { .. }), "{cause}");
    }

    #[tokio::test]
    async fn causes_tell_whose_mistake_it_is() {
        let schema = r#"{"required": ["words"]}"#;
        let cause = check(schema.to_owned(), json!({})).await.unwrap_err();
        let text = cause.to_string();
        assert!(matches!(cause, LoadCause::Schema(_)) && text.contains("words"), "{text}");
        let cause = check("{\"$ref\": \"#\"}".to_owned(), json!({})).await.unwrap_err();
        assert!(matches!(cause, LoadCause::Trial { step: "describe", .. }), "{cause}");
    }
}
