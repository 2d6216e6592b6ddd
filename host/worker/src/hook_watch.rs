//! Keeps the hooks as their folder says: watches the folder, looks now and then in
//! case that the watching missed something, and gives new versions their judgement
//! in time.
//!
//! It only says when to look. What a change means is found out by
//! [`llamero_hooks::Registry`], on threads that may block; commands from operators
//! come in through [`crate::control`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llamero_hooks::Registry;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the folder is looked at without an event: network file systems tell
/// of none, and a folder that was replaced is another one. A look that finds
/// nothing new reads no plugin.
const POLL: Duration = Duration::from_secs(2);

/// How often versions on probation are judged.
const TICK: Duration = Duration::from_millis(250);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct HookWatch {
    _stop: DropGuard,
}

impl HookWatch {
    /// Begins to watch the folder, or, if `folder` is not set, does only what it is
    /// told to by `reload`.
    pub fn start(registry: Registry, folder: bool, reload: Arc<Notify>) -> Self {
        let stop = CancellationToken::new();
        tokio::spawn(tick(registry.clone(), stop.clone()));
        tokio::spawn(watch(registry, folder, reload, stop.clone()));
        Self { _stop: stop.drop_guard() }
    }
}

async fn tick(registry: Registry, stop: CancellationToken) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        let registry = registry.clone();
        // It may write a small file.
        let ticking = tokio::task::spawn_blocking(move || registry.tick(Instant::now()));
        if ticking.await.is_err() {
            tracing::error!("judging new versions of hooks panicked");
        }
    }
}

async fn watch(registry: Registry, folder: bool, reload: Arc<Notify>, stop: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let folder = registry.folder().filter(|_| folder).map(Path::to_owned);
    // Kept for as long as events are wanted.
    let _watcher = folder.as_deref().and_then(|folder| watcher(folder, Arc::clone(&changed)));
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let force = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = reload.notified() => true,
            () = changed.notified() => false,
            _ = poll.tick(), if folder.is_some() => false,
        };
        if force && registry.folder().is_none() {
            tracing::warn!("there is no hooks folder to look at; set hooks_dir");
            continue;
        }
        let looking = registry.clone();
        match tokio::task::spawn_blocking(move || looking.sync(force)).await {
            Ok(report) if force => tracing::info!(
                generation = report.generation,
                loaded = ?report.loaded,
                removed = ?report.removed,
                refused = report.kept.len(),
                unchanged = report.unchanged.len(),
                "hooks looked at as told"
            ),
            // The registry tells of changes itself.
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "looking at the hooks folder panicked"),
        }
    }
}

/// Tells `changed` of everything that happens in the folder. Without events, which
/// a system may have run out of, the folder is still looked at now and then.
fn watcher(folder: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<Event>| {
        if event.map_or(true, |event| matters(event.kind)) {
            changed.notify_one();
        }
    };
    let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| {
            let every_s = POLL.as_secs();
            tracing::warn!(%error, every_s, "no events of the hooks folder; it is polled");
        })
        .ok()
}

/// Reading a file is an event as well, and every look reads.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::collections::BTreeMap;
    use std::fs;

    use llamero_hooks::{HookHost, HostConfig, NoTokenizer, Services};

    use super::*;

    /// Waits until the registry has refused a file of this id.
    async fn refused(registry: &Registry, id: &str) {
        let seen = async {
            while registry.list().iter().all(|plugin| plugin.id != id) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_are_noticed_and_signals_are_heard() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("hooks");
        fs::create_dir(&dir).unwrap();
        let services = Services::new(Arc::new(NoTokenizer));
        let host = HookHost::new(HostConfig::default(), services).unwrap();
        let registry = host.open(&dir, Box::new(|| Ok(BTreeMap::new()))).unwrap();

        let watch = HookWatch::start(registry.clone(), true, Arc::default());
        fs::write(dir.join("a.wasm"), "no plugin").unwrap();
        refused(&registry, "a").await;
        // The folder itself may be another one by now: no event tells of it.
        fs::rename(&dir, temp.path().join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("b.wasm"), "no plugin").unwrap();
        refused(&registry, "b").await;
        drop(watch);

        let reload = Arc::new(Notify::new());
        let _watch = HookWatch::start(registry.clone(), false, Arc::clone(&reload));
        fs::write(dir.join("c.wasm"), "no plugin").unwrap();
        reload.notify_one();
        refused(&registry, "c").await;
        let _ = tokio::task::spawn_blocking(move || drop(host)).await;
    }

    #[test]
    fn reading_is_no_change() {
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
            (EventKind::Create(notify::event::CreateKind::File), true),
            (EventKind::Any, true),
        ] {
            assert_eq!(matters(kind), expected, "{kind:?}");
        }
    }
}
