//! A look at the folder while jobs run.
//!
//! ```text
//!  list ─▶ anything new? ─▶ at rest? ─▶ for each file: read ─▶ digest ─▶ load ─▶ one new chain
//!            │ no                            │ known, refused, unreadable
//!            ▼                               ▼
//!          done                          stays as it is
//! ```
//!
//! The state is locked for moments only, never while something is read, compiled
//! or tried, because commands and jobs do not wait for that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use tracing::{info, warn};

use super::entry::{Bad, Decision, HowBad, Refusal, State, Version};
use super::start::{check_count, error, load_and_store};
use super::{Inner, Registry, SyncReport};
use crate::artifact;
use crate::config::PluginSettings;
use crate::error::{LoadCause, LoadError};
use crate::folder::{self, Listing, PluginFile, Stamp};

type Settings = BTreeMap<String, PluginSettings>;

impl Registry {
    /// Looks at the folder and the settings, loads what changed, and puts one new
    /// chain with all changes into service. Blocks: for a tenth of a second for
    /// files that changed, and for as long as compiling them takes. Looks that are
    /// asked for at the same time are taken one after the other.
    ///
    /// Files that have the same size, time and inode as before are not read again,
    /// unless `force` is set; then versions that could not be loaded before are
    /// tried again as well.
    pub fn sync(&self, force: bool) -> SyncReport {
        let inner = &*self.inner;
        let Some(dir) = &inner.folder else {
            return SyncReport { generation: inner.state().generation, ..SyncReport::default() };
        };
        let _one = inner.syncing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match inner.look(dir, force) {
            Ok((settings, listing)) => inner.apply(dir, &settings, &listing, force),
            Err(problem) => {
                let text = problem.to_string();
                let mut state = inner.state();
                if state.told != text {
                    warn!(error = text, "the hooks stay as they are");
                    state.told = text;
                }
                SyncReport {
                    kept: vec![(String::new(), problem)],
                    unchanged: state.entries.keys().cloned().collect(),
                    generation: state.generation,
                    ..SyncReport::default()
                }
            }
        }
    }
}

impl Inner {
    /// Settings and files, the latter at rest.
    fn look(&self, dir: &Path, force: bool) -> Result<(Settings, Listing), LoadError> {
        let unreadable = |source| error("", LoadCause::Folder { path: dir.to_owned(), source });
        let mut settings =
            (self.settings)().map_err(|text| error("", LoadCause::Settings(text)))?;
        let files = folder::list(dir).map_err(unreadable)?;
        let listing = if !force && self.state().knows(&files, &settings) {
            Listing { files, changing: Vec::new() }
        } else {
            let listing = folder::settled(dir, files).map_err(unreadable)?;
            // Files of settings may have been put there together with the plugins.
            settings = (self.settings)().map_err(|text| error("", LoadCause::Settings(text)))?;
            listing
        };
        check_count(&self.host, listing.files.len())?;
        Ok((settings, listing))
    }

    fn apply(&self, dir: &Path, settings: &Settings, listing: &Listing, force: bool) -> SyncReport {
        let mut report = SyncReport::default();
        for id in &listing.changing {
            report.kept.push((id.clone(), error(id, LoadCause::Changing)));
        }
        let mut new = Vec::new();
        for file in &listing.files {
            let settings = settings.get(&file.id).cloned().unwrap_or_default();
            match self.consider(file, &settings, force) {
                Ok(Some(version)) => new.push((file, version)),
                Ok(None) => report.unchanged.push(file.id.clone()),
                Err(cause) => report.kept.push((file.id.clone(), error(&file.id, cause))),
            }
        }

        let mut state = self.state();
        let now = Instant::now();
        let generation = state.generation + 1;
        let mut proven = Vec::new();
        for (file, version) in new {
            let (seen, digest) = (version.settings.clone(), version.digest().to_owned());
            let entry = state.entries.entry(file.id.clone()).or_default();
            entry.install(version, generation, now);
            entry.seen = Some((file.stamp, seen));
            if entry.probation.is_none() {
                proven.push((file.id.clone(), digest));
            }
            report.loaded.push(file.id.clone());
        }
        let gone = state.without_file(listing);
        for id in gone {
            let path = dir.join(format!("{id}.wasm"));
            match state.unload(&id, settings.get(&id)) {
                Unloaded::Yes => report.removed.push(id),
                Unloaded::NothingToUnload => {}
                Unloaded::Required { is_news } => {
                    let error = error(&id, LoadCause::Missing { path });
                    if is_news {
                        warn!(%error, "the plugin stays in service");
                    }
                    report.kept.push((id, error));
                }
            }
        }
        let strays = settings.iter().filter(|(id, _)| !state.entries.contains_key(*id));
        let strays: Vec<_> = strays.collect();
        for (id, settings) in &strays {
            if settings.policy.required {
                let path = dir.join(format!("{id}.wasm"));
                report.kept.push(((*id).clone(), error(id, LoadCause::Missing { path })));
            }
        }
        let told = strays.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>().join(", ");
        if state.told != told {
            if !told.is_empty() {
                warn!(plugins = told, "there are settings for plugins that have no file");
            }
            state.told = told;
        }
        if !report.loaded.is_empty() || !report.removed.is_empty() {
            self.serve(&mut state);
            info!(
                generation = state.generation,
                loaded = ?report.loaded,
                removed = ?report.removed,
                "hooks reloaded"
            );
        }
        report.generation = state.generation;
        drop(state);
        for (id, digest) in proven {
            self.last_good.keep(&id, &digest);
        }
        for id in &report.removed {
            self.last_good.forget(id);
        }
        report
    }

    /// A new version of a plugin, if its file or its settings have changed.
    fn consider(
        &self,
        file: &PluginFile,
        settings: &PluginSettings,
        force: bool,
    ) -> Result<Option<Version>, LoadCause> {
        let id = &file.id;
        if !force
            && let Some(entry) = self.state().entries.get(id)
            && entry.has_seen(file.stamp, settings)
        {
            return entry.as_it_was().map(|()| None);
        }
        let bytes = folder::read(file, self.host.config.max_component_bytes)
            .inspect_err(|cause| self.refuse(id, Refusal::Other(cause.to_string()), None))?;
        let digest = artifact::digest(&bytes);
        let seen = (file.stamp, settings.clone());
        {
            let mut state = self.state();
            let entry = state.entries.entry(id.clone()).or_default();
            match entry.decide(&digest, settings, force) {
                Decision::Unchanged => {
                    entry.seen = Some(seen);
                    entry.refused = None;
                    return Ok(None);
                }
                Decision::Bad(bad) => {
                    entry.seen = Some(seen);
                    let cause = bad.cause();
                    entry.refuse(Refusal::Bad(bad));
                    return Err(cause);
                }
                Decision::Load => {}
            }
        }
        match load_and_store(&self.host, &self.last_good, id, &digest, bytes, settings) {
            Ok(plugin) => Ok(Some(Version::new(plugin, settings.clone()))),
            Err(cause) => {
                let bad = Bad {
                    digest,
                    settings: Some(settings.clone()),
                    reason: cause.to_string(),
                    how: HowBad::Refused,
                };
                self.refuse(id, Refusal::Bad(Box::new(bad)), Some(seen));
                Err(cause)
            }
        }
    }

    /// Notes why a file is not used, and says so once.
    fn refuse(&self, id: &str, why: Refusal, seen: Option<(Stamp, PluginSettings)>) {
        let mut state = self.state();
        let entry = state.entries.entry(id.to_owned()).or_default();
        let text = why.text();
        let is_news = entry.refuse(why);
        entry.seen = seen;
        if is_news {
            let stays = entry.current.is_some();
            warn!(plugin = id, error = text, old_version_serves = stays, "plugin refused");
        }
    }
}

/// What became of a plugin whose file is gone.
enum Unloaded {
    Yes,
    /// There never was a version of it.
    NothingToUnload,
    /// It stays.
    Required {
        is_news: bool,
    },
}

impl State {
    /// Whether these are the files and settings that were looked at last.
    fn knows(&self, files: &[PluginFile], settings: &Settings) -> bool {
        let default = PluginSettings::default();
        let known = |file: &PluginFile| {
            let settings = settings.get(&file.id).unwrap_or(&default);
            let entry = self.entries.get(&file.id);
            entry.is_some_and(|entry| entry.has_seen(file.stamp, settings))
        };
        // Plugins that stay without a file have not been seen.
        let seen = self.entries.values().filter(|entry| entry.seen.is_some()).count();
        files.len() == seen && files.iter().all(known)
    }

    fn without_file(&self, listing: &Listing) -> Vec<String> {
        let is_there = |id: &String| {
            listing.files.iter().any(|file| file.id == *id) || listing.changing.contains(id)
        };
        self.entries.keys().filter(|id| !is_there(id)).cloned().collect()
    }

    fn unload(&mut self, id: &str, settings: Option<&PluginSettings>) -> Unloaded {
        let Some(entry) = self.entries.get_mut(id) else { return Unloaded::NothingToUnload };
        let Some(current) = &entry.current else {
            self.entries.remove(id);
            return Unloaded::NothingToUnload;
        };
        // The settings as they are now, else those that it was loaded with.
        if settings.unwrap_or(&current.settings).policy.required {
            entry.seen = None;
            let reason = "its file is gone; it stays because its policy says `required`";
            return Unloaded::Required { is_news: entry.refuse(Refusal::Other(reason.to_owned())) };
        }
        self.entries.remove(id);
        Unloaded::Yes
    }
}
