//! `[[tokenize:TEXT]]`: answers with what the tokenizer says of TEXT, as JSON;
//! `[[tokenize]]`: of 1 MiB of text, to meet the host's limits.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::tokenizer;

struct Tokenize;

impl Guest for Tokenize {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(argument) = test_plugins::argument(&request.content, "tokenize") else {
            return Ok(Verdict::Pass);
        };
        let text = match argument.as_str() {
            "" => "word ".repeat((1 << 20) / 5),
            given => given.to_owned(),
        };
        tokenize(&request.model, &text).map(Verdict::Respond)
    }
}

fn tokenize(model: &str, text: &str) -> Result<String, HookError> {
    let failed = |error| HookError::Internal(format!("tokenizer: {error:?}"));
    let info = tokenizer::describe(model).map_err(failed)?;
    let plain = tokenizer::encode(model, text, false).map_err(failed)?;
    let special = tokenizer::encode(model, text, true).map_err(failed)?;
    let answer = serde_json::json!({
        "model": info.name,
        "context_length": info.context_length,
        "vocabulary_size": info.vocabulary_size,
        "count": tokenizer::count(model, text).map_err(failed)?,
        "plain": plain.len(),
        "special": special.len(),
        "decoded": tokenizer::decode(model, &plain).map_err(failed)?,
        "unknown": tokenizer::count("no-such-model.gguf", text).map_err(|error| error.to_string()),
    });
    Ok(answer.to_string())
}

test_plugins::export!(request_plugin: Tokenize);
