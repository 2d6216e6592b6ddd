//! The threads that compute.

use std::ffi::c_void;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::backends;

/// The most threads ggml can have (`GGML_MAX_N_THREADS`).
pub(crate) const MAX_THREADS: u32 = 512;

/// `ggml_threadpool_new`.
type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
/// `ggml_threadpool_free`.
type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);

/// A pool of ggml's; the thread that computes is one of its threads.
///
/// Without one, ggml starts and joins threads for every single graph.
#[derive(Debug)]
pub(crate) struct ThreadPool {
    pool: NonNull<sys::ggml_threadpool>,
    n_threads: i32,
    free: Free,
}

impl ThreadPool {
    /// `poll` is how eagerly idle threads spin, 0 to 100.
    pub(crate) fn new(n_threads: u32, poll: u32) -> Option<Self> {
        let n_threads = i32::try_from(n_threads.clamp(1, MAX_THREADS)).ok()?;
        let new = backends::cpu_function(c"ggml_threadpool_new")?;
        let free = backends::cpu_function(c"ggml_threadpool_free")?;
        // SAFETY: ggml gives these functions out under their names, with the types
        // that its header declares. Those of the bindings are the same, but a
        // portable build has nothing to link them with.
        let (new, free) = unsafe {
            (
                std::mem::transmute::<NonNull<c_void>, New>(new),
                std::mem::transmute::<NonNull<c_void>, Free>(free),
            )
        };
        // SAFETY: fills and returns a plain struct.
        let mut params = unsafe { sys::ggml_threadpool_params_default(n_threads) };
        params.poll = poll.min(100);
        // SAFETY: `params` is valid during the call and copied by ggml; the
        // number of threads is within ggml's bound.
        let pool = unsafe { new(&raw mut params) };
        Some(Self { pool: NonNull::new(pool)?, n_threads, free })
    }

    pub(crate) fn n_threads(&self) -> i32 {
        self.n_threads
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.pool.as_ptr()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: created by `ggml_threadpool_new`, freed once, and the context
        // that used it is gone: it owns the pool and frees itself first.
        unsafe { (self.free)(self.pool.as_ptr()) }
    }
}
