//! The demo's temporary folder: its hooks and the worker's configuration.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::args::DemoArgs;
use crate::exit::{Exit, Failure};

/// The file name of the plugin that crashes on request.
const TRAP: &str = "trap";

/// What the demo configures each example plugin with. A plugin that is not in
/// the folder is left out, configuration and all.
fn plugin_configs() -> Vec<(&'static str, Value)> {
    vec![
        ("prompt-template", json!({ "template": "{{input}}\nAnswer in one short sentence." })),
        ("prompt-window", json!({ "max_context_tokens": 40 })),
        ("redact", json!({})),
        (
            "system-prompt",
            json!({ "text": "You are a helpful assistant of the Llamero help desk." }),
        ),
        ("topic-guard", json!({ "topics": { "weather": ["weather", "forecast"] } })),
    ]
}

/// The folder with everything that the demo's processes read and write.
#[derive(Debug)]
pub struct Stage {
    folder: TempDir,
    /// The plugins on stage, by id, in the order in which they run.
    pub plugins: Vec<String>,
}

impl Stage {
    /// Collects the plugins into one folder of hooks.
    ///
    /// # Errors
    /// A folder is missing or empty, or the disk is full.
    pub fn set(args: &DemoArgs) -> Result<Self, Failure> {
        let folder =
            tempfile::Builder::new().prefix("llamero-demo-").tempdir().map_err(|error| {
                Failure::new(Exit::Failure, format!("no temporary folder can be made: {error}"))
            })?;
        let hooks = folder.path().join("hooks");
        std::fs::create_dir(&hooks).map_err(anyhow::Error::from)?;
        let mut plugins = Vec::new();
        for (id, _) in plugin_configs() {
            if take(&args.hooks, id, &hooks)? {
                plugins.push(id.to_owned());
            }
        }
        if plugins.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                format!("{} holds none of the example plugins", args.hooks.display()),
            )
            .with_hint("build them with `make plugins`, then name their folder with --hooks"));
        }
        if let Some(sick) = &args.sick_hooks {
            if !take(sick, TRAP, &hooks)? {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("{} holds no {TRAP}.wasm", sick.display()),
                )
                .with_hint("build it with `make plugins`, or leave out --sick-hooks"));
            }
            plugins.push(TRAP.to_owned());
        }
        // The order in which the worker runs them.
        plugins.sort();
        Ok(Self { folder, plugins })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether this plugin is on stage.
    pub fn has(&self, id: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin == id)
    }

    /// Whether the plugin that crashes is on stage.
    pub fn has_trap(&self) -> bool {
        self.has(TRAP)
    }

    /// Writes the worker's configuration file.
    ///
    /// # Errors
    /// The disk is full.
    pub fn configure(&self, args: &DemoArgs, nats_url: &str) -> Result<PathBuf, Failure> {
        let mut config = json!({
            "nats_url": nats_url,
            "dir": args.models,
            "preload": true,
            "ctx_size": 2048,
            "threads": compute_threads(),
            "hooks_dir": self.folder().join("hooks"),
            "log_format": "json",
            "log_hook_text": true,
        });
        if let Some(model) = &args.model {
            config["model"] = json!(model);
        }
        for (id, plugin) in plugin_configs() {
            if self.has(id) {
                config["plugins"][id]["config"] = plugin;
            }
        }
        let text = toml::to_string(&config).map_err(anyhow::Error::from)?;
        let file = self.folder().join("llamero.toml");
        std::fs::write(&file, text).map_err(anyhow::Error::from)?;
        Ok(file)
    }
}

/// All cores but one: compute threads wait for each other actively, and a demo
/// on a busy machine must not crawl because one of them is not scheduled.
fn compute_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// Copies a plugin on stage; false if the folder has none of this id.
fn take(from: &Path, id: &str, hooks: &Path) -> Result<bool, Failure> {
    let name = format!("{id}.wasm");
    let source = from.join(&name);
    if !source.is_file() {
        return Ok(false);
    }
    std::fs::copy(&source, hooks.join(&name)).map_err(|error| {
        Failure::new(Exit::Failure, format!("{} cannot be copied: {error}", source.display()))
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn args(folder: &Path) -> DemoArgs {
        DemoArgs { models: "/models".into(), hooks: folder.to_owned(), ..DemoArgs::default() }
    }

    #[test]
    fn only_plugins_that_exist_are_taken_and_configured() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["redact.wasm", "other.wasm"] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        let args = args(folder.path());
        let stage = Stage::set(&args).unwrap();
        assert_eq!(stage.plugins, ["redact"]);
        assert!(!stage.has_trap());
        let file = stage.configure(&args, "nats://127.0.0.1:1").unwrap();
        let config: toml::Table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(config["plugins"].as_table().unwrap().len(), 1);
        assert_eq!(config["dir"].as_str(), Some("/models"));
    }

    #[test]
    fn empty_folders_are_usage_errors() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(folder.path());
        assert_eq!(Stage::set(&args).unwrap_err().exit, Exit::Usage);
        std::fs::write(folder.path().join("redact.wasm"), b"x").unwrap();
        args.sick_hooks = Some(folder.path().to_owned());
        let failure = Stage::set(&args).unwrap_err();
        assert!(failure.message.contains("trap.wasm"), "{failure}");
    }
}
