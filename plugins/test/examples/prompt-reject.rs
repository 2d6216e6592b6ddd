//! `[[prompt-reject]]` in the prompt: rejected with code 1002.

use test_plugins::prompt::exports::llamero::hooks::prompt_hook::{
    CallContext, Guest, HookError, Prompt, Verdict,
};
use test_plugins::prompt::llamero::hooks::types::Rejection;

struct PromptReject;

impl Guest for PromptReject {
    fn on_prompt(_context: CallContext, prompt: Prompt) -> Result<Verdict, HookError> {
        if test_plugins::argument_in(&prompt.text, "prompt-reject").is_none() {
            return Ok(Verdict::Pass);
        }
        Ok(Verdict::Reject(Rejection {
            code: Some(1002),
            reason: format!("the prompt has {} tokens", prompt.tokens),
        }))
    }
}

test_plugins::export!(prompt_plugin: PromptReject);
