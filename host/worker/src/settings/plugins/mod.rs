//! What the operator says about each hook: the tables `[plugins.ID]` of the
//! configuration file, and the files `ID.toml` beside `ID.wasm`.
//!
//! Both have the same keys. They are kept as they are written until both are
//! known, because the configuration file wins key by key (`config`, `limits` and
//! `secrets`: member by member), and only then typed: `policy`, `limits` and
//! `secrets` read their keys, `beside` finds the files in the hooks folder. Whether
//! a hook of that id exists, and whether it accepts its configuration, is found
//! out by `llamero-hooks`.

mod beside;
mod limits;
mod policy;
mod secrets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llamero_hooks::PluginSettings;
use serde_json::{Map, Value};

pub use beside::settings_for;
pub use limits::global_limits;

use super::source::{Origin, Problem, Source};
use super::spec::{PLUGINS_KEY, closest};
use super::value;

/// Every key of a hook's table.
const KEYS: &[&str] = &[
    "mode", "order", "required", "phases", "match", "fail", "stream", "grant", "sha256", "golden",
    "config", "limits", "secrets",
];

/// The keys of which each member counts by itself.
const BY_MEMBER: &[&str] = &["config", "limits", "secrets"];

/// The tables `[plugins.ID]` of the configuration file, not yet typed: at each
/// loading of hooks, [`settings_for`] lays the files beside them underneath.
#[derive(Debug, Clone, Default)]
pub struct PluginTables {
    layers: BTreeMap<String, Layer>,
}

impl PluginTables {
    /// Takes the tables out of the configuration file `origin`.
    pub(super) fn new(tables: toml::Table, origin: &Origin, problems: &mut Vec<Problem>) -> Self {
        let dir = match origin {
            Origin::File(path) => path.parent().unwrap_or(Path::new("")).to_owned(),
            _ => PathBuf::new(),
        };
        let mut layers = BTreeMap::new();
        for (id, table) in tables {
            let prefix = format!("{PLUGINS_KEY}.{id}");
            let toml::Value::Table(table) = table else {
                let reason = "must be a table".to_owned();
                problems.push(Problem { key: prefix, origin: origin.clone(), reason });
                continue;
            };
            let (origin, dir) = (origin.clone(), dir.clone());
            layers.insert(id, Layer { prefix, origin, dir, table });
        }
        Self { layers }
    }

    /// What these tables alone say; every problem goes to `problems`.
    pub(super) fn settings(
        &self,
        source: &dyn Source,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<String, PluginSettings> {
        let read = |(id, layer): (&String, &Layer)| (id.clone(), read(&[layer], source, problems));
        self.layers.iter().map(read).collect()
    }
}

/// One file's table about one hook.
#[derive(Debug, Clone)]
struct Layer {
    /// What stands before a key of it in problems; empty where the file has no
    /// other tables.
    prefix: String,
    origin: Origin,
    /// The file's folder.
    dir: PathBuf,
    table: toml::Table,
}

/// A value with the layer that it comes from.
#[derive(Clone, Copy)]
struct Entry<'a> {
    value: &'a toml::Value,
    layer: &'a Layer,
}

/// Types the settings of one hook. The first layer wins.
fn read(layers: &[&Layer], source: &dyn Source, problems: &mut Vec<Problem>) -> PluginSettings {
    let mut reader = Reader { source, problems };
    let mut whole: BTreeMap<&str, Entry<'_>> = BTreeMap::new();
    let mut members: BTreeMap<&str, BTreeMap<&str, Entry<'_>>> = BTreeMap::new();
    for layer in layers {
        for (key, value) in &layer.table {
            let entry = Entry { value, layer };
            let Some(key) = KEYS.iter().find(|known| *known == key) else {
                reader.unknown(entry, key, key, KEYS);
                continue;
            };
            if !BY_MEMBER.contains(key) {
                whole.entry(key).or_insert(entry);
                continue;
            }
            let Some(table) = value.as_table() else {
                reader.problem(entry, key, "must be a table".into());
                continue;
            };
            let of_key = members.entry(key).or_default();
            for (name, value) in table {
                of_key.entry(name).or_insert(Entry { value, layer });
            }
        }
    }
    let mut of = |key: &str| members.remove(key).unwrap_or_default();
    let (config, limits, secrets) = (of("config"), of("limits"), of("secrets"));
    PluginSettings {
        config: reader.config(&config),
        limits: reader.limits(&limits),
        secrets: reader.secrets(&secrets),
        policy: reader.policy(&whole),
        unusable: None,
    }
}

/// Types entries, and notes what is wrong with them.
struct Reader<'a> {
    source: &'a dyn Source,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, entry: Entry<'_>, key: &str, reason: String) {
        let Layer { prefix, origin, .. } = entry.layer;
        let dot = if prefix.is_empty() { "" } else { "." };
        let key = format!("{prefix}{dot}{key}");
        self.problems.push(Problem { key, origin: origin.clone(), reason });
    }

    fn unknown(&mut self, entry: Entry<'_>, key: &str, name: &str, known: &[&str]) {
        let reason = format!("is not known here{}", suggestion(name, known));
        self.problem(entry, key, reason);
    }

    fn config(&mut self, members: &BTreeMap<&str, Entry<'_>>) -> Value {
        let mut config = Map::new();
        for (name, entry) in members {
            match value::json_of_toml(entry.value) {
                Ok(value) => {
                    config.insert((*name).to_owned(), value);
                }
                Err(reason) => self.problem(*entry, &format!("config.{name}"), reason),
            }
        }
        if config.is_empty() { Value::Null } else { Value::Object(config) }
    }
}

/// What might have been meant, and what there is.
fn suggestion(name: &str, known: &[&str]) -> String {
    let hint = closest(name, known.iter().copied())
        .map_or_else(String::new, |name| format!(", did you mean {name}?"));
    format!("{hint} (known: {})", known.join(", "))
}

#[cfg(test)]
mod tests;
