//! The one place where errors of the neighbours become errors on the wire.
//!
//! Read from top to bottom it says which code and text a client gets for
//! anything that can go wrong with its job. Texts for clients never carry prompt
//! text, paths or secrets; what they leave out has been logged by the neighbour,
//! or is logged here.

use llamero_engine::{AdapterError, ConstraintError, GenerationError, PromptError, SubmitError};
use llamero_hooks::{Failure, FailureKind, Phase};
use llamero_protocol::{ErrorBody, ErrorCode, HookFailureKind, HookPhase};

use crate::models::{AdapterCause, AdapterFailure, ModelError};

/// The error of a panic inside one job.
pub fn panicked() -> ErrorBody {
    ErrorBody::prediction_failed("internal error")
}

/// The answer for an output that does not fit into one message.
pub fn output_too_large(bytes: usize, max_payload: usize) -> ErrorBody {
    ErrorBody::prediction_failed(format!(
        "output of {bytes} bytes exceeds the server's max_payload of {max_payload} bytes; request a stream"
    ))
}

/// No model for the job: code 10.
pub fn model(error: &ModelError) -> ErrorBody {
    match error {
        ModelError::Name(error) => error.clone(),
        ModelError::NoneNamed => ErrorBody::load_failed(""),
        ModelError::NotListed { name }
        | ModelError::Unreadable { name, .. }
        | ModelError::Load { name, .. }
        | ModelError::Panicked { name } => ErrorBody::load_failed(name),
        ModelError::CtxSize { .. } => {
            ErrorBody::new(ErrorCode::InvalidModel, format!("option ctx_size: {error}"))
        }
    }
}

/// No prompt from the content: code 7. The engine's texts are the protocol's.
pub fn prompt(error: &PromptError) -> ErrorBody {
    match error {
        PromptError::Overflow { n_ctx } => ErrorBody::context_overflow(*n_ctx),
        PromptError::Empty => ErrorBody::empty_prompt(),
        PromptError::NoChatTemplate => ErrorBody::no_chat_template(),
        other => ErrorBody::prediction_failed(other.to_string()),
    }
}

/// An adapter that cannot be used: code 7, like any option with a wrong value; 6 if
/// it could be as soon as other jobs have ended.
pub fn adapter(failure: &AdapterFailure) -> ErrorBody {
    match &failure.cause {
        AdapterCause::Engine(AdapterError::Full { .. }) => ErrorBody::busy(),
        // The operating system's words are for the operator.
        AdapterCause::Engine(AdapterError::Io(_)) => {
            ErrorBody::prediction_failed(format!("option lora: {:?} cannot be read", failure.name))
        }
        _ => ErrorBody::prediction_failed(format!("option lora: {failure}")),
    }
}

/// A grammar or schema that cannot be used: code 7.
pub fn constraint(error: &ConstraintError) -> ErrorBody {
    ErrorBody::prediction_failed(format!("option {error}"))
}

/// The engine did not take the job.
pub fn submit(error: &SubmitError, n_ctx: u32) -> ErrorBody {
    match error {
        SubmitError::Busy => ErrorBody::busy(),
        SubmitError::EmptyPrompt => ErrorBody::empty_prompt(),
        SubmitError::PromptTooLong { .. } => ErrorBody::context_overflow(n_ctx),
        SubmitError::Sampling { name, reason } => {
            ErrorBody::prediction_failed(format!("option {name}: {reason}"))
        }
        other => ErrorBody::prediction_failed(other.to_string()),
    }
}

/// The job failed while it ran: code 7.
pub fn generation(error: &GenerationError) -> ErrorBody {
    ErrorBody::prediction_failed(error.to_string())
}

/// A hook decided against the request: its own code and text.
pub fn rejection(plugin: String, phase: Phase, code: Option<u32>, reason: String) -> ErrorBody {
    ErrorBody::hook_rejected(plugin, hook_phase(phase), code, reason)
}

/// A hook failed: code 9 with a fixed text; 6 if there was no instance for it,
/// 8 if the job was cancelled.
pub fn hook_failure(failure: &Failure) -> ErrorBody {
    let phase = hook_phase(failure.phase);
    let plugin = failure.plugin.as_str();
    let kind = match failure.kind {
        FailureKind::Busy => return ErrorBody::hook_busy(plugin, phase),
        FailureKind::Cancelled => return ErrorBody::interrupted(),
        FailureKind::Trap => HookFailureKind::Trap,
        FailureKind::Cpu => HookFailureKind::Cpu,
        FailureKind::Wall => HookFailureKind::Wall,
        FailureKind::Memory => HookFailureKind::Memory,
        FailureKind::Stack => HookFailureKind::Stack,
        FailureKind::Quota => HookFailureKind::Quota,
        FailureKind::Instantiate => HookFailureKind::Instantiate,
        FailureKind::Hold => HookFailureKind::Hold,
        FailureKind::Quarantined => HookFailureKind::Quarantined,
        FailureKind::Guest => HookFailureKind::Guest,
        FailureKind::InvalidOutput => HookFailureKind::InvalidOutput,
        FailureKind::Host => HookFailureKind::Host,
        // A kind that is added later is told by its name.
        other => HookFailureKind::Other(other.as_str().to_owned()),
    };
    ErrorBody::hook_failed(plugin, phase, kind, failure.retryable)
}

fn hook_phase(phase: Phase) -> HookPhase {
    match phase {
        Phase::Request => HookPhase::Request,
        Phase::Prompt => HookPhase::Prompt,
        Phase::Token => HookPhase::Token,
        Phase::Stream => HookPhase::Stream,
        Phase::Response => HookPhase::Response,
        other => HookPhase::Other(other.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests;
