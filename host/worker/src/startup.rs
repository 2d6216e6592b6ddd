//! What a worker does before it connects: hooks compiled and tried, the model
//! loaded if the operator wants it at start.

use std::path::Path;

use llamero_hooks::{HookHost, HostConfig, Registry, Services, SettingsSource};
use llamero_protocol::{Options, model_choice};

use crate::models::store::StoreConfig;
use crate::models::{ModelError, ModelStore};
use crate::settings::{HookSettings, Settings, settings_for};
use crate::worker::WorkerError;

/// How models are loaded, from the settings.
pub fn store_config(settings: &Settings) -> StoreConfig {
    // The configured default of ctx_size: what a request without options gets.
    // It was checked with the settings.
    let usual = model_choice(&Options::default(), &settings.options);
    StoreConfig {
        settings: settings.models.clone(),
        ctx_size: usual.map_or(4096, |choice| choice.ctx_size),
        slots: settings.jobs.slots,
    }
}

/// What the settings say of the plugin host.
pub fn host_config(settings: &HookSettings) -> HostConfig {
    let defaults = HostConfig::default();
    HostConfig {
        limits: settings.limits.over(&defaults.limits),
        concurrency: settings.concurrency,
        max_instances: settings.instances,
        max_ready: settings.max_ready,
        threads: settings.threads,
        // Without hooks there is nothing to keep, so no folder is made.
        cache_dir: settings.dir.as_ref().and(settings.cache_dir.clone()),
        max_component_bytes: settings.max_component_bytes,
        max_plugins: settings.max_plugins,
        trial_wall: settings.trial_wall,
        breaker: settings.breaker,
        ..defaults
    }
}

/// Where the settings of single plugins come from, at the start and at each look
/// at the folder.
fn plugin_settings(dir: &Path, settings: &HookSettings) -> SettingsSource {
    let (dir, tables) = (dir.to_owned(), settings.plugin_tables.clone());
    Box::new(move || Ok(settings_for(&dir, &tables)))
}

/// Compiles and tries all hooks, on a thread that may block.
pub async fn load_hooks(
    settings: HookSettings,
    services: Services,
) -> Result<(HookHost, Registry), WorkerError> {
    let loading = tokio::task::spawn_blocking(move || {
        let host = HookHost::new(host_config(&settings), services)?;
        let registry = match &settings.dir {
            Some(dir) => {
                let settings = plugin_settings(dir, &settings);
                host.open(dir, settings).map_err(WorkerError::Hooks)?
            }
            None => host.without_folder(),
        };
        Ok((host, registry))
    });
    loading.await.unwrap_or(Err(WorkerError::Internal("loading the hooks")))
}

/// Says so if the slots cannot all be used: a job takes the instances of all its
/// hooks at once, and waits if there are not as many.
pub fn warn_about_instances(settings: &Settings, plugins: usize) {
    let wanted = plugins.saturating_mul(settings.jobs.slots as usize);
    if wanted > settings.hooks.instances as usize {
        tracing::warn!(
            plugins,
            slots = settings.jobs.slots,
            hook_instances = settings.hooks.instances,
            "jobs in all slots would wait for hook instances; raise hook_instances to {wanted}"
        );
    }
}

/// Loads the model that a request without options would get.
pub async fn preload(settings: &Settings, models: &ModelStore) -> Result<(), ModelError> {
    let choice = model_choice(&Options::default(), &settings.options)
        .map_err(|error| ModelError::Name(error.into()))?;
    models.acquire(&choice).await.map(drop)
}

/// How many models the folder holds; a folder that cannot be read is warned
/// about, not an error: it may be mounted later.
pub async fn count_models(settings: &Settings) -> usize {
    let (dir, follow_links) = (settings.models.dir.clone(), settings.models.follow_links);
    let listed =
        tokio::task::spawn_blocking(move || crate::models::dir::list(&dir, follow_links)).await;
    match listed {
        Ok(Ok(names)) => names.len(),
        Ok(Err(error)) => {
            let dir = settings.models.dir.display();
            tracing::warn!(%dir, %error, "the models folder cannot be read");
            0
        }
        Err(_) => 0,
    }
}
