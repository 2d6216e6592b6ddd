//! Every internal error kind, and what a client gets for it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use llamero_engine::{BackendError, LoadError, MemorySize};

use super::*;

/// Checks code, text, and that nothing of the host leaks.
#[track_caller]
fn check(error: &ErrorBody, code: u32, text: &str) {
    assert_eq!((error.code, error.error.as_str()), (code, text));
    assert!(!error.error.contains("/secret"), "{}", error.error);
}

fn path() -> PathBuf {
    PathBuf::from("/secret/models/m.gguf")
}

#[test]
fn every_model_error_is_code_10() {
    let name = || "m.gguf".to_owned();
    let load = |cause| ModelError::Load { name: name(), cause: Arc::new(cause) };
    let io = || io::Error::from(io::ErrorKind::PermissionDenied);
    let reason = || "reason".to_owned();
    let failed = "failed to load \"m.gguf\"";
    for (error, text) in [
        (
            ModelError::Name(ErrorBody::invalid_model("model name cannot contain path separators")),
            "model name cannot contain path separators",
        ),
        (ModelError::NoneNamed, "failed to load \"\""),
        (ModelError::NotListed { name: name() }, failed),
        (ModelError::Unreadable { name: name(), cause: "/secret".into() }, failed),
        (ModelError::Panicked { name: name() }, failed),
        (load(LoadError::Io { path: path(), source: io() }), failed),
        (load(LoadError::NotAFile { path: path() }), failed),
        (load(LoadError::InvalidFile { path: path(), reason: reason() }), failed),
        (load(LoadError::Refused { path: path(), reason: reason() }), failed),
        (load(LoadError::Unsupported { path: path(), reason: reason() }), failed),
        (load(LoadError::Context { n_ctx: 1, slots: 1, reason: reason() }), failed),
        (load(LoadError::Backend(BackendError::Init(reason()))), failed),
        (load(LoadError::Aborted), failed),
        (load(LoadError::Thread(reason())), failed),
        (
            ModelError::CtxSize { wanted: 9000, limit: 8192 },
            "option ctx_size: ctx_size 9000 is larger than 8192, the most this worker allows",
        ),
        (
            ModelError::TooLarge {
                name: name(),
                n_ctx: 8192,
                need: MemorySize { weights: 93 << 20, kv: 720 << 20, buffers: (36 << 20) + 1 },
                budget: 512 << 20,
            },
            "\"m.gguf\" with ctx_size 8192 needs 850 MiB (weights 93, KV cache 720, buffers 37), \
             but models_ram_mib is 512; a smaller ctx_size, fewer slots or kv_cells, or smaller \
             types as kv_type_k and kv_type_v take less",
        ),
    ] {
        check(&model(&error), 10, text);
    }
}

#[test]
fn every_prompt_error_is_code_7() {
    for (error, text) in [
        (
            PromptError::Overflow { n_ctx: 4096 },
            "content and instructions overflow context size 4096",
        ),
        (PromptError::Empty, "empty prompt"),
        (PromptError::NoChatTemplate, "model has no chat template"),
        (PromptError::Template("no".into()), "chat template: no"),
        (
            PromptError::Role { index: 1 },
            "role of message 1 must be 1 to 64 letters, digits, \"_\" or \"-\"",
        ),
        (
            PromptError::ContextSize { n_ctx: 2, max: 1 },
            "context size 2 is larger than the 1 tokens the model was loaded with",
        ),
        (PromptError::Tokenizer("no".into()), "tokenizer: no"),
        (
            PromptError::Separators { bytes: 9, limit: 8 },
            "option input_separator: would be 9 bytes between all elements, more than 8",
        ),
    ] {
        check(&prompt(&error), 7, text);
    }
}

#[test]
fn every_embed_error() {
    let text = |text: &str| ErrorBody::prediction_failed(text);
    for (error, expected) in [
        (
            EmbedError::Unsupported("it ranks texts, which gives no vectors"),
            text("the model gives no embeddings: it ranks texts, which gives no vectors"),
        ),
        (
            EmbedError::TooLong { index: 1, tokens: 600, limit: 512 },
            text("embed.input[1] has 600 tokens, more than the 512 that one text may have"),
        ),
        (
            EmbedError::TooManyBytes { index: 0, bytes: 40_000, max_bytes: 32_768, limit: 512 },
            text("embed.input[0] has 40000 bytes, more than the 32768 for 512 tokens"),
        ),
        (EmbedError::Empty { index: 2 }, text("embed.input[2] has no tokens")),
        (EmbedError::Tokenizer("tokenizer: no".into()), text("tokenizer: no")),
        (EmbedError::Context("/secret".into()), text("no context for embeddings")),
        (EmbedError::Engine("no".into()), text("engine failure: no")),
        (EmbedError::Stopped, text("engine stopped")),
        (EmbedError::Busy, ErrorBody::busy()),
        (EmbedError::Cancelled, ErrorBody::interrupted()),
    ] {
        check(&embed(&error), expected.code, &expected.error);
    }
}

#[test]
fn embed_requests_that_are_not_served() {
    let refused = |policy, texts| embed_refused(&EmbedRules { policy, max_inputs: 2 }, texts);
    assert_eq!(refused(EmbedPolicy::Served, 2), None);
    for (policy, texts, code, text) in [
        (
            EmbedPolicy::Served,
            3,
            2,
            "embed.input has 3 texts, more than the 2 that this worker takes at once",
        ),
        (EmbedPolicy::Off, 1, 3, "command not supported: embed is turned off on this worker"),
        (
            EmbedPolicy::UnseenByHooks,
            3,
            3,
            "command not supported: this worker has hooks, which do not see embed requests",
        ),
    ] {
        check(&refused(policy, texts).unwrap_or_default(), code, text);
    }
}

#[test]
fn every_adapter_error_is_code_7_or_6() {
    let failure = |cause| AdapterFailure { name: "a.gguf".to_owned(), cause };
    let engine = |error| failure(AdapterCause::Engine(error));
    let io = || io::Error::new(io::ErrorKind::PermissionDenied, "/secret");
    for (failure, text) in [
        (failure(AdapterCause::Missing), "option lora: \"a.gguf\" is not there"),
        (
            failure(AdapterCause::TooMany { max: 2 }),
            "option lora: \"a.gguf\" is one too many: this worker keeps 2 adapters loaded",
        ),
        (
            failure(AdapterCause::TooLarge { bytes: 1, beside: 250 << 20, budget: 250 << 20 }),
            "option lora: \"a.gguf\" needs 1 MiB beside the 250 MiB of its model and of other \
             adapters in the request, but models_ram_mib is 250",
        ),
        (failure(AdapterCause::Panicked), "option lora: \"a.gguf\" cannot be loaded"),
        (engine(AdapterError::Io(io())), "option lora: \"a.gguf\" cannot be read"),
        (engine(AdapterError::NotAnAdapter), "option lora: \"a.gguf\" is not an adapter"),
        (
            engine(AdapterError::Invalid { reason: "it has no tensors".into() }),
            "option lora: \"a.gguf\" cannot be used: it has no tensors",
        ),
        (
            engine(AdapterError::Architecture { adapter: "qwen2".into(), model: "llama".into() }),
            "option lora: \"a.gguf\" is made for the architecture \"qwen2\", and the model's is \"llama\"",
        ),
        (
            engine(AdapterError::Refused { reason: "/secret".into() }),
            "option lora: \"a.gguf\" does not fit the model, or is damaged",
        ),
        (
            engine(AdapterError::Off),
            "option lora: \"a.gguf\" cannot be used: adapters are turned off",
        ),
    ] {
        check(&adapter(&failure), 7, text);
    }
    check(&adapter(&engine(AdapterError::Full { max: 8 })), 6, "worker busy");
    check(&adapter(&failure(AdapterCause::NoRoom)), 6, "worker busy");
}

#[test]
fn engine_errors() {
    check(&submit(&SubmitError::Busy, 1), 6, "worker busy");
    check(&submit(&SubmitError::EmptyPrompt, 1), 7, "empty prompt");
    check(
        &submit(&SubmitError::PromptTooLong { tokens: 9, n_ctx: 8 }, 8),
        7,
        "content and instructions overflow context size 8",
    );
    check(&submit(&SubmitError::Stopped, 1), 7, "engine stopped");
    check(
        &submit(&SubmitError::Sampling { name: "top_p", reason: "must be from 0 to 1".into() }, 1),
        7,
        "option top_p: must be from 0 to 1",
    );
    for (error, text) in [
        (GenerationError::Engine("x".into()), "engine failure: x"),
        (GenerationError::NoSpace, "no room in the context"),
        (GenerationError::Constraint("x".into()), "constraint: x"),
        (GenerationError::Sampling("x".into()), "sampling: x"),
        (GenerationError::Stopped, "engine stopped"),
    ] {
        check(&generation(&error), 7, text);
    }
    check(&constraint(&ConstraintError::Grammar("x".into())), 7, "option grammar: x");
    check(&constraint(&ConstraintError::Schema("x".into())), 7, "option json_schema: x");
    check(&panicked(), 7, "internal error");
    check(
        &output_too_large(2, 1),
        7,
        "output of 2 bytes exceeds the server's max_payload of 1 bytes; request a stream",
    );
}

#[test]
fn every_kind_of_hook_failure() {
    let failure = |kind| Failure {
        plugin: "p".into(),
        phase: Phase::Prompt,
        kind,
        retryable: false,
        detail: "/secret prompt text".into(),
    };
    for (kind, word, text) in [
        (FailureKind::Trap, "trap", "trap"),
        (FailureKind::Cpu, "cpu", "cpu limit"),
        (FailureKind::Wall, "wall", "time limit"),
        (FailureKind::Memory, "memory", "memory limit"),
        (FailureKind::Stack, "stack", "stack limit"),
        (FailureKind::Quota, "quota", "host call limit"),
        (FailureKind::Instantiate, "instantiate", "cannot be started"),
        (FailureKind::Guest, "guest", "returned an error"),
        (FailureKind::InvalidOutput, "invalid-output", "invalid output"),
        (FailureKind::Host, "host", "host error"),
    ] {
        let error = hook_failure(&failure(kind));
        check(&error, 9, &format!("hook \"p\" failed: {text}"));
        let hook = error.hook.as_ref();
        assert_eq!(hook.map(|hook| hook.kind.as_str()), Some(word));
        assert_eq!(hook.map(|hook| hook.phase.as_str()), Some("prompt"));
        assert_eq!(kind.as_str(), word);
    }
    check(&hook_failure(&failure(FailureKind::Busy)), 6, "worker busy");
    check(&hook_failure(&failure(FailureKind::Cancelled)), 8, "prediction interrupted");
}

#[test]
fn rejections_keep_code_and_text() {
    let reject = |code| rejection("p".into(), Phase::Request, code, "no".into());
    check(&reject(Some(1001)), 1001, "no");
    check(&reject(Some(6)), 6, "no");
    check(&reject(None), 9, "no");
    let kind = |error: ErrorBody| error.hook.map(|hook| hook.kind.as_str().to_owned());
    assert_eq!(kind(reject(None)).as_deref(), Some("rejected"));
}
