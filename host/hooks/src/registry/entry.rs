//! What a registry knows of each plugin, and how that changes. No files and no
//! clock: the neighbours `start` and `sync` bring what they read, and time is
//! passed in.
//!
//! ```text
//!                 new version                       100 calls or 60 s
//!   in service ───────────────▶ in service,       ────────────────────▶ in service
//!                               on probation          as good as before
//!        ▲                          │
//!        └── the one before ◀───────┘ worse, or the operator says so:
//!                                     its digest is remembered as bad
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tracing::info;

use super::status::{PluginState, PluginStatus};
use crate::breaker::BreakerState;
use crate::chain::ChainInner;
use crate::config::PluginSettings;
use crate::error::LoadCause;
use crate::folder::Stamp;
use crate::plugin::Plugin;
use crate::policy::Mode;
use crate::probation::Probation;

/// Versions of one plugin that are remembered as bad; of more, the oldest is
/// forgotten.
const MAX_BAD: usize = 8;

/// First digits of a digest, for people.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Everything that changes, behind one lock that is never held while something
/// is read or compiled.
#[derive(Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Number of the chain in service.
    pub(super) generation: u64,
    pub(super) draining: Vec<Draining>,
    /// What was said last of the folder as a whole, so that it is said once.
    pub(super) told: String,
}

/// A chain that was replaced, and that jobs may still have.
pub(super) struct Draining {
    pub(super) generation: u64,
    pub(super) chain: Weak<ChainInner>,
    pub(super) since: Instant,
}

/// One version of a plugin: a file under settings.
pub(super) struct Version {
    pub(super) plugin: Arc<Plugin>,
    pub(super) settings: PluginSettings,
    /// The chain with which it came into service.
    pub(super) generation: u64,
}

impl Version {
    pub(super) fn new(plugin: Plugin, settings: PluginSettings) -> Self {
        Self { plugin: Arc::new(plugin), settings, generation: 0 }
    }

    pub(super) fn digest(&self) -> &str {
        &self.plugin.info.digest
    }
}

/// A version that is not to be used again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bad {
    pub(super) digest: String,
    /// The settings under which it is bad; nothing: under any.
    pub(super) settings: Option<PluginSettings>,
    pub(super) reason: String,
    pub(super) how: HowBad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HowBad {
    /// It could not be loaded, for reasons that may lie outside of it.
    Refused,
    /// It was taken out of service.
    TakenOut,
}

impl Bad {
    fn is(&self, digest: &str, settings: &PluginSettings) -> bool {
        self.digest == digest && self.settings.as_ref().is_none_or(|bad| bad == settings)
    }

    pub(super) fn cause(&self) -> LoadCause {
        LoadCause::AlreadyBad {
            digest: short(&self.digest).to_owned(),
            reason: self.reason.clone(),
        }
    }

    /// Why it is not in service, for a listing.
    fn text(&self) -> String {
        match self.how {
            HowBad::Refused => self.reason.clone(),
            HowBad::TakenOut => self.cause().to_string(),
        }
    }
}

/// Why a plugin's file is not in service as it is.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    Bad(Box<Bad>),
    /// It could not be read, or is gone.
    Other(String),
}

impl Refusal {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Bad(bad) => bad.text(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// One plugin.
#[derive(Default)]
pub(super) struct Entry {
    /// In service, unless disabled or off.
    pub(super) current: Option<Version>,
    /// The last one before it that was not on probation.
    pub(super) previous: Option<Version>,
    pub(super) probation: Option<Probation>,
    pub(super) disabled: bool,
    pub(super) bad: Vec<Bad>,
    /// The file, and the settings that it was looked at with.
    pub(super) seen: Option<(Stamp, PluginSettings)>,
    /// Why the file is not in service as it is.
    pub(super) refused: Option<Refusal>,
}

/// What is to be done with a file that was read.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// It is in service.
    Unchanged,
    /// It is known not to work.
    Bad(Box<Bad>),
    Load,
}

/// A version was replaced by the one before it.
pub(super) struct RolledBack {
    pub(super) bad: Bad,
    pub(super) good: String,
}

impl Entry {
    /// Whether the file is the one that was looked at last, under the same settings.
    pub(super) fn has_seen(&self, stamp: Stamp, settings: &PluginSettings) -> bool {
        self.seen.as_ref().is_some_and(|(seen, with)| *seen == stamp && with == settings)
    }

    pub(super) fn decide(&self, digest: &str, settings: &PluginSettings, force: bool) -> Decision {
        let current = self.current.as_ref();
        if current.is_some_and(|now| now.digest() == digest && now.settings == *settings) {
            return Decision::Unchanged;
        }
        match self.bad.iter().find(|bad| bad.is(digest, settings)) {
            // What kept it from loading may have been mended elsewhere.
            Some(bad) if bad.how == HowBad::TakenOut || !force => {
                Decision::Bad(Box::new(bad.clone()))
            }
            _ => Decision::Load,
        }
    }

    /// Puts a new version into service.
    pub(super) fn install(&mut self, mut version: Version, generation: u64, now: Instant) {
        version.generation = generation;
        self.bad.retain(|bad| !bad.is(version.digest(), &version.settings));
        self.refused = None;
        let on_probation = self.probation.take().is_some();
        let before = self.current.replace(version);
        // A version that has not proved itself is none to go back to.
        if !on_probation {
            self.previous = before;
        }
        self.probation = self
            .previous
            .as_ref()
            .map(|old| Probation::new(Some(old.plugin.shared.stats.rate()), now));
    }

    /// Notes why the file is not in service. True if it was not known before.
    pub(super) fn refuse(&mut self, why: Refusal) -> bool {
        if let Refusal::Bad(bad) = &why {
            self.remember(bad.as_ref().clone());
        }
        let is_news = self.refused.as_ref() != Some(&why);
        self.refused = Some(why);
        is_news
    }

    fn remember(&mut self, bad: Bad) {
        self.bad.retain(|known| (&known.digest, &known.settings) != (&bad.digest, &bad.settings));
        if self.bad.len() >= MAX_BAD {
            self.bad.remove(0);
        }
        self.bad.push(bad);
    }

    /// What a second look at the same file says.
    pub(super) fn as_it_was(&self) -> Result<(), LoadCause> {
        match &self.refused {
            Some(Refusal::Bad(bad)) => Err(bad.cause()),
            _ => Ok(()),
        }
    }

    /// Brings the version before back, if there is one.
    pub(super) fn roll_back(&mut self, reason: &str, generation: u64) -> Option<RolledBack> {
        let mut old = self.previous.take()?;
        old.generation = generation;
        let good = old.digest().to_owned();
        let new = self.current.replace(old)?;
        self.probation = None;
        let same_file = new.digest() == good;
        let bad = Bad {
            digest: new.digest().to_owned(),
            // Only its settings were new, so they are what is bad.
            settings: same_file.then_some(new.settings),
            reason: reason.to_owned(),
            how: HowBad::TakenOut,
        };
        self.refuse(Refusal::Bad(Box::new(bad.clone())));
        Some(RolledBack { bad, good })
    }

    /// The plugin, if jobs are to call it.
    fn in_chain(&self) -> Option<&Arc<Plugin>> {
        let plugin = &self.current.as_ref()?.plugin;
        (!self.disabled && plugin.shared.policy.mode != Mode::Off).then_some(plugin)
    }

    fn state(&self, now: Instant) -> PluginState {
        let Some(current) = &self.current else {
            let is_refused = self.refused.is_some();
            return if is_refused { PluginState::Refused } else { PluginState::Loading };
        };
        if self.disabled {
            return PluginState::Disabled;
        }
        let shared = &current.plugin.shared;
        if shared.policy.mode == Mode::Off {
            return PluginState::Off;
        }
        match shared.breaker.state(now) {
            BreakerState::Open { retry_in } => PluginState::Quarantined { retry_in },
            _ if self.probation.is_some() => PluginState::Probation,
            _ => PluginState::Serving,
        }
    }

    pub(super) fn status(&self, id: &str, now: Instant) -> PluginStatus {
        let plugin = self.current.as_ref().map(|current| &current.plugin);
        let info = plugin.map(|plugin| &plugin.info);
        let policy = plugin.map(|plugin| &plugin.shared.policy);
        let only = policy.and_then(|policy| policy.phases.as_ref());
        let phases = info.into_iter().flat_map(|info| &info.phases).copied();
        PluginStatus {
            id: id.to_owned(),
            name: info.map_or_else(String::new, |info| info.name.clone()),
            version: info.map_or_else(String::new, |info| info.version.clone()),
            digest: info.map_or_else(String::new, |info| info.digest.clone()),
            phases: phases.filter(|phase| only.is_none_or(|only| only.contains(phase))).collect(),
            state: self.state(now),
            order: policy.map_or(0, |policy| policy.order),
            required: policy.is_some_and(|policy| policy.required),
            generation: self.current.as_ref().map_or(0, |current| current.generation),
            stats: plugin.map(|plugin| plugin.shared.stats.snapshot()).unwrap_or_default(),
            last_error: self.refused.as_ref().map(Refusal::text),
            previous: self.previous.as_ref().map(|version| version.digest().to_owned()),
        }
    }
}

impl State {
    /// The plugins that jobs are to call, in the operator's order.
    pub(super) fn plugins(&self) -> Vec<Arc<Plugin>> {
        let mut plugins: Vec<_> =
            self.entries.values().filter_map(Entry::in_chain).map(Arc::clone).collect();
        plugins.sort_by(|a, b| {
            let key = |plugin: &Plugin| plugin.shared.policy.order;
            key(a).cmp(&key(b)).then_with(|| a.info.id.cmp(&b.info.id))
        });
        plugins
    }

    /// Says which old chains are gone, and forgets them.
    pub(super) fn tell_drained(&mut self, now: Instant) {
        self.draining.retain(|old| {
            let is_gone = old.chain.strong_count() == 0;
            if is_gone {
                let took_ms = now.saturating_duration_since(old.since).as_millis() as u64;
                info!(generation = old.generation, took_ms, "drained: no job has the old chain");
            }
            !is_gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_version_is_loading_until_something_is_known_of_it() {
        let mut entry = Entry::default();
        let now = Instant::now();
        assert_eq!(entry.state(now), PluginState::Loading);
        entry.refuse(Refusal::Other("it could not be read".to_owned()));
        assert_eq!(entry.state(now), PluginState::Refused);
    }
}
