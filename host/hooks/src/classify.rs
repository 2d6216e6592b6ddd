//! From an error of the engine to a failure kind.
//!
//! The order matters: one broken limit often shows as several things at once (an
//! allocator that gets no memory traps), and the cause is worth more than the
//! symptom.

use std::fmt::Write;

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::error::FailureKind;
use crate::guest::GuestState;
use crate::imports::HostFault;

/// Why a step of a call did not succeed, before it has a plugin and a phase.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) kind: FailureKind,
    pub(crate) retryable: bool,
    pub(crate) detail: String,
}

impl CallError {
    pub(crate) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        let retryable = matches!(kind, FailureKind::Busy | FailureKind::Quarantined);
        Self { kind, retryable, detail: detail.into() }
    }
}

/// What the host was doing with the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Making the instance.
    Make,
    /// Calling one of its functions.
    Call,
}

/// wasmtime has no type for these two, so they are known by their texts; the
/// tests that exceed the limits break when the texts change.
const OUT_OF_HOST_CALL_BYTES: &str = "fuel allocated for hostcalls has been exhausted";
const OUT_OF_HANDLES: &str = "store handle limit exceeded";

/// Files an error that ended `stage`.
pub(crate) fn classify(state: &GuestState, stage: Stage, error: &wasmtime::Error) -> CallError {
    let kind = kind(state, stage, error);
    let mut detail = String::new();
    if let Some(limit) = limit_text(state, kind) {
        // Writing to a string cannot fail.
        let _ = write!(detail, "{limit}: ");
    }
    add_chain(error, &mut detail);
    add_stderr(state, &mut detail);
    CallError::new(kind, detail)
}

/// Appends what the error says, causes first and the guest's frames last.
fn add_chain(error: &wasmtime::Error, detail: &mut String) {
    let trace = error.downcast_ref::<WasmBacktrace>().map(|t| t.to_string());
    let mut texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    texts.retain(|text| Some(text) != trace.as_ref());
    detail.push_str(&texts.join(": "));
    if let Some(trace) = trace {
        let _ = write!(detail, "\n{trace}");
    }
}

/// Appends the end of the plugin's stderr, where its panic messages are.
pub(crate) fn add_stderr(state: &GuestState, detail: &mut String) {
    let stderr = state.stderr.text();
    if !stderr.is_empty() {
        let _ = write!(detail, "\nthe end of its stderr:\n{stderr}");
    }
}

fn kind(state: &GuestState, stage: Stage, error: &wasmtime::Error) -> FailureKind {
    if error.is::<PoolConcurrencyLimitError>() {
        return FailureKind::Busy;
    }
    if error.is::<HostFault>() {
        return FailureKind::Host;
    }
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::Interrupt)
        && let Some(cause) = state.call.cause
    {
        return cause;
    }
    if trap == Some(Trap::StackOverflow) {
        return FailureKind::Stack;
    }
    if state.limiter.refused.is_some() {
        return FailureKind::Memory;
    }
    if matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full)) {
        return FailureKind::Quota;
    }
    let root = error.root_cause().to_string();
    if root.contains(OUT_OF_HANDLES) {
        return FailureKind::Quota;
    }
    // An error from inside the guest carries its frames. Without frames the guest
    // had already returned, and the host stumbled over what it returned.
    let inside_the_guest = error.is::<WasmBacktrace>();
    if root.contains(OUT_OF_HOST_CALL_BYTES) {
        return if inside_the_guest { FailureKind::Quota } else { FailureKind::InvalidOutput };
    }
    match stage {
        Stage::Make => FailureKind::Instantiate,
        Stage::Call if inside_the_guest => FailureKind::Trap,
        Stage::Call => FailureKind::InvalidOutput,
    }
}

/// The limit that a kind is about, with its value and the setting to change.
pub(crate) fn limit_text(state: &GuestState, kind: FailureKind) -> Option<String> {
    let limits = &state.plugin.limits;
    Some(match kind {
        FailureKind::Cpu => format!(
            "used {:?} of CPU time, limit `{}` is {:?}",
            state.call.clock.total().cpu,
            state.call.budget.cpu_limit,
            state.call.budget.cpu
        ),
        FailureKind::Wall => {
            let budget = &state.call.budget;
            let starved = state.call.clock.total().starved;
            format!(
                "ran out of wall time, limit `{}` is {:?}, and {starved:.1?} without a free \
                 processor are not counted",
                budget.wall_limit, budget.wall
            )
        }
        FailureKind::Memory => format!(
            "asked for {} bytes of memory in all, limit `memory_bytes` is {}",
            state.limiter.refused.unwrap_or(state.limiter.used()),
            state.limiter.limit()
        ),
        FailureKind::Quota => format!(
            "limits `host_call_bytes` {} and `handles` {}",
            limits.host_call_bytes, limits.handles
        ),
        _ => return None,
    })
}
