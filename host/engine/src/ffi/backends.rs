//! The backends of ggml: loading those that are libraries, and the functions that
//! only the CPU's has.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null, null_mut};

use llama_cpp_sys_2 as sys;

use super::log::Capture;
use crate::error::BackendError;
use crate::kernels::{self, Kernels};

/// Loads the kernels for this CPU, and the other backends that lie beside them and
/// can be used here.
///
/// This has to come before llama.cpp is initialised: where there is no backend
/// yet, that searches places of its own, the working directory among them.
///
/// # Errors
/// What is missing. Afterwards llama.cpp must not be initialised.
pub(super) fn load() -> Result<(), BackendError> {
    let places = kernels::places();
    let Some(folder) = kernels::find(&places) else {
        return Err(BackendError::NoKernels { places });
    };
    // A path that was just read from has no NUL in it.
    let path = c_path(&folder.path).unwrap_or_default();
    // SAFETY: a C string that lives during the call. The libraries in the folder
    // are as trustworthy as the program: they came with it, or its operator named
    // them.
    unsafe { sys::ggml_backend_load_all_from_path(path.as_ptr()) };
    if cpu().is_some() {
        return Ok(());
    }
    // While it chooses, ggml says nothing of libraries that cannot be loaded. It
    // does where one is asked for by name.
    let capture = Capture::start();
    for library in folder.libraries.iter().filter_map(|library| c_path(library)) {
        // SAFETY: as above.
        unsafe { sys::ggml_backend_load(library.as_ptr()) };
    }
    let reason = capture.first_error().unwrap_or_else(|| "they are for other CPUs".to_string());
    Err(BackendError::UnusableKernels { folder: folder.path, reason })
}

/// The kernels that [`load`] has chosen.
pub(super) fn chosen() -> Option<Kernels> {
    // Any function of theirs will do.
    let function = cpu_function(c"ggml_threadpool_new")?;
    Some(Kernels::in_library(library_of(function)?))
}

/// A function of the CPU's backend, which a portable build cannot be linked with.
pub(super) fn cpu_function(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the backend stays registered for ever, and the name is a C string.
    let function =
        unsafe { sys::ggml_backend_reg_get_proc_address(cpu()?.as_ptr(), name.as_ptr()) };
    NonNull::new(function)
}

fn cpu() -> Option<NonNull<sys::ggml_backend_reg>> {
    // SAFETY: a C string. ggml's list of backends is made on its first use, which
    // C++ guards, and only `load` changes it later: once, and before anything
    // else of llama.cpp is called.
    NonNull::new(unsafe { sys::ggml_backend_reg_by_name(c"CPU".as_ptr()) })
}

/// The file that a function's code is in.
fn library_of(function: NonNull<c_void>) -> Option<PathBuf> {
    /// The C library's `Dl_info`.
    #[repr(C)]
    struct Info {
        file: *const c_char,
        base: *mut c_void,
        symbol: *const c_char,
        address: *mut c_void,
    }
    unsafe extern "C" {
        fn dladdr(address: *const c_void, info: *mut Info) -> c_int;
    }
    let mut info = Info { file: null(), base: null_mut(), symbol: null(), address: null_mut() };
    // SAFETY: `dladdr` takes any address, and fills the structure that is given.
    let found = unsafe { dladdr(function.as_ptr(), &raw mut info) };
    if found == 0 || info.file.is_null() {
        return None;
    }
    // SAFETY: a C string that lives as long as the library is loaded; backends are
    // never unloaded.
    let file = unsafe { CStr::from_ptr(info.file) };
    Some(PathBuf::from(OsString::from_vec(file.to_bytes().to_vec())))
}

fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}
