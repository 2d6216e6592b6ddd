//! Instances made and configured ahead of need, so that a job need not wait for
//! its own.
//!
//! A pool belongs to one version of a plugin and goes with it. It is filled on a
//! thread for that alone, after a job took from it; how an instance is made is in
//! `instance`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::data::JobContext;
use crate::host::Shared;
use crate::instance::{Budget, JobInstance};
use crate::job::JobShared;
use crate::plugin::Plugin;

/// The ready instances of one version of a plugin.
#[derive(Default)]
pub(crate) struct ReadyPool {
    waiting: Mutex<Vec<Ready>>,
    filling: AtomicBool,
    /// Whether the version is out of service.
    retired: AtomicBool,
}

struct Ready {
    instance: Box<JobInstance>,
    /// Its share of `HostConfig::max_ready`.
    _share: OwnedSemaphorePermit,
}

impl ReadyPool {
    /// An instance that needs nothing but a job.
    pub(crate) fn take(&self) -> Option<Box<JobInstance>> {
        self.waiting().pop().map(|ready| ready.instance)
    }

    /// Drops all instances and makes no more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        // Dropped outside the lock: it takes a while.
        let waiting = std::mem::take(&mut *self.waiting());
        drop(waiting);
    }

    /// The version is in service, perhaps again.
    pub(crate) fn revive(&self) {
        self.retired.store(false, Ordering::SeqCst);
    }

    /// How many instances wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn wants(&self, wanted: usize) -> bool {
        !self.retired.load(Ordering::SeqCst) && self.len() < wanted
    }

    /// Adds an instance, unless the version was retired while it was made.
    fn add(&self, ready: Ready) {
        let mut waiting = self.waiting();
        if !self.retired.load(Ordering::SeqCst) {
            waiting.push(ready);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Ready>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`fill`], soon: at once if the pool is half empty.
pub(crate) fn fill_later(host: &Arc<Shared>, plugin: &Arc<Plugin>) {
    let wanted = plugin.shared.limits.ready;
    if wanted == 0 || plugin.ready.filling.load(Ordering::Acquire) {
        return;
    }
    if plugin.ready.len() <= wanted / 2 {
        return fill(host, plugin);
    }
    let (of_host, plugin) = (Arc::downgrade(host), Arc::downgrade(plugin));
    host.ticker.later(Box::new(move || {
        if let (Some(host), Some(plugin)) = (of_host.upgrade(), plugin.upgrade()) {
            fill(&host, &plugin);
        }
    }));
}

/// Fills the pool of a plugin in the background, up to its limit `ready`.
pub(crate) fn fill(host: &Arc<Shared>, plugin: &Arc<Plugin>) {
    let wanted = plugin.shared.limits.ready;
    let pool = &plugin.ready;
    if !pool.wants(wanted) || pool.filling.swap(true, Ordering::AcqRel) {
        return;
    }
    let maker = host.maker.handle().clone();
    let (host, plugin) = (Arc::downgrade(host), Arc::downgrade(plugin));
    maker.spawn(async move {
        loop {
            // Between two instances the plugin may have been replaced, and the
            // host may have gone.
            let (Some(host), Some(plugin)) = (host.upgrade(), plugin.upgrade()) else {
                return;
            };
            let pool = &plugin.ready;
            let made = if pool.wants(wanted) {
                let share = Arc::clone(&host.ready).try_acquire_owned().ok();
                match share {
                    Some(share) => make(&host, &plugin).await.map(|instance| (instance, share)),
                    None => None,
                }
            } else {
                None
            };
            let Some((instance, share)) = made else {
                pool.filling.store(false, Ordering::Release);
                return;
            };
            pool.add(Ready { instance, _share: share });
        }
    });
}

/// Makes one instance. That it worked in the plugin's trial does not mean that it
/// works now; a job that finds the pool empty will hear of it.
async fn make(host: &Shared, plugin: &Plugin) -> Option<Box<JobInstance>> {
    let nobody = JobShared::new(JobContext::default());
    let limits = &plugin.shared.limits;
    // As much time as a trial has: nobody waits for it.
    let budget = Budget::trial(host.config.trial_wall, limits.cpu);
    match JobInstance::configured(host, plugin, &nobody, None, budget).await {
        Ok(instance) => Some(instance),
        Err(error) => {
            warn!(
                plugin = plugin.info.id,
                kind = error.kind.as_str(),
                detail = error.detail,
                "no instance of a plugin could be made ready"
            );
            None
        }
    }
}
