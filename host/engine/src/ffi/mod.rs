//! The only unsafe code of the project: llama.cpp's context, owned.
//!
//! Model, vocabulary and samplers come from `llama-cpp-2`, which wraps them
//! safely. Its context does not let several things be set that this engine
//! depends on (number of outputs, thread pool, abort callback), so the context
//! is owned here, over the plain bindings:
//!
//! * [`adapter`]: LoRA adapters and what keeps them apart from computing threads;
//! * [`backends`]: ggml's backends, which are libraries in a portable build;
//! * [`batch`]: input of a step; cannot be built so that `llama_decode` aborts;
//! * [`context`]: the context with its memory, its logits or its vectors;
//! * [`threadpool`]: the threads that compute;
//! * [`huge_pages`]: how the kernel backs the large buffers;
//! * [`log`]: llama.cpp's log, into `tracing` and into load errors.
//!
//! Scheduling, sampling and everything else that decides something is done in
//! safe code elsewhere.
#![allow(unsafe_code, reason = "llama.cpp is a C library; every block says why it is sound")]

pub(crate) mod adapter;
mod backends;
pub(crate) mod batch;
pub(crate) mod context;
pub(crate) mod huge_pages;
pub(crate) mod log;
pub(crate) mod threadpool;

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use crate::error::BackendError;
use crate::kernels::SystemInfo;

pub(crate) use adapter::{Adapter, AdapterLock};
pub(crate) use batch::Batch;
pub(crate) use context::{Context, ContextConfig, ContextError, Decoded, Pooling, Purpose};

/// Whether the kernels are shared libraries.
const IS_PORTABLE: bool = cfg!(feature = "portable");

/// llama.cpp's global state, initialised once and never freed.
///
/// # Errors
/// There are no kernels for this CPU, which is said again each time; or other code
/// of this process has initialised llama.cpp already.
pub(crate) fn backend() -> Result<&'static LlamaBackend, BackendError> {
    static BACKEND: OnceLock<Result<LlamaBackend, BackendError>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            log::redirect();
            if IS_PORTABLE {
                backends::load()?;
            }
            LlamaBackend::init().map_err(|e| BackendError::Init(e.to_string()))
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// What llama.cpp computes with.
///
/// # Errors
/// As [`backend`].
pub(crate) fn system_info() -> Result<SystemInfo, BackendError> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // Without its backends llama.cpp has nothing to print.
    backend()?;
    let _guard = LOCK.lock();
    // SAFETY: the function takes nothing and returns a C string that llama.cpp
    // keeps in a static variable. Calling it again changes that variable, so the
    // lock is held until the text is copied; nothing else calls it.
    let features = unsafe { CStr::from_ptr(sys::llama_print_system_info()) };
    Ok(SystemInfo {
        features: features.to_string_lossy().trim().to_string(),
        kernels: IS_PORTABLE.then(backends::chosen).flatten(),
    })
}

/// Ends the process without running what C and C++ libraries want to do at its
/// end.
pub(crate) fn exit_process(code: u8) -> ! {
    unsafe extern "C" {
        fn _exit(status: std::ffi::c_int) -> !;
    }
    // SAFETY: POSIX's `_exit` takes any status, has no preconditions and does
    // not return.
    unsafe { _exit(code.into()) }
}

/// Makes the C library give freed blocks of a megabyte and more back to the system at
/// once. By itself glibc keeps ever larger ones (up to 32 MiB, and twice that before it
/// trims its heap): a single large answer or prompt would stay as resident memory.
pub(crate) fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        // `malloc.h`. Setting it also ends its automatic growth.
        const M_MMAP_THRESHOLD: c_int = -3;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        // SAFETY: changes where later blocks come from; glibc takes its own lock.
        unsafe { mallopt(M_MMAP_THRESHOLD, 1 << 20) };
    }
}

const _: () = {
    // `LlamaModel` is `repr(transparent)` over a non-null pointer in the version
    // that is pinned; these hold if and only if a pointer can be read out of it.
    assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
    assert!(align_of::<LlamaModel>() == align_of::<*mut sys::llama_model>());
    assert!(size_of::<Option<LlamaModel>>() == size_of::<LlamaModel>());
};

/// llama.cpp's model behind the safe wrapper, which does not give it out.
fn model_ptr(model: &LlamaModel) -> NonNull<sys::llama_model> {
    // SAFETY: `LlamaModel` is `repr(transparent)` over a transparent wrapper of
    // `NonNull<llama_model>` in llama-cpp-2 0.1.160, which is pinned exactly;
    // size, alignment and the null niche are asserted above.
    unsafe { *std::ptr::from_ref(model).cast::<NonNull<sys::llama_model>>() }
}

/// Architecture, size and quantisation in one line.
pub(crate) fn describe(model: &LlamaModel) -> String {
    let mut buffer = [0u8; 256];
    // SAFETY: the model lives as long as the reference; llama.cpp writes at most
    // `buffer.len()` bytes, the closing NUL included.
    let written = unsafe {
        sys::llama_model_desc(model_ptr(model).as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    if written <= 0 {
        return String::new();
    }
    CStr::from_bytes_until_nul(&buffer)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether the model reads its input with an encoder, which needs another way
/// of computing than this engine's.
pub(crate) fn has_encoder(model: &LlamaModel) -> bool {
    // SAFETY: the model lives as long as the reference and is only read.
    unsafe { sys::llama_model_has_encoder(model_ptr(model).as_ptr()) }
}

/// Whether llama.cpp has flash attention for this kind of model.
pub(crate) fn has_flash_attention(model: &LlamaModel) -> bool {
    // The one exception, at `llama_init_from_model` of the version that is pinned.
    model.meta_val_str("general.architecture").map_or(true, |name| name != "grok")
}

/// Why sequences of this model cannot share cells or drop a part of them;
/// `None` if they can.
pub(crate) fn unshareable(model: &LlamaModel) -> Option<&'static str> {
    let model = model_ptr(model).as_ptr();
    // SAFETY: the model lives as long as the reference and is only read.
    let (recurrent, hybrid, window) = unsafe {
        (
            sys::llama_model_is_recurrent(model),
            sys::llama_model_is_hybrid(model),
            sys::llama_model_n_swa(model),
        )
    };
    if recurrent {
        Some("its memory is a recurrent state")
    } else if hybrid {
        Some("a part of its memory is a recurrent state")
    } else if window > 0 {
        Some("it has sliding windows, whose cells are used again")
    } else {
        None
    }
}
