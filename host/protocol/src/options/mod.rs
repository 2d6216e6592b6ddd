//! The options of a prediction as they travel: names and values in the order
//! they were sent, and the rules for finding one.
//!
//! What an option means is `table`, which value is right `kind`, and how request
//! and configuration are laid over each other `resolve`. `patch` is about
//! options that hooks change. Settings of the worker itself, which share names
//! with nothing here, are `llamero-worker`'s.

mod kind;
mod patch;
mod resolve;
mod table;

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use kind::whole;
pub use kind::{
    MAX_GRAMMAR_BYTES, MAX_LOGIT_BIASES, MAX_LORAS, MAX_SALT_BYTES, MAX_SCHEMA_BYTES,
    MAX_STOP_BYTES, MAX_STOPS,
};
pub use patch::{check_hook_options, grammar_set_by_hook};
pub use resolve::{
    InitOptions, OptionDefaults, OptionError, ResolvedOptions, list_options, model_choice, resolve,
};
pub use table::{DefaultValue, OPTIONS, OptionGroup, OptionSpec, known_option};

/// Option names and values, in order, with the names as sent. A name occurs
/// once, though in several spellings, and no value is `null`: both are absent.
///
/// Some clients send their whole configuration as options, secrets included, so
/// `Debug` shows the known names only and no value.
#[derive(Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Options(Map<String, Value>);

impl Options {
    /// True when no option is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many options are set, unknown ones included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The options in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value of an option of the table. The exact spelling wins over other
    /// cases, of which the last one wins; init options (`model`, `ctx_size`) are
    /// found by their exact name only.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.0.get(name);
        if exact.is_some() || known_option(name).is_some_and(|spec| spec.init) {
            return exact;
        }
        self.0
            .iter()
            .rev()
            .find(|(spelling, _)| spelling.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Sets an option by its exact spelling; `null` takes that spelling away.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        let name = name.into();
        if value.is_null() {
            self.0.shift_remove(&name);
        } else {
            self.0.insert(name, value);
        }
    }

    /// The options of the table alone, each once, under the name the table gives
    /// it and with the value that [`get`](Self::get) finds. This is what hooks
    /// may see: anything else in a request is none of their business.
    pub fn known(&self) -> Options {
        let mut known = Map::new();
        for name in self.0.keys() {
            let Some(spec) = known_option(name) else {
                continue;
            };
            if !known.contains_key(spec.name)
                && let Some(value) = self.get(spec.name)
            {
                known.insert(spec.name.to_owned(), value.clone());
            }
        }
        Options(known)
    }

    /// Applies what a hook changes: each value replaces the option in every
    /// spelling, and `null` takes it away so that the default applies.
    pub fn apply_patch<I>(&mut self, patch: I)
    where
        I: IntoIterator<Item = (String, Value)>,
    {
        for (name, value) in patch {
            let ignores_case = known_option(&name).is_none_or(|spec| !spec.init);
            self.0.retain(|spelling, _| {
                *spelling == name || !(ignores_case && spelling.eq_ignore_ascii_case(&name))
            });
            self.insert(name, value);
        }
    }
}

impl FromIterator<(String, Value)> for Options {
    /// Of a repeated name the last occurrence stays, at its own place; then every
    /// `null` is dropped.
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        let mut seen = HashSet::new();
        let last: Vec<bool> =
            entries.iter().rev().map(|(name, _)| seen.insert(name.as_str())).collect();
        let mut keep = last.into_iter().rev();
        entries.retain(|(_, value)| keep.next().unwrap_or(true) && !value.is_null());
        Options(entries.into_iter().collect())
    }
}

impl IntoIterator for Options {
    type Item = (String, Value);
    type IntoIter = serde_json::map::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.keys().filter_map(|name| known_option(name)).map(|spec| spec.name);
        let unknown = self.0.keys().filter(|name| known_option(name).is_none()).count();
        f.write_str("Options ")?;
        f.debug_set().entries(names).entry(&format_args!("{unknown} unknown")).finish()
    }
}
