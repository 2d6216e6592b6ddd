//! What a schema may look like, so that the validator ends: with an answer, and
//! with its stack.
//!
//! The validator follows references as it finds them. A schema that refers to
//! itself without going deeper into the configuration would run it out of stack,
//! which ends the process; one that names a definition twice, which names another
//! twice, and so on, would keep it busy for years. Both are found here, by walking
//! the schema along the configuration as the validator would, and counting.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Bytes of a schema's text.
const TEXT_BYTES: usize = 64 << 10;
/// JSON values in a schema.
const VALUES: usize = 4_000;
/// Levels of nesting in a schema's text.
const DEPTH: usize = 64;
/// Regular expressions in a schema, and bytes of each: compiling one may take
/// megabytes.
const PATTERNS: usize = 32;
const PATTERN_BYTES: usize = 1_024;
/// Schemas that one place of the configuration may be checked against.
const IN_PLACE: u64 = 2_000;
/// Steps of the whole check.
const STEPS: usize = 50_000;
/// Values of the schema, times references that are followed: the validator keeps
/// a copy of what a reference leads to.
const COPIES: usize = 500_000;

/// Stands for the name of a member: a text, into which no schema leads further.
static NAME: Value = Value::Null;

/// Keywords whose schema is for the same value.
const SAME_ONE: &[&str] = &["not", "if", "then", "else"];
/// Keywords with a list of schemas for the same value.
const SAME_LIST: &[&str] = &["allOf", "anyOf", "oneOf"];
/// Keywords with named schemas for the same value.
const SAME_MAP: &[&str] = &["dependentSchemas", "dependencies"];

/// Reads a schema's text within the bounds of size.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    if text.len() > TEXT_BYTES {
        return Err(format!("has {} bytes, the limit is {TEXT_BYTES}", text.len()));
    }
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let mut size = Size::default();
    size.add(&schema, 1);
    if size.values > VALUES {
        return Err(format!("has {} values, the limit is {VALUES}", size.values));
    }
    if size.depth > DEPTH {
        return Err(format!("nests {} levels deep, the limit is {DEPTH}", size.depth));
    }
    if size.patterns > PATTERNS || size.longest_pattern > PATTERN_BYTES {
        return Err(format!(
            "has {} regular expressions of up to {} bytes, the limits are {PATTERNS} and \
             {PATTERN_BYTES}",
            size.patterns, size.longest_pattern
        ));
    }
    Ok(schema)
}

#[derive(Default)]
struct Size {
    values: usize,
    depth: usize,
    patterns: usize,
    longest_pattern: usize,
}

impl Size {
    fn add(&mut self, value: &Value, depth: usize) {
        self.values += 1;
        self.depth = self.depth.max(depth);
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.add(item, depth + 1)),
            Value::Object(members) => {
                for (name, member) in members {
                    match (name.as_str(), member) {
                        ("pattern", Value::String(pattern)) => self.add_pattern(pattern),
                        ("patternProperties", Value::Object(patterns)) => {
                            patterns.keys().for_each(|pattern| self.add_pattern(pattern));
                        }
                        _ => {}
                    }
                    self.add(member, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn add_pattern(&mut self, pattern: &str) {
        self.patterns += 1;
        self.longest_pattern = self.longest_pattern.max(pattern.len());
    }
}

/// Whether the validator will end when it checks `config` against `schema`.
pub(super) fn check(schema: &Value, config: &Value) -> Result<(), String> {
    let mut places = InPlace { root: schema, known: HashMap::new() };
    places.check_everywhere(schema, true)?;
    let mut walk = Walk { root: schema, steps: 0, references: 0 };
    walk.follow(schema, config)?;
    let mut size = Size::default();
    size.add(schema, 1);
    if walk.references.saturating_mul(size.values) > COPIES {
        return Err(format!(
            "follows {} references into {} values for this configuration, the limit of the \
             product is {COPIES}",
            walk.references, size.values
        ));
    }
    Ok(())
}

/// The schema that a reference leads to.
fn resolve<'a>(root: &'a Value, reference: &str) -> Result<&'a Value, String> {
    let local = reference.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/'));
    let Some(pointer) = local else {
        return Err(format!(
            "refers to `{reference}`; references must be of the form `#/…`, within the schema: \
             nothing is fetched"
        ));
    };
    percent_decoded(pointer)
        .and_then(|pointer| root.pointer(&pointer))
        .ok_or_else(|| format!("refers to `{reference}`, which is not there"))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Schemas that are applied to the same value as the one they stand in.
fn same_place<'a>(
    root: &'a Value,
    schema: &'a Map<String, Value>,
) -> Result<Vec<&'a Value>, String> {
    let mut found = Vec::new();
    for (name, value) in schema {
        let name = name.as_str();
        match value {
            Value::String(reference) if name == "$ref" => found.push(resolve(root, reference)?),
            Value::Object(_) if SAME_ONE.contains(&name) => found.push(value),
            Value::Array(list) if SAME_LIST.contains(&name) => found.extend(list),
            Value::Object(map) if SAME_MAP.contains(&name) => found.extend(map.values()),
            _ => {}
        }
    }
    Ok(found)
}

/// How many schemas hold at the place of each one. The key is the address of the
/// value, which does not move.
struct InPlace<'a> {
    root: &'a Value,
    /// `None` while it is being counted.
    known: HashMap<*const Value, Option<u64>>,
}

impl<'a> InPlace<'a> {
    /// Checks every object of the schema, whether it is reached or not: the
    /// validator compiles all of them.
    fn check_everywhere(&mut self, value: &'a Value, is_root: bool) -> Result<(), String> {
        match value {
            Value::Array(items) => {
                items.iter().try_for_each(|item| self.check_everywhere(item, false))
            }
            Value::Object(members) => {
                for name in ["$dynamicRef", "$recursiveRef"] {
                    if members.get(name).is_some_and(Value::is_string) {
                        return Err(format!(
                            "uses `{name}`, which is not supported here; use `$ref`"
                        ));
                    }
                }
                // It would give references another meaning.
                if !is_root && members.get("$id").is_some_and(Value::is_string) {
                    return Err("has `$id` within; only the whole schema may have one".to_owned());
                }
                self.count(value)?;
                members.values().try_for_each(|member| self.check_everywhere(member, false))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, value: &'a Value) -> Result<u64, String> {
        let Value::Object(schema) = value else {
            return Ok(1);
        };
        let key: *const Value = value;
        match self.known.get(&key) {
            Some(Some(count)) => return Ok(*count),
            Some(None) => {
                return Err("refers to itself without end: a value would have to be checked \
                            again before it is checked"
                    .to_owned());
            }
            None => {}
        }
        self.known.insert(key, None);
        let mut count = 1u64;
        for schema in same_place(self.root, schema)? {
            count = count.saturating_add(self.count(schema)?);
        }
        if count > IN_PLACE {
            return Err(format!(
                "checks one value against more than {IN_PLACE} schemas, counting those that are \
                 referred to"
            ));
        }
        self.known.insert(key, Some(count));
        Ok(count)
    }
}

/// Goes where the validator may go, and counts.
struct Walk<'a> {
    root: &'a Value,
    steps: usize,
    references: usize,
}

impl<'a> Walk<'a> {
    fn follow(&mut self, schema: &'a Value, value: &Value) -> Result<(), String> {
        self.steps += 1;
        if self.steps > STEPS {
            return Err(format!("takes more than {STEPS} steps to check this configuration"));
        }
        let Value::Object(keywords) = schema else {
            return Ok(());
        };
        self.references += usize::from(keywords.contains_key("$ref"));
        for schema in same_place(self.root, keywords)? {
            self.follow(schema, value)?;
        }
        for (name, given) in keywords {
            match (name.as_str(), given, value) {
                ("properties", Value::Object(schemas), Value::Object(members)) => {
                    for (name, schema) in schemas {
                        if let Some(member) = members.get(name) {
                            self.follow(schema, member)?;
                        }
                    }
                }
                ("patternProperties", Value::Object(schemas), Value::Object(members)) => {
                    for schema in schemas.values() {
                        self.follow_each(schema, members.values())?;
                    }
                }
                (
                    "additionalProperties" | "unevaluatedProperties",
                    schema,
                    Value::Object(members),
                ) => self.follow_each(schema, members.values())?,
                ("propertyNames", schema, Value::Object(members)) => {
                    self.follow_each(schema, members.values().map(|_| &NAME))?;
                }
                ("prefixItems" | "items", Value::Array(schemas), Value::Array(items)) => {
                    for schema in schemas {
                        self.follow_each(schema, items)?;
                    }
                }
                (
                    "items" | "additionalItems" | "unevaluatedItems" | "contains",
                    schema,
                    Value::Array(items),
                ) => self.follow_each(schema, items)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn follow_each<'v>(
        &mut self,
        schema: &'a Value,
        values: impl IntoIterator<Item = &'v Value>,
    ) -> Result<(), String> {
        values.into_iter().try_for_each(|value| self.follow(schema, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(schema: &Value, config: &Value, expected: &str) {
        let text = parse(&schema.to_string())
            .and_then(|schema| check(&schema, config))
            .expect_err("it is refused");
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn circles_are_found_wherever_they_are() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"not": {"if": {"anyOf": [true, {"$ref": "#/not"}]}}}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            json!({"properties": {"x": {"$ref": "#/properties/x"}}}),
            json!({"dependentSchemas": {"a": {"$ref": "#"}}}),
            json!({"unevaluatedProperties": false, "$ref": "#/$defs/a",
                   "$defs": {"a": {"oneOf": [{"$ref": "#"}]}}}),
        ] {
            refused(&schema, &json!({}), "refers to itself without end");
        }
    }

    /// Each definition names the next one twice.
    fn doubling(levels: usize, wrap: impl Fn(Value) -> Value) -> Value {
        let mut defs = Map::new();
        for level in 0..levels {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            defs.insert(format!("d{level}"), wrap(next));
        }
        defs.insert(format!("d{levels}"), json!(true));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    }

    #[test]
    fn work_that_doubles_is_refused() {
        let schema = doubling(40, |next| json!({"allOf": [next, next]}));
        refused(&schema, &json!({}), "against more than");
        // Each level of the configuration doubles it.
        let schema = doubling(
            40,
            |next| json!({"allOf": [{"additionalProperties": next}, {"additionalProperties": next}]}),
        );
        let mut config = json!({});
        for _ in 0..30 {
            config = json!({"a": config});
        }
        refused(&schema, &config, "steps");
        assert_eq!(check(&schema, &json!({"a": {"a": 1}})), Ok(()));
    }

    #[test]
    fn what_a_reference_leads_to_is_counted() {
        let fill: Vec<u32> = (0..3000).collect();
        let schema = json!({
            "items": {"$ref": "#/$defs/item"}, "$defs": {"item": {"enum": fill}},
        });
        let config = Value::Array(vec![json!(1); 1000]);
        refused(&schema, &config, "references into");
    }

    #[test]
    fn sizes_are_bounded() {
        let config = json!({});
        refused(&json!({"description": "x".repeat(70_000)}), &config, "bytes");
        refused(&json!({"enum": vec![1; 5000]}), &config, "values");
        let mut deep = json!(true);
        for _ in 0..70 {
            deep = json!({"not": deep});
        }
        refused(&deep, &config, "levels deep");
        refused(&json!({"pattern": "a".repeat(2000)}), &config, "regular expressions");
        let many: Map<String, Value> = (0..40).map(|n| (format!("p{n}"), json!(true))).collect();
        refused(&json!({"patternProperties": many}), &config, "regular expressions");
    }

    #[test]
    fn references_stay_within() {
        let config = json!({});
        refused(&json!({"$ref": "#/$defs/none"}), &config, "not there");
        refused(&json!({"$ref": "#anchor"}), &config, "of the form");
        refused(&json!({"$ref": ""}), &config, "of the form");
        refused(&json!({"not": {"$id": "https://example.com/x"}}), &config, "`$id` within");
        refused(&json!({"items": {"$dynamicRef": "#a"}}), &config, "$dynamicRef");
        let schema = json!({
            "$id": "https://example.com/whole",
            "properties": {"$ref": {"$ref": "#/$defs/a%20~1b"}, "$id": true},
            "$defs": {"a /b": true},
        });
        assert_eq!(check(&schema, &json!({"$ref": 1})), Ok(()));
    }

    #[test]
    fn ordinary_recursion_is_fine() {
        let schema = json!({
            "properties": {"and": {"type": "array", "items": {"$ref": "#"}}},
        });
        let mut config = json!({});
        for _ in 0..50 {
            config = json!({"and": [config]});
        }
        assert_eq!(check(&schema, &config), Ok(()));
    }
}
