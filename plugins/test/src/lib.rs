//! What the test plugins share: the bindings, and the rule by which a plugin
//! knows that it is meant.
//!
//! Each plugin is one file of `examples/` and does one wrong (or odd) thing, but
//! only to a request that asks for it by name, as in `[[trap]]`; every other
//! request passes. So one hooks folder holds them all, and one worker serves
//! healthy and sick requests at the same time.

/// Bindings of the plugins that see the request.
#[allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod request {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package llamero:test-request;
            world request-plugin {
                import llamero:hooks/call@0.1.0;
                import llamero:hooks/config@0.1.0;
                import llamero:hooks/log@0.1.0;
                import llamero:hooks/metrics@0.1.0;
                import llamero:hooks/state@0.1.0;
                import llamero:hooks/tokenizer@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
            }
        ",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_request_plugin",
        default_bindings_module: "test_plugins::request",
    });
}

/// Bindings of the plugins that see the rendered prompt.
#[allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod prompt {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package llamero:test-prompt;
            world prompt-plugin {
                import llamero:hooks/call@0.1.0;
                export llamero:hooks/prompt-hook@0.1.0;
            }
        ",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_prompt_plugin",
        default_bindings_module: "test_plugins::prompt",
    });
}

/// Makes a type the plugin of its file: `export!(request_plugin: Trap)`.
///
/// Only for WebAssembly: the names of the exports are none that the linkers of
/// other targets take, and `cargo test` builds the examples for the host too.
#[macro_export]
macro_rules! export {
    (request_plugin: $plugin:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::request::export_request_plugin!($plugin);
        #[cfg(not(target_family = "wasm"))]
        const _: $plugin = $plugin;
    };
    (prompt_plugin: $plugin:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::prompt::export_prompt_plugin!($plugin);
        #[cfg(not(target_family = "wasm"))]
        const _: $plugin = $plugin;
    };
}

/// Makes a type the plugin of its file, as [`export!`] does, and puts the bindings
/// of its world beside it as `bindings`: `plugin!(stream: Upper)`.
///
/// Generated in each file, because several worlds that export the same interface
/// cannot have their bindings in one crate. The types of requests are those of
/// [`request`].
#[macro_export]
macro_rules! plugin {
    (stream: $plugin:ident) => {
        $crate::plugin!($plugin, "
            package llamero:test-stream;
            world plugin {
                import llamero:hooks/config@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
                export llamero:hooks/stream-filter@0.1.0;
            }
        ");
    };
    (response: $plugin:ident) => {
        $crate::plugin!($plugin, "
            package llamero:test-response;
            world plugin {
                export llamero:hooks/request-hook@0.1.0;
                export llamero:hooks/response-hook@0.1.0;
            }
        ");
    };
    (guard: $plugin:ident) => {
        $crate::plugin!($plugin, "
            package llamero:test-guard;
            world plugin {
                import llamero:hooks/tokenizer@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
                export llamero:hooks-experimental/token-guard@0.0.1;
            }
        ");
    };
    (observer: $plugin:ident) => {
        $crate::plugin!($plugin, "
            package llamero:test-observer;
            world plugin {
                import llamero:hooks/call@0.1.0;
                import llamero:hooks/log@0.1.0;
                export llamero:hooks/observer@0.1.0;
            }
        ");
    };
    // WASI has something to wait for, where the worker's own interfaces answer at
    // once. Only what is used of its packages.
    (wasi: $plugin:ident) => {
        $crate::plugin!($plugin, "
            package llamero:test-wasi;
            world plugin {
                import wasi:clocks/monotonic-clock@0.2.0;
                export llamero:hooks/request-hook@0.1.0;
            }
            package wasi:io@0.2.0 {
                interface poll {
                    resource pollable {
                        block: func();
                    }
                }
            }
            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    type duration = u64;
                    subscribe-duration: func(when: duration) -> pollable;
                }
            }
        ");
    };
    ($plugin:ident, $world:tt) => {
        #[allow(
            unsafe_code,
            missing_docs,
            clippy::all,
            clippy::allow_attributes_without_reason,
            unused,
            reason = "generated code"
        )]
        mod bindings {
            wit_bindgen::generate!({
                path: ["../../wit", "../../wit/experimental"],
                inline: $world,
                with: { "llamero:hooks/types@0.1.0": test_plugins::request::llamero::hooks::types },
                generate_all,
            });

            use super::$plugin;
            #[cfg(target_family = "wasm")]
            export!($plugin);
            #[cfg(not(target_family = "wasm"))]
            const _: $plugin = $plugin;
        }
    };
}

use std::sync::{Mutex, PoisonError};

use request::llamero::hooks::types::Content;

/// Whether the request asks for the plugin `name`: any element of its input, or
/// its last message, contains `[[name]]` or `[[name:ARGUMENT]]`.
pub fn asked_for(content: &Content, name: &str) -> bool {
    argument(content, name).is_some()
}

/// The argument with which the request asks for the plugin `name`: empty for
/// `[[name]]`, the rest for `[[name:ARGUMENT]]`.
pub fn argument(content: &Content, name: &str) -> Option<String> {
    match content {
        Content::Completion(completion) => {
            completion.input.iter().find_map(|element| argument_in(element, name))
        }
        Content::Chat(messages) => argument_in(&messages.last()?.content, name),
    }
}

/// What the request asked a plugin for, kept for the phases that do not see the
/// request: one instance serves all phases of one job.
#[derive(Debug, Default)]
pub struct Asked(Mutex<Option<String>>);

impl Asked {
    /// Nothing was asked for yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Keeps the argument with which the request asks for the plugin `name`.
    pub fn remember(&self, content: &Content, name: &str) {
        self.keep(argument(content, name));
    }

    /// Keeps a text.
    pub fn keep(&self, text: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The argument; `None` if the request did not ask.
    pub fn argument(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// [`argument`] for one text.
pub fn argument_in(text: &str, name: &str) -> Option<String> {
    text.split("[[").skip(1).find_map(|piece| {
        let (trigger, _) = piece.split_once("]]")?;
        let rest = trigger.strip_prefix(name)?;
        match rest.strip_prefix(':') {
            Some(argument) => Some(argument.to_owned()),
            None => rest.is_empty().then(String::new),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use request::llamero::hooks::types::{Completion, Message, Role};

    fn completion(input: &[&str]) -> Content {
        Content::Completion(Completion {
            system: "[[trap]]".to_owned(),
            input: input.iter().map(|element| (*element).to_owned()).collect(),
        })
    }

    fn chat(messages: &[&str]) -> Content {
        let message = |content: &&str| Message { role: Role::User, content: (*content).to_owned() };
        Content::Chat(messages.iter().map(message).collect())
    }

    #[test]
    fn any_element_of_the_input_triggers() {
        assert!(asked_for(&completion(&["a", "b [[trap]] c"]), "trap"));
        assert!(!asked_for(&completion(&["a", "b"]), "trap"));
    }

    #[test]
    fn only_the_last_message_triggers() {
        assert!(asked_for(&chat(&["a", "[[trap]]"]), "trap"));
        assert!(!asked_for(&chat(&["[[trap]]", "a"]), "trap"));
        assert!(!asked_for(&chat(&[]), "trap"));
    }

    /// The README's first hook is the crate `ping`, to the letter.
    #[test]
    fn readme_quotes_ping() {
        let source = include_str!("../../ping/src/lib.rs");
        let (_, code) = source.split_once("\n\n").unwrap_or_default();
        assert!(code.starts_with("wit_bindgen::generate!"));
        assert!(
            include_str!("../../README.md").contains(code),
            "plugins/README.md must quote plugins/ping/src/lib.rs from `wit_bindgen::generate!` on"
        );
    }

    #[test]
    fn what_was_asked_is_kept() {
        let asked = Asked::new();
        assert_eq!(asked.argument(), None);
        asked.remember(&completion(&["[[stream-trap:3]]"]), "stream-trap");
        assert_eq!(asked.argument().as_deref(), Some("3"));
        asked.remember(&completion(&["[[stream-trap:3]]"]), "stream-halt");
        assert_eq!(asked.argument(), None);
    }

    #[test]
    fn names_match_whole() {
        let content = completion(&["[[prompt-trap]] [[set-model:a:b.gguf]] [[trap"]);
        assert!(!asked_for(&content, "trap"));
        assert!(asked_for(&content, "prompt-trap"));
        assert_eq!(argument(&content, "set-model").as_deref(), Some("a:b.gguf"));
        assert_eq!(argument(&content, "prompt-trap").as_deref(), Some(""));
        assert_eq!(argument(&content, "set"), None);
    }
}
