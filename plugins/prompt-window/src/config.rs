//! What the operator may choose, how it is checked, and the JSON Schema that
//! says the same to the worker and to people.

use serde::Deserialize;

/// The schema that `describe` returns. `parse` enforces the same rules, because
/// a worker need not check a configuration against its schema.
pub const SCHEMA: &str = include_str!("config.schema.json");

/// The plugin's configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Text in front of the context.
    pub open: String,
    /// Text behind it.
    pub close: String,
    /// What stands between two chunks.
    pub separator: String,
    /// Most tokens of context; `None`: as many as fit.
    pub max_context_tokens: Option<u32>,
    /// Room for the answer, in tokens, unless the request says how much it wants.
    pub reserve_tokens: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open: "<context>".to_owned(),
            close: "</context>".to_owned(),
            separator: "\n\n".to_owned(),
            max_context_tokens: None,
            reserve_tokens: 256,
        }
    }
}

impl Config {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// A text that names the wrong key or value and what would be right.
    pub fn parse(document: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(document)
            .map_err(|error| format!("prompt-window: unusable configuration: {error}"))?;
        for (key, value) in
            [("open", &config.open), ("close", &config.close), ("separator", &config.separator)]
        {
            if value.is_empty() {
                return Err(format!("prompt-window: `{key}` is empty: give it a text"));
            }
        }
        if config.open == config.close {
            return Err(format!(
                "prompt-window: `open` and `close` are both {:?}: make them differ",
                config.open
            ));
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
            r#"{"open": "<<", "close": ">>", "separator": "---", "max_context_tokens": 10,
                "reserve_tokens": 20}"#,
        )
        .unwrap();
        let expected = Config {
            open: "<<".to_owned(),
            close: ">>".to_owned(),
            separator: "---".to_owned(),
            max_context_tokens: Some(10),
            reserve_tokens: 20,
        };
        assert_eq!(config, expected);
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (document, expected) in [
            (r#"{"opens": "x"}"#, "unknown field `opens`"),
            (r#"{"open": ""}"#, "`open` is empty"),
            (r#"{"separator": ""}"#, "`separator` is empty"),
            (r#"{"open": "x", "close": "x"}"#, "make them differ"),
            (r#"{"reserve_tokens": -1}"#, "invalid value"),
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
        assert_eq!(properties.len(), 5);
    }
}
