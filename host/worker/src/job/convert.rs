//! Between the types of the protocol, of the hooks and of the engine, which do
//! not know each other.

use llamero_engine::{ChatMessage, Constraint, Content, GuardPlan, GuardVerdict, Sampling};
use llamero_hooks::{
    Content as HookContent, GuardPlan as HookPlan, GuardVerdict as HookVerdict,
    Message as HookMessage, Request,
};
use llamero_protocol::{
    ErrorBody, FinishReason, Message, OptionDefaults, Options, PredictRequest, ResolvedOptions,
    known_option,
};

/// The role of the text that is kept in front of a chat.
const SYSTEM: &str = "system";

/// The option `instructions` as it applies to a request. A value of the wrong
/// type is no text yet; it is refused when the options are resolved.
pub fn instructions(options: &Options, defaults: &OptionDefaults) -> String {
    let spec = known_option("instructions");
    let value = match options.get("instructions") {
        Some(value) => Some(value.clone()),
        None => spec.map(|spec| defaults.value(spec)),
    };
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The request as hooks see it. In a chat, `system` and `instructions` already
/// stand in front of the messages, so that a hook sees all that the model will.
pub fn to_hooks(
    predict: PredictRequest,
    model: &str,
    options: &Options,
    instructions: &str,
) -> Request {
    let content = if predict.messages.is_empty() {
        HookContent::Completion { system: predict.system, input: predict.input }
    } else {
        let mut messages: Vec<HookMessage> = predict
            .messages
            .into_iter()
            .map(|Message { role, content }| HookMessage { role, content })
            .collect();
        put_in_front(&mut messages, &[&predict.system, instructions]);
        HookContent::Chat(messages)
    };
    Request {
        model: model.to_owned(),
        content,
        options: options.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
        wants_stream: !predict.stream.is_empty(),
    }
}

/// The content as the engine takes it. `before` is what `instructions` was
/// before the hooks ran; in a chat, only what a hook made of it is still to be
/// put in front.
pub fn to_engine(content: HookContent, options: &ResolvedOptions, before: &str) -> Content {
    match content {
        HookContent::Completion { system, input } => Content::Completion {
            system,
            instructions: options.instructions.clone(),
            input,
            separator: options.input_separator.clone(),
        },
        HookContent::Chat(mut messages) => {
            if options.instructions != before {
                put_in_front(&mut messages, &[&options.instructions]);
            }
            let messages = messages
                .into_iter()
                .map(|HookMessage { role, content }| ChatMessage { role, content })
                .collect();
            Content::Chat { messages }
        }
    }
}

/// Puts texts in front of a chat: one system message, joined by a blank line,
/// merged with a leading system message if there is one.
fn put_in_front(messages: &mut Vec<HookMessage>, texts: &[&str]) {
    let mut parts: Vec<&str> = texts.iter().copied().filter(|text| !text.is_empty()).collect();
    if parts.is_empty() {
        return;
    }
    let has_system = messages.first().is_some_and(|first| first.role == SYSTEM);
    let old = if has_system { messages.remove(0).content } else { String::new() };
    if !old.is_empty() {
        parts.push(&old);
    }
    let front = HookMessage { role: SYSTEM.to_owned(), content: parts.join("\n\n") };
    messages.insert(0, front);
}

/// What the output must match, if anything.
pub fn constraint(options: &ResolvedOptions) -> Option<Constraint> {
    match (&options.grammar, &options.json_schema) {
        (Some(grammar), _) => Some(Constraint::Grammar(grammar.clone())),
        (None, Some(schema)) => Some(Constraint::JsonSchema(schema.to_string())),
        (None, None) => None,
    }
}

/// How the next token is chosen.
pub fn sampling(options: &ResolvedOptions) -> Sampling {
    Sampling {
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        typical_p: options.typical_p,
        mirostat: options.mirostat,
        mirostat_tau: options.mirostat_tau,
        mirostat_eta: options.mirostat_eta,
        repeat_penalty: options.effective_repeat_penalty(),
        frequency_penalty: options.frequency_penalty,
        presence_penalty: options.presence_penalty,
        repeat_last_n: options.repeat_last_n,
        penalize_newline: options.penalize_newline,
        seed: options.seed,
        logit_bias: options.logit_bias.clone(),
        ignore_eos: options.ignore_eos,
    }
}

/// Why the text ends. A cancelled job has no final message.
pub fn finish_reason(reason: llamero_engine::FinishReason) -> Result<FinishReason, ErrorBody> {
    match reason {
        llamero_engine::FinishReason::Stop => Ok(FinishReason::Stop),
        llamero_engine::FinishReason::Length => Ok(FinishReason::Length),
        llamero_engine::FinishReason::Cancelled => Err(ErrorBody::interrupted()),
    }
}

/// Why the text ends, as hooks are told.
pub fn finish_to_hooks(reason: Option<&FinishReason>) -> llamero_hooks::FinishReason {
    match reason {
        Some(FinishReason::Length) => llamero_hooks::FinishReason::Length,
        // Workers that send no reasons have ended all the same.
        _ => llamero_hooks::FinishReason::Stop,
    }
}

/// What keeps the prompts of one account from being shared with those of another,
/// who could tell from the time to the first token that somebody has sent them.
pub fn cache_salt(account: Option<&str>, salt: &str) -> String {
    // Unambiguous, because only the salt can have a line break.
    format!("{}\n{}", account.unwrap_or_default().replace('\n', " "), salt)
}

/// What a token guard wants to be asked.
pub fn guard_plan(plan: HookPlan) -> GuardPlan {
    GuardPlan { top_k: plan.top_k, every: plan.every }
}

/// What a token guard decided.
pub fn guard_verdict(verdict: HookVerdict) -> GuardVerdict {
    match verdict {
        HookVerdict::Pass => GuardVerdict::Pass,
        HookVerdict::Ban(tokens) => GuardVerdict::Ban(tokens),
        HookVerdict::Only(tokens) => GuardVerdict::Only(tokens),
        HookVerdict::Bias(biases) => GuardVerdict::Bias(biases),
        HookVerdict::Force(tokens) => GuardVerdict::Force(tokens),
        HookVerdict::End => GuardVerdict::End,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(role: &str, content: &str) -> HookMessage {
        HookMessage { role: role.into(), content: content.into() }
    }

    fn chat(system: &str, messages: &[(&str, &str)]) -> PredictRequest {
        let messages = messages
            .iter()
            .map(|(role, content)| Message { role: (*role).into(), content: (*content).into() });
        PredictRequest {
            system: system.into(),
            messages: messages.collect(),
            ..PredictRequest::default()
        }
    }

    #[test]
    fn kept_text_becomes_one_system_message_in_front() {
        let options = Options::default();
        for (system, instructions, first, expected) in [
            ("", "", ("user", "u"), message("user", "u")),
            ("s", "", ("user", "u"), message("system", "s")),
            ("s", "i", ("user", "u"), message("system", "s\n\ni")),
            ("s", "i", ("system", "x"), message("system", "s\n\ni\n\nx")),
            ("", "i", ("system", ""), message("system", "i")),
        ] {
            let request = to_hooks(chat(system, &[first]), "m", &options, instructions);
            let HookContent::Chat(messages) = request.content else {
                panic!("not a chat");
            };
            assert_eq!(messages[0], expected);
            let merged = first.0 == "system" || expected.role == "user";
            assert_eq!(messages.len(), if merged { 1 } else { 2 });
        }
    }

    #[test]
    fn instructions_of_a_chat_are_not_put_in_front_twice() {
        let mut options =
            ResolvedOptions { instructions: "i".into(), ..ResolvedOptions::default() };
        let content = || HookContent::Chat(vec![message("system", "i")]);
        let front = |content: Content| match content {
            Content::Chat { messages } => messages[0].content.clone(),
            Content::Completion { .. } => String::new(),
        };
        assert_eq!(front(to_engine(content(), &options, "i")), "i");
        options.instructions = "j".into();
        assert_eq!(front(to_engine(content(), &options, "i")), "j\n\ni");
    }

    #[test]
    fn instructions_come_from_the_request_or_the_configuration() {
        let defaults = OptionDefaults::new([("instructions", json!("configured"))]);
        let Ok(defaults) = defaults else {
            panic!("refused");
        };
        let with = |value| [("Instructions".to_owned(), value)].into_iter().collect();
        assert_eq!(instructions(&Options::default(), &defaults), "configured");
        assert_eq!(instructions(&with(json!("own")), &defaults), "own");
        assert_eq!(instructions(&with(json!(5)), &defaults), "");
    }

    #[test]
    fn a_completion_keeps_its_parts_apart() {
        let predict = PredictRequest {
            system: "s".into(),
            input: vec!["a".into(), "b".into()],
            stream: "_INBOX.x".into(),
            ..PredictRequest::default()
        };
        let options = [("top_k".to_owned(), json!(3))].into_iter().collect();
        let request = to_hooks(predict, "m.gguf", &options, "i");
        assert!(request.wants_stream);
        assert_eq!(request.model, "m.gguf");
        assert_eq!(request.options, [("top_k".to_owned(), json!(3))]);
        let resolved = ResolvedOptions {
            instructions: "i".into(),
            input_separator: "\n".into(),
            ..ResolvedOptions::default()
        };
        assert_eq!(
            to_engine(request.content, &resolved, "i"),
            Content::Completion {
                system: "s".into(),
                instructions: "i".into(),
                input: vec!["a".into(), "b".into()],
                separator: "\n".into(),
            }
        );
    }
}
