//! The first look at the folder. It is all or nothing: a worker that runs without
//! one of its plugins is not what the operator asked for. The one exception is a
//! plugin whose last good version is at hand.

use std::path::Path;
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::entry::{Bad, Entry, HowBad, Refusal, State, Version};
use super::{Registry, SettingsSource};
use crate::artifact;
use crate::config::PluginSettings;
use crate::error::{LoadCause, LoadError};
use crate::folder::{self, PluginFile};
use crate::host::Shared;
use crate::last_good::{LastGood, Record};
use crate::load::load;
use crate::plugin::Plugin;

pub(super) fn error(plugin: &str, cause: LoadCause) -> LoadError {
    LoadError { plugin: plugin.to_owned(), cause }
}

/// Most plugins that a chain can have: a job takes an instance for each.
pub(crate) fn check_count(host: &Shared, found: usize) -> Result<(), LoadError> {
    let limit = host.config.max_plugins.min(host.config.max_instances as usize);
    if found > limit {
        return Err(error("", LoadCause::TooMany { found, limit }));
    }
    Ok(())
}

pub(crate) fn log_loaded(plugin: &Plugin) {
    let info = &plugin.info;
    info!(
        plugin = info.id,
        version = info.version,
        digest = info.digest.get(..12).unwrap_or_default(),
        phases = ?info.phases,
        bytes = info.size_bytes,
        memory_bytes = info.memory_bytes,
        "plugin loaded"
    );
}

impl Registry {
    /// Loads every plugin of a folder. Blocks, for seconds per large plugin that is
    /// not in the cache. The errors name every problem, not only the first.
    pub(crate) fn open(
        host: Arc<Shared>,
        dir: &Path,
        settings: SettingsSource,
    ) -> Result<Self, Vec<LoadError>> {
        let files = folder::list(dir).map_err(|source| {
            vec![error("", LoadCause::Folder { path: dir.to_owned(), source })]
        })?;
        folder::warn_of_strangers(dir);
        let wanted = settings().map_err(|text| vec![error("", LoadCause::Settings(text))])?;
        let last_good = match &host.config.cache_dir {
            None => LastGood::nowhere(),
            Some(cache) => LastGood::open(cache, dir)
                .map_err(|problem| vec![error("", LoadCause::Settings(problem.to_string()))])?,
        };
        check_count(&host, files.len()).map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        for (id, settings) in &wanted {
            if files.iter().all(|file| file.id != *id) {
                let path = dir.join(format!("{id}.wasm"));
                errors.push(error(id, missing(path, settings)));
            }
        }
        let mut state = State::default();
        for file in files {
            let settings = wanted.get(&file.id).cloned().unwrap_or_default();
            let starting = Starting { host: &host, last_good: &last_good, file: &file, settings };
            match starting.entry() {
                Ok(entry) => {
                    state.entries.insert(file.id, entry);
                }
                Err(cause) => errors.push(error(&file.id, cause)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for (id, entry) in &state.entries {
            // What is served although its file was refused has been kept before.
            if let Some(current) = &entry.current
                && entry.refused.is_none()
            {
                last_good.keep(id, current.digest());
            }
        }
        Ok(Self::new(host, Some(dir.to_owned()), settings, last_good, state))
    }
}

/// Settings of a plugin that has no file: at the start more likely a typing error
/// than a wish.
fn missing(path: std::path::PathBuf, settings: &PluginSettings) -> LoadCause {
    if settings.policy.required {
        LoadCause::Missing { path }
    } else {
        let text = format!("there are settings for it, and no file {}", path.display());
        LoadCause::Settings(text)
    }
}

/// One plugin at the start.
struct Starting<'a> {
    host: &'a Arc<Shared>,
    last_good: &'a LastGood,
    file: &'a PluginFile,
    settings: PluginSettings,
}

impl Starting<'_> {
    fn entry(self) -> Result<Entry, LoadCause> {
        let id = &self.file.id;
        let record = self.last_good.of(id);
        let bytes = match folder::read(self.file, self.host.config.max_component_bytes) {
            Ok(bytes) => bytes,
            Err(cause) => return self.fall_back(cause, &record, None),
        };
        let digest = artifact::digest(&bytes);
        if let Some(bad) = record.bad.as_ref().filter(|bad| bad.digest == digest) {
            let bad = Bad {
                digest: digest.clone(),
                settings: None,
                reason: bad.reason.clone(),
                how: HowBad::TakenOut,
            };
            match self.fall_back(bad.cause(), &record, Some(bad)) {
                Ok(entry) => return Ok(entry),
                Err(_) => warn!(
                    plugin = id,
                    "its file was taken out of service before, and is served for want of another"
                ),
            }
        }
        match load_and_store(self.host, self.last_good, id, &digest, bytes, &self.settings) {
            Ok(plugin) => {
                let settings = self.settings.clone();
                Ok(Entry {
                    current: Some(Version::new(plugin, settings)),
                    seen: Some((self.file.stamp, self.settings)),
                    ..Entry::default()
                })
            }
            Err(cause) => {
                let bad = Bad {
                    digest,
                    settings: Some(self.settings.clone()),
                    reason: cause.to_string(),
                    how: HowBad::Refused,
                };
                self.fall_back(cause, &record, Some(bad))
            }
        }
    }

    /// The last good version instead, if there is one that can be loaded; else the
    /// cause for which it is wanted.
    fn fall_back(
        &self,
        cause: LoadCause,
        record: &Record,
        bad: Option<Bad>,
    ) -> Result<Entry, LoadCause> {
        let id = &self.file.id;
        let failed = bad.as_ref().map(|bad| bad.digest.as_str());
        let Some(good) = record.good.as_deref().filter(|good| Some(*good) != failed) else {
            return Err(cause);
        };
        let Some(bytes) = self.last_good.read(good, self.host.config.max_component_bytes) else {
            return Err(cause);
        };
        let plugin = match load(self.host, id, bytes, &self.settings) {
            Ok(plugin) => plugin,
            Err(error) => {
                debug!(plugin = id, %error, "nor can the last good version be loaded");
                return Err(cause);
            }
        };
        warn!(
            plugin = id,
            error = %cause,
            digest = good.get(..12).unwrap_or_default(),
            "the file is not used; its last good version is served"
        );
        let mut entry = Entry {
            current: Some(Version::new(plugin, self.settings.clone())),
            // A file that could not even be read is tried again.
            seen: bad.is_some().then(|| (self.file.stamp, self.settings.clone())),
            ..Entry::default()
        };
        entry.refuse(match bad {
            Some(bad) => Refusal::Bad(Box::new(bad)),
            None => Refusal::Other(cause.to_string()),
        });
        Ok(entry)
    }
}

/// Loads a plugin and stores its file, in case that it turns out to be good.
pub(super) fn load_and_store(
    host: &Arc<Shared>,
    last_good: &LastGood,
    id: &str,
    digest: &str,
    bytes: Vec<u8>,
    settings: &PluginSettings,
) -> Result<Plugin, LoadCause> {
    let copy = last_good.lacks(digest).then(|| bytes.clone());
    let plugin = load(host, id, bytes, settings)?;
    if let Some(copy) = copy {
        last_good.store(digest, &copy);
    }
    log_loaded(&plugin);
    Ok(plugin)
}
