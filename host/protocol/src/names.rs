//! Names that arrive inside a payload or a configuration and become something
//! outside of it: a file to open, a subject to publish to.
//!
//! Pure checks. Reading the model directory, following links and publishing are
//! `llamero-worker`'s.

use crate::ErrorBody;

/// Longest model name, the limit of file names on common file systems.
pub const MAX_MODEL_NAME_BYTES: usize = 255;

/// Longest subject a client may ask to be streamed to.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// The subjects a worker streams to unless configured otherwise.
pub const DEFAULT_STREAM_SUBJECTS: &[&str] = &["_INBOX.>"];

/// True for a file name that `list` shows: `.gguf` or `.bin`, not hidden, and of
/// a model split into parts only the first. Whether such a file exists, and is a
/// regular file, the caller knows.
pub fn is_listed_model_name(name: &str) -> bool {
    let stem = name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".bin"));
    match stem {
        Some(stem) => !name.starts_with('.') && split_part(stem).is_none_or(|part| part == 1),
        None => false,
    }
}

/// The part number of a name such as `model-00002-of-00005`.
fn split_part(stem: &str) -> Option<u32> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (_, part) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(total) && is_number(part) { part.parse().ok() } else { None }
}

/// Refuses, with code 10, a model name that must not be opened: one that could
/// leave the model directory, a hidden one, and one that `list` never shows.
pub fn check_model_name(name: &str) -> Result<(), ErrorBody> {
    let refuse = |text: &str| Err(ErrorBody::invalid_model(text));
    if name.contains(['/', '\\']) {
        return refuse("model name cannot contain path separators");
    }
    if name.len() > MAX_MODEL_NAME_BYTES {
        return Err(ErrorBody::invalid_model(format!(
            "model name is longer than {MAX_MODEL_NAME_BYTES} bytes"
        )));
    }
    if name.starts_with('.') {
        return refuse("model name cannot start with a dot");
    }
    if name.contains('\0') {
        return refuse("model name cannot contain a NUL character");
    }
    if !is_listed_model_name(name) {
        return Err(ErrorBody::load_failed(name));
    }
    Ok(())
}

/// Refuses a name of an adapter by the rules of [`check_model_name`]: both are
/// files of one folder. The error says what is expected.
pub(crate) fn check_adapter_name(name: &str) -> Result<(), String> {
    if name.contains(['/', '\\']) {
        return Err("must not name a path".to_owned());
    }
    if name.len() > MAX_MODEL_NAME_BYTES || name.contains('\0') || !is_listed_model_name(name) {
        return Err("must name files that end in .gguf or .bin and are not hidden".to_owned());
    }
    Ok(())
}

/// Checks `predict.stream` against the subjects the operator allows. The worker
/// publishes there with its own rights, so a client must not be able to name any
/// subject it likes. The error is the text for code 2.
///
/// The empty subject means "do not stream" and is not to be checked.
pub fn check_stream_subject(subject: &str, allow: &[String]) -> Result<(), String> {
    check_subject(subject).map_err(|reason| format!("stream subject {reason}"))?;
    if subject.contains(['*', '>']) {
        return Err("stream subject must not contain wildcards".to_owned());
    }
    if subject.starts_with('$') {
        return Err("stream subject must not start with $".to_owned());
    }
    if !allow.iter().any(|pattern| subject_matches(pattern, subject)) {
        return Err(format!(
            "stream subject is not allowed, this worker streams to {}",
            allow.join(", ")
        ));
    }
    Ok(())
}

/// Checks an entry of the list of allowed stream subjects, as an operator writes
/// it: a NATS subject in which `*` stands for one token and a last `>` for one or
/// more.
pub fn check_subject_pattern(pattern: &str) -> Result<(), String> {
    check_subject(pattern)?;
    let count = pattern.split('.').count();
    for (index, token) in pattern.split('.').enumerate() {
        if token.contains('*') && token != "*" {
            return Err("must use * as a whole token".to_owned());
        }
        if token.contains('>') && (token != ">" || index + 1 != count) {
            return Err("must use > as the whole last token".to_owned());
        }
    }
    Ok(())
}

fn check_subject(subject: &str) -> Result<(), String> {
    if subject.len() > MAX_SUBJECT_BYTES {
        return Err(format!("is longer than {MAX_SUBJECT_BYTES} bytes"));
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must not contain white space or control characters".to_owned());
    }
    if subject.split('.').any(str::is_empty) {
        return Err("must not contain empty tokens".to_owned());
    }
    Ok(())
}

/// NATS subject matching: `*` is one token, a last `>` one or more; case counts.
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut subject_tokens = subject.split('.');
    let mut pattern_tokens = pattern.split('.').peekable();
    while let Some(wanted) = pattern_tokens.next() {
        let Some(token) = subject_tokens.next() else {
            return false;
        };
        if wanted == ">" && pattern_tokens.peek().is_none() {
            return true;
        }
        if wanted != "*" && wanted != token {
            return false;
        }
    }
    subject_tokens.next().is_none()
}
