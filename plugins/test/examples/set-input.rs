//! `[[set-input:TEXT]]`: puts TEXT in place of the input, or of the last message.

use test_plugins::request::exports::llamero::hooks::request_hook::Patch;
use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::types::Content;

struct SetInput;

impl Guest for SetInput {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let Some(text) = test_plugins::argument(&request.content, "set-input") else {
            return Ok(Verdict::Pass);
        };
        let mut content = request.content;
        match &mut content {
            Content::Completion(completion) => completion.input = vec![text],
            Content::Chat(messages) => {
                if let Some(last) = messages.last_mut() {
                    last.content = text;
                }
            }
        }
        Ok(Verdict::Patch(Patch { model: None, content: Some(content), options: Vec::new() }))
    }
}

test_plugins::export!(request_plugin: SetInput);
