//! llama.cpp's log.
//!
//! Lines go to `tracing` with target `llama.cpp`, one level quieter than
//! llama.cpp thinks: its "info" is a page of text for every model. While a
//! [`Capture`] lives, warnings and errors of its thread are kept as well,
//! because llama.cpp explains a failed load nowhere else, and so are the sizes
//! of buffers, which its C interface does not tell.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use llama_cpp_sys_2 as sys;

/// Most lines kept by one capture.
const MAX_LINES: usize = 64;

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new()) };
}

struct State {
    /// A line that has not ended yet, with its level.
    partial: Option<(sys::ggml_log_level, String)>,
    captured: Option<Captured>,
}

#[derive(Debug, Default, PartialEq)]
struct Captured {
    lines: Vec<(Severity, String)>,
    sizes: Sizes,
}

/// Bytes of the buffers that llama.cpp said it allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sizes {
    /// For KV caches and recurrent states.
    pub(crate) kv: u64,
    /// To compute in, and for outputs.
    pub(crate) buffers: u64,
}

impl Sizes {
    /// Takes in a line such as `f:        CPU KV buffer size =   360.00 MiB`;
    /// others are passed over.
    fn read(&mut self, line: &str) {
        let Some((what, size)) = line.split_once(" buffer size = ") else { return };
        let number = size.trim().strip_suffix("MiB").and_then(|n| n.trim().parse::<f64>().ok());
        let Some(mib) = number else { return };
        let bytes = (mib * 1_048_576.0) as u64;
        match what.rsplit(' ').next() {
            Some("KV" | "RS" | "state") => self.kv = self.kv.saturating_add(bytes),
            Some("output" | "compute") => self.buffers = self.buffers.saturating_add(bytes),
            _ => {}
        }
    }
}

impl State {
    const fn new() -> Self {
        Self { partial: None, captured: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Warning,
    Error,
}

/// Sends llama.cpp's log to `tracing` from now on.
pub(super) fn redirect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callback is a plain function that lives for ever, uses no
        // user data, and never unwinds.
        unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) }
    });
}

/// Keeps the warnings and errors that llama.cpp logs on this thread.
#[derive(Debug)]
pub(crate) struct Capture(());

impl Capture {
    pub(crate) fn start() -> Self {
        STATE.with_borrow_mut(|state| state.captured = Some(Captured::default()));
        Self(())
    }

    /// The sizes of the buffers that were allocated so far.
    pub(crate) fn sizes(&self) -> Sizes {
        STATE.with_borrow(|state| state.captured.as_ref().map_or(Sizes::default(), |c| c.sizes))
    }

    /// The first error that llama.cpp logged, without the name of its function.
    pub(crate) fn first_error(self) -> Option<String> {
        STATE.with_borrow(|state| {
            let lines = &state.captured.as_ref()?.lines;
            let (_, text) = lines.iter().find(|(severity, _)| *severity == Severity::Error)?;
            Some(without_function_name(text).to_string())
        })
    }

    /// What llama.cpp gave as reason: its errors, or its warnings if it had
    /// none, without the names of its functions.
    pub(crate) fn reason(self) -> String {
        let captured = STATE.with_borrow_mut(|state| state.captured.take());
        let lines = captured.unwrap_or_default().lines;
        let of = |severity| {
            let texts: Vec<&str> = lines
                .iter()
                .filter(|(s, _)| *s == severity)
                .map(|(_, text)| without_function_name(text))
                .collect();
            texts.join("; ")
        };
        let errors = of(Severity::Error);
        if !errors.is_empty() {
            return errors;
        }
        let warnings = of(Severity::Warning);
        if warnings.is_empty() { "llama.cpp gave no reason".to_string() } else { warnings }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        STATE.with_borrow_mut(|state| state.captured = None);
    }
}

/// llama.cpp begins its lines with `function_name: `.
fn without_function_name(line: &str) -> &str {
    match line.split_once(": ") {
        Some((name, rest))
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
        {
            rest.trim_start()
        }
        _ => line,
    }
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives during the
    // call, and null was excluded.
    let text = unsafe { CStr::from_ptr(text) };
    // A subscriber of tracing may panic; that must not unwind into C++.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let text = text.to_string_lossy();
        let lines = STATE.with(|state| match state.try_borrow_mut() {
            Ok(mut state) => state.take_lines(level, &text),
            Err(_) => Vec::new(),
        });
        for (level, line) in lines {
            emit(level, &line);
        }
    }));
}

impl State {
    /// Completes lines: llama.cpp logs some of them in parts.
    fn take_lines(
        &mut self,
        level: sys::ggml_log_level,
        text: &str,
    ) -> Vec<(sys::ggml_log_level, String)> {
        let (level, mut line) = match self.partial.take() {
            Some((first, begun)) if level == sys::GGML_LOG_LEVEL_CONT => (first, begun),
            _ => (level, String::new()),
        };
        line.push_str(text);
        if !line.ends_with('\n') {
            self.partial = Some((level, line));
            return Vec::new();
        }
        let mut lines = Vec::new();
        for part in line.lines().map(str::trim_end).filter(|l| !l.is_empty()) {
            self.capture(level, part);
            lines.push((level, part.to_string()));
        }
        lines
    }

    fn capture(&mut self, level: sys::ggml_log_level, line: &str) {
        let Some(captured) = &mut self.captured else { return };
        captured.sizes.read(line);
        let severity = match level {
            sys::GGML_LOG_LEVEL_ERROR => Severity::Error,
            sys::GGML_LOG_LEVEL_WARN => Severity::Warning,
            _ => return,
        };
        if captured.lines.len() < MAX_LINES {
            captured.lines.push((severity, line.to_string()));
        }
    }
}

fn emit(level: sys::ggml_log_level, line: &str) {
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "llama.cpp", "{line}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::info!(target: "llama.cpp", "{line}"),
        sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama.cpp", "{line}"),
        _ => tracing::trace!(target: "llama.cpp", "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_captured() {
        let mut state = State::new();
        state.captured = Some(Captured::default());
        assert!(state.take_lines(sys::GGML_LOG_LEVEL_ERROR, "load: bad ").is_empty());
        let lines = state.take_lines(sys::GGML_LOG_LEVEL_CONT, "magic\n");
        assert_eq!(lines, [(sys::GGML_LOG_LEVEL_ERROR, "load: bad magic".to_string())]);
        state.take_lines(sys::GGML_LOG_LEVEL_INFO, "not kept\n");
        let captured = state.captured.unwrap_or_default();
        assert_eq!(captured.lines, [(Severity::Error, "load: bad magic".to_string())]);
        assert_eq!(captured.sizes, Sizes::default());
    }

    #[test]
    fn sizes_of_buffers_are_added_up() {
        let mut sizes = Sizes::default();
        for line in [
            "llama_context:        CPU  output buffer size =     3.75 MiB",
            "llama_kv_cache:        CPU KV buffer size =   360.00 MiB",
            "llama_kv_cache:      CUDA0 KV buffer size =    40.50 MiB",
            "sched_reserve:        CPU compute buffer size =    16.25 MiB",
            "load_tensors:   CPU_Mapped model buffer size =    93.00 MiB",
            "f: CPU KV buffer size = many MiB",
            "f: CPU KV buffer size = 1.00 GiB",
        ] {
            sizes.read(line);
        }
        assert_eq!(sizes, Sizes { kv: (400 << 20) + (1 << 19), buffers: 20 << 20 });
    }

    #[test]
    fn function_names_are_left_out() {
        assert_eq!(without_function_name("llama_load: no such file"), "no such file");
        assert_eq!(without_function_name("two words: kept"), "two words: kept");
    }
}
