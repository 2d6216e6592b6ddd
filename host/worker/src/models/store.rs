//! What is loaded: one engine for each model in use.
//!
//! A job leases a model and gives it back by dropping the lease. The store (its
//! [`shelf`]) keeps up to `max_loaded` models ready; one more replaces the one used longest ago.
//! A replaced model is not taken from the jobs that use it: it is *retired*,
//! which means that it leaves memory with its last lease, and it is taken back
//! into use if it is wanted before that. A model that no job has used for
//! `keep_alive` is retired as well, whichever it is.
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
//!
//! With a budget, what a model takes is estimated before it is loaded. A load then
//! begins when there is room: models that nobody uses go for it at once, and if
//! they are not enough, it waits for the jobs of others, which take no new ones
//! meanwhile (*closed*). So no job that waits for a model may hold another one.
//! Adapters, which [`adapters`] loads for jobs, count as well.

mod adapters;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use llamero_engine::{LoadError, MAX_JOB_ADAPTERS, MemorySize, Model, ModelConfig};
use llamero_protocol::{InitOptions, MAX_LORAS, check_model_name};
use tokio::sync::{Notify, watch};

use super::dir;
use super::shelf::{self, Limits, Released, Room, Shelf};
use super::types::{LoadEvent, LoadProgress, ModelError};
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
    /// Told when a lease is given back, when a model is gone, when a load lands, and
    /// when nobody waits for it any more.
    changed: Arc<Notify>,
}

struct State {
    shelf: Shelf<Model>,
    flight: Option<Arc<Flight>>,
}

/// One load in progress.
struct Flight {
    name: String,
    n_ctx: u32,
    waiters: Arc<AtomicUsize>,
    done: watch::Receiver<Option<Result<Arc<Hold>, ModelError>>>,
}

/// A lease of the shelf's. All who waited for a load share one, so that the model
/// is theirs from the moment it is there.
struct Hold {
    store: Arc<Inner>,
    id: shelf::Id,
    model: Model,
}

/// A job's hold on a model. Dropping it gives the model back.
pub struct Lease {
    hold: Arc<Hold>,
    name: String,
    n_ctx: u32,
}

impl std::fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelStore").finish_non_exhaustive()
    }
}

impl ModelStore {
    /// A store that has loaded nothing. Needs a runtime, on which it unloads what
    /// nobody uses.
    pub fn new(config: StoreConfig, progress: LoadProgress) -> Self {
        let settings = &config.settings;
        let limits = Limits {
            max_ready: settings.max_loaded,
            budget: settings.ram,
            keep_alive: settings.keep_alive,
        };
        let changed = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            config,
            progress,
            began: Instant::now(),
            state: Mutex::new(State { shelf: Shelf::new(limits), flight: None }),
            changed: Arc::clone(&changed),
        });
        if limits.keep_alive.is_some() {
            tokio::spawn(unload_unused(Arc::downgrade(&inner), changed));
        }
        Self { inner }
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
            let limit = lease.model().info().n_ctx_train.max(usual);
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
        self.inner.free(released);
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
        let inner = &self.inner;
        let lease = |hold| Lease { hold, name: name.to_owned(), n_ctx };
        loop {
            let found = {
                let mut state = inner.lock();
                if let Some(leased) = state.shelf.lease(inner.now(), name, n_ctx) {
                    Ok(leased)
                } else if let Some(flight) = state.flight.clone() {
                    let is_same = flight.name == name && flight.n_ctx >= n_ctx;
                    // Whoever waits for another model does not keep it loading:
                    // only those that want it count.
                    if is_same {
                        flight.waiters.fetch_add(1, Ordering::Relaxed);
                    }
                    Err((flight, is_same))
                } else {
                    let flight = self.take_off(name, n_ctx);
                    state.flight = Some(Arc::clone(&flight));
                    Err((flight, true))
                }
            };
            let (flight, is_same) = match found {
                Ok((id, model, released)) => {
                    inner.free(released);
                    return Ok(lease(Arc::new(Hold { store: Arc::clone(inner), id, model })));
                }
                Err(flight) => flight,
            };
            let (mut done, is_larger) = (flight.done.clone(), flight.n_ctx > n_ctx);
            let guard = is_same.then(|| Waiting { flight, changed: Arc::clone(&inner.changed) });
            let result = done.wait_for(Option::is_some).await.map(|result| (*result).clone());
            drop(guard);
            match result {
                Ok(Some(Ok(hold))) if is_same => return Ok(lease(hold)),
                Ok(Some(Err(error))) if is_same && !is_larger && !error.is_aborted() => {
                    return Err(error);
                }
                // Another model's load is over, or nobody waited for this one before, or
                // only more than is wanted here failed: look again.
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
        let waiters = Arc::new(AtomicUsize::new(1));
        let flight = Arc::new(Flight { name: name.to_owned(), n_ctx, waiters, done });
        let inner = Arc::clone(&self.inner);
        let watched = Arc::clone(&flight);
        tokio::spawn(async move {
            let loaded = inner.fly(&watched).await;
            let landed = {
                let mut state = inner.lock();
                state.flight = None;
                loaded
                    .map(|model| {
                        let info = model.info();
                        // As asked for, even if the engine should have made it
                        // smaller: looking for a larger one again would not end.
                        let (n_ctx, bytes) = (info.n_ctx.max(n_ctx), info.memory.total());
                        let (shelf, name) = (&mut state.shelf, &watched.name);
                        let (id, released) =
                            shelf.admit(inner.now(), name, n_ctx, bytes, model.clone());
                        (id, model, released, shelf.used())
                    })
                    .inspect_err(|_| state.shelf.give_up())
            };
            let result = landed.map(|(id, model, released, used)| {
                inner.free(released);
                if let Some(budget) = inner.config.settings.ram.filter(|budget| used > *budget) {
                    tracing::warn!(
                        models_mib = used >> 20,
                        models_ram_mib = budget >> 20,
                        "models take more memory than they were estimated to"
                    );
                }
                Arc::new(Hold { store: Arc::clone(&inner), id, model })
            });
            sender.send_replace(Some(result));
            inner.changed.notify_waiters();
        });
        flight
    }
}

/// Unloads what nobody uses, for as long as there is a store.
async fn unload_unused(store: Weak<Inner>, changed: Arc<Notify>) {
    loop {
        let notified = changed.notified();
        let next = {
            let Some(inner) = store.upgrade() else { return };
            let now = inner.now();
            let (released, next) = {
                let mut state = inner.lock();
                (state.shelf.expire(now), state.shelf.next_expiry())
            };
            inner.free(released);
            next.map(|next| next.saturating_sub(now))
        };
        match next {
            // What is used meanwhile only expires later.
            Some(wait) => tokio::time::sleep(wait).await,
            None => notified.await,
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shelf's time.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Loads a model as soon as there is room for it.
    async fn fly(self: &Arc<Self>, flight: &Arc<Flight>) -> Result<Model, ModelError> {
        let panicked = |_| ModelError::Panicked { name: flight.name.clone() };
        let planning = {
            let (inner, flight) = (Arc::clone(self), Arc::clone(flight));
            tokio::task::spawn_blocking(move || inner.plan(&flight))
        };
        let (config, need) = planning.await.map_err(panicked)??;
        self.room(flight, need).await?;
        let loading = {
            let (inner, flight) = (Arc::clone(self), Arc::clone(flight));
            tokio::task::spawn_blocking(move || inner.load(config, &flight))
        };
        loading.await.map_err(panicked)?
    }

    /// How a model is to be loaded, and how much memory it will take; that is
    /// nothing if nobody wants to know. Blocks.
    fn plan(&self, flight: &Flight) -> Result<(ModelConfig, MemorySize), ModelError> {
        let Flight { name, n_ctx, .. } = flight;
        let settings = &self.config.settings;
        let path = dir::find(&settings.dir, name, settings.follow_links)
            .ok_or_else(|| ModelError::NotListed { name: name.clone() })?;
        let config = self.model_config(name, path, *n_ctx);
        let need = match settings.ram {
            Some(_) => Model::estimate(&config).map_err(|cause| not_loaded(name, cause))?,
            None => MemorySize::default(),
        };
        Ok((config, need))
    }

    /// Waits until there is room for a model.
    async fn room(self: &Arc<Self>, flight: &Flight, need: MemorySize) -> Result<(), ModelError> {
        let mut is_told = false;
        loop {
            let changed = self.changed.notified();
            let (room, released) = self.lock().shelf.make_room(&flight.name, need.total());
            self.free(released);
            match room {
                Room::Promised => return Ok(()),
                Room::Never => {
                    return Err(ModelError::TooLarge {
                        name: flight.name.clone(),
                        n_ctx: flight.n_ctx,
                        need,
                        budget: self.config.settings.ram.unwrap_or(u64::MAX),
                    });
                }
                Room::Later if flight.waiters.load(Ordering::Relaxed) == 0 => {
                    return Err(ModelError::aborted(&flight.name));
                }
                Room::Later => {}
            }
            if !std::mem::replace(&mut is_told, true) {
                let need_mib = need.total() >> 20;
                tracing::info!(model = flight.name, need_mib, "model waits for memory");
            }
            changed.await;
        }
    }

    /// Loads a file. Blocks.
    fn load(&self, config: ModelConfig, flight: &Flight) -> Result<Model, ModelError> {
        let name = &flight.name;
        let model = name.clone();
        (self.progress)(LoadEvent::Started { model: model.clone() });
        tracing::info!(model = name, n_ctx = flight.n_ctx, "loading model");
        let began = Instant::now();
        let (progress, waiters) = (Arc::clone(&self.progress), Arc::clone(&flight.waiters));
        let on_progress = {
            let model = model.clone();
            move |fraction: f32| {
                progress(LoadEvent::Progress { model: model.clone(), fraction });
                waiters.load(Ordering::Relaxed) > 0
            }
        };
        match Model::load(config, on_progress) {
            Ok(loaded) => {
                let took = began.elapsed();
                (self.progress)(LoadEvent::Finished { model, took });
                tracing::info!(
                    model = name,
                    n_ctx = loaded.info().n_ctx,
                    memory_mib = loaded.info().memory.total() >> 20,
                    took_ms = took.as_millis() as u64,
                    description = %loaded.info().description,
                    "model loaded"
                );
                Ok(loaded)
            }
            Err(cause) => {
                (self.progress)(LoadEvent::Failed { model });
                Err(not_loaded(name, cause))
            }
        }
    }

    /// Frees models on a thread that may block, and takes them off the books: the
    /// engine thread is waited for and gigabytes are unmapped.
    fn free(self: &Arc<Self>, released: Vec<Released<Model>>) {
        if released.is_empty() {
            return;
        }
        // Without a runtime the process is about to end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let inner = Arc::clone(self);
        runtime.spawn_blocking(move || {
            for Released { id, model } in released {
                model.unload();
                inner.lock().shelf.gone(id);
                inner.changed.notify_waiters();
            }
        });
    }

    fn model_config(&self, name: &str, path: PathBuf, n_ctx: u32) -> ModelConfig {
        let settings = &self.config.settings;
        ModelConfig {
            name: name.to_owned(),
            path,
            n_ctx,
            slots: self.config.slots,
            kv_type_k: settings.kv.type_k,
            kv_type_v: settings.kv.type_v,
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
            speculate_tokens: settings.speculate_tokens,
            embedding: settings.embedding.clone(),
            constraint_limits: settings.constraints.clone(),
            max_adapters: settings.max_adapters,
            huge_pages: settings.huge_pages,
            use_mmap: settings.use_mmap,
            use_mlock: settings.use_mlock,
            ..ModelConfig::default()
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task that unloads ends.
        self.changed.notify_waiters();
    }
}

fn not_loaded(name: &str, cause: LoadError) -> ModelError {
    tracing::warn!(model = name, %cause, "model cannot be loaded");
    ModelError::Load { name: name.to_owned(), cause: Arc::new(cause) }
}

/// Counts as waiting for a load until dropped.
struct Waiting {
    flight: Arc<Flight>,
    changed: Arc<Notify>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.flight.waiters.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.changed.notify_waiters();
        }
    }
}

impl Lease {
    /// The model's name, as requests use it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.hold.model
    }

    /// The context limit of the job that holds the lease, in tokens.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let now = self.store.now();
        let released = self.store.lock().shelf.give_back(now, self.id);
        self.store.free(released);
        self.store.changed.notify_waiters();
    }
}
