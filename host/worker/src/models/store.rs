//! What is loaded: one engine for each model in use.
//!
//! A job leases a model and gives it back by dropping the lease. The store (its
//! [`shelf`]) keeps up to `max_loaded` models ready; one more replaces the one used longest ago.
//! A replaced model is not taken from the jobs that use it: it is *retired*,
//! which means that it leaves memory with its last lease, and it is taken back
//! into use if it is wanted before that.
//!
//! ```text
//!            acquire: not there            loaded
//!   (file) ───────────────────▶ loading ──────────▶ ready ◀──────────────┐
//!                                  │                  │ replaced by       │ acquired
//!                   nobody waits   │ failed           ▼ another model     │ again
//!                    any more ─────┴────▶ (gone)    retired ──────────────┘
//!                                                     │ last lease dropped
//!                                                     ▼
//!                                                   (gone)
//! ```
//!
//! One model is loaded at a time, and all who want it wait for the same load. A
//! load that nobody waits for any more, because its jobs were interrupted, is
//! aborted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use llamero_engine::{Adapter, MAX_JOB_ADAPTERS, Model, ModelConfig};
use llamero_protocol::{InitOptions, MAX_LORAS, check_model_name};
use tokio::sync::watch;

use super::dir;
use super::shelf::{self, Shelf};
use super::types::{AdapterCause, AdapterFailure, LoadEvent, LoadProgress, ModelError};
use crate::settings::ModelSettings;

const _: () = assert!(MAX_LORAS <= MAX_JOB_ADAPTERS, "the engine takes what clients may send");

/// How models are loaded.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The operator's settings.
    pub settings: ModelSettings,
    /// Context that a model is loaded with at least: the configured `ctx_size`.
    /// So the first small request does not force a reload on the next one.
    pub ctx_size: u32,
    /// Jobs at once.
    pub slots: u32,
}

/// All loaded models. Clones share them.
#[derive(Clone)]
pub struct ModelStore {
    inner: Arc<Inner>,
}

struct Inner {
    config: StoreConfig,
    progress: LoadProgress,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    shelf: Shelf<Model>,
    flight: Option<Arc<Flight>>,
}

/// One load in progress.
struct Flight {
    name: String,
    n_ctx: u32,
    waiters: AtomicUsize,
    done: watch::Receiver<Option<Result<(), ModelError>>>,
}

/// A job's hold on a model. Dropping it gives the model back.
pub struct Lease {
    store: Arc<Inner>,
    id: shelf::Id,
    name: String,
    model: Model,
    n_ctx: u32,
}

impl std::fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelStore").finish_non_exhaustive()
    }
}

impl ModelStore {
    /// A store that has loaded nothing.
    pub fn new(config: StoreConfig, progress: LoadProgress) -> Self {
        let state = State { shelf: Shelf::new(config.settings.max_loaded), flight: None };
        Self {
            inner: Arc::new(Inner {
                config,
                progress,
                began: Instant::now(),
                state: Mutex::new(state),
            }),
        }
    }

    /// The model of a request, loaded if it is not. Dropping the future gives
    /// up; a load that nobody else waits for is then aborted.
    ///
    /// # Errors
    /// [`ModelError`] says why there is no such model.
    pub async fn acquire(&self, choice: &InitOptions) -> Result<Lease, ModelError> {
        let name = match &choice.model {
            Some(name) => name.clone(),
            None => self.only_model().await?,
        };
        check_model_name(&name).map_err(ModelError::Name)?;
        let (wanted, usual) = (choice.ctx_size, self.inner.config.ctx_size);
        let max = self.inner.config.settings.max_ctx_size;
        if max > 0 && wanted > max {
            return Err(ModelError::CtxSize { wanted, limit: max });
        }
        if max == 0 && wanted > usual {
            // The limit is what the model was trained with, which only a loaded
            // model tells. A context that is never useful must not be
            // allocated just because a client asks for it.
            let lease = self.acquire_with(&name, usual).await?;
            let limit = lease.model.info().n_ctx_train.max(usual);
            if wanted > limit {
                return Err(ModelError::CtxSize { wanted, limit });
            }
        }
        let mut lease = self.acquire_with(&name, wanted.max(usual)).await?;
        lease.n_ctx = wanted;
        Ok(lease)
    }

    /// A model that is loaded just now.
    pub fn loaded(&self, name: &str) -> Option<Model> {
        self.inner.lock().shelf.get(name)
    }

    /// Lets go of all models; those in use leave memory with their last lease.
    pub fn release_all(&self) {
        let released = self.inner.lock().shelf.retire_all();
        drop_elsewhere(released);
    }

    async fn only_model(&self) -> Result<String, ModelError> {
        let settings = &self.inner.config.settings;
        let (dir, follow_links) = (settings.dir.clone(), settings.follow_links);
        let listed = tokio::task::spawn_blocking(move || dir::list(&dir, follow_links)).await;
        let unreadable = |cause: String| ModelError::Unreadable { name: String::new(), cause };
        let names = listed
            .map_err(|error| unreadable(error.to_string()))?
            .map_err(|error| unreadable(error.to_string()))?;
        match <[String; 1]>::try_from(names) {
            Ok([name]) => Ok(name),
            Err(_) => Err(ModelError::NoneNamed),
        }
    }

    async fn acquire_with(&self, name: &str, n_ctx: u32) -> Result<Lease, ModelError> {
        loop {
            let (flight, is_same) = {
                let mut state = self.inner.lock();
                let now = self.inner.began.elapsed();
                if let Some((id, model, released)) = state.shelf.lease(now, name, n_ctx) {
                    drop_elsewhere(released);
                    return Ok(Lease {
                        store: Arc::clone(&self.inner),
                        id,
                        name: name.to_owned(),
                        model,
                        n_ctx,
                    });
                }
                match &state.flight {
                    Some(flight) => {
                        let is_same = flight.name == name && flight.n_ctx >= n_ctx;
                        // Whoever waits for another model does not keep it
                        // loading: only those that want it count.
                        if is_same {
                            flight.waiters.fetch_add(1, Ordering::Relaxed);
                        }
                        (Arc::clone(flight), is_same)
                    }
                    None => {
                        let flight = self.take_off(name, n_ctx);
                        state.flight = Some(Arc::clone(&flight));
                        (flight, true)
                    }
                }
            };
            let guard = is_same.then(|| Waiting(Arc::clone(&flight)));
            let mut done = flight.done.clone();
            let result = done.wait_for(Option::is_some).await.map(|result| (*result).clone());
            drop(guard);
            match result {
                // Loaded, or another model's load is over: look again.
                Ok(Some(Err(error))) if is_same && !error.is_aborted() => return Err(error),
                Ok(_) => {}
                Err(_) => {
                    return Err(ModelError::Panicked { name: name.to_owned() });
                }
            }
        }
    }

    /// Starts a load in the background. Its end is told to all who wait after
    /// the state has been brought up to date.
    fn take_off(&self, name: &str, n_ctx: u32) -> Arc<Flight> {
        let (sender, done) = watch::channel(None);
        let flight =
            Arc::new(Flight { name: name.to_owned(), n_ctx, waiters: AtomicUsize::new(1), done });
        let inner = Arc::clone(&self.inner);
        let name = name.to_owned();
        let watched = Arc::clone(&flight);
        tokio::spawn(async move {
            let loading = {
                let (inner, name) = (Arc::clone(&inner), name.clone());
                tokio::task::spawn_blocking(move || inner.load(&name, n_ctx, &watched))
            };
            let result =
                loading.await.unwrap_or_else(|_| Err(ModelError::Panicked { name: name.clone() }));
            let result = {
                let mut state = inner.lock();
                state.flight = None;
                result.map(|model| {
                    // As asked for, even if the engine should have made it
                    // smaller: looking for a larger one again would not end.
                    let n_ctx = model.info().n_ctx.max(n_ctx);
                    let now = inner.began.elapsed();
                    drop_elsewhere(state.shelf.admit(now, &name, n_ctx, model));
                })
            };
            sender.send_replace(Some(result));
        });
        flight
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads a file. Blocks.
    fn load(&self, name: &str, n_ctx: u32, flight: &Arc<Flight>) -> Result<Model, ModelError> {
        let settings = &self.config.settings;
        let path = dir::find(&settings.dir, name, settings.follow_links)
            .ok_or_else(|| ModelError::NotListed { name: name.to_owned() })?;
        let model = name.to_owned();
        (self.progress)(LoadEvent::Started { model: model.clone() });
        tracing::info!(model = name, n_ctx, "loading model");
        let began = Instant::now();
        let (progress, flight) = (Arc::clone(&self.progress), Arc::clone(flight));
        let on_progress = {
            let model = model.clone();
            move |fraction: f32| {
                progress(LoadEvent::Progress { model: model.clone(), fraction });
                flight.waiters.load(Ordering::Relaxed) > 0
            }
        };
        match Model::load(self.model_config(name, path, n_ctx), on_progress) {
            Ok(loaded) => {
                let took = began.elapsed();
                (self.progress)(LoadEvent::Finished { model, took });
                tracing::info!(
                    model = name,
                    n_ctx = loaded.info().n_ctx,
                    took_ms = took.as_millis() as u64,
                    description = %loaded.info().description,
                    "model loaded"
                );
                Ok(loaded)
            }
            Err(cause) => {
                (self.progress)(LoadEvent::Failed { model });
                tracing::warn!(model = name, %cause, "model cannot be loaded");
                Err(ModelError::Load { name: name.to_owned(), cause: Arc::new(cause) })
            }
        }
    }

    fn model_config(&self, name: &str, path: PathBuf, n_ctx: u32) -> ModelConfig {
        let settings = &self.config.settings;
        ModelConfig {
            name: name.to_owned(),
            path,
            n_ctx,
            slots: self.config.slots,
            threads: settings.threads,
            // A step must have room for a token of each job.
            n_batch: settings.n_batch.max(self.config.slots),
            gpu_layers: settings.gpu_layers,
            kv_cells: settings.kv.cells,
            kv_reserve: settings.kv.reserve,
            stall_target_ms: settings.kv.stall_target_ms,
            fair_preempt_ms: settings.kv.fair_preempt_ms,
            prefix_cache: settings.kv.prefix_cache,
            cache_leaves: settings.kv.cache_leaves,
            cache_cells: settings.kv.cache_cells,
            cache_pin_cells: settings.kv.cache_pin_cells,
            cache_block: settings.kv.cache_block,
            max_adapters: settings.max_adapters,
            use_mmap: settings.use_mmap,
            use_mlock: settings.use_mlock,
            ..ModelConfig::default()
        }
    }
}

/// Counts as waiting for a load until dropped.
struct Waiting(Arc<Flight>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The model's name, as requests use it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Adapters of the models folder for this model, by name and with their scales.
    /// Those that are not loaded are loaded away from the tasks that serve the
    /// network. They stay loaded while what is returned lives.
    ///
    /// # Errors
    /// [`AdapterFailure`] names the one at fault.
    pub async fn adapters(
        &self,
        wanted: &[(String, f32)],
    ) -> Result<Vec<(Adapter, f32)>, AdapterFailure> {
        let Some((first, _)) = wanted.first() else { return Ok(Vec::new()) };
        let failure = |name: &str, cause| AdapterFailure { name: name.to_owned(), cause };
        let settings = self.store.config.settings.clone();
        let max = settings.max_adapters;
        if let Some((name, _)) = wanted.get(max).filter(|_| max > 0) {
            return Err(failure(name, AdapterCause::TooMany { max }));
        }
        let (model, names) = (self.model.clone(), wanted.to_vec());
        let load = move || {
            let load = |name: &str| -> Result<Adapter, AdapterCause> {
                let path = dir::file(&settings.dir, name, settings.follow_links)
                    .ok_or(AdapterCause::Missing)?;
                Ok(model.adapter(&path)?)
            };
            names
                .iter()
                .map(|(name, scale)| match load(name) {
                    Ok(adapter) => Ok((adapter, *scale)),
                    Err(cause) => Err(failure(name, cause)),
                })
                .collect()
        };
        tokio::task::spawn_blocking(load)
            .await
            .unwrap_or_else(|_| Err(failure(first, AdapterCause::Panicked)))
    }

    /// The context limit of the job that holds the lease, in tokens.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let released = self.store.lock().shelf.give_back(self.id);
        drop_elsewhere(released);
    }
}

/// Frees models on a thread that may block: the engine thread is waited for and
/// gigabytes are unmapped.
fn drop_elsewhere(models: Vec<Model>) {
    if models.is_empty() {
        return;
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(models))),
        Err(_) => drop(models),
    }
}
