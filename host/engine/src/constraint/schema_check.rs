//! Refuses schemas that could be read, but not worked with.
//!
//! llguidance bounds how often it lays one schema over another, but not how much it
//! copies for that. Where alternatives stand beside other rules, each of them gets a
//! copy of the rules, so that a few KiB of text become gigabytes; and patterns of
//! properties are compared each with each, which takes hours. So what a schema would be
//! if it was written out is added up before. That is an upper bound and no more: what
//! is wrong with a schema, llguidance says.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use crate::config::ConstraintLimits;
use crate::error::ConstraintError;

/// Types of JSON; a schema that names none is written out for each.
const N_TYPES: u64 = 6;
/// What comparing two patterns counts for, as they are about as costly.
const PATTERN_PARTS: u64 = 100;
/// Keywords that say nothing about values. Others that are unknown count like known ones.
const ANNOTATIONS: [&str; 16] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "description",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
    "x-guidance",
];
/// Keywords whose schemas are about the value itself.
const APPLICATORS: [&str; 6] = ["allOf", "anyOf", "oneOf", "enum", "const", "$ref"];
/// Stands for members that are not named.
const UNNAMED: &str = "*";

/// Refuses a schema that would be too large, written out.
pub(super) fn check(schema: &Value, limits: &ConstraintLimits) -> Result<(), ConstraintError> {
    let (known, followed) = (HashMap::new(), HashMap::new());
    let mut scales = Scales { root: schema, known, followed, total: 0 };
    scales.definition("#");
    let limit = limits.max_symbols;
    if scales.total > limit as u64 {
        let what = "size written out";
        return Err(ConstraintError::Limit { kind: "json_schema", what, limit });
    }
    let mut multiples = BTreeSet::new();
    add_multiples(schema, &mut multiples);
    let limit = limits.max_multiple;
    if remainders(&multiples) > limit as u64 {
        let what = "the least common multiple of all `multipleOf`";
        return Err(ConstraintError::Limit { kind: "json_schema", what, limit });
    }
    Ok(())
}

/// Every number that something has to be a multiple of: its digits without the point,
/// and how many of them are behind it.
fn add_multiples(schema: &Value, multiples: &mut BTreeSet<(u64, i32)>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| add_multiples(item, multiples)),
        Value::Object(members) => {
            if let Some(Value::Number(number)) = members.get("multipleOf") {
                multiples.insert(decimal(&number.to_string()));
            }
            members.values().for_each(|member| add_multiples(member, multiples));
        }
        _ => {}
    }
}

/// Digits and decimals of a JSON number; what has too many is as large as can
/// be.
fn decimal(text: &str) -> (u64, i32) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Negative ones are llguidance's to refuse.
    let whole = whole.trim_start_matches('-');
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}").parse().unwrap_or(u64::MAX);
    let exponent = exponent.parse().unwrap_or(i32::MAX);
    let decimals = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    (digits, decimals.saturating_sub(exponent))
}

/// How many remainders have to be told apart where all of these numbers are laid over
/// each other, which llguidance visits one by one: their least common multiple, in units
/// of the finest of them.
fn remainders(multiples: &BTreeSet<(u64, i32)>) -> u64 {
    let finest = multiples.iter().map(|(_, decimals)| *decimals).max().unwrap_or(0).max(0);
    multiples.iter().fold(1, |all: u64, (digits, decimals)| {
        let shift = u32::try_from(finest.saturating_sub(*decimals)).unwrap_or(u32::MAX);
        let scaled = 10u64.checked_pow(shift).and_then(|scale| digits.checked_mul(scale));
        let scaled = scaled.unwrap_or(u64::MAX).max(1);
        (all / greatest_common_divisor(all, scaled)).saturating_mul(scaled)
    })
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// How much a schema is, written out.
#[derive(Debug, Clone)]
struct Weight<'a> {
    /// Alternatives for the value itself. Its types are none: what is laid over another
    /// type vanishes.
    alternatives: u64,
    /// Further alternatives for its members, however deep they are.
    inner: u64,
    /// Parts of all alternatives; 0 where nothing is said.
    parts: u64,
    /// Members that something is said about.
    members: BTreeSet<&'a str>,
    /// Alternatives that are references: they are only followed where something else is
    /// laid over them.
    references: Vec<&'a str>,
}

impl<'a> Weight<'a> {
    fn nothing() -> Self {
        Self::of(1, 0)
    }

    fn of(alternatives: u64, parts: u64) -> Self {
        let (members, references) = (BTreeSet::new(), Vec::new());
        Self { alternatives, inner: 0, parts, members, references }
    }

    /// Counts the schema of some members.
    fn add_member(&mut self, name: &'a str, weight: &Weight<'a>) {
        self.members.insert(name);
        self.parts = self.parts.saturating_add(weight.parts).saturating_add(1);
        let inner = weight.inner.saturating_add(weight.alternatives - 1);
        self.inner = self.inner.saturating_add(inner);
    }

    /// Counts another alternative.
    fn add_alternative(&mut self, weight: Weight<'a>) {
        self.alternatives = self.alternatives.saturating_add(weight.alternatives);
        self.inner = self.inner.saturating_add(weight.inner);
        self.parts = self.parts.saturating_add(weight.parts.max(1));
        self.members.extend(weight.members);
        self.references.extend(weight.references);
    }

    /// Whether both say something about the same member.
    fn meets(&self, other: &Self) -> bool {
        self.members.contains(UNNAMED)
            || other.members.contains(UNNAMED)
            || !self.members.is_disjoint(&other.members)
    }
}

struct Scales<'a> {
    root: &'a Value,
    /// What references refer to; nothing while it is weighed.
    known: HashMap<&'a str, Option<Weight<'a>>>,
    /// The same with what that refers to.
    followed: HashMap<&'a str, Option<Weight<'a>>>,
    /// Parts of all that is known.
    total: u64,
}

impl<'a> Scales<'a> {
    /// What a reference refers to; little, if that refers to itself.
    fn definition(&mut self, reference: &'a str) -> Weight<'a> {
        match self.known.get(reference) {
            Some(Some(weight)) => return weight.clone(),
            Some(None) => return Weight::of(1, 1),
            None => {}
        }
        self.known.insert(reference, None);
        let schema = match reference {
            "#" => Some(self.root),
            _ => reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)),
        };
        let weight = match schema {
            Some(schema) => self.weigh(schema),
            // Found in other ways, or nowhere: as much as there is.
            None => {
                let all = nodes(self.root);
                let members = BTreeSet::from([UNNAMED]);
                Weight { inner: all, members, ..Weight::of(all, all) }
            }
        };
        self.total = self.total.saturating_add(weight.parts);
        self.known.insert(reference, Some(weight.clone()));
        weight
    }

    fn weigh(&mut self, schema: &'a Value) -> Weight<'a> {
        let Some(keywords) = schema.as_object() else { return Weight::nothing() };
        let mut all = self.plain(keywords);
        for (keyword, value) in keywords {
            let weight = match (keyword.as_str(), value) {
                ("anyOf" | "oneOf", Value::Array(options)) => self.any_of(options),
                ("allOf", Value::Array(schemas)) => self.all_of(schemas),
                ("enum", Value::Array(values)) => {
                    Weight::of((values.len() as u64).max(1), nodes(value))
                }
                ("const", value) => Weight::of(1, nodes(value)),
                ("$ref", Value::String(reference)) => {
                    self.definition(reference);
                    Weight { references: vec![reference], ..Weight::of(1, 1) }
                }
                _ => continue,
            };
            all = self.both(all, weight);
        }
        all
    }

    /// What the keywords say without alternatives, references and the like.
    fn plain(&mut self, keywords: &'a Map<String, Value>) -> Weight<'a> {
        let is_plain = |name: &str| !APPLICATORS.contains(&name) && !ANNOTATIONS.contains(&name);
        if !keywords.keys().any(|name| is_plain(name)) {
            return Weight::nothing();
        }
        let types = match keywords.get("type") {
            Some(Value::String(_)) => 1,
            Some(Value::Array(types)) => (types.len() as u64).max(1),
            _ => N_TYPES,
        };
        let mut all = Weight::of(1, types);
        for (keyword, value) in keywords {
            match (keyword.as_str(), value) {
                ("properties", Value::Object(members)) => {
                    for (name, schema) in members {
                        let weight = self.weigh(schema);
                        all.add_member(name, &weight);
                    }
                }
                ("patternProperties", Value::Object(members)) => {
                    let pairs = (members.len() as u64).saturating_pow(2);
                    all.parts = all.parts.saturating_add(pairs.saturating_mul(PATTERN_PARTS));
                    self.unnamed(&mut all, members.values());
                }
                ("items" | "prefixItems", Value::Array(schemas)) => {
                    self.unnamed(&mut all, schemas.iter());
                }
                ("items" | "additionalItems" | "additionalProperties", schema) => {
                    self.unnamed(&mut all, [schema].into_iter());
                }
                ("required", Value::Array(names)) => {
                    all.parts = all.parts.saturating_add(names.len() as u64);
                }
                // Which members these leave out is written out for each of them.
                ("minProperties" | "maxProperties", _) => {
                    let members = keywords.get("properties").and_then(Value::as_object);
                    let n = members.map_or(0, Map::len) as u64;
                    all.parts = all.parts.saturating_add(n.saturating_pow(2));
                }
                _ => {}
            }
        }
        all
    }

    fn unnamed(&mut self, all: &mut Weight<'a>, schemas: impl Iterator<Item = &'a Value>) {
        for schema in schemas {
            let weight = self.weigh(schema);
            all.add_member(UNNAMED, &weight);
        }
    }

    fn any_of(&mut self, options: &'a [Value]) -> Weight<'a> {
        let mut all = Weight::of(0, 0);
        for option in options {
            let weight = self.weigh(option);
            all.add_alternative(weight);
        }
        all.alternatives = all.alternatives.max(1);
        all
    }

    fn all_of(&mut self, schemas: &'a [Value]) -> Weight<'a> {
        let mut all = Weight::nothing();
        for schema in schemas {
            let weight = self.weigh(schema);
            all = self.both(all, weight);
        }
        all
    }

    /// One laid over the other: every alternative of the one with every one of the
    /// other, and likewise for members that both have.
    fn both(&mut self, a: Weight<'a>, b: Weight<'a>) -> Weight<'a> {
        if a.parts == 0 {
            return b;
        }
        if b.parts == 0 {
            return a;
        }
        let (mut a, b) = (self.follow(a), self.follow(b));
        let product = |n: u64, m: u64| n.saturating_mul(m);
        let mut parts =
            product(a.alternatives, b.parts).saturating_add(product(b.alternatives, a.parts));
        let mut inner = a.inner.saturating_add(b.inner);
        if a.meets(&b) {
            parts = parts
                .saturating_add(product(a.inner, b.parts))
                .saturating_add(product(b.inner, a.parts));
            inner = inner.saturating_add(product(a.inner, b.inner));
        }
        let alternatives = product(a.alternatives, b.alternatives);
        a.members.extend(b.members);
        Weight { alternatives, inner, parts, members: a.members, references: Vec::new() }
    }

    /// With what its references refer to, in place of them.
    fn follow(&mut self, mut weight: Weight<'a>) -> Weight<'a> {
        for reference in std::mem::take(&mut weight.references) {
            let definition = self.follow_one(reference);
            // It was counted as one alternative.
            weight.alternatives = weight.alternatives.saturating_sub(1);
            weight.add_alternative(definition);
        }
        weight
    }

    fn follow_one(&mut self, reference: &'a str) -> Weight<'a> {
        match self.followed.get(reference) {
            Some(Some(weight)) => return weight.clone(),
            Some(None) => return Weight::of(1, 1),
            None => {}
        }
        self.followed.insert(reference, None);
        let weight = self.definition(reference);
        let weight = self.follow(weight);
        self.followed.insert(reference, Some(weight.clone()));
        weight
    }
}

/// Values in a value. It was looked at before how deep it is.
fn nodes(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(nodes).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(nodes).sum::<u64>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn is_accepted(schema: &Value) -> bool {
        check(schema, &ConstraintLimits::default()).is_ok()
    }

    fn many(n: usize, value: &Value) -> Value {
        Value::Array(vec![value.clone(); n])
    }

    /// So many members of this schema.
    fn members(n: usize, schema: &Value) -> Value {
        (0..n).map(|n| (format!("k{n}"), schema.clone())).collect::<Map<_, _>>().into()
    }

    #[test]
    fn remainders_are_counted() {
        let of = |numbers: &[&str]| remainders(&numbers.iter().map(|n| decimal(n)).collect());
        assert_eq!(of(&[]), 1);
        assert_eq!(of(&["1000"]), 1000);
        assert_eq!(of(&["0.7"]), 7);
        assert_eq!(of(&["0.70", "7e-1"]), 7);
        assert_eq!(of(&["1.5e3"]), 1500);
        assert_eq!(of(&["-3"]), 3);
        // Hundredths, of which the others have 500 and 1500.
        assert_eq!(of(&["0.01", "5", "15"]), 1500);
        assert_eq!(of(&["0.01", "0.25", "0.5", "1", "10", "60"]), 6000);
        assert_eq!(of(&["7", "11", "13"]), 1001);
        for endless in [&["4e9", "0.7"][..], &["4000000000"], &["1e-300", "1"], &["1e300"]] {
            assert!(of(endless) > 1_000_000_000, "{endless:?}");
        }
        let both = json!({"allOf": [{"multipleOf": 4_000_000_000_u64}, {"multipleOf": 0.7}]});
        assert!(!is_accepted(&both));
        assert!(is_accepted(&json!({"properties": {"multipleOf": {"multipleOf": 0.01}}})));
    }

    #[test]
    fn what_people_write_is_accepted() {
        let person = json!({
            "type": "object",
            "properties": members(100, &json!({"type": ["string", "null"], "enum": ["a", "b", null]})),
            "required": ["k0", "k1"],
            "anyOf": [{"required": ["k2"]}, {"required": ["k3"]}, {"properties": {"k4": {"const": 1}}}],
        });
        let tree = json!({
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    },
                },
                "named": {
                    "allOf": [{"$ref": "#/$defs/node"}, {"properties": {"name": {"type": "string"}}}],
                },
            },
            "$ref": "#/$defs/named",
        });
        for schema in [
            json!({}),
            json!({"type": "string", "enum": (0..5000).map(|n| n.to_string()).collect::<Vec<_>>()}),
            json!({"anyOf": many(1000, &json!({"type": "integer"}))}),
            json!({"allOf": [person.clone(), {"properties": {"k0": {"minLength": 1}}}]}),
            json!({"patternProperties": {"^a": {}, "^b": {}, "^c": {}}, "minProperties": 1}),
            json!({"allOf": many(20, &json!({"required": ["a"]}))}),
            json!({"allOf": many(20, &json!({"type": ["null", "string", "number"]}))}),
            person,
            tree,
        ] {
            assert!(is_accepted(&schema), "{schema}");
        }
    }

    #[test]
    fn what_grows_is_refused() {
        let large = members(2000, &json!({}));
        let options = many(5000, &json!({}));
        let definitions: Map<String, Value> = (0..40)
            .map(|n| {
                let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
                (format!("d{n}"), json!({"allOf": [{"anyOf": [next, {"type": "null"}]}, next]}))
            })
            .chain([("d40".to_string(), json!({"type": ["null", "string"]}))])
            .collect();
        let patterns: Map<String, Value> =
            (0..500).map(|n| (format!("^{n}$"), json!({}))).collect();
        for schema in [
            json!({"properties": large, "anyOf": options}),
            json!({"anyOf": options, "properties": large}),
            json!({"allOf": [{"properties": large}, {"enum": many(5000, &json!(1))}]}),
            json!({"$defs": {"large": {"properties": large}, "any": {"anyOf": options}},
                   "allOf": [{"$ref": "#/$defs/any"}, {"$ref": "#/$defs/large"}]}),
            json!({"$defs": {"large": {"$anchor": "a", "properties": large}},
                   "$ref": "#a", "anyOf": options}),
            // Deeper down, where two say something about the same member.
            json!({"allOf": [{"properties": {"x": {"properties": large}}},
                             {"properties": {"x": {"anyOf": options}}}]}),
            json!({"allOf": many(12, &json!({"anyOf": [{"minimum": 1}, {"maximum": 1}, {}]}))}),
            json!({"$defs": definitions, "$ref": "#/$defs/d0"}),
            json!({"patternProperties": patterns}),
            json!({"properties": large, "minProperties": 1, "additionalProperties": false}),
            json!({"items": {"properties": large, "maxProperties": 1}}),
        ] {
            let shown: String = schema.to_string().chars().take(80).collect();
            assert!(!is_accepted(&schema), "{shown}");
        }
    }

    #[test]
    fn references_without_an_end_are_weighed() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b", "type": "string"},
                             "b": {"$ref": "#/$defs/a", "type": "string"}}, "$ref": "#/$defs/a"}),
            json!({"$ref": "#/none"}),
            json!({"$ref": 5, "allOf": {}, "enum": 7, "type": []}),
        ] {
            assert!(is_accepted(&schema), "{schema}");
        }
    }

    fn schema() -> impl Strategy<Value = Value> {
        let keyword = || {
            let mut keywords = APPLICATORS.to_vec();
            keywords.extend(["type", "properties", "patternProperties", "items", "$defs", "a"]);
            prop::sample::select(keywords)
        };
        let leaf = prop_oneof![
            Just(json!({})),
            Just(json!(true)),
            Just(json!("#")),
            Just(json!("#/$defs/a")),
            Just(json!(["string", "null"])),
        ];
        leaf.prop_recursive(5, 60, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::vec((keyword(), inner), 0..5).prop_map(|members| {
                    let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
                    members.collect::<Map<_, _>>().into()
                }),
            ]
        })
    }

    proptest! {
        /// Whatever refers to whatever, it is weighed.
        #[test]
        fn any_schema_has_a_weight(schema in schema()) {
            is_accepted(&schema);
        }
    }
}
