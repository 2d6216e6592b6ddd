//! What the operator may choose, how it is checked, and the JSON Schema that
//! says the same to the worker and to people.

use serde::Deserialize;

use crate::detect::Kind;

/// The schema that `describe` returns. `parse` enforces the same rules, because
/// a worker need not check a configuration against its schema.
pub const SCHEMA: &str = include_str!("config.schema.json");

/// The plugin's configuration document.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kinds of personal data that are masked.
    pub mask: Vec<Kind>,
    /// What stands in place of a match; `{kind}` in it becomes `email`, `phone`
    /// or `card`.
    pub replacement: String,
    /// Whether the system text (with it the option `instructions` and system
    /// messages) is masked too. Usually it is the operator's own text.
    pub system: bool,
    /// Whether generated text is masked too.
    pub output: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mask: Kind::ALL.to_vec(),
            replacement: "[{kind}]".to_owned(),
            system: false,
            output: true,
        }
    }
}

/// Longest replacement, in bytes. A match may be as short as seven bytes, so an
/// unbounded replacement could blow a prompt up to the worker's output limit.
const MAX_REPLACEMENT_BYTES: usize = 256;

impl Config {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// A text that names the wrong key or value and what would be right.
    pub fn parse(document: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(document)
            .map_err(|error| format!("redact: unusable configuration: {error}"))?;
        if config.mask.is_empty() {
            return Err("redact: `mask` is empty, so the plugin would do nothing: \
                        name at least one of email, phone, card, or remove the plugin"
                .to_owned());
        }
        if config.replacement.len() > MAX_REPLACEMENT_BYTES {
            return Err(format!(
                "redact: `replacement` has {} bytes: use at most {MAX_REPLACEMENT_BYTES}",
                config.replacement.len()
            ));
        }
        // A replacement that is itself a match would be masked again and again by
        // a chain that runs this plugin twice, and looks like leaked data.
        for kind in Kind::ALL {
            let text = config.replacement_for(kind);
            if !crate::detect::find(&text, &Kind::ALL).is_empty() {
                return Err(format!(
                    "redact: `replacement` gives {text:?}, which looks like personal data itself: \
                     choose another text"
                ));
            }
        }
        Ok(config)
    }

    /// The text that stands in place of a match of `kind`.
    pub fn replacement_for(&self, kind: Kind) -> String {
        self.replacement.replace("{kind}", kind.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test should panic")]
    use super::*;

    #[test]
    fn empty_document_gives_the_defaults() {
        let config = Config::parse("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.mask, [Kind::Email, Kind::Card, Kind::Phone]);
        assert_eq!(config.replacement_for(Kind::Phone), "[phone]");
    }

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(
            r#"{"mask": ["card"], "replacement": "***", "system": true, "output": false}"#,
        )
        .unwrap();
        assert_eq!(config.mask, [Kind::Card]);
        assert_eq!(config.replacement_for(Kind::Card), "***");
        assert!(config.system && !config.output);
    }

    /// Each of these must be refused with a text that contains the second item.
    #[test]
    fn mistakes_are_refused_by_name() {
        let long = format!(r#"{{"replacement": "{}"}}"#, "x".repeat(257));
        for (document, expected) in [
            (r#"{"masks": []}"#, "unknown field `masks`"),
            (r#"{"mask": []}"#, "`mask` is empty"),
            (r#"{"mask": ["iban"]}"#, "unknown variant `iban`"),
            (r#"{"system": "yes"}"#, "invalid type"),
            (r#"{"replacement": "{kind}@example.com"}"#, "looks like personal data"),
            (long.as_str(), "has 257 bytes"),
            ("[]]", "unusable configuration"),
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
        assert_eq!(properties.len(), 4);
    }
}
