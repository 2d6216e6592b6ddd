//! llama.cpp's context, with its memory, its threads and its logits.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::adapter::{Adapter, AdapterLock};
use super::batch::{Batch, BatchLimits};
use super::log::Sizes;
use super::threadpool::ThreadPool;
use super::{huge_pages, log, model_ptr};
use crate::config::{FlashAttention, KvType};

/// Creating a context writes to the model, which other contexts may share.
static CREATION: Mutex<()> = Mutex::new(());

/// What a context computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Logits, for at most [`ContextConfig::n_outputs`] tokens of a step.
    Generate,
    /// One vector for each sequence. Every token of a batch has to be an output.
    Embed(Pooling),
}

/// How the vectors of a sequence's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
}

/// Why there is no context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContextError {
    /// What llama.cpp logged.
    Refused(String),
    /// The model remembers nothing from one batch to the next, so it cannot
    /// generate.
    NoMemory,
}

/// How a context is made.
#[derive(Debug, Clone)]
pub(crate) struct ContextConfig {
    pub(crate) purpose: Purpose,
    /// Cells of the KV cache, shared by all sequences.
    pub(crate) n_cells: u32,
    pub(crate) n_batch: u32,
    pub(crate) n_seq: u32,
    /// Rows of logits, if it generates; there are never fewer than sequences.
    pub(crate) n_outputs: u32,
    pub(crate) n_threads: u32,
    pub(crate) poll: u32,
    pub(crate) flash_attention: FlashAttention,
    pub(crate) type_k: KvType,
    pub(crate) type_v: KvType,
    /// Whether its buffers are to lie in huge pages.
    pub(crate) huge_pages: bool,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// The logits of the outputs can be read.
    Ok,
    /// No room in the KV cache; nothing was changed.
    NoSpace,
    /// The abort flag was set; the step has left nothing behind.
    Aborted,
    /// llama.cpp does not accept the batch; nothing was changed.
    Invalid,
    /// Memory or computation failed. The positions of the step are gone.
    Failed(i32),
}

/// A context; used by the thread that created it only.
#[derive(Debug)]
pub(crate) struct Context {
    // Freed first, by `drop`; then the fields in order. The pool, the flag and
    // the adapters must outlive the context, which has pointers to them, and so
    // must the model.
    context: NonNull<sys::llama_context>,
    /// Null for a model without memory, which only an embedding context may have.
    memory: sys::llama_memory_t,
    purpose: Purpose,
    /// Length of a vector.
    n_embd: usize,
    limits: BatchLimits,
    n_cells: u32,
    sizes: Sizes,
    /// What is set, so that nothing frees it.
    adapters: Vec<Arc<Adapter>>,
    adapter_lock: Arc<AdapterLock>,
    /// Whether the next step reads the model's list of adapters.
    adapting: bool,
    _pool: ThreadPool,
    abort: Arc<AtomicBool>,
    model: Arc<LlamaModel>,
}

impl Context {
    /// Allocates the KV cache and everything else a step needs.
    ///
    /// # Errors
    /// [`ContextError`]; a context that embeds needs no memory.
    pub(crate) fn new(
        model: &Arc<LlamaModel>,
        config: &ContextConfig,
    ) -> Result<Self, ContextError> {
        let pool = ThreadPool::new(config.n_threads, config.poll).ok_or_else(|| {
            ContextError::Refused("the compute threads cannot be started".to_string())
        })?;
        let abort = Arc::new(AtomicBool::new(false));

        // SAFETY: returns a plain struct.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = config.n_cells;
        params.n_batch = config.n_batch;
        // One step is one graph, so that an aborted one leaves nothing behind.
        params.n_ubatch = config.n_batch;
        params.n_seq_max = config.n_seq;
        // llama.cpp reserves max(outputs, sequences) rows and aborts the process
        // if this number is the smaller one.
        let n_outputs = match config.purpose {
            Purpose::Generate => config.n_outputs.max(config.n_seq),
            Purpose::Embed(_) => config.n_batch.max(config.n_seq),
        };
        params.n_outputs_max = n_outputs;
        if let Purpose::Embed(pooling) = config.purpose {
            params.embeddings = true;
            params.pooling_type = match pooling {
                Pooling::Mean => sys::LLAMA_POOLING_TYPE_MEAN,
                Pooling::Cls => sys::LLAMA_POOLING_TYPE_CLS,
                Pooling::Last => sys::LLAMA_POOLING_TYPE_LAST,
            };
        }
        params.n_threads = pool.n_threads();
        params.n_threads_batch = pool.n_threads();
        // Copying a part of a sequence asserts in split mode.
        params.kv_unified = true;
        params.no_perf = true;
        params.flash_attn_type = match config.flash_attention {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        params.type_k = ggml_type(config.type_k);
        params.type_v = ggml_type(config.type_v);
        params.abort_callback = Some(is_aborted);
        params.abort_callback_data = Arc::as_ptr(&abort).cast_mut().cast::<c_void>();

        let capture = log::Capture::start();
        let context = {
            let _guard = CREATION.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the model outlives the context, which keeps it; llama.cpp
            // catches its exceptions here and returns null. The lock keeps
            // others from creating a context on the same model meanwhile. The
            // callback's data is the flag, which the context keeps as well.
            let make = || unsafe { sys::llama_init_from_model(model_ptr(model).as_ptr(), params) };
            if config.huge_pages { huge_pages::within(make) } else { make() }
        };
        let Some(context) = NonNull::new(context) else {
            return Err(ContextError::Refused(capture.reason()));
        };
        let sizes = capture.sizes();
        drop(capture);

        // SAFETY: the context was just created. The vocabulary belongs to the
        // model and is only read. A pool may be attached to several contexts.
        let (memory, n_cells, n_vocab) = unsafe {
            sys::llama_attach_threadpool(context.as_ptr(), pool.as_ptr(), pool.as_ptr());
            let vocab = sys::llama_model_get_vocab(model_ptr(model).as_ptr());
            (
                sys::llama_get_memory(context.as_ptr()),
                sys::llama_n_ctx(context.as_ptr()),
                sys::llama_vocab_n_tokens(vocab),
            )
        };
        let created = Self {
            context,
            memory,
            purpose: config.purpose,
            n_embd: usize::try_from(model.n_embd_out()).unwrap_or(0),
            limits: BatchLimits {
                n_batch: config.n_batch as usize,
                n_seq: config.n_seq as usize,
                n_vocab: usize::try_from(n_vocab).unwrap_or(0),
                n_outputs: n_outputs as usize,
            },
            n_cells,
            sizes,
            adapters: Vec::new(),
            adapter_lock: Arc::default(),
            adapting: false,
            _pool: pool,
            abort,
            model: Arc::clone(model),
        };
        if memory.is_null() && config.purpose == Purpose::Generate {
            return Err(ContextError::NoMemory);
        }
        Ok(created)
    }

    pub(crate) fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Cells of the KV cache; may be more than asked for.
    pub(crate) fn n_cells(&self) -> u32 {
        self.n_cells
    }

    /// Bytes of the buffers that were allocated for it.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Set to true by anyone, it ends the step in progress within one operation
    /// of the graph (CPU only); it stays set until it is cleared.
    pub(crate) fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abort)
    }

    /// The lock with which adapters for this context's model have to be loaded.
    pub(crate) fn adapter_lock(&self) -> Arc<AdapterLock> {
        Arc::clone(&self.adapter_lock)
    }

    /// Sets what is applied to all steps from now on, in place of what was set.
    /// False, and without effect, if one of them is of another model. llama.cpp
    /// plans its memory anew in the next step, so this is not for every step.
    pub(crate) fn adapt(&mut self, adapters: &[(Arc<Adapter>, f32)]) -> bool {
        if !adapters.iter().all(|(adapter, _)| adapter.is_for(&self.model)) {
            return false;
        }
        let mut pointers: Vec<_> = adapters.iter().map(|(adapter, _)| adapter.as_ptr()).collect();
        let mut scales: Vec<f32> = adapters.iter().map(|(_, scale)| *scale).collect();
        self.adapting = true;
        // SAFETY: both arrays have as many entries as are named and are only read
        // during the call. The adapters belong to this context's model and live
        // until others are set, because they are kept below; those that were set
        // before are let go of only after the call.
        unsafe {
            sys::llama_set_adapters_lora(
                self.context.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                scales.as_mut_ptr(),
            )
        };
        self.adapters = adapters.iter().map(|(adapter, _)| Arc::clone(adapter)).collect();
        true
    }

    /// Computes a step.
    pub(crate) fn decode(&mut self, batch: &mut Batch) -> Decoded {
        if batch.len() == 0 || batch.limits() != self.limits {
            return Decoded::Invalid;
        }
        let context = self.context.as_ptr();
        // Nothing below lets go of an adapter, which would wait for this lock.
        let guard = self.adapting.then(|| self.adapter_lock.lock());
        // SAFETY: the arrays have `n_tokens` entries each and live during the
        // call. Their values were checked against this context's own limits, so
        // none of llama.cpp's assertions about sizes can fail: at most n_batch
        // tokens, at most n_outputs_max outputs, known tokens and sequences. Without
        // a memory llama.cpp takes the batch to its encoder by itself, whose limit is
        // n_ubatch, which is n_batch.
        let status = batch.with_raw(|raw| unsafe { sys::llama_decode(context, raw) });
        // A backend other than the CPU computes on after the call; whoever
        // measures a step wants all of it.
        // SAFETY: the context is valid; this only waits.
        unsafe { sys::llama_synchronize(context) };
        drop(guard);
        // A batch that is refused may be so before the list is read.
        self.adapting &= status == -1;
        match status {
            0 => Decoded::Ok,
            1 => Decoded::NoSpace,
            2 => Decoded::Aborted,
            -1 => Decoded::Invalid,
            other => Decoded::Failed(other),
        }
    }

    /// The logits for the token at `index` of the batch that was just computed;
    /// `None` if it was no output. May be changed in place.
    pub(crate) fn logits(&mut self, batch: &Batch, index: usize) -> Option<&mut [f32]> {
        if !batch.is_output(index) {
            return None;
        }
        let index = i32::try_from(index).ok()?;
        // SAFETY: the context is valid. llama.cpp waits for the computation and
        // returns null if there is no such output.
        let logits =
            NonNull::new(unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), index) })?;
        // SAFETY: a row of the output buffer has one float for each token of the
        // vocabulary. It belongs to the context, which is borrowed mutably for
        // as long as the slice lives, so nothing can compute or read meanwhile.
        Some(unsafe { std::slice::from_raw_parts_mut(logits.as_ptr(), self.limits.n_vocab) })
    }

    /// The vector of a sequence of the batch that was just computed; `None` if the
    /// sequence had no token in it, or this context does not embed.
    pub(crate) fn embedding(&mut self, sequence: usize) -> Option<&[f32]> {
        if self.purpose == Purpose::Generate || sequence >= self.limits.n_seq {
            return None;
        }
        let sequence = i32::try_from(sequence).ok()?;
        // SAFETY: the context is valid. llama.cpp waits for the computation and
        // returns null for a sequence without a vector; it forgets all vectors when
        // the next batch begins.
        let vector = NonNull::new(unsafe {
            sys::llama_get_embeddings_seq(self.context.as_ptr(), sequence)
        })?;
        // SAFETY: with each of the poolings of `Pooling` a vector has as many floats
        // as the model says (`n_embd_out`). It belongs to the context, which is
        // borrowed mutably for as long as the slice lives, so nothing can compute
        // meanwhile.
        Some(unsafe { std::slice::from_raw_parts(vector.as_ptr(), self.n_embd) })
    }

    /// Removes a sequence from position `from` on. False if the model's memory
    /// cannot forget a part of a sequence.
    pub(crate) fn forget(&mut self, sequence: usize, from: usize) -> bool {
        let (Ok(sequence), Ok(from)) = (i32::try_from(sequence), i32::try_from(from)) else {
            return false;
        };
        // SAFETY: the memory belongs to the context and lives as long. A number
        // outside of 0..n_seq_max is an assertion in llama.cpp.
        !self.memory.is_null()
            && (sequence as usize) < self.limits.n_seq
            && unsafe { sys::llama_memory_seq_rm(self.memory, sequence, from, -1) }
    }

    /// The sequence `to`, which holds nothing, shares the first `n` positions of
    /// `from`. False if the numbers cannot be right; the model's memory has to be
    /// one that can do this ([`super::unshareable`]).
    pub(crate) fn copy_prefix(&mut self, from: usize, to: usize, n: usize) -> bool {
        let exist = from < self.limits.n_seq && to < self.limits.n_seq && from != to;
        let (Ok(from), Ok(to), Ok(n)) = (i32::try_from(from), i32::try_from(to), i32::try_from(n))
        else {
            return false;
        };
        if !exist || n == 0 || self.memory.is_null() {
            return false;
        }
        // SAFETY: the memory belongs to the context and lives as long. Both
        // sequences exist, or llama.cpp would assert; the cache is unified, so a
        // part of a sequence can be copied. Nothing but metadata changes.
        unsafe { sys::llama_memory_seq_cp(self.memory, from, to, 0, n) };
        true
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        // SAFETY: as in `forget`; llama.cpp does nothing where there is no memory.
        // Metadata is enough: cells without a sequence are never read.
        unsafe { sys::llama_memory_clear(self.memory, false) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: created by `llama_init_from_model` and freed once. Thread
        // pool, flag and model are still there.
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

fn ggml_type(kv_type: KvType) -> sys::ggml_type {
    match kv_type {
        KvType::F32 => sys::GGML_TYPE_F32,
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::Bf16 => sys::GGML_TYPE_BF16,
        KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        KvType::Q5_1 => sys::GGML_TYPE_Q5_1,
        KvType::Q5_0 => sys::GGML_TYPE_Q5_0,
        KvType::Q4_1 => sys::GGML_TYPE_Q4_1,
        KvType::Q4_0 => sys::GGML_TYPE_Q4_0,
        KvType::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
    }
}

/// Asked by ggml after every operation of a graph.
unsafe extern "C" fn is_aborted(data: *mut c_void) -> bool {
    // SAFETY: the pointer is the context's own flag, which lives as long as the
    // context; it is only used atomically.
    let flag = unsafe { &*data.cast::<AtomicBool>() };
    flag.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_size_that_ggml_gives_them() {
        for kv_type in KvType::ALL {
            // SAFETY: a known type, and a whole number of its blocks.
            let bytes = unsafe { sys::ggml_row_size(ggml_type(kv_type), 192) };
            assert_eq!(bytes as u64, kv_type.row_bytes(192), "{}", kv_type.name());
        }
    }
}
