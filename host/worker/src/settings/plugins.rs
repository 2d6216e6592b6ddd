//! The tables `[plugins.ID]`: a hook's own configuration, limits and secrets.
//!
//! The same table of limit names gives the global settings `hook_*` and the
//! keys of `[plugins.ID.limits]`. Whether a plugin of that id exists, and
//! whether it accepts its configuration, is found out by `llamero-hooks`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use llamero_hooks::{LimitOverrides, PluginSettings};
use serde_json::Value;

use super::list::SETTINGS;
use super::source::{Origin, Problem, Source};
use super::spec::{Kind, PLUGINS_KEY, closest};
use super::value;

/// What every global limit setting begins with; the rest is its name in a
/// plugin's table.
const LIMIT_PREFIX: &str = "hook_";

/// The limits that may also be set for one plugin.
const LIMITS: &[&str] = &[
    "wall_ms",
    "cpu_ms",
    "memory_mib",
    "output_bytes",
    "host_call_bytes",
    "handles",
    "reason_bytes",
    "tokenizer_bytes",
    "log_bytes_per_s",
    "notes",
];

const KEYS: &[&str] = &["config", "limits", "secrets"];

/// Puts one limit where it belongs. `name` is one of [`LIMITS`].
pub fn set_limit(limits: &mut LimitOverrides, name: &str, number: u64) {
    let millis = Some(Duration::from_millis(number));
    let count = Some(usize::try_from(number).unwrap_or(usize::MAX));
    match name {
        "wall_ms" => limits.wall = millis,
        "cpu_ms" => limits.cpu = millis,
        "memory_mib" => limits.memory_bytes = count.map(|mib| mib.saturating_mul(1 << 20)),
        "output_bytes" => limits.output_bytes = count,
        "host_call_bytes" => limits.host_call_bytes = count,
        "handles" => limits.handles = count,
        "reason_bytes" => limits.reason_bytes = count,
        "tokenizer_bytes" => limits.tokenizer_bytes = count,
        "log_bytes_per_s" => limits.log_bytes_per_s = count,
        "notes" => limits.notes = count,
        _ => {}
    }
}

/// The global limits: what the settings `hook_*` say.
pub fn global_limits(number: impl Fn(&str) -> u64) -> LimitOverrides {
    let mut limits = LimitOverrides::default();
    for name in LIMITS {
        set_limit(&mut limits, name, number(&format!("{LIMIT_PREFIX}{name}")));
    }
    limits
}

/// Reads all plugin tables of the file.
pub fn read(
    tables: &toml::Table,
    origin: &Origin,
    source: &dyn Source,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, PluginSettings> {
    let mut plugins = BTreeMap::new();
    for (id, table) in tables {
        let mut reader = Reader { path: format!("{PLUGINS_KEY}.{id}"), origin, source, problems };
        let settings = match table {
            toml::Value::Table(table) => reader.plugin(table),
            _ => {
                reader.problem("", "must be a table".into());
                PluginSettings::default()
            }
        };
        plugins.insert(id.clone(), settings);
    }
    plugins
}

struct Reader<'a> {
    path: String,
    origin: &'a Origin,
    source: &'a dyn Source,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, reason: String) {
        let dot = if key.is_empty() { "" } else { "." };
        self.problems.push(Problem {
            key: format!("{}{dot}{key}", self.path),
            origin: self.origin.clone(),
            reason,
        });
    }

    fn plugin(&mut self, table: &toml::Table) -> PluginSettings {
        let mut settings = PluginSettings::default();
        for (key, value) in table {
            match (key.as_str(), value) {
                ("config", value) => match value::json_of_toml(value) {
                    Ok(config @ (Value::Object(_) | Value::Null)) => settings.config = config,
                    Ok(_) => self.problem("config", "must be a table".into()),
                    Err(reason) => self.problem("config", reason),
                },
                ("limits", toml::Value::Table(limits)) => {
                    settings.limits = self.limits(limits);
                }
                ("secrets", toml::Value::Table(secrets)) => {
                    settings.secrets = self.secrets(secrets);
                }
                ("limits" | "secrets", _) => self.problem(key, "must be a table".into()),
                _ => self.unknown(key, key, KEYS),
            }
        }
        settings
    }

    fn limits(&mut self, table: &toml::Table) -> LimitOverrides {
        let mut limits = LimitOverrides::default();
        for (name, value) in table {
            let key = format!("limits.{name}");
            if !LIMITS.contains(&name.as_str()) {
                self.unknown(&key, name, LIMITS);
                continue;
            }
            let kind = SETTINGS
                .iter()
                .find(|spec| spec.name.strip_prefix(LIMIT_PREFIX) == Some(name))
                .map_or(Kind::Text, |spec| spec.kind);
            match value::from_toml(kind, value) {
                Ok(number) => set_limit(&mut limits, name, number.as_u64().unwrap_or_default()),
                Err(reason) => self.problem(&key, reason),
            }
        }
        limits
    }

    /// Secrets are never written into the file itself, only where to find them.
    fn secrets(&mut self, table: &toml::Table) -> BTreeMap<String, String> {
        let mut secrets = BTreeMap::new();
        for (name, value) in table {
            let key = format!("secrets.{name}");
            match value.as_str().map(|place| self.secret(place)) {
                Some(Ok(secret)) => {
                    secrets.insert(name.clone(), secret);
                }
                Some(Err(reason)) => self.problem(&key, reason),
                None => self.problem(&key, SECRET_PLACES.into()),
            }
        }
        secrets
    }

    fn secret(&self, place: &str) -> Result<String, String> {
        if let Some(variable) = place.strip_prefix("env:") {
            let value = self
                .source
                .variable(variable)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("the variable {variable} is not set"))?;
            return value
                .into_string()
                .map_err(|_| format!("the variable {variable} is not valid UTF-8"));
        }
        let path = place.strip_prefix("file:").ok_or(SECRET_PLACES)?;
        let text = self
            .source
            .read(Path::new(path))
            .map_err(|error| format!("{path} cannot be read: {error}"))?;
        // Editors end files with a newline that belongs to no secret.
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn unknown(&mut self, key: &str, name: &str, known: &[&str]) {
        let hint = closest(name, known.iter().copied())
            .map_or_else(String::new, |name| format!(", did you mean {name}?"));
        let reason = format!("is not known here{hint} (known: {})", known.join(", "));
        self.problem(key, reason);
    }
}

const SECRET_PLACES: &str = "must say where the secret is: \"env:VARIABLE\" or \"file:PATH\"";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;
    use crate::settings::source::MapSource;

    fn check(file: &str, source: &MapSource) -> (BTreeMap<String, PluginSettings>, Vec<Problem>) {
        let table: toml::Table = toml::from_str(file).unwrap();
        let tables = table["plugins"].as_table().unwrap();
        let mut problems = Vec::new();
        let plugins = read(tables, &Origin::Default, source, &mut problems);
        (plugins, problems)
    }

    #[test]
    fn every_limit_has_a_global_setting_and_a_field() {
        for name in LIMITS {
            assert!(SETTINGS.iter().any(|spec| spec.name == format!("hook_{name}")), "{name}");
            let mut limits = LimitOverrides::default();
            set_limit(&mut limits, name, 7);
            assert_ne!(limits, LimitOverrides::default(), "{name}");
        }
        // The defaults of the table are those of the hooks crate.
        let defaults = global_limits(|name| {
            let spec = SETTINGS.iter().find(|spec| spec.name == name).unwrap();
            spec.default.to_value().as_u64().unwrap()
        });
        let limits = llamero_hooks::Limits::default();
        assert_eq!(defaults.over(&limits), limits);
    }

    #[test]
    fn a_full_table_is_read() {
        let mut source = MapSource::default();
        source.variables.insert("TOKEN".into(), "t0".into());
        source.files.insert("/run/key".into(), "k0\n".into());
        let (plugins, problems) = check(
            "[plugins.redact]\nconfig = { words = [\"a\"] }\nlimits = { cpu_ms = 20, memory_mib = 32 }\n\
             secrets = { token = \"env:TOKEN\", key = \"file:/run/key\" }\n[plugins.other]\n",
            &source,
        );
        assert_eq!(problems, []);
        let redact = &plugins["redact"];
        assert_eq!(redact.config, serde_json::json!({"words": ["a"]}));
        assert_eq!(redact.limits.cpu, Some(Duration::from_millis(20)));
        assert_eq!(redact.limits.memory_bytes, Some(32 << 20));
        assert_eq!(redact.limits.wall, None);
        assert_eq!(redact.secrets["token"], "t0");
        assert_eq!(redact.secrets["key"], "k0");
        assert!(plugins.contains_key("other"));
    }

    #[test]
    fn everything_wrong_is_reported() {
        let (_, problems) = check(
            "[plugins]\na = 1\n[plugins.b]\nconfi = {}\nconfig = 3\nlimits = { wal_ms = 1, cpu_ms = \"x\" }\n\
             secrets = { t = \"plain\", u = \"env:NONE\", v = \"file:/none\" }\n",
            &MapSource::default(),
        );
        let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
        for key in [
            "plugins.a",
            "plugins.b.confi",
            "plugins.b.config",
            "plugins.b.limits.wal_ms",
            "plugins.b.limits.cpu_ms",
            "plugins.b.secrets.t",
            "plugins.b.secrets.u",
            "plugins.b.secrets.v",
        ] {
            assert!(keys.contains(&key), "{key} is missing in {keys:?}");
        }
        assert_eq!(keys.len(), 8);
        let text = format!("{problems:?}");
        assert!(text.contains("did you mean config?") && text.contains("did you mean wall_ms?"));
    }
}
