//! `llamero hook inspect` and `llamero hook check`: a plugin as a file.

use std::path::Path;

use llamero_worker::offline::{self, OfflineError, Overview, PluginInfo};
use llamero_worker::settings::Settings;
use serde_json::json;

use crate::args::hook::{HookCheckArgs, HookInspectArgs};
use crate::exit::{Exit, Failure};
use crate::output;

/// Shows what a file is made of.
pub fn inspect(args: &HookInspectArgs) -> Result<Exit, Failure> {
    let overview = offline::inspect(&args.file).map_err(|error| failure(&error))?;
    let text = if args.json { overview_json(&overview) } else { overview_text(&overview) };
    output::line(&text).map_err(anyhow::Error::from)?;
    match &overview.refused {
        None => Ok(Exit::Ok),
        Some(cause) => Err(Failure::new(Exit::Failure, format!("no worker takes it: {cause}"))),
    }
}

/// Tries a file as a worker would.
pub fn check(args: &HookCheckArgs, settings: &Settings) -> Result<Exit, Failure> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => stem(&args.file),
    };
    let info = offline::check(&args.file, &id, &settings.hooks).map_err(|error| failure(&error))?;
    let text = if args.json { info_json(&info) } else { info_text(&info) };
    output::line(&text).map_err(anyhow::Error::from)?;
    Ok(Exit::Ok)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn failure(error: &OfflineError) -> Failure {
    let failure = Failure::new(Exit::Failure, error.to_string());
    match error {
        OfflineError::Host(_) => failure.with_hint(
            "`llamero settings` lists the limits and folders of hooks (hook_*, hooks_*)",
        ),
        _ => failure,
    }
}

fn list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join("\n          ") }
}

fn phases<'a>(phases: impl IntoIterator<Item = &'a offline::Phase>) -> String {
    let names: Vec<_> = phases.into_iter().map(|phase| phase.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn overview_text(overview: &Overview) -> String {
    let kind = if overview.is_module {
        format!("core module; {} bytes as a component", overview.component_bytes)
    } else {
        "component".to_owned()
    };
    format!(
        "digest    {}\nsize      {} bytes ({kind})\nphases    {}\nimports   {}\nexports   {}",
        overview.digest,
        overview.size_bytes,
        phases(&overview.phases),
        list(&overview.imports),
        list(&overview.exports),
    )
}

fn overview_json(overview: &Overview) -> String {
    json!({
        "digest": overview.digest,
        "size_bytes": overview.size_bytes,
        "component_bytes": overview.component_bytes,
        "is_module": overview.is_module,
        "phases": overview.phases.iter().map(|phase| phase.as_str()).collect::<Vec<_>>(),
        "imports": overview.imports,
        "exports": overview.exports,
        "refused": overview.refused.as_ref().map(ToString::to_string),
    })
    .to_string()
}

fn info_text(info: &PluginInfo) -> String {
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let compiled = if info.cached { "taken from the cache" } else { "compiled" };
    format!(
        "a worker would take {}\nname      {}\nversion   {}\ndigest    {}\nphases    {}\n\
         size      {} bytes\nmemory    {} bytes in a fresh instance\ncompile   {:.0} ms, {compiled}",
        info.id,
        or_none(&info.name),
        or_none(&info.version),
        info.digest,
        phases(&info.phases),
        info.size_bytes,
        info.memory_bytes,
        info.compile.as_secs_f64() * 1e3,
    )
}

fn info_json(info: &PluginInfo) -> String {
    json!({
        "plugin": info.id,
        "name": info.name,
        "version": info.version,
        "description": info.description,
        "digest": info.digest,
        "phases": info.phases.iter().map(|phase| phase.as_str()).collect::<Vec<_>>(),
        "size_bytes": info.size_bytes,
        "memory_bytes": info.memory_bytes,
        "compile_ms": info.compile.as_millis() as u64,
        "cached": info.cached,
    })
    .to_string()
}
