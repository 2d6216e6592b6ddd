//! The types of option values: which JSON a type accepts, in which range, and
//! where the typed value goes.
//!
//! Which option has which type is `table`. That a grammar parses, a schema can be
//! compiled, or a token id exists, only `llamero-engine` can tell.

use std::collections::BTreeMap;

use serde_json::{Number, Value, json};

use super::ResolvedOptions;
use crate::names::check_adapter_name;

/// Longest `grammar`, in bytes.
pub const MAX_GRAMMAR_BYTES: usize = 64 * 1024;

/// Longest `cache_salt`, in bytes: the worker keeps it with each cached prompt.
pub const MAX_SALT_BYTES: usize = 256;

/// Longest `json_schema`, in bytes of its JSON text.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;

/// Most entries of `stop`.
pub const MAX_STOPS: usize = 256;

/// Longest entry of `stop`, in bytes. Text that may become a stop string is held
/// back, so this also bounds how far a stream can lag behind.
pub const MAX_STOP_BYTES: usize = 4096;

/// Most entries of `logit_bias`; more than any vocabulary has tokens in use.
pub const MAX_LOGIT_BIASES: usize = 65_536;

/// Most entries of `lora`.
pub const MAX_LORAS: usize = 4;

/// The largest scale of an adapter, and the smallest with a minus. Beyond any use,
/// and far from what the 16-bit floats of a KV cache cannot hold.
const MAX_LORA_SCALE: f32 = 10.0;

type Set<T> = fn(&mut ResolvedOptions, T);

/// A type with its range and the member of [`ResolvedOptions`] it fills.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text { max_bytes: usize, set: Set<String> },
    Int { min: i64, max: i64, set: Set<i64> },
    Float { min: f32, max: f32, set: Set<f32> },
    Bool { set: Set<bool> },
    Strings { set: Set<Vec<String>> },
    Schema { set: Set<Option<Value>> },
    Biases { set: Set<Vec<(u32, f32)>> },
    Adapters { set: Set<Vec<(String, f32)>> },
}

impl Kind {
    /// The type in words, as documentation and settings show it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text { .. } => "string",
            Self::Int { min: 0, max, .. } if max == i64::from(u32::MAX) => "u32",
            Self::Int { .. } => "int",
            Self::Float { .. } => "f32",
            Self::Bool { .. } => "bool",
            Self::Strings { .. } => "list of strings",
            Self::Schema { .. } => "object, or JSON text",
            Self::Biases { .. } => "object: token id to f32",
            Self::Adapters { .. } => "string, or object: file name to f32",
        }
    }

    /// Checks `value` and stores it. The error says what is expected and never
    /// what was sent.
    pub(super) fn apply(self, value: &Value, target: &mut ResolvedOptions) -> Result<(), String> {
        match self {
            Self::Text { max_bytes, set } => set(target, text(value, max_bytes)?),
            Self::Int { min, max, set } => set(target, int(value, min, max)?),
            Self::Float { min, max, set } => set(target, float(value, min, max)?),
            Self::Bool { set } => set(target, value.as_bool().ok_or("must be true or false")?),
            Self::Strings { set } => set(target, strings(value)?),
            Self::Schema { set } => set(target, schema(value)?),
            Self::Biases { set } => set(target, biases(value)?),
            Self::Adapters { set } => set(target, adapters(value)?),
        }
        Ok(())
    }

    /// The one way to write a value that [`apply`](Self::apply) has accepted:
    /// whole numbers without a fraction, lists as lists, schemas as objects.
    pub(super) fn canonical(self, value: &Value) -> Value {
        match (self, value) {
            (Self::Int { .. } | Self::Float { .. }, Value::Number(number)) => {
                whole(number).map_or_else(|| value.clone(), Value::from)
            }
            (Self::Strings { .. }, Value::String(_)) => Value::Array(vec![value.clone()]),
            (Self::Adapters { .. }, Value::String(name)) if name.is_empty() => json!({}),
            (Self::Adapters { .. }, Value::String(name)) => json!({ name: 1 }),
            (Self::Schema { .. }, value) => schema(value).ok().flatten().unwrap_or(Value::Null),
            _ => value.clone(),
        }
    }
}

fn text(value: &Value, max_bytes: usize) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a string")?;
    if text.len() > max_bytes {
        return Err(format!("must not be longer than {max_bytes} bytes"));
    }
    Ok(text.to_owned())
}

fn int(value: &Value, min: i64, max: i64) -> Result<i64, String> {
    let number = match value {
        Value::Number(number) => number,
        _ => return Err("must be a whole number".to_owned()),
    };
    let number = whole(number).ok_or("must be a whole number")?;
    if number < min || number > max {
        return Err(format!("must be from {min} to {max}"));
    }
    Ok(number)
}

/// A number without a fractional part, however it was written. Numbers beyond
/// `i64` come back as its nearest end, which is outside of every range.
pub(crate) fn whole(number: &Number) -> Option<i64> {
    if let Some(value) = number.as_i64() {
        return Some(value);
    }
    if number.is_u64() {
        return Some(i64::MAX);
    }
    let value = number.as_f64()?;
    // A cast from float to integer saturates.
    (value.fract() == 0.0).then_some(value as i64)
}

fn float(value: &Value, min: f32, max: f32) -> Result<f32, String> {
    let wide = value.as_f64().ok_or("must be a number")?;
    let number = wide as f32;
    if !number.is_finite() {
        return Err("does not fit into a 32-bit float".to_owned());
    }
    if number < min || number > max {
        return Err(format!("must be from {min} to {max}"));
    }
    Ok(number)
}

fn strings(value: &Value) -> Result<Vec<String>, String> {
    const EXPECTED: &str = "must be a list of strings, or one string";
    let list: Vec<String> = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(EXPECTED)?,
        _ => return Err(EXPECTED.to_owned()),
    };
    if list.len() > MAX_STOPS {
        return Err(format!("must not have more than {MAX_STOPS} entries"));
    }
    if list.iter().any(|text| text.len() > MAX_STOP_BYTES) {
        return Err(format!("must not have entries longer than {MAX_STOP_BYTES} bytes"));
    }
    Ok(list)
}

/// An object as it is, or one written as JSON text. Empty text is no schema, as
/// an empty string is no value elsewhere.
fn schema(value: &Value) -> Result<Option<Value>, String> {
    const EXPECTED: &str = "must be an object, or the JSON text of one";
    let too_long = || format!("must not be longer than {MAX_SCHEMA_BYTES} bytes");
    match value {
        Value::Object(_) if value.to_string().len() > MAX_SCHEMA_BYTES => Err(too_long()),
        Value::Object(_) => Ok(Some(value.clone())),
        Value::String(text) if text.len() > MAX_SCHEMA_BYTES => Err(too_long()),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => Ok(Some(schema)),
            Ok(Value::Null) => Ok(None),
            Ok(_) => Err(EXPECTED.to_owned()),
            // The parser's message would quote nothing, yet its position is in a
            // text the reader of the error may not have at hand: keep it short.
            Err(_) => Err("is not valid JSON text".to_owned()),
        },
        _ => Err(EXPECTED.to_owned()),
    }
}

/// How far a bias or an additive penalty may move a logit. It is far beyond any
/// use, and keeps sums and quotients of the sampler finite.
pub(super) const MAX_SHIFT: f32 = 1e9;

fn biases(value: &Value) -> Result<Vec<(u32, f32)>, String> {
    let entries = value.as_object().ok_or("must be an object of token ids and numbers")?;
    if entries.len() > MAX_LOGIT_BIASES {
        return Err(format!("must not have more than {MAX_LOGIT_BIASES} entries"));
    }
    let mut biases = BTreeMap::new();
    for (token, bias) in entries {
        let token = match token.parse::<u32>() {
            Ok(token) if !biases.contains_key(&token) => token,
            Ok(_) => return Err("must not name a token id twice".to_owned()),
            Err(_) => {
                return Err("must have token ids, whole numbers from 0, as its names".to_owned());
            }
        };
        let bias = float(bias, -MAX_SHIFT, MAX_SHIFT)
            .map_err(|reason| format!("of each token {reason}"))?;
        biases.insert(token, bias);
    }
    Ok(biases.into_iter().collect())
}

/// One name, whose scale is 1, or an object. The order does not matter, so it is
/// that of the names. Empty text names nothing, as elsewhere.
fn adapters(value: &Value) -> Result<Vec<(String, f32)>, String> {
    let entries: Vec<(&String, f32)> = match value {
        Value::String(name) if name.is_empty() => Vec::new(),
        Value::String(name) => vec![(name, 1.0)],
        Value::Object(entries) => {
            let scale = |value| {
                float(value, -MAX_LORA_SCALE, MAX_LORA_SCALE)
                    .map_err(|reason| format!("of each adapter {reason}"))
            };
            entries
                .iter()
                .map(|(name, value)| Ok((name, scale(value)?)))
                .collect::<Result<_, String>>()?
        }
        _ => return Err("must be the name of an adapter, or an object of names and scales".into()),
    };
    if entries.len() > MAX_LORAS {
        return Err(format!("must not have more than {MAX_LORAS} entries"));
    }
    let mut adapters: Vec<(String, f32)> = Vec::with_capacity(entries.len());
    for (name, scale) in entries {
        check_adapter_name(name)?;
        adapters.push((name.clone(), scale));
    }
    adapters.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(adapters)
}
