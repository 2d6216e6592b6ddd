//! `[[prompt-replace:TEXT]]` in the prompt: TEXT becomes the prompt, all of it markup,
//! so that control tokens in it take effect; `[[prompt-replace]]`: 100,000 words, which
//! fit into no small context.

use test_plugins::prompt::exports::llamero::hooks::prompt_hook::{
    CallContext, Guest, HookError, Prompt, Replacement, Span, Verdict,
};

struct PromptReplace;

impl Guest for PromptReplace {
    fn on_prompt(_context: CallContext, prompt: Prompt) -> Result<Verdict, HookError> {
        let text = match test_plugins::argument_in(&prompt.text, "prompt-replace") {
            None => return Ok(Verdict::Pass),
            Some(text) if text.is_empty() => "word ".repeat(100_000),
            Some(text) => text,
        };
        let all = Span { start: 0, end: text.len() as u32 };
        Ok(Verdict::Replace(Replacement { text, markup: vec![all] }))
    }
}

test_plugins::export!(prompt_plugin: PromptReplace);
