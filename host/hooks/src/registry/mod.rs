//! The plugins of a folder, kept as the folder and the settings say while jobs
//! run.
//!
//! A [`Registry`] always has one chain in service. A look at the folder
//! ([`Registry::sync`]) loads what changed and puts one new chain in its place,
//! with every change of that look; a job keeps the chain that it began with, and an
//! old chain goes when its last job does. Whatever cannot be loaded leaves the
//! version before it in service. Nothing here watches the folder or knows what time
//! it is: the worker calls [`Registry::sync`] and [`Registry::tick`].
//!
//! Reading order: `status` for what a registry tells, `entry` for what it knows of
//! each plugin, `start` and `sync` for how that comes from the folder.

mod entry;
mod start;
mod status;
mod sync;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tracing::{info, warn};

pub(crate) use start::{check_count, log_loaded};
pub use status::{PluginState, PluginStatus, RegistryError, SettingsSource, SyncReport};

use crate::chain::{Chain, ChainInner};
use crate::host::Shared;
use crate::last_good::{BadDigest, LastGood};
use crate::probation::Judgement;
use entry::{Draining, Entry, RolledBack, State, short};

/// The plugins of a folder. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<Shared>,
    /// Without a folder there are no plugins, ever.
    folder: Option<PathBuf>,
    settings: SettingsSource,
    last_good: LastGood,
    serving: ArcSwap<ChainInner>,
    /// One look at the folder at a time; held for as long as compiling takes.
    syncing: Mutex<()>,
    state: Mutex<State>,
}

/// A command that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// SHA-256 of the version that was taken out of service.
    pub from: String,
    /// SHA-256 of the version that serves again.
    pub to: String,
    /// Number of the chain that is in service now.
    pub generation: u64,
}

impl Registry {
    /// A registry without a folder.
    pub(crate) fn empty(host: Arc<Shared>) -> Self {
        let settings: SettingsSource = Box::new(|| Ok(Default::default()));
        Self::new(host, None, settings, LastGood::nowhere(), State::default())
    }

    fn new(
        host: Arc<Shared>,
        folder: Option<PathBuf>,
        settings: SettingsSource,
        last_good: LastGood,
        mut state: State,
    ) -> Self {
        state.generation = 1;
        for entry in state.entries.values_mut() {
            if let Some(current) = &mut entry.current {
                current.generation = 1;
            }
        }
        let chain = Chain::new(Arc::clone(&host), state.plugins());
        // From here on, whatever is compiled is compiled beside jobs.
        host.compiler.jobs_begin();
        let inner = Inner {
            host,
            folder,
            settings,
            last_good,
            serving: ArcSwap::new(chain.into_inner()),
            syncing: Mutex::new(()),
            state: Mutex::new(state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The chain in service. A job takes it once and keeps it.
    pub fn chain(&self) -> Chain {
        Chain::from_inner(self.inner.serving.load_full())
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.inner.folder.as_deref()
    }

    /// Number of the chain in service; 1 is the one of the start.
    pub fn generation(&self) -> u64 {
        self.inner.state().generation
    }

    /// Chains that were replaced and that jobs still have.
    pub fn draining(&self) -> usize {
        let state = self.inner.state();
        state.draining.iter().filter(|old| old.chain.strong_count() > 0).count()
    }

    /// Every plugin, by id.
    pub fn list(&self) -> Vec<PluginStatus> {
        let now = Instant::now();
        let state = self.inner.state();
        state.entries.iter().map(|(id, entry)| entry.status(id, now)).collect()
    }

    /// Puts the version before into service again. The newer one stays out until
    /// its file changes, also over a restart.
    ///
    /// # Errors
    /// No such plugin, or no version before.
    pub fn rollback(&self, id: &str) -> Result<Rollback, RegistryError> {
        let mut state = self.inner.state();
        let generation = state.generation + 1;
        let rolled = entry_of(&mut state, id)?
            .roll_back("an operator took it out of service", generation)
            .ok_or_else(|| RegistryError::NoPrevious(id.to_owned()))?;
        self.inner.serve(&mut state);
        drop(state);
        let from = rolled.bad.digest.clone();
        let to = rolled.good.clone();
        warn!(plugin = id, from = short(&from), to = short(&to), generation, "plugin rolled back");
        self.inner.note(id, rolled);
        Ok(Rollback { from, to, generation })
    }

    /// Takes a plugin out of the chain; it stays loaded. Returns whether it was
    /// not out already. A restart brings it back.
    ///
    /// # Errors
    /// No such plugin, or one that is `required`.
    pub fn disable(&self, id: &str) -> Result<bool, RegistryError> {
        self.set_disabled(id, true)
    }

    /// Undoes [`Self::disable`]; returns whether there was something to undo.
    ///
    /// # Errors
    /// No such plugin.
    pub fn enable(&self, id: &str) -> Result<bool, RegistryError> {
        self.set_disabled(id, false)
    }

    fn set_disabled(&self, id: &str, disabled: bool) -> Result<bool, RegistryError> {
        let mut state = self.inner.state();
        let entry = entry_of(&mut state, id)?;
        let required = entry.current.as_ref().is_some_and(|now| now.settings.policy.required);
        if disabled && required {
            return Err(RegistryError::Required(id.to_owned()));
        }
        if entry.disabled == disabled {
            return Ok(false);
        }
        entry.disabled = disabled;
        self.inner.serve(&mut state);
        let generation = state.generation;
        drop(state);
        let what = if disabled { "plugin disabled" } else { "plugin enabled" };
        warn!(plugin = id, generation, "{what}");
        Ok(true)
    }

    /// Forgets that versions of a plugin are bad, so that the next look at the
    /// folder tries its file again.
    ///
    /// # Errors
    /// No such plugin.
    pub fn forgive(&self, id: &str) -> Result<(), RegistryError> {
        let mut state = self.inner.state();
        let entry = entry_of(&mut state, id)?;
        entry.bad.clear();
        entry.seen = None;
        drop(state);
        self.inner.last_good.forgive(id);
        Ok(())
    }

    /// Judges new versions that are on probation, and tells when an old chain is
    /// gone. To be called a few times a second; it may write a small file.
    pub fn tick(&self, now: Instant) {
        let mut state = self.inner.state();
        let generation = state.generation + 1;
        let (mut passed, mut failed) = (Vec::new(), Vec::new());
        for (id, entry) in &mut state.entries {
            let (Some(probation), Some(current)) = (&entry.probation, &entry.current) else {
                continue;
            };
            match probation.judge(current.plugin.shared.stats.rate(), now) {
                Judgement::Going => {}
                Judgement::Passed => {
                    passed.push((id.clone(), current.digest().to_owned()));
                    entry.probation = None;
                }
                Judgement::Failed { old, new } => {
                    let reason = format!(
                        "{:.1} % of its calls failed, {:.1} % of those of the version before",
                        new * 100.0,
                        old * 100.0
                    );
                    let rolled = entry.roll_back(&reason, generation);
                    failed.extend(rolled.map(|rolled| (id.clone(), rolled)));
                }
            }
        }
        if !failed.is_empty() {
            self.inner.serve(&mut state);
        }
        state.tell_drained(now);
        drop(state);
        for (id, digest) in passed {
            info!(plugin = id, digest = short(&digest), "new version has passed its probation");
            self.inner.last_good.keep(&id, &digest);
        }
        for (id, rolled) in failed {
            warn!(
                plugin = id,
                from = short(&rolled.bad.digest),
                to = short(&rolled.good),
                reason = rolled.bad.reason,
                generation,
                "plugin rolled back: its new version has failed its probation"
            );
            self.inner.note(&id, rolled);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the plugins of `state` into service as the next chain.
    fn serve(&self, state: &mut State) {
        let chain = Chain::new(Arc::clone(&self.host), state.plugins()).into_inner();
        let old = self.serving.swap(Arc::clone(&chain));
        for plugin in &old.plugins {
            if !chain.plugins.iter().any(|serving| Arc::ptr_eq(serving, plugin)) {
                // A version that is kept to go back to needs no instances, and jobs
                // that still run with it make their own.
                plugin.ready.retire();
            }
        }
        let now = Instant::now();
        state.tell_drained(now);
        let chain = Arc::downgrade(&old);
        state.draining.push(Draining { generation: state.generation, chain, since: now });
        state.generation += 1;
    }

    /// Remembers a rollback for the next start. One of settings alone is not: the
    /// next start begins with what the settings say.
    fn note(&self, id: &str, rolled: RolledBack) {
        let RolledBack { bad, good } = rolled;
        if bad.settings.is_none() {
            let bad = BadDigest { digest: bad.digest, reason: bad.reason };
            self.last_good.rolled_back(id, bad, &good);
        }
    }
}

fn entry_of<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Entry, RegistryError> {
    if !state.entries.contains_key(id) {
        let known = state.entries.keys().cloned().collect();
        return Err(RegistryError::Unknown { id: id.to_owned(), known });
    }
    Ok(state.entries.entry(id.to_owned()).or_default())
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("folder", &self.inner.folder)
            .field("chain", &self.chain())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
