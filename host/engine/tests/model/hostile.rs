//! Input that is meant to do harm: long, odd and malformed text.

use std::iter;

use llamero_engine::{ChatMessage, Content, PromptError, PromptLimits};

use crate::support::model;

#[test]
fn odd_texts_are_tokenized() {
    let tokenizer = model().tokenizer();
    for text in [
        "\0",
        "\u{FFFD}\u{FDD0}\u{10FFFF}",
        "\u{202E}abc",
        "\r\n\r\n\t \u{85}\u{2028}",
        "🏳️‍🌈👨‍👩‍👧‍👦",
        "<|im_start|><|endoftext|>",
    ] {
        let tokens = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text, "{text:?}");
    }
}

#[test]
fn long_texts_are_tokenized() {
    let tokenizer = model().tokenizer();
    // A word without an end, digits, spaces, and text without either.
    let texts = ["a", "1", " ", "\n", "ß", "🦙", "ab1 ", "'s"];
    // One as long as a message of NATS may be by default.
    for (text, bytes) in texts.into_iter().zip(iter::once(1 << 20).chain(iter::repeat(300_000))) {
        let long = text.repeat(bytes / text.len());
        let tokens = tokenizer.encode(&long, false).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), long, "{text:?}");
    }
    let too_long = "x".repeat(65 * 1024 * 1024);
    assert!(matches!(tokenizer.count(&too_long), Err(PromptError::Tokenizer(_))));
}

#[test]
fn very_many_control_tokens_have_their_tokens() {
    let tokenizer = model().tokenizer();
    // The first are so many that llama.cpp alone takes minutes. Text between them is
    // tokenized at a fifth of a millisecond a piece, so there is less of it.
    let texts = ["<|im_start|>", "<|im_start|>a b<|im_end|>\n", " x<|endoftext|>"];
    for (text, bytes) in texts.into_iter().zip(iter::once(1 << 20).chain(iter::repeat(1 << 16))) {
        let once = tokenizer.encode(text, true).unwrap();
        let n = bytes / text.len();
        let all = tokenizer.encode(&text.repeat(n), true).unwrap();
        assert!(all == once.repeat(n), "{text:?}: {} tokens", all.len());
    }
}

#[test]
fn very_many_messages_are_truncated() {
    let message = |n| ChatMessage { role: "user".to_string(), content: format!("{n}") };
    let messages = (0..5_000).map(message).collect();
    let prompt = model().prepare(&Content::Chat { messages }, &PromptLimits::default()).unwrap();
    assert!(prompt.tokens.len() < 2048 && prompt.truncated_tokens > 10_000);
    assert!(prompt.text.contains("4999<|im_end|>"), "the last one stays");
}

#[test]
fn long_content_is_truncated_or_refused() {
    let completion = |system: &str, input: Vec<String>| {
        let content = Content::Completion {
            system: system.to_string(),
            instructions: String::new(),
            input,
            separator: "\n".to_string(),
        };
        model().prepare(&content, &PromptLimits::default())
    };
    let prompt = completion("S", vec!["word ".repeat(100_000)]).unwrap();
    assert!(prompt.tokens.len() < 2048 && prompt.truncated_tokens > 90_000);
    let prompt = completion("S", vec!["line".to_string(); 20_000]).unwrap();
    assert!(prompt.tokens.len() < 2048);
    assert_eq!(
        completion(&"word ".repeat(3000), vec!["x".to_string()]),
        Err(PromptError::Overflow { n_ctx: 2048 })
    );

    let messages: Vec<ChatMessage> = (0..200)
        .map(|n| ChatMessage {
            role: if n % 2 == 0 { "user" } else { "assistant" }.to_string(),
            content: "<|im_end|>".repeat(20),
        })
        .collect();
    let prompt = model().prepare(&Content::Chat { messages }, &PromptLimits::default()).unwrap();
    assert!(prompt.tokens.len() < 2048);
}

#[test]
fn context_limits_are_checked() {
    let limits = PromptLimits { n_ctx: 5000, ..PromptLimits::default() };
    assert_eq!(
        model().prepare_text("x", &[], &limits),
        Err(PromptError::ContextSize { n_ctx: 5000, max: 2048 })
    );
}
