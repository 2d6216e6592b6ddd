//! What the operator may choose, how it is checked, and the JSON Schema that
//! says the same to the worker and to people.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The schema that `describe` returns. `parse` enforces the same rules, because
/// a worker need not check a configuration against its schema.
pub const SCHEMA: &str = include_str!("config.schema.json");

/// The plugin's configuration document.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The first one that has the model gives the schema.
    pub rules: Vec<Rule>,
    /// Whether an answer that is not complete JSON is rejected.
    #[serde(default = "yes")]
    pub check: bool,
}

/// A schema and the models that it is for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names, in which `*` stands for any run of characters.
    #[serde(default = "every_model")]
    pub models: Vec<String>,
    /// What answers must match.
    pub schema: Map<String, Value>,
}

fn yes() -> bool {
    true
}

fn every_model() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Config {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// A text that names the wrong key or value and what would be right.
    pub fn parse(document: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(document)
            .map_err(|error| format!("json-schema: unusable configuration: {error}"))?;
        if config.rules.is_empty() {
            return Err("json-schema: `rules` is empty, so the plugin would do nothing: \
                        give a rule with a `schema`, or remove the plugin"
                .to_owned());
        }
        for (index, rule) in config.rules.iter().enumerate() {
            if rule.models.is_empty() || rule.models.iter().any(String::is_empty) {
                return Err(format!(
                    "json-schema: `rules[{index}].models` names no model: give names, or \
                     leave it out for every model"
                ));
            }
        }
        Ok(config)
    }

    /// The schema for `model`, if any rule has it.
    pub fn schema_for(&self, model: &str) -> Option<&Map<String, Value>> {
        let matches = |rule: &&Rule| rule.models.iter().any(|pattern| glob(pattern, model));
        self.rules.iter().find(matches).map(|rule| &rule.schema)
    }
}

/// `*` stands for any run of characters, and everything else for itself.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test should panic")]
    use super::*;

    #[test]
    fn the_first_rule_that_has_the_model_counts() {
        let config = Config::parse(
            r#"{"rules": [
                {"models": ["small-*", "tiny.gguf"], "schema": {"type": "boolean"}},
                {"models": ["*-q8.gguf"], "schema": {"type": "string"}},
                {"models": ["big*"], "schema": {"type": "object"}}
            ]}"#,
        )
        .unwrap();
        assert!(config.check);
        for (model, expected) in [
            ("small-q8.gguf", Some("boolean")),
            ("tiny.gguf", Some("boolean")),
            ("big-q8.gguf", Some("string")),
            ("big.gguf", Some("object")),
            ("tiny.gguf2", None),
            ("", None),
        ] {
            let found = config.schema_for(model).map(|schema| schema["type"].as_str().unwrap());
            assert_eq!(found, expected, "{model}");
        }
    }

    #[test]
    fn without_models_a_rule_is_for_all() {
        let config = Config::parse(r#"{"rules": [{"schema": {}}], "check": false}"#).unwrap();
        assert!(!config.check);
        assert!(config.schema_for("any.gguf").is_some());
        assert!(config.schema_for("").is_some());
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (document, expected) in [
            ("{}", "missing field `rules`"),
            (r#"{"rules": []}"#, "`rules` is empty"),
            (r#"{"rules": [{}]}"#, "missing field `schema`"),
            (r#"{"rules": [{"schema": true}]}"#, "invalid type"),
            (r#"{"rules": [{"models": [], "schema": {}}]}"#, "`rules[0].models` names no model"),
            (r#"{"rules": [{"models": [""], "schema": {}}]}"#, "names no model"),
            (r#"{"rules": [{"model": "m", "schema": {}}]}"#, "unknown field `model`"),
            (r#"{"rules": [{"schema": {}}], "chekc": true}"#, "unknown field `chekc`"),
            ("", "unusable configuration"),
        ] {
            let error = Config::parse(document).expect_err(document);
            assert!(error.contains(expected), "{document}: {error}");
        }
    }

    #[test]
    fn schema_names_the_same_keys() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.keys().collect::<Vec<_>>(), ["check", "rules"]);
        assert_eq!(properties["check"]["default"], true);
        let rule = properties["rules"]["items"]["properties"].as_object().unwrap();
        assert_eq!(rule.keys().collect::<Vec<_>>(), ["models", "schema"]);
        assert_eq!(rule["models"]["default"], serde_json::json!(every_model()));
    }
}
