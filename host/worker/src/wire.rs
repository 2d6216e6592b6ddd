//! The one place where errors of the neighbours become errors on the wire.
//!
//! Read from top to bottom it says which code and text a client gets for
//! anything that can go wrong with its job. Texts for clients never carry prompt
//! text, paths or secrets; what they leave out has been logged by the neighbour,
//! or is logged here.

use llamero_engine::{
    AdapterError, ConstraintError, EmbedError, GenerationError, PromptError, SubmitError,
};
use llamero_hooks::{Failure, FailureKind, Phase};
use llamero_protocol::{ErrorBody, ErrorCode, HookFailureKind, HookPhase};

use crate::models::{AdapterCause, AdapterFailure, ModelError};
use crate::settings::{EmbedPolicy, EmbedRules};

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

/// The answer for vectors that do not fit into one message.
pub fn vectors_too_large(max_payload: usize) -> ErrorBody {
    ErrorBody::prediction_failed(format!(
        "the vectors exceed the server's max_payload of {max_payload} bytes; send fewer texts at a time"
    ))
}

/// An embed request of so many texts that this worker does not serve: code 3 if it
/// serves none, 2 if there are too many.
pub fn embed_refused(rules: &EmbedRules, texts: usize) -> Option<ErrorBody> {
    let unsupported = |why: &str| {
        let text = format!("command not supported: {why}");
        Some(ErrorBody::new(ErrorCode::UnsupportedCommand, text))
    };
    match rules.policy {
        EmbedPolicy::Off => unsupported("embed is turned off on this worker"),
        EmbedPolicy::UnseenByHooks => {
            unsupported("this worker has hooks, which do not see embed requests")
        }
        EmbedPolicy::Served if texts > rules.max_inputs => {
            Some(ErrorBody::invalid_request(format!(
                "embed.input has {texts} texts, more than the {} that this worker takes at once",
                rules.max_inputs
            )))
        }
        EmbedPolicy::Served => None,
    }
}

/// Texts without vectors: code 7.
pub fn embed(error: &EmbedError) -> ErrorBody {
    let text = match error {
        EmbedError::Busy => return ErrorBody::busy(),
        EmbedError::Cancelled => return ErrorBody::interrupted(),
        EmbedError::TooLong { index, tokens, limit } => format!(
            "embed.input[{index}] has {tokens} tokens, more than the {limit} that one text may have"
        ),
        EmbedError::TooManyBytes { index, bytes, max_bytes, limit } => format!(
            "embed.input[{index}] has {bytes} bytes, more than the {max_bytes} for {limit} tokens"
        ),
        EmbedError::Empty { index } => format!("embed.input[{index}] has no tokens"),
        // How much memory there is, or what llama.cpp says, has been logged.
        EmbedError::Context(_) => "no context for embeddings".to_owned(),
        other => other.to_string(),
    };
    ErrorBody::prediction_failed(text)
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
        // What it needs follows from the request, and the cure may be the client's.
        ModelError::TooLarge { .. } => ErrorBody::invalid_model(error.to_string()),
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
        PromptError::Separators { .. } => {
            ErrorBody::prediction_failed(format!("option input_separator: {error}"))
        }
        other => ErrorBody::prediction_failed(other.to_string()),
    }
}

/// An adapter that cannot be used: code 7, like any option with a wrong value; 6 if
/// it could be as soon as other jobs have ended.
pub fn adapter(failure: &AdapterFailure) -> ErrorBody {
    match &failure.cause {
        AdapterCause::NoRoom | AdapterCause::Engine(AdapterError::Full { .. }) => ErrorBody::busy(),
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
