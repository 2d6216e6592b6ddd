//! What the operator may choose, how it is checked, and the JSON Schema that
//! says the same to the worker and to people.

use serde::Deserialize;

/// The schema that `describe` returns. `parse` enforces the same rules, because
/// a worker need not check a configuration against its schema.
pub const SCHEMA: &str = include_str!("config.schema.json");

/// Where the configured text goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// In front of the client's system text.
    #[default]
    Prepend,
    /// Behind it, so that it has the last word.
    Append,
    /// In its place.
    Replace,
}

/// The plugin's configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The system text; empty lets every request pass.
    pub text: String,
    /// Where it goes.
    pub position: Position,
    /// What stands between it and the client's system text, and, in a completion,
    /// behind it.
    pub separator: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { text: String::new(), position: Position::default(), separator: "\n\n".to_owned() }
    }
}

impl Config {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// A text that names the wrong key or value and what would be right.
    pub fn parse(document: &str) -> Result<Self, String> {
        serde_json::from_str(document)
            .map_err(|error| format!("system-prompt: unusable configuration: {error}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test should panic")]
    use super::*;

    #[test]
    fn every_key_is_read() {
        let config =
            Config::parse(r#"{"text": "Be brief.", "position": "append", "separator": " "}"#)
                .unwrap();
        let expected = Config {
            text: "Be brief.".to_owned(),
            position: Position::Append,
            separator: " ".to_owned(),
        };
        assert_eq!(config, expected);
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (document, expected) in [
            (r#"{"txt": "x"}"#, "unknown field `txt`"),
            (r#"{"text": 1}"#, "invalid type"),
            (r#"{"position": "before"}"#, "unknown variant `before`"),
            ("", "unusable configuration"),
        ] {
            let error = Config::parse(document).expect_err(document);
            assert!(error.contains(expected), "{document}: {error}");
        }
    }

    #[test]
    fn schema_names_the_same_keys_and_defaults() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let defaults: serde_json::Map<_, _> = properties
            .iter()
            .map(|(name, property)| (name.clone(), property["default"].clone()))
            .collect();
        let document = serde_json::Value::Object(defaults).to_string();
        assert_eq!(Config::parse(&document).unwrap(), Config::default());
        assert_eq!(properties.len(), 3);
    }
}
