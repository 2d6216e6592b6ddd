//! The files `ID.toml` beside `ID.wasm`: found, read, and laid under the tables of
//! the configuration file.
//!
//! They are read again whenever hooks are loaded, so a hook can be shipped, tuned
//! and switched off by changing its folder. What is wrong in one of them is the
//! trouble of its hook alone.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use llamero_hooks::PluginSettings;

use super::super::layers::parse_toml;
use super::super::source::{Origin, Problem, Problems, ProcessSource, Source};
use super::{Layer, PluginTables, read};

/// Bytes of a file beside a hook.
const FILE_BYTES: u64 = 1 << 20;

/// The settings of the hooks in `dir`: what `from_file` says about each, over what
/// the file beside it says. A file beside no hook counts only if it says that its
/// hook is required. What is wrong makes the settings of that hook `unusable`.
///
/// It blocks, for reading files. A folder that cannot be read has no such files;
/// loading its hooks will say so.
pub fn settings_for(dir: &Path, from_file: &PluginTables) -> BTreeMap<String, PluginSettings> {
    settings_from(dir, from_file, &ProcessSource)
}

fn settings_from(
    dir: &Path,
    from_file: &PluginTables,
    source: &dyn Source,
) -> BTreeMap<String, PluginSettings> {
    let mut beside = find(dir);
    // What the configuration file speaks of is checked whether it exists or not.
    beside.retain(|id, found| {
        let has_hook = dir.join(format!("{id}.wasm")).exists() || from_file.layers.contains_key(id);
        let is_required = found.as_ref().is_ok_and(|layer| {
            layer.table.get("required").and_then(toml::Value::as_bool) == Some(true)
        });
        if !has_hook && !is_required {
            tracing::warn!(
                file = %dir.join(format!("{id}.toml")).display(),
                "settings beside no hook: there is no {id}.wasm in the folder"
            );
        }
        has_hook || is_required
    });
    let mut all = BTreeMap::new();
    for id in from_file.layers.keys().chain(beside.keys()) {
        if all.contains_key(id) {
            continue;
        }
        let mut problems = Vec::new();
        let mut layers: Vec<&Layer> = from_file.layers.get(id).into_iter().collect();
        match beside.get(id) {
            None => {}
            Some(Ok(layer)) => layers.push(layer),
            Some(Err(problem)) => problems.push(problem.clone()),
        }
        let mut settings = read(&layers, source, &mut problems);
        if !problems.is_empty() {
            settings.unusable = Some(Problems(problems).to_string().replace('\n', "; "));
        }
        all.insert(id.clone(), settings);
    }
    all
}

/// The files of the folder, by the ids of their hooks.
fn find(dir: &Path) -> BTreeMap<String, Result<Layer, Problem>> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let id = path.file_stem().and_then(OsStr::to_str);
        let (Some(id), Some("toml")) = (id, path.extension().and_then(OsStr::to_str)) else {
            continue;
        };
        if id.starts_with('.') || path.is_dir() {
            continue;
        }
        let origin = Origin::File(path.clone());
        let layer = match parse(&path) {
            Ok(table) => {
                let dir = dir.to_owned();
                Ok(Layer { prefix: String::new(), origin, dir, table })
            }
            Err(reason) => Err(Problem { key: format!("settings of {id}"), origin, reason }),
        };
        found.insert(id.to_owned(), layer);
    }
    found
}

fn parse(path: &Path) -> Result<toml::Table, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES {
        return Err(format!("has {bytes} bytes, the limit is {FILE_BYTES}"));
    }
    parse_toml(&fs::read_to_string(path).map_err(unreadable)?)
}
