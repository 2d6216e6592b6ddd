//! Tests of the window with a tokenizer of words: every word and every blank line
//! is a token.

#![allow(clippy::unwrap_used, reason = "a failed test should panic")]

use super::*;

fn words(text: &str) -> Result<u32, String> {
    let words = text.split_whitespace().count();
    let blank_lines = text.matches("\n\n").count();
    Ok(u32::try_from(words + blank_lines).unwrap())
}

fn broken(_text: &str) -> Result<u32, String> {
    Err("no such model".to_owned())
}

/// A completion of the given text, in a context of that many tokens, of which the
/// answer wants none.
fn completion(text: &str, context_length: u32) -> Situation<'_> {
    Situation {
        text,
        markup: &[],
        tokens: words(text).unwrap(),
        context_length,
        max_tokens: Some(0),
    }
}

fn config(document: &str) -> Config {
    Config::parse(document).unwrap()
}

/// The shortened text, or the text itself if it fits.
fn check(text: &str, context_length: u32, expected: &str) {
    let outcome = fit(&Config::default(), completion(text, context_length), &words).unwrap();
    let outcome = match &outcome {
        Outcome::Shortened { text, .. } => text.as_str(),
        Outcome::Fits => text,
    };
    assert_eq!(outcome, expected, "{context_length}");
}

const QUESTION: &str = "Use <context>\na b\n\nc d\n\ne f\n</context> now";

#[test]
fn last_chunks_go_first_and_only_as_many_as_must() {
    // Each chunk costs its two words and a separator, 9 in all, and the 12 tokens
    // of the prompt leave 3 for the rest of it.
    for (context_length, expected) in [
        (100, QUESTION),
        (12, QUESTION),
        (11, "Use <context>\na b\n\nc d\n</context> now"),
        (9, "Use <context>\na b\n\nc d\n</context> now"),
        (8, "Use <context>\na b\n</context> now"),
        (6, "Use <context>\na b\n</context> now"),
        (5, "Use <context>\n\n</context> now"),
        (0, "Use <context>\n\n</context> now"),
    ] {
        check(QUESTION, context_length, expected);
    }
}

#[test]
fn what_remains_fits() {
    let text =
        "x ".repeat(20) + "<context>a\n\nb b\n\nc c c\n\nd d d d</context>" + &" y".repeat(9);
    for context_length in 0..60 {
        let situation = completion(&text, context_length);
        if let Outcome::Shortened { text, dropped, chunks, .. } =
            fit(&Config::default(), situation, &words).unwrap()
        {
            assert_eq!(chunks, 4);
            assert!((1..=4).contains(&dropped));
            let fits = words(&text).unwrap() <= context_length;
            assert!(fits || dropped == chunks, "{context_length}: {text}");
        }
    }
}

#[test]
fn oldest_block_loses_first() {
    let text = "<context>a\n\nb</context> q <context>c\n\nd</context>";
    let config = config(r#"{"max_context_tokens": 5}"#);
    let outcome = fit(&config, completion(text, 1000), &words).unwrap();
    assert_eq!(
        outcome,
        Outcome::Shortened {
            text: "<context></context> q <context>c\n\nd</context>".to_owned(),
            markup: Vec::new(),
            dropped: 2,
            chunks: 4,
        }
    );
}

#[test]
fn request_says_how_long_the_answer_is() {
    let text = "<context>a\n\nb</context>";
    let long = Situation { max_tokens: Some(98), ..completion(text, 100) };
    let outcome = fit(&Config::default(), long, &words).unwrap();
    assert!(matches!(outcome, Outcome::Shortened { dropped: 1, .. }), "{outcome:?}");
    let unsaid = Situation { max_tokens: None, ..completion(text, 300) };
    assert_eq!(fit(&Config::default(), unsaid, &words).unwrap(), Outcome::Fits);
    let unsaid = Situation { context_length: 256, ..unsaid };
    let outcome = fit(&Config::default(), unsaid, &words).unwrap();
    assert!(matches!(outcome, Outcome::Shortened { dropped: 2, .. }), "{outcome:?}");
}

#[test]
fn prompts_without_context_pass() {
    for text in [
        "",
        "no markers",
        "<context> never closed",
        "never opened </context>",
        "</context> wrong way round <context>",
        "<context></context>",
        "<context>\n \n</context>",
    ] {
        let outcome = fit(&Config::default(), completion(text, 0), &words).unwrap();
        assert_eq!(outcome, Outcome::Fits, "{text:?}");
    }
    // Not even a broken tokenizer is asked about them.
    let outcome = fit(&Config::default(), completion("plain", 0), &broken).unwrap();
    assert_eq!(outcome, Outcome::Fits);
}

#[test]
fn inner_block_counts_when_markers_are_nested() {
    check("<context> x <context>a</context>", 0, "<context> x <context></context>");
}

#[test]
fn blank_chunks_and_wide_separators() {
    let text = "<context>a---  --- b </context>";
    let blocks = blocks(&config(r#"{"separator": "---"}"#), text, 0..text.len());
    assert_eq!(blocks, [[9..10, 19..20]]);
}

#[test]
fn text_outside_the_blocks_is_untouched() {
    let text = "ä  \n\n<context>a\n\nb</context>\t\n\n ü";
    check(text, 0, "ä  \n\n<context></context>\t\n\n ü");
}

#[test]
fn markup_moves_with_its_text() {
    // Two turns with a context each; `§` stands for what a template writes.
    let turn = |context: &str| format!("§<context>{context}</context> q§");
    let text = turn("a\n\nb") + &turn("c\n\nd");
    let markup_of = |text: &str| -> Vec<Range<usize>> {
        text.match_indices('§').map(|(at, found)| at..at + found.len()).collect()
    };
    for (most, first, second) in
        [(8, "a\n\nb", "c\n\nd"), (7, "a", "c\n\nd"), (4, "", "c\n\nd"), (2, "", "c"), (0, "", "")]
    {
        let markup = markup_of(&text);
        let situation = Situation { markup: &markup, ..completion(&text, 1000) };
        let config = Config { max_context_tokens: Some(most), ..Config::default() };
        let expected = turn(first) + &turn(second);
        match fit(&config, situation, &words).unwrap() {
            Outcome::Fits => assert_eq!(expected, text),
            Outcome::Shortened { text, markup, .. } => {
                assert_eq!((&text, markup), (&expected, markup_of(&expected)));
            }
        }
    }
}

#[test]
fn a_context_does_not_reach_across_markup() {
    let text = "<context>a§b</context> <context>c</context>";
    let markup = [10..12, 13..13];
    let situation = Situation { markup: &markup, ..completion(text, 0) };
    let outcome = fit(&Config::default(), situation, &words).unwrap();
    let expected = Outcome::Shortened {
        text: "<context>a§b</context> <context></context>".to_owned(),
        markup: markup.to_vec(),
        dropped: 1,
        chunks: 1,
    };
    assert_eq!(outcome, expected);
}

#[test]
fn context_in_markup_is_context_too() {
    let text = "<context>a</context>";
    let markup = [0..0, 0..text.len()];
    let situation = Situation { markup: &markup, ..completion(text, 0) };
    let outcome = fit(&Config::default(), situation, &words).unwrap();
    let text = "<context></context>".to_owned();
    let expected =
        Outcome::Shortened { markup: vec![0..0, 0..text.len()], text, dropped: 1, chunks: 1 };
    assert_eq!(outcome, expected);
}

#[test]
fn tokenizer_errors_come_through() {
    let situation = completion("<context>a</context>", 100);
    assert_eq!(fit(&Config::default(), situation, &broken), Err("no such model".to_owned()));
}

#[test]
fn self_test_holds() {
    self_test(&Config::default()).unwrap();
    self_test(&config(r#"{"open": "[", "close": "]", "separator": "|", "max_context_tokens": 0}"#))
        .unwrap();
}
