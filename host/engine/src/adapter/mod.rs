//! LoRA adapters: which files are some, which are kept, and what a job's are.
//!
//! A file is looked at before llama.cpp loads it, because llama.cpp asserts what
//! it should refuse: keys of another type, tensors that do not fit together, or a
//! tensor of the token embedding that the output shares; and because values that
//! are no numbers would spoil what is computed beside them. Loading is a matter of
//! the thread that wants the adapter; the one that computes only gets what is
//! loaded, with the job that uses it.

mod check;
mod set;
mod shelf;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_cpp_2::model::LlamaModel;

use crate::error::AdapterError;
use crate::ffi::{self, AdapterLock};
pub(crate) use set::{AdapterKey, AdapterSet};
use shelf::{Shelf, Stamp};

/// The most adapters that a job can have. llama.cpp counts what a model's graph
/// may take in advance, for some architectures without adapters.
pub const MAX_JOB_ADAPTERS: usize = 4;

/// The id of the next adapter.
static IDS: AtomicU64 = AtomicU64::new(1);

/// Memory that an adapter was given. It is dropped with the last clone of the adapter.
pub type AdapterRoom = Box<dyn Send + Sync>;

/// A loaded adapter. It stays in memory as long as there is a clone of it, and what a
/// context was set to last, until its next step.
#[derive(Clone)]
pub struct Adapter {
    inner: Arc<Inner>,
}

struct Inner {
    /// Two adapters of one file, loaded one after the other, differ.
    id: u64,
    bytes: u64,
    // Declared before its room, which goes after it.
    raw: Arc<ffi::Adapter>,
    _room: AdapterRoom,
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Adapter {
    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    pub(crate) fn id(&self) -> u64 {
        self.inner.id
    }

    pub(crate) fn raw(&self) -> &Arc<ffi::Adapter> {
        &self.inner.raw
    }

    /// Whether a job has it, or somebody who is going to submit one. Only the
    /// shelf, which is asked here, holds it otherwise.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

/// Whether a file says of itself that it is an adapter, and so no model. Blocks,
/// shortly: adapters say so near their beginning.
pub fn is_adapter(path: &Path) -> bool {
    check::is_adapter(path)
}

/// The adapters of one model.
#[derive(Debug)]
pub(crate) struct Adapters {
    model: Arc<LlamaModel>,
    lock: Arc<AdapterLock>,
    /// As files name it.
    architecture: String,
    n_expert: u64,
    shelf: Mutex<Shelf<Adapter>>,
    /// Held while one is loaded: whoever wants the same one finds it afterwards.
    loading: Mutex<()>,
}

impl Adapters {
    /// `lock` is the one of the model's context; `max` is how many are kept.
    pub(crate) fn new(model: Arc<LlamaModel>, lock: Arc<AdapterLock>, max: usize) -> Self {
        let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
        let n_expert = model.meta_val_str(&format!("{architecture}.expert_count"));
        Self {
            lock,
            n_expert: n_expert.ok().and_then(|n| n.parse().ok()).unwrap_or(0),
            architecture,
            shelf: Mutex::new(Shelf::new(max)),
            loading: Mutex::default(),
            model,
        }
    }

    /// The adapter of a file, loaded if it is not and if there is room for it. Blocks.
    pub(crate) fn get<E: From<AdapterError>>(
        &self,
        path: &Path,
        room: impl FnOnce(u64, &mut dyn FnMut() -> bool) -> Result<AdapterRoom, E>,
    ) -> Result<Adapter, E> {
        let stamp = Stamp::of(path)?;
        if let Some(adapter) = self.shelf().get(path, stamp) {
            return Ok(adapter);
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(adapter) = self.shelf().get(path, stamp) {
            return Ok(adapter);
        }
        let bytes = check::file(path, &self.architecture, self.n_expert)?;
        let removed = self.shelf().make_room(Adapter::is_used)?;
        // Freeing takes a while, and waits for a step that reads the list.
        drop(removed);
        let room = room(bytes, &mut || self.spare())?;
        let raw = ffi::Adapter::load(&self.model, &self.lock, path)
            .map_err(|reason| AdapterError::Refused { reason })?;
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let inner = Inner { id, bytes, raw: Arc::new(raw), _room: room };
        let adapter = Adapter { inner: Arc::new(inner) };
        self.shelf().insert(path, stamp, adapter.clone());
        tracing::info!(adapter = %path.display(), bytes, "adapter loaded");
        Ok(adapter)
    }

    /// Lets go of the adapter that nobody has used for longest; false if all that are
    /// kept are in use.
    fn spare(&self) -> bool {
        // Freed when the lock is not held any more.
        let spared = self.shelf().take_unused(Adapter::is_used);
        spared.is_some()
    }

    /// Whether an adapter was loaded for this model.
    pub(crate) fn own(&self, adapter: &Adapter) -> bool {
        adapter.raw().is_for(&self.model)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<Adapter>> {
        // Nothing panics while it is held.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
