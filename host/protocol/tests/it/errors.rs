//! The error table: numbers, fixed texts, header codes.

use llamero_protocol::{ErrorBody, ErrorCode, HookFailureKind, HookPhase, check_model_name};

#[test]
fn every_code_has_its_number_name_and_header_code() {
    let table = [
        (ErrorCode::Unknown, "ErrUnknown", 500, false),
        (ErrorCode::IllegibleRequest, "ErrIllegibleRequest", 400, false),
        (ErrorCode::InvalidRequest, "ErrInvalidRequest", 400, false),
        (ErrorCode::UnsupportedCommand, "ErrUnsupportedCommand", 405, false),
        (ErrorCode::JobNotFound, "ErrJobNotFound", 404, false),
        (ErrorCode::ShuttingDown, "ErrShuttingDown", 503, true),
        (ErrorCode::Busy, "ErrBusy", 429, true),
        (ErrorCode::PredictionFailed, "ErrPredictionFailed", 500, false),
        (ErrorCode::Interrupted, "ErrInterrupted", 499, false),
        (ErrorCode::HookFailed, "ErrHookFailed", 424, false),
        (ErrorCode::InvalidModel, "ErrInvalidModel", 404, false),
    ];
    assert_eq!(table.map(|row| row.0), ErrorCode::ALL);
    for (number, (code, name, service_code, retryable)) in (0_u32..).zip(table) {
        assert_eq!((code.number(), code.name(), code.service_code()), (number, name, service_code));
        assert_eq!(
            (code.retryable(), ErrorBody::new(code, "x").service_code()),
            (retryable, service_code)
        );
    }
}

#[test]
fn fixed_texts() {
    let table = [
        (ErrorBody::illegible("R"), 1, "request is not a valid JSON object: R"),
        (ErrorBody::job_required(), 2, "job id is required"),
        (ErrorBody::unsupported_command(), 3, "command not supported"),
        (ErrorBody::job_not_found(), 4, "job not found"),
        (ErrorBody::shutting_down(), 5, "worker shutting down"),
        (ErrorBody::busy(), 6, "worker busy"),
        (
            ErrorBody::context_overflow(4096),
            7,
            "content and instructions overflow context size 4096",
        ),
        (ErrorBody::empty_prompt(), 7, "empty prompt"),
        (ErrorBody::no_chat_template(), 7, "model has no chat template"),
        (ErrorBody::interrupted(), 8, "prediction interrupted"),
        (ErrorBody::load_failed("none.gguf"), 10, "failed to load \"none.gguf\""),
        (ErrorBody::load_failed(""), 10, "failed to load \"\""),
        (
            check_model_name("../m.bin").unwrap_err(),
            10,
            "model name cannot contain path separators",
        ),
    ];
    for (error, code, text) in table {
        assert_eq!((error.code, error.error.as_str(), error.hook), (code, text, None));
    }
}

#[test]
fn hook_failures_say_what_their_kind_says() {
    let table = [
        ("trap", "trap"),
        ("cpu", "cpu limit"),
        ("wall", "time limit"),
        ("memory", "memory limit"),
        ("stack", "stack limit"),
        ("quota", "host call limit"),
        ("hold", "held text limit"),
        ("instantiate", "cannot be started"),
        ("quarantined", "quarantined"),
        ("guest", "returned an error"),
        ("invalid-output", "invalid output"),
        ("host", "host error"),
        ("later-kind", "later-kind"),
    ];
    for (word, text) in table {
        let error =
            ErrorBody::hook_failed("redact", HookPhase::Prompt, HookFailureKind::from(word), false);
        assert_eq!((error.code, error.service_code()), (9, 424));
        assert_eq!(error.error, format!("hook \"redact\" failed: {text}"));
        assert_eq!(error.hook.unwrap().kind.as_str(), word);
    }
}

#[test]
fn rejections_keep_code_and_text() {
    let reject = |code| ErrorBody::hook_rejected("h", HookPhase::Request, code, "no");
    for (code, sent, service_code) in [
        (None, 9, 422),
        (Some(9), 9, 422),
        (Some(1001), 1001, 422),
        (Some(u32::MAX), u32::MAX, 422),
        (Some(6), 6, 429),
    ] {
        let error = reject(code);
        assert_eq!(
            (error.code, error.error.as_str(), error.service_code()),
            (sent, "no", service_code)
        );
        assert_eq!(error.hook.unwrap().kind, HookFailureKind::Rejected);
    }
    for code in [0, 11, 999] {
        assert!(!ErrorCode::is_rejection_code(code));
        let error = reject(Some(code));
        assert_eq!((error.code, error.hook.unwrap().kind), (9, HookFailureKind::InvalidOutput));
    }
}

#[test]
fn header_text_is_one_short_line_of_ascii() {
    let error = ErrorBody::prediction_failed("caf\u{e9}\r\nX: y\u{2028}z");
    assert_eq!(error.service_error(), "caf?  X: y z");
    assert_eq!(ErrorBody::prediction_failed("x".repeat(10_000)).service_error().len(), 512);
}
