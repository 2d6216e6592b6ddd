//! Lays the sources over each other: defaults < file < environment < flags.
//!
//! The result is one checked JSON value with its origin for each setting, and
//! the list of everything that was wrong on the way. Typed values and rules
//! that concern several settings follow in [`super`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::source::{Flags, Origin, Problem, Source};
use super::spec::{Kind, PLUGINS_KEY, Spec, closest};
use super::value;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "llamero.toml";

/// The variable that names the configuration file; a flag goes before it.
pub const FILE_VARIABLE: &str = "LLAMERO_CONFIG";

/// One setting after all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Layered {
    /// The setting's row in the table.
    pub spec: Spec,
    /// Its value; the default if it was not set or what was set is wrong.
    pub value: Value,
    /// Where the value comes from.
    pub origin: Origin,
}

/// All settings after all layers, and the part of the file that is no setting.
pub struct Layers {
    /// By name.
    pub settings: BTreeMap<&'static str, Layered>,
    /// The tables `[plugins.ID]` of the file.
    pub plugins: toml::Table,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What was wrong so far.
    pub problems: Vec<Problem>,
}

/// Reads all layers.
pub fn read(specs: &[Spec], source: &dyn Source, flags: &Flags) -> Layers {
    let mut problems = Vec::new();
    let (file, mut table) = read_file(source, flags, &mut problems);
    let origin_file = file.clone().map_or(Origin::Default, Origin::File);

    let plugins = match table.remove(PLUGINS_KEY) {
        None => toml::Table::new(),
        Some(toml::Value::Table(plugins)) => plugins,
        Some(_) => {
            problems.push(Problem {
                key: PLUGINS_KEY.into(),
                origin: origin_file.clone(),
                reason: "must consist of tables such as [plugins.redact]".into(),
            });
            toml::Table::new()
        }
    };
    report_unknown(specs, &table, &origin_file, flags, &mut problems);

    let settings = specs
        .iter()
        .map(|spec| {
            let found = find(spec, source, flags, &table, &origin_file);
            let layered = match found {
                None => default_of(spec),
                Some((origin, Ok(value))) => Layered { spec: *spec, value, origin },
                Some((origin, Err(reason))) => {
                    problems.push(Problem { key: spec.name.into(), origin, reason });
                    default_of(spec)
                }
            };
            (spec.name, layered)
        })
        .collect();
    Layers { settings, plugins, file, problems }
}

/// A setting that nobody set.
pub fn default_of(spec: &Spec) -> Layered {
    Layered { spec: *spec, value: spec.default.to_value(), origin: Origin::Default }
}

/// The value of the strongest layer that has one.
fn find(
    spec: &Spec,
    source: &dyn Source,
    flags: &Flags,
    table: &toml::Table,
    origin_file: &Origin,
) -> Option<(Origin, Result<Value, String>)> {
    if let Some((text, flag)) = flags.get(spec.name) {
        return Some((Origin::Flag(flag.into()), value::from_text(spec.kind, text)));
    }
    for name in spec.variables() {
        // An empty variable is one that is not set.
        let Some(text) = source.variable(&name).filter(|text| !text.is_empty()) else {
            continue;
        };
        let result = match text.to_str() {
            Some(text) => value::from_text(spec.kind, text),
            None => Err("is not valid UTF-8".into()),
        };
        return Some((Origin::Variable(name), result));
    }
    let value = table.get(spec.name)?;
    Some((origin_file.clone(), value::from_toml(spec.kind, value)))
}

/// Finds, reads and parses the configuration file.
fn read_file(
    source: &dyn Source,
    flags: &Flags,
    problems: &mut Vec<Problem>,
) -> (Option<PathBuf>, toml::Table) {
    let named = flags.config.clone().or_else(|| {
        source.variable(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let text = match source.read(&path) {
        Ok(text) => text,
        Err(error) if !is_named && error.kind() == std::io::ErrorKind::NotFound => {
            return (None, toml::Table::new());
        }
        Err(error) => {
            problems.push(file_problem(&path, format!("cannot be read: {error}")));
            return (Some(path), toml::Table::new());
        }
    };
    match parse_toml(&text) {
        Ok(table) => (Some(path), table),
        Err(reason) => {
            problems.push(file_problem(&path, reason));
            (Some(path), toml::Table::new())
        }
    }
}

/// Parses a file. The reason why it cannot be parsed quotes nothing of it.
pub fn parse_toml(text: &str) -> Result<toml::Table, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        // The parser's message quotes the line, which may hold a secret.
        let line =
            error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |line| format!(" in line {line}"));
        format!("is not valid TOML{place}: {}", error.message())
    })
}

fn file_problem(path: &Path, reason: String) -> Problem {
    Problem { key: "configuration file".into(), origin: Origin::File(path.to_owned()), reason }
}

/// Keys of the file and flags that name no setting.
fn report_unknown(
    specs: &[Spec],
    table: &toml::Table,
    origin_file: &Origin,
    flags: &Flags,
    problems: &mut Vec<Problem>,
) {
    let is_known = |name: &str| specs.iter().any(|spec| spec.name == name);
    let mut report = |name: &str, origin: Origin| {
        let names = specs.iter().map(|spec| spec.name).chain([PLUGINS_KEY]);
        let hint = closest(name, names)
            .map_or_else(String::new, |known| format!(", did you mean {known}?"));
        problems.push(Problem {
            key: name.into(),
            origin,
            reason: format!("is not a setting{hint}"),
        });
    };
    for name in table.keys().filter(|name| !is_known(name)) {
        report(name, origin_file.clone());
    }
    for name in flags.names().filter(|name| !is_known(name)) {
        let flag = flags.get(name).map_or(name, |(_, flag)| flag);
        report(name, Origin::Flag(flag.into()));
    }
}

/// Whether a value of this kind may be printed.
pub fn is_secret(kind: Kind) -> bool {
    kind == Kind::Secret
}
