//! `[[prompt-markup:WHAT]]` in the prompt: replaces the prompt. `keep`: by itself, as it
//! is; `front`: with the markup `<|im_start|>` in front of it; `forget`: by its text,
//! without markup; `beyond`: with a span that ends behind the text.

use test_plugins::prompt::exports::llamero::hooks::prompt_hook::{
    CallContext, Guest, HookError, Prompt, Replacement, Span, Verdict,
};

struct PromptMarkup;

const FRONT: &str = "<|im_start|>";

impl Guest for PromptMarkup {
    fn on_prompt(_context: CallContext, prompt: Prompt) -> Result<Verdict, HookError> {
        let Prompt { text, markup, .. } = prompt;
        let what = test_plugins::argument_in(&text, "prompt-markup");
        let replacement = match what.as_deref() {
            Some("keep") => Replacement { text, markup },
            Some("front") => in_front(&text, &markup),
            Some("forget") => Replacement { text, markup: Vec::new() },
            Some("beyond") => {
                let end = text.len() as u32 + 1;
                Replacement { text, markup: vec![Span { start: 0, end }] }
            }
            _ => return Ok(Verdict::Pass),
        };
        Ok(Verdict::Replace(replacement))
    }
}

fn in_front(text: &str, markup: &[Span]) -> Replacement {
    let length = FRONT.len() as u32;
    let moved =
        markup.iter().map(|span| Span { start: span.start + length, end: span.end + length });
    let markup = std::iter::once(Span { start: 0, end: length }).chain(moved).collect();
    Replacement { text: format!("{FRONT}{text}"), markup }
}

test_plugins::export!(prompt_plugin: PromptMarkup);
