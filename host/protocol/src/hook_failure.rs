//! `error.hook`: which plugin ended a request, where, and how.
//!
//! Only the fixed words and texts of the wire. What a plugin says about its own
//! failure stays in the operator's log, written by `llamero-worker`.

use serde::Serialize;

use crate::wire_enum::wire_enum;

/// The member `hook` of an error: an extension, ignored by Go clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookFailure {
    /// The plugin's configured id.
    pub plugin: String,
    /// Where in the job it ran.
    pub phase: HookPhase,
    /// What went wrong, or `rejected` for a decision.
    pub kind: HookFailureKind,
    /// True when the same request may succeed later.
    #[serde(skip_serializing_if = "is_false")]
    pub retryable: bool,
}

wire_enum! {
    /// The phase of a job in which a hook runs.
    pub enum HookPhase {
        /// On the request, before options and template.
        Request => "request",
        /// On the rendered prompt.
        Prompt => "prompt",
        /// On the choice of a token; experimental.
        Token => "token",
        /// On generated text, as it is generated.
        Stream => "stream",
        /// On the whole output.
        Response => "response",
    }
}

wire_enum! {
    /// How a hook ended a request.
    pub enum HookFailureKind {
        /// The guest trapped.
        Trap => "trap",
        /// It used up its share of processor time.
        Cpu => "cpu",
        /// It took longer than its wall-clock limit.
        Wall => "wall",
        /// It asked for more memory than its limit.
        Memory => "memory",
        /// Its stack overflowed.
        Stack => "stack",
        /// It made too many host calls, or too large ones.
        Quota => "quota",
        /// It held back more text than it may.
        Hold => "hold",
        /// No instance of it could be started.
        Instantiate => "instantiate",
        /// It failed too often and is set aside.
        Quarantined => "quarantined",
        /// It returned an error of its own.
        Guest => "guest",
        /// Its result was refused by the worker's checks.
        InvalidOutput => "invalid-output",
        /// The host failed while it served the plugin.
        Host => "host",
        /// No instance was free in time; comes with code 6.
        Busy => "busy",
        /// It decided against the request; not a failure.
        Rejected => "rejected",
    }
}

impl HookFailureKind {
    /// What stands after `failed: ` in the error's text.
    pub fn text(&self) -> &str {
        match self {
            Self::Trap => "trap",
            Self::Cpu => "cpu limit",
            Self::Wall => "time limit",
            Self::Memory => "memory limit",
            Self::Stack => "stack limit",
            Self::Quota => "host call limit",
            Self::Hold => "held text limit",
            Self::Instantiate => "cannot be started",
            Self::Quarantined => "quarantined",
            Self::Guest => "returned an error",
            Self::InvalidOutput => "invalid output",
            Self::Host => "host error",
            Self::Busy => "busy",
            Self::Rejected => "rejected",
            Self::Other(word) => word,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
