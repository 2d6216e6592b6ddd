//! Readers for the values of flags that clap does not know: options, settings
//! and durations.
//!
//! They check the shape only. Whether an option has the right type and range is
//! decided by the worker (`llamero-protocol`), and whether a setting exists by
//! `llamero-worker`.

use std::time::Duration;

use serde_json::Value;

/// One `NAME=VALUE` of `--option`.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionArg {
    /// The option's name as typed.
    pub name: String,
    /// The value: JSON if it reads as JSON, else the text as a string.
    pub value: Value,
}

/// Reads `NAME=VALUE` for `--option`. The value is taken as JSON if it is legal
/// JSON (`0.2`, `true`, `["a","b"]`, `"text"`), else as a plain string.
///
/// # Errors
/// A text that says what is missing, for clap to print.
pub fn parse_option(text: &str) -> Result<OptionArg, String> {
    let (name, value) = split_pair(text)?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok(OptionArg { name, value })
}

/// One `NAME=VALUE` of `--set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingArg {
    /// The setting's name as typed.
    pub name: String,
    /// The text behind the first `=`.
    pub value: String,
}

/// Reads `NAME=VALUE` for `--set`.
///
/// # Errors
/// A text that says what is missing, for clap to print.
pub fn parse_setting(text: &str) -> Result<SettingArg, String> {
    let (name, value) = split_pair(text)?;
    Ok(SettingArg { name, value: value.to_owned() })
}

fn split_pair(text: &str) -> Result<(String, &str), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("expected NAME=VALUE, found no `=` in `{text}`"));
    };
    let name = name.trim();
    if name.is_empty() {
        return Err("expected NAME=VALUE, found no name before `=`".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// The longest duration that a flag accepts: 30 days, far above any sensible
/// wait and far below what an `Instant` can add.
const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads a duration such as `500ms`, `30s`, `5m`, `1h`; a bare number counts
/// seconds, fractions are allowed.
///
/// # Errors
/// A text that names the accepted forms or the limit, for clap to print.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const FORMS: &str = "expected a duration such as 500ms, 30s, 5m or 1h";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| FORMS.to_owned())?;
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(FORMS.to_owned()),
    };
    let duration = Duration::try_from_secs_f64(number * factor).map_err(|_| FORMS.to_owned())?;
    if duration > MAX_DURATION {
        return Err("longer than 30 days".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use serde_json::json;

    #[test]
    fn option_values_are_json_or_text() {
        for (text, name, value) in [
            ("temperature=0", "temperature", json!(0)),
            ("top_p=0.5", "top_p", json!(0.5)),
            ("ignore_eos=true", "ignore_eos", json!(true)),
            (r#"stop=["a","b"]"#, "stop", json!(["a", "b"])),
            (r#"stop="quoted""#, "stop", json!("quoted")),
            ("instructions=Be brief.", "instructions", json!("Be brief.")),
            ("grammar=root ::= \"a\"", "grammar", json!("root ::= \"a\"")),
            ("instructions=a=b", "instructions", json!("a=b")),
            ("instructions=", "instructions", json!("")),
            ("seed=null", "seed", Value::Null),
        ] {
            let option = parse_option(text).unwrap();
            assert_eq!((option.name.as_str(), option.value), (name, value), "{text}");
        }
    }

    #[test]
    fn a_pair_needs_a_name_and_an_equals_sign() {
        assert!(parse_option("temperature").unwrap_err().contains("`=`"));
        assert!(parse_option("=1").unwrap_err().contains("name"));
        assert!(parse_setting(" =1").unwrap_err().contains("name"));
    }

    #[test]
    fn a_setting_keeps_its_text() {
        let setting = parse_setting("llm_x=\"1\"").unwrap();
        assert_eq!(setting.name, "llm_x");
        assert_eq!(setting.value, "\"1\"");
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("0", 0),
            ("2", 2_000),
            ("1.5", 1_500),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for text in ["", "s", "-1s", "1y", "1.2.3", "nan", "1e400"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("9999h").unwrap_err().contains("30 days"));
    }
}
