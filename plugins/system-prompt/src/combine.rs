//! How the configured system text and the client's become one.

use crate::bindings::llamero::hooks::types::{Completion, Content, Message, Role};
use crate::config::{Config, Position};

/// The content with the configured text in its place; `None` if nothing changes.
pub fn with_system(config: &Config, content: Content) -> Option<Content> {
    if config.text.is_empty() {
        return None;
    }
    Some(match content {
        Content::Completion(completion) => Content::Completion(in_completion(config, completion)),
        Content::Chat(messages) => Content::Chat(in_chat(config, messages)),
    })
}

/// In a completion nothing comes between the system text and the input, so the
/// separator follows the configured text wherever that would be its end.
fn in_completion(config: &Config, mut completion: Completion) -> Completion {
    let client = match config.position {
        Position::Replace => "",
        Position::Prepend | Position::Append => completion.system.as_str(),
    };
    let mut system = join(config, client);
    if client.is_empty() || config.position == Position::Append {
        system.push_str(&config.separator);
    }
    completion.system = system;
    completion
}

/// In a chat the text joins the system message that stands first, or becomes it.
/// Replacing takes all system messages away, wherever they are.
fn in_chat(config: &Config, mut messages: Vec<Message>) -> Vec<Message> {
    let is_system = |message: &Message| matches!(message.role, Role::System);
    if config.position == Position::Replace {
        messages.retain(|message| !is_system(message));
    }
    match messages.first_mut() {
        Some(first) if is_system(first) => first.content = join(config, &first.content),
        _ => messages.insert(0, Message { role: Role::System, content: config.text.clone() }),
    }
    messages
}

/// The configured text and the client's in the configured order.
fn join(config: &Config, client: &str) -> String {
    let Config { text, separator, .. } = config;
    if client.is_empty() {
        return text.clone();
    }
    match config.position {
        Position::Prepend => format!("{text}{separator}{client}"),
        Position::Append => format!("{client}{separator}{text}"),
        Position::Replace => text.clone(),
    }
}

/// The configured text must be in the outcome, and the input untouched.
///
/// # Errors
/// A text that says which of the two did not hold.
pub fn self_test(config: &Config) -> Result<(), String> {
    let completion = Completion { system: "client".to_owned(), input: vec!["input".to_owned()] };
    match with_system(config, Content::Completion(completion)) {
        None if config.text.is_empty() => Ok(()),
        Some(Content::Completion(outcome)) if !outcome.system.contains(&config.text) => {
            Err("system-prompt: self-test failed: the text is missing".to_owned())
        }
        Some(Content::Completion(outcome)) if outcome.input == ["input"] => Ok(()),
        _ => Err("system-prompt: self-test failed: the input was changed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test should panic")]
    use super::*;

    fn config(position: &str) -> Config {
        Config::parse(&format!(r#"{{"text": "T", "separator": "|", "position": "{position}"}}"#))
            .unwrap()
    }

    fn check_completion(position: &str, system: &str, expected: &str) {
        let content = Content::Completion(Completion {
            system: system.to_owned(),
            input: vec!["a".to_owned(), "b".to_owned()],
        });
        match with_system(&config(position), content) {
            Some(Content::Completion(completion)) => {
                assert_eq!(completion.system, expected, "{position} {system:?}");
                assert_eq!(completion.input, ["a", "b"]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn completion() {
        check_completion("prepend", "", "T|");
        check_completion("prepend", "S", "T|S");
        check_completion("append", "", "T|");
        check_completion("append", "S", "S|T|");
        check_completion("replace", "", "T|");
        check_completion("replace", "S", "T|");
    }

    /// A chat as `role:content` words, `s`, `u`, `a` for the roles.
    fn check_chat(position: &str, messages: &str, expected: &str) {
        let messages = messages
            .split_whitespace()
            .map(|word| {
                let (role, content) = word.split_once(':').unwrap();
                let role = match role {
                    "s" => Role::System,
                    "u" => Role::User,
                    "a" => Role::Assistant,
                    other => Role::Other(other.to_owned()),
                };
                Message { role, content: content.to_owned() }
            })
            .collect();
        let Some(Content::Chat(messages)) = with_system(&config(position), Content::Chat(messages))
        else {
            panic!("a chat became something else");
        };
        let outcome: Vec<String> = messages
            .iter()
            .map(|message| {
                let role = match &message.role {
                    Role::System => "s",
                    Role::User => "u",
                    Role::Assistant => "a",
                    Role::Tool => "t",
                    Role::Other(other) => other,
                };
                format!("{role}:{}", message.content)
            })
            .collect();
        assert_eq!(outcome.join(" "), expected, "{position}");
    }

    #[test]
    fn chat() {
        for position in ["prepend", "append", "replace"] {
            check_chat(position, "", "s:T");
            check_chat(position, "u:hi a:yes u:so", "s:T u:hi a:yes u:so");
        }
        check_chat("prepend", "s:S u:hi", "s:T|S u:hi");
        check_chat("append", "s:S u:hi", "s:S|T u:hi");
        check_chat("replace", "s:S u:hi", "s:T u:hi");
        // A system message amid the others stays where it is, unless replaced.
        check_chat("prepend", "u:hi s:S", "s:T u:hi s:S");
        check_chat("append", "u:hi s:S", "s:T u:hi s:S");
        check_chat("replace", "u:hi s:S x:y", "s:T u:hi x:y");
    }

    #[test]
    fn without_a_text_nothing_changes() {
        let content = Content::Chat(Vec::new());
        assert!(with_system(&Config::default(), content).is_none());
    }

    #[test]
    fn self_test_holds_for_every_position() {
        for position in ["prepend", "append", "replace"] {
            self_test(&config(position)).unwrap();
        }
        self_test(&Config::default()).unwrap();
    }
}
