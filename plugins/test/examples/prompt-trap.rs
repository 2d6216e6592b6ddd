//! `[[prompt-trap]]` in the prompt: a panic in the prompt phase.

use test_plugins::prompt::exports::llamero::hooks::prompt_hook::{
    CallContext, Guest, HookError, Prompt, Verdict,
};

struct PromptTrap;

impl Guest for PromptTrap {
    #[allow(clippy::panic, reason = "panicking is what this plugin is for")]
    fn on_prompt(_context: CallContext, prompt: Prompt) -> Result<Verdict, HookError> {
        if test_plugins::argument_in(&prompt.text, "prompt-trap").is_some() {
            panic!("asked to trap");
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(prompt_plugin: PromptTrap);
