//! LoRA adapters of one model.
//!
//! A context applies its adapters to all that it computes, so which of them are
//! set is decided for each step ([`super::Context::adapt`]). Adapters are loaded
//! and freed on other threads than the one that computes; what llama.cpp shares
//! between them is the model's list of its adapters, see [`AdapterLock`].

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::{log, model_ptr};

/// Keeps two threads from using a model's list of adapters at once: loading adds
/// to it, freeing removes from it, and a context reads it in the first step after
/// its adapters have changed. llama.cpp has no lock of its own there.
#[derive(Debug, Default)]
pub(crate) struct AdapterLock(Mutex<()>);

impl AdapterLock {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards C++'s data, which a panic on this side leaves as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An adapter in memory.
#[derive(Debug)]
pub(crate) struct Adapter {
    adapter: NonNull<sys::llama_adapter_lora>,
    lock: Arc<AdapterLock>,
    // Freed after the adapter: a model frees those that it still lists.
    model: Arc<LlamaModel>,
}

// SAFETY: an adapter is not tied to the thread that loaded it. Its contents never
// change after loading; its entry in the model's list is only touched under the
// lock.
unsafe impl Send for Adapter {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// Loads a file that [`crate::adapter`] has looked at. Blocks. `lock` is the
    /// one of the model's context.
    ///
    /// # Errors
    /// What llama.cpp logged about it.
    pub(crate) fn load(
        model: &Arc<LlamaModel>,
        lock: &Arc<AdapterLock>,
        path: &Path,
    ) -> Result<Self, String> {
        let path = path.to_str().and_then(|path| CString::new(path).ok());
        let path = path.ok_or("the path is not UTF-8")?;
        let capture = log::Capture::start();
        let adapter = {
            let _guard = lock.lock();
            // SAFETY: the model lives as long as the adapter, which keeps it, and
            // the path is a C string. llama.cpp catches its exceptions here and
            // returns null. Weights are only read, and the list of adapters is
            // ours while the lock is held.
            unsafe { sys::llama_adapter_lora_init(model_ptr(model).as_ptr(), path.as_ptr()) }
        };
        match NonNull::new(adapter) {
            Some(adapter) => Ok(Self { adapter, lock: Arc::clone(lock), model: Arc::clone(model) }),
            None => Err(capture.reason()),
        }
    }

    /// Whether it was loaded for this model, and not for another copy of it.
    pub(crate) fn is_for(&self, model: &Arc<LlamaModel>) -> bool {
        Arc::ptr_eq(&self.model, model)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.adapter.as_ptr()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let _guard = self.lock.lock();
        // SAFETY: created by `llama_adapter_lora_init` and freed once. No context
        // uses it, because a context keeps what is set; the model is still there.
        unsafe { sys::llama_adapter_lora_free(self.adapter.as_ptr()) }
    }
}
