//! What the operator may choose, how it is checked, and the JSON Schema that
//! says the same to the worker and to people.

use serde::Deserialize;

/// The schema that `describe` returns. `parse` enforces the same rules, because
/// a worker need not check a configuration against its schema.
pub const SCHEMA: &str = include_str!("config.schema.json");

/// How important the log line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No line at all.
    Off,
    /// For developers.
    Debug,
    /// For operators.
    #[default]
    Info,
    /// Seen even where little is logged.
    Warn,
}

/// A fact about a job that its metrics are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Who asked.
    Account,
    /// The model that served it.
    Model,
    /// The NATS subject on which it arrived.
    Subject,
}

/// The plugin's configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Level of the log line.
    pub level: Level,
    /// Whether the texts of rejections and errors are logged.
    pub reasons: bool,
    /// Labels of the metrics beside the outcome.
    pub labels: Vec<Label>,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: Level::default(), reasons: false, labels: vec![Label::Model] }
    }
}

impl Config {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// A text that names the wrong key or value and what would be right.
    pub fn parse(document: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(document)
            .map_err(|error| format!("audit: unusable configuration: {error}"))?;
        for (index, label) in config.labels.iter().enumerate() {
            if config.labels[..index].contains(label) {
                return Err(format!("audit: `labels` has {label:?} twice: name each label once"));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test should panic")]
    use super::*;

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(
            r#"{"level": "warn", "reasons": true, "labels": ["account", "subject"]}"#,
        )
        .unwrap();
        let expected = Config {
            level: Level::Warn,
            reasons: true,
            labels: vec![Label::Account, Label::Subject],
        };
        assert_eq!(config, expected);
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (document, expected) in [
            (r#"{"lvl": "info"}"#, "unknown field `lvl`"),
            (r#"{"level": "loud"}"#, "unknown variant `loud`"),
            (r#"{"labels": ["job"]}"#, "unknown variant `job`"),
            (r#"{"labels": ["model", "model"]}"#, "name each label once"),
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
