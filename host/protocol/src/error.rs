//! Error codes, the one table that maps them to header codes and fixed texts,
//! and the constructors for every error a worker sends.
//!
//! When an error is sent, and to whom, is decided in `llamero-worker`; this
//! module only makes sure that code, text and header cannot drift apart.

use serde::Serialize;

use crate::{HookFailure, HookFailureKind, HookPhase};

/// The NATS header that carries [`ErrorBody::service_error`].
pub const SERVICE_ERROR_HEADER: &str = "Nats-Service-Error";

/// The NATS header that carries [`ErrorBody::service_code`].
pub const SERVICE_ERROR_CODE_HEADER: &str = "Nats-Service-Error-Code";

/// From this number on, codes belong to plugins. 11 to 999 are not used.
pub const FIRST_PLUGIN_CODE: u32 = 1000;

/// Longest header text. A header line counts against the server's limits, and
/// the whole text is in the body anyway.
const MAX_HEADER_TEXT: usize = 512;

/// The header code of a rejection that a plugin decided by its own rules.
const REJECTED_SERVICE_CODE: u16 = 422;

/// The error codes of the published protocol, 0 to 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// No code on the wire: a failure that has none of its own, such as a model
    /// directory that cannot be read.
    Unknown = 0,
    /// The request was not a valid JSON object.
    IllegibleRequest = 1,
    /// The request lacks a required field or has a refused value.
    InvalidRequest = 2,
    /// None of the known commands is present.
    UnsupportedCommand = 3,
    /// No worker knows the job of an interrupt.
    JobNotFound = 4,
    /// The worker is draining and nobody else takes the job.
    ShuttingDown = 5,
    /// The queue is full and nobody else takes the job.
    Busy = 6,
    /// Options, tokenizer, context, constraint or inference failed.
    PredictionFailed = 7,
    /// The job was stopped.
    Interrupted = 8,
    /// A hook failed, or rejected the request without a code of its own.
    HookFailed = 9,
    /// The model cannot be loaded, or its options are wrong.
    InvalidModel = 10,
}

struct Row {
    code: ErrorCode,
    name: &'static str,
    service_code: u16,
    retryable: bool,
    text: &'static str,
}

const fn row(
    code: ErrorCode,
    name: &'static str,
    service_code: u16,
    retryable: bool,
    text: &'static str,
) -> Row {
    Row { code, name, service_code, retryable, text }
}

/// The table. Names are those of the published Go package, header codes follow
/// HTTP, and a text that another one follows is the beginning of it.
const TABLE: [Row; 11] = [
    row(ErrorCode::Unknown, "ErrUnknown", 500, false, "unknown error"),
    row(
        ErrorCode::IllegibleRequest,
        "ErrIllegibleRequest",
        400,
        false,
        "request is not a valid JSON object",
    ),
    row(ErrorCode::InvalidRequest, "ErrInvalidRequest", 400, false, "job id is required"),
    row(
        ErrorCode::UnsupportedCommand,
        "ErrUnsupportedCommand",
        405,
        false,
        "command not supported",
    ),
    row(ErrorCode::JobNotFound, "ErrJobNotFound", 404, false, "job not found"),
    row(ErrorCode::ShuttingDown, "ErrShuttingDown", 503, true, "worker shutting down"),
    row(ErrorCode::Busy, "ErrBusy", 429, true, "worker busy"),
    row(ErrorCode::PredictionFailed, "ErrPredictionFailed", 500, false, "prediction failed"),
    row(ErrorCode::Interrupted, "ErrInterrupted", 499, false, "prediction interrupted"),
    row(ErrorCode::HookFailed, "ErrHookFailed", 424, false, "hook failed"),
    row(ErrorCode::InvalidModel, "ErrInvalidModel", 404, false, "failed to load"),
];

impl ErrorCode {
    /// Every code, in order.
    pub const ALL: [Self; 11] = {
        let mut all = [Self::Unknown; 11];
        let mut index = 0;
        while index < all.len() {
            all[index] = TABLE[index].code;
            index += 1;
        }
        all
    };

    fn row(self) -> &'static Row {
        // The table is in the order of the codes, which a test checks.
        &TABLE[self as usize]
    }

    /// The number in `error.code`.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The code of a number, or nothing for a plugin's own and for unused ones.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The constant's name in the published Go package, for logs and people.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The value of the header `Nats-Service-Error-Code`.
    pub fn service_code(self) -> u16 {
        self.row().service_code
    }

    /// True when sending the same request again later may succeed.
    pub fn retryable(self) -> bool {
        self.row().retryable
    }

    /// True for the numbers a plugin may reject a request with: 1 to 10, where
    /// they mean what they mean here, and its own from [`FIRST_PLUGIN_CODE`] on.
    pub fn is_rejection_code(number: u32) -> bool {
        (1..=10).contains(&number) || number >= FIRST_PLUGIN_CODE
    }
}

/// The member `error` of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{error}")]
pub struct ErrorBody {
    /// An [`ErrorCode`] as a number, or a plugin's own code. Absent on the wire
    /// when 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u32,
    /// What went wrong, for people. Always written. It never carries prompt text,
    /// paths of the host, or secrets.
    pub error: String,
    /// The plugin behind the error, if one is. Boxed, because it is rare and an
    /// error travels in many results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<Box<HookFailure>>,
}

impl ErrorBody {
    /// An error with a text of the caller. Prefer the constructors below where
    /// the text is fixed.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self { code: code.number(), error: error.into(), hook: None }
    }

    fn fixed(code: ErrorCode) -> Self {
        Self::new(code, code.row().text)
    }

    /// Code 1: the payload could not be read. `reason` must not quote it.
    pub fn illegible(reason: impl std::fmt::Display) -> Self {
        let code = ErrorCode::IllegibleRequest;
        Self::new(code, format!("{}: {reason}", code.row().text))
    }

    /// Code 2: the request carries no job.
    pub fn job_required() -> Self {
        Self::fixed(ErrorCode::InvalidRequest)
    }

    /// Code 2: a value was refused.
    pub fn invalid_request(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, error)
    }

    /// Code 3: the request carries no known command.
    pub fn unsupported_command() -> Self {
        Self::fixed(ErrorCode::UnsupportedCommand)
    }

    /// Code 4: an interrupt found no job.
    pub fn job_not_found() -> Self {
        Self::fixed(ErrorCode::JobNotFound)
    }

    /// Code 5: the worker drains.
    pub fn shutting_down() -> Self {
        Self::fixed(ErrorCode::ShuttingDown)
    }

    /// Code 6: the queue is full.
    pub fn busy() -> Self {
        Self::fixed(ErrorCode::Busy)
    }

    /// Code 6: no instance of a plugin that must run was free in time.
    pub fn hook_busy(plugin: impl Into<String>, phase: HookPhase) -> Self {
        let hook = HookFailure {
            plugin: plugin.into(),
            phase,
            kind: HookFailureKind::Busy,
            retryable: true,
        };
        Self { hook: Some(Box::new(hook)), ..Self::busy() }
    }

    /// Code 7 with a text that says what failed.
    pub fn prediction_failed(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::PredictionFailed, error)
    }

    /// Code 7: kept text and input leave no room in a context of `ctx_size`
    /// tokens.
    pub fn context_overflow(ctx_size: u32) -> Self {
        Self::prediction_failed(format!(
            "content and instructions overflow context size {ctx_size}"
        ))
    }

    /// Code 7: `messages` for a model without a chat template.
    pub fn no_chat_template() -> Self {
        Self::prediction_failed("model has no chat template")
    }

    /// Code 7: nothing is left to evaluate.
    pub fn empty_prompt() -> Self {
        Self::prediction_failed("empty prompt")
    }

    /// Code 8: the job was stopped.
    pub fn interrupted() -> Self {
        Self::fixed(ErrorCode::Interrupted)
    }

    /// Code 9: a hook failed and may not be skipped. The text is fixed by the
    /// kind, so that nothing a guest says reaches a client.
    pub fn hook_failed(
        plugin: impl Into<String>,
        phase: HookPhase,
        kind: HookFailureKind,
        retryable: bool,
    ) -> Self {
        let plugin = plugin.into();
        let error = format!("hook \"{plugin}\" failed: {}", kind.text());
        let hook = HookFailure { plugin, phase, kind, retryable };
        Self { hook: Some(Box::new(hook)), ..Self::new(ErrorCode::HookFailed, error) }
    }

    /// A hook decided against the request: its code and text go to the client
    /// unchanged, code 9 when it named none. A code that plugins must not use
    /// makes this a failure of kind `invalid-output` instead.
    pub fn hook_rejected(
        plugin: impl Into<String>,
        phase: HookPhase,
        code: Option<u32>,
        reason: impl Into<String>,
    ) -> Self {
        let code = code.unwrap_or(ErrorCode::HookFailed.number());
        if !ErrorCode::is_rejection_code(code) {
            return Self::hook_failed(plugin, phase, HookFailureKind::InvalidOutput, false);
        }
        let hook = HookFailure {
            plugin: plugin.into(),
            phase,
            kind: HookFailureKind::Rejected,
            retryable: false,
        };
        Self { code, error: reason.into(), hook: Some(Box::new(hook)) }
    }

    /// Code 10 with a text that says what is wrong with the model.
    pub fn invalid_model(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidModel, error)
    }

    /// Code 10: the model named `name` cannot be loaded. Why is for the
    /// operator's log: it may name paths.
    pub fn load_failed(name: &str) -> Self {
        let code = ErrorCode::InvalidModel;
        Self::new(code, format!("{} {name:?}", code.row().text))
    }

    /// The protocol's code, or nothing when it is a plugin's own.
    pub fn kind(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.code)
    }

    /// The value of the header `Nats-Service-Error-Code`. A plugin's rejection by
    /// its own code, or by none, is 422; one by a protocol code means what that
    /// code means, and so does its header.
    pub fn service_code(&self) -> u16 {
        let rejected =
            self.hook.as_ref().is_some_and(|hook| hook.kind == HookFailureKind::Rejected);
        match self.kind() {
            Some(ErrorCode::HookFailed) if rejected => REJECTED_SERVICE_CODE,
            Some(code) => code.service_code(),
            None if self.code >= FIRST_PLUGIN_CODE => REJECTED_SERVICE_CODE,
            None => ErrorCode::Unknown.service_code(),
        }
    }

    /// The value of the header `Nats-Service-Error`: the text in ASCII without
    /// control characters, cut at 512 bytes. NATS headers are lines.
    pub fn service_error(&self) -> String {
        let printable = |c: char| match c {
            ' '..='~' => c,
            c if c.is_whitespace() || c.is_control() => ' ',
            _ => '?',
        };
        self.error.chars().map(printable).take(MAX_HEADER_TEXT).collect()
    }
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_code_order() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.code as usize, index, "{}", row.name);
            assert_eq!(ErrorCode::from_number(index as u32), Some(row.code));
        }
        assert_eq!(ErrorCode::from_number(11), None);
    }
}
