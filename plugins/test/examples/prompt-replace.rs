//! `[[prompt-replace:TEXT]]` in the prompt: TEXT becomes the prompt, control tokens
//! included; `[[prompt-replace]]`: 100,000 words, which fit into no small context.

use test_plugins::prompt::exports::llamero::hooks::prompt_hook::{
    CallContext, Guest, HookError, Prompt, Verdict,
};

struct PromptReplace;

impl Guest for PromptReplace {
    fn on_prompt(_context: CallContext, prompt: Prompt) -> Result<Verdict, HookError> {
        match test_plugins::argument_in(&prompt.text, "prompt-replace") {
            None => Ok(Verdict::Pass),
            Some(text) if text.is_empty() => Ok(Verdict::Replace("word ".repeat(100_000))),
            Some(text) => Ok(Verdict::Replace(text)),
        }
    }
}

test_plugins::export!(prompt_plugin: PromptReplace);
