//! What the operator may choose, how it is checked, and the JSON Schema that
//! says the same to the worker and to people.

use serde::Deserialize;

/// The schema that `describe` returns. `parse` enforces the same rules, because
/// a worker need not check a configuration against its schema.
pub const SCHEMA: &str = include_str!("config.schema.json");

/// Most requests in one window; far more than any worker serves.
const MAX_REQUESTS: i64 = 1_000_000_000;

/// Longest window: a year.
const MAX_WINDOW_S: u64 = 365 * 24 * 60 * 60;

/// What has a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each account; jobs of unknown accounts share one.
    Account,
    /// Each model.
    Model,
    /// Each NATS subject.
    Subject,
}

/// The plugin's configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Requests that are served in one window.
    pub requests: i64,
    /// Length of a window in seconds.
    #[serde(default = "a_minute")]
    pub window_s: u64,
    /// What has a window of its own.
    #[serde(default = "each_account")]
    pub per: Vec<Per>,
}

fn a_minute() -> u64 {
    60
}

fn each_account() -> Vec<Per> {
    vec![Per::Account]
}

impl Config {
    /// Reads the configuration document.
    ///
    /// # Errors
    /// A text that names the wrong key or value and what would be right.
    pub fn parse(document: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(document)
            .map_err(|error| format!("quota: unusable configuration: {error}"))?;
        if !(1..=MAX_REQUESTS).contains(&config.requests) {
            return Err(format!(
                "quota: `requests` is {}: use 1 to {MAX_REQUESTS}",
                config.requests
            ));
        }
        if !(1..=MAX_WINDOW_S).contains(&config.window_s) {
            return Err(format!(
                "quota: `window_s` is {}: use 1 to {MAX_WINDOW_S}",
                config.window_s
            ));
        }
        for (index, per) in config.per.iter().enumerate() {
            if config.per[..index].contains(per) {
                return Err(format!("quota: `per` has {per:?} twice: name each once"));
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
        let config =
            Config::parse(r#"{"requests": 5, "window_s": 3600, "per": ["model", "account"]}"#);
        let expected = Config { requests: 5, window_s: 3600, per: vec![Per::Model, Per::Account] };
        assert_eq!(config, Ok(expected));
        let defaults = Config { requests: 1, window_s: 60, per: vec![Per::Account] };
        assert_eq!(Config::parse(r#"{"requests": 1}"#), Ok(defaults));
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (document, expected) in [
            ("{}", "missing field `requests`"),
            (r#"{"requests": 0}"#, "`requests` is 0"),
            (r#"{"requests": 1, "window_s": 0}"#, "`window_s` is 0"),
            (r#"{"requests": 1, "window_s": 31536001}"#, "use 1 to 31536000"),
            (r#"{"requests": 1, "per": ["job"]}"#, "unknown variant `job`"),
            (r#"{"requests": 1, "per": ["model", "model"]}"#, "name each once"),
            (r#"{"requests": 1, "window": 1}"#, "unknown field `window`"),
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
        let mut document: serde_json::Map<_, _> = properties
            .iter()
            .map(|(name, property)| (name.clone(), property["default"].clone()))
            .collect();
        document.insert("requests".to_owned(), 1.into());
        let document = serde_json::Value::Object(document).to_string();
        assert_eq!(Config::parse(&document), Config::parse(r#"{"requests": 1}"#));
        assert_eq!(properties.len(), 3);
        assert_eq!(schema["required"], serde_json::json!(["requests"]));
    }
}
