//! Reading one value: text of the environment or of a flag, or a value of the
//! configuration file, into JSON of the setting's kind.
//!
//! Nothing here knows which settings exist.

use std::time::Duration;

use serde_json::Value;

use super::spec::Kind;

/// Reads the text of a variable or flag.
///
/// Kinds that are texts take it as it is, except that a JSON string in quotes
/// is decoded. All others are read as JSON; a duration may also be written
/// with its unit.
pub fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    let takes_text = matches!(
        kind,
        Kind::Text | Kind::Secret | Kind::Path | Kind::Choice(_) | Kind::RequestOption("string")
    );
    if takes_text {
        let value = match serde_json::from_str(text) {
            Ok(Value::String(decoded)) => decoded,
            _ => text.to_owned(),
        };
        return check(kind, Value::String(value));
    }
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) if kind == Kind::Duration => Value::String(text.to_owned()),
        Err(_) => return Err(format!("must be {}", kind.expectation())),
    };
    check(kind, value)
}

/// Converts a value of the configuration file.
pub fn from_toml(kind: Kind, value: &toml::Value) -> Result<Value, String> {
    check(kind, json_of_toml(value)?)
}

/// The JSON form of a TOML value. Dates have none.
pub fn json_of_toml(value: &toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or("must be a finite number")?,
        toml::Value::Boolean(flag) => Value::Bool(*flag),
        toml::Value::Datetime(_) => return Err("dates are not supported; write a text".into()),
        toml::Value::Array(items) => {
            Value::Array(items.iter().map(json_of_toml).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| Ok((key.clone(), json_of_toml(value)?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// Checks the type and range of `value` and brings it into its usual form:
/// whole numbers without a fraction, durations as seconds.
pub fn check(kind: Kind, value: Value) -> Result<Value, String> {
    let wrong = || format!("must be {}", kind.expectation());
    match kind {
        Kind::Text | Kind::Secret | Kind::Path => match value {
            Value::String(text) if kind == Kind::Path && text.contains('\0') => {
                Err("a path cannot contain NUL".into())
            }
            Value::String(text) => Ok(Value::String(text)),
            _ => Err(wrong()),
        },
        Kind::Bool => value.is_boolean().then_some(value).ok_or_else(wrong),
        Kind::Int { min, max } => whole_number(&value)
            .filter(|number| (min..=max).contains(number))
            .map(Value::from)
            .ok_or_else(wrong),
        Kind::Duration => {
            let duration = match &value {
                Value::String(text) => parse_duration(text),
                Value::Number(number) => number.as_f64().and_then(seconds),
                _ => None,
            };
            let seconds = duration.ok_or_else(wrong)?.as_secs_f64();
            Ok(if seconds.fract() == 0.0 {
                // A day of configuration is far below 2^53 seconds, so the
                // conversion is exact.
                Value::from(seconds as u64)
            } else {
                Value::from(seconds)
            })
        }
        Kind::Texts => value
            .as_array()
            .is_some_and(|items| items.iter().all(Value::is_string))
            .then_some(value)
            .ok_or_else(wrong),
        Kind::Choice(words) => value
            .as_str()
            .is_some_and(|word| words.contains(&word))
            .then_some(value)
            .ok_or_else(wrong),
        // The protocol's table checks it together with all others.
        Kind::RequestOption(_) => Ok(value),
    }
}

/// `40` and `40.0` are the same number; anything else is none.
fn whole_number(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let number = value.as_f64()?;
    // 2^53: up to here every whole number has an exact f64.
    (number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number))
        .then_some(number as u64)
}

/// Reads `500ms`, `25s`, `2m`, `1.5h` or a bare number of seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    seconds(number * unit)
}

/// Seconds as a duration, at most a day: no wait of this program is longer.
fn seconds(number: f64) -> Option<Duration> {
    (0.0..=86_400.0).contains(&number).then(|| Duration::from_secs_f64(number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_read_by_the_rules_of_its_kind() {
        let int = Kind::Int { min: 1, max: 10 };
        for (kind, text, expected) in [
            (Kind::Text, "plain", Some(json!("plain"))),
            (Kind::Text, "\"quo\\\"ted\"", Some(json!("quo\"ted"))),
            (Kind::Text, "2048", Some(json!("2048"))),
            (Kind::Text, "\"half", Some(json!("\"half"))),
            (Kind::Path, "a\0b", None),
            (Kind::Bool, "true", Some(json!(true))),
            (Kind::Bool, "yes", None),
            (Kind::Bool, "1", None),
            (int, "10", Some(json!(10))),
            (int, "10.0", Some(json!(10))),
            (int, "10.5", None),
            (int, "11", None),
            (int, "0", None),
            (int, "-1", None),
            (int, "ten", None),
            (Kind::Duration, "25", Some(json!(25))),
            (Kind::Duration, "0.5", Some(json!(0.5))),
            (Kind::Duration, "500ms", Some(json!(0.5))),
            (Kind::Duration, "\"2m\"", Some(json!(120))),
            (Kind::Duration, "-1", None),
            (Kind::Duration, "25 days", None),
            (Kind::Duration, "100000", None),
            (Kind::Texts, "[\"a\"]", Some(json!(["a"]))),
            (Kind::Texts, "a", None),
            (Kind::Texts, "[1]", None),
            (Kind::Choice(&["text", "json"]), "json", Some(json!("json"))),
            (Kind::Choice(&["text", "json"]), "xml", None),
            (Kind::RequestOption("int"), "[\"x\"]", Some(json!(["x"]))),
            (Kind::RequestOption("int"), "x", None),
            (Kind::RequestOption("string"), "x", Some(json!("x"))),
        ] {
            assert_eq!(from_text(kind, text).ok(), expected, "{kind:?} {text}");
        }
    }

    #[test]
    fn toml_values_become_json() {
        let table: toml::Table = toml::from_str(
            "a = 1\nb = 1.5\nc = [\"x\", true]\nd = { e = \"f\" }\ng = 2024-01-01\n",
        )
        .unwrap();
        assert_eq!(json_of_toml(&table["a"]), Ok(json!(1)));
        assert_eq!(json_of_toml(&table["b"]), Ok(json!(1.5)));
        assert_eq!(json_of_toml(&table["c"]), Ok(json!(["x", true])));
        assert_eq!(json_of_toml(&table["d"]), Ok(json!({"e": "f"})));
        assert!(json_of_toml(&table["g"]).is_err());
    }
}
