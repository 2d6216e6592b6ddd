//! What a setting is: name, kind, default, help text, flag and further
//! environment names. The settings themselves stand in [`super::list`].
//!
//! Reading, help texts, the listing of `llamero settings` and the suggestions
//! for misspelt keys are all driven by that one table. The options of a request
//! that a configuration may give defaults for are not repeated there: they are
//! taken from `llamero-protocol`'s own table. What a value means is said by the
//! typed [`super::Settings`], not here.

use llamero_protocol::{DefaultValue, OPTIONS};
use serde_json::Value;

use super::list::SETTINGS;

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text that is never printed.
    Secret,
    /// A path; relative ones are relative to the working directory.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number in this range, both ends included.
    Int {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A length of time: a number of seconds, or a text such as `500ms`, `25s`
    /// or `2m`.
    Duration,
    /// A list of texts.
    Texts,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A default for an option of requests; checked by the protocol's table,
    /// whose name of the type this is. Strings are taken as they are, all other
    /// types are read as JSON.
    RequestOption(&'static str),
}

impl Kind {
    /// What a value must look like, for error messages.
    pub fn expectation(&self) -> String {
        match self {
            Self::Text | Self::Secret => "a text".into(),
            Self::Path => "a path".into(),
            Self::Bool => "true or false".into(),
            Self::Int { min, max } if *max >= u64::from(u32::MAX) => {
                format!("a whole number, {min} or more")
            }
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Duration => "a number of seconds, or a text such as \"500ms\" or \"25s\"".into(),
            Self::Texts => "a list of texts, such as [\"a\", \"b\"]".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::RequestOption(type_name) => format!("JSON of the type {type_name}"),
        }
    }
}

/// A default, in a form that a table can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SpecDefault {
    /// JSON text.
    Json(&'static str),
    /// The default of an option of requests.
    Option(DefaultValue),
}

impl SpecDefault {
    /// The default as a value.
    pub fn to_value(self) -> Value {
        match self {
            // A test reads every text of the table, so none is lost here.
            Self::Json(text) => serde_json::from_str(text).unwrap_or(Value::Null),
            Self::Option(value) => value.to_value(),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// The key in the configuration file; `llm_` in front makes the variable.
    pub name: &'static str,
    /// The values it takes.
    pub kind: Kind,
    /// The default.
    pub default: SpecDefault,
    /// Help text: one sentence.
    pub help: &'static str,
    /// The flag that sets it, without dashes, where it is not the name.
    pub flag: Option<&'static str>,
    /// Environment names that are looked at after the two regular ones.
    pub aliases: &'static [&'static str],
}

impl Spec {
    /// The flag's name without the leading dashes, such as `ctx-size`.
    pub fn flag(&self) -> String {
        self.flag.map_or_else(|| self.name.replace('_', "-"), str::to_owned)
    }

    /// The environment names in the order in which they are looked at.
    pub fn variables(&self) -> Vec<String> {
        let mut names = vec![
            format!("LLAMERO_{}", self.name.to_ascii_uppercase()),
            format!("llm_{}", self.name),
        ];
        names.extend(self.aliases.iter().map(|name| (*name).to_owned()));
        names
    }
}

/// Every setting: the worker's own, and behind them the options of requests that
///  a configuration may give defaults for.
pub fn all() -> Vec<Spec> {
    let options = OPTIONS.iter().map(|option| Spec {
        name: option.name,
        kind: Kind::RequestOption(option.type_name()),
        default: SpecDefault::Option(option.default),
        help: option.use_text,
        flag: None,
        aliases: &[],
    });
    SETTINGS.iter().copied().chain(options).collect()
}

/// The table entry of the configuration file that holds hook configurations.
pub const PLUGINS_KEY: &str = "plugins";

/// The known name that is closest to `name`, if one is close enough to be a
/// likely misspelling: at most a third of its letters differ.
pub fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Number of letters to insert, delete or change to get from one to the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        let names = || SETTINGS.iter().map(|spec| spec.name);
        assert_eq!(closest("slotss", names()), Some("slots"));
        assert_eq!(closest("nats_urll", names()), Some("nats_url"));
        assert_eq!(closest("response_extra", names()), Some("response_extras"));
        assert_eq!(closest("completely_else", names()), None);
    }

    #[test]
    fn edit_distance_counts_each_kind_of_change() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("ab", "abc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), expected, "{a} -> {b}");
        }
    }

    #[test]
    fn every_default_is_a_right_value() {
        for spec in SETTINGS {
            let SpecDefault::Json(text) = spec.default else {
                panic!("{} takes its default from elsewhere", spec.name);
            };
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(
                super::super::value::check(spec.kind, value.clone()),
                Ok(value),
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn no_name_or_flag_occurs_twice() {
        let mut names: Vec<_> = all().iter().map(|spec| spec.name.to_owned()).collect();
        let mut flags: Vec<_> = all().iter().map(Spec::flag).collect();
        for list in [&mut names, &mut flags] {
            let before = list.len();
            list.sort();
            list.dedup();
            assert_eq!(list.len(), before);
        }
    }
}
