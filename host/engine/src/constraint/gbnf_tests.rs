#![allow(clippy::unwrap_used, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Grammar, ConstraintError> {
    parse(text, &ConstraintLimits::default())
}

fn refusal(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn grammars_are_read() {
    let grammar =
        read("root ::= \"a\\n\" [^x-z\\]] b? # comment\nb ::= (root-2 | \"\"){2,3}\nroot-2::=.\n")
            .unwrap();
    let root = &grammar.rules[0];
    assert_eq!(root.len(), 1);
    assert_eq!(root[0][0].what, Symbol::Literal(vec!['a', '\n']));
    assert_eq!(
        root[0][1].what,
        Symbol::Class { ranges: vec![('x', 'z'), (']', ']')], negated: true }
    );
    assert_eq!((root[0][2].min, root[0][2].max), (0, Some(1)));
}

#[test]
fn errors_say_where() {
    assert_eq!(refusal(""), "grammar: undefined rule \"root\"");
    assert_eq!(refusal("root ::= x"), "grammar: undefined rule \"x\"");
    assert_eq!(
        refusal(&format!("root ::= {}", "x".repeat(60_000))),
        format!("grammar: undefined rule \"{}\"", "x".repeat(64))
    );
    assert_eq!(refusal("root = x"), "grammar: line 1, column 6: expected ::=");
    assert_eq!(refusal("root ::= \"x"), "grammar: unexpected end");
    assert_eq!(refusal("root ::= \n  ( \"x\""), "grammar: line 2, column 8: expected )");
    assert_eq!(
        refusal("root ::= * "),
        "grammar: line 1, column 12: nothing stands in front of the repetition"
    );
    assert_eq!(refusal("root ::= \"\\q\""), "grammar: line 1, column 13: unknown escape");
    assert_eq!(
        refusal("root ::= [z-a]"),
        "grammar: line 1, column 14: character range ends before it begins"
    );
    assert_eq!(refusal("root ::= []"), "grammar: line 1, column 12: empty character class");
    assert_eq!(
        refusal("root ::= \"x\"{3,2}"),
        "grammar: line 1, column 18: repetition ends before it begins"
    );
    assert!(refusal("root ::= \"\\uD800\"").contains("hex digits of a character"));
    assert!(refusal("root ::= \"a\" ]").contains("expected a new line"));
    assert!(refusal("ro\u{e4}t ::= \"a\"").contains("expected ::="));
}

#[test]
fn left_recursion_is_refused() {
    let error = "grammar: left recursion is not supported";
    assert_eq!(refusal("root ::= root \"a\" | \"b\""), error);
    assert_eq!(refusal("root ::= x\nx ::= y\ny ::= x \"a\""), error);
    // Hidden behind something that may be empty.
    assert_eq!(refusal("root ::= x? root \"a\"\nx ::= \"x\""), error);
    assert_eq!(refusal("root ::= x root \"a\"\nx ::= \"x\" | \"\""), error);
    assert_eq!(refusal("root ::= (root)* \"a\""), error);
    assert!(read("root ::= \"a\" root | \"b\"").is_ok());
    assert!(read("root ::= x x\nx ::= \"a\"").is_ok());
}

#[test]
fn every_limit_is_an_error() {
    let limits = ConstraintLimits {
        max_bytes: 200,
        max_rules: 4,
        max_depth: 3,
        max_repetition: 5,
        max_symbols: 20,
        ..ConstraintLimits::default()
    };
    let what = |text: &str| match parse(text, &limits) {
        Err(ConstraintError::Limit { what, .. }) => what,
        other => panic!("expected a limit, got {other:?}"),
    };
    assert_eq!(what(&"#".repeat(201)), "size in bytes");
    assert_eq!(what("root ::= a b c d e"), "number of rules");
    assert_eq!(what("root ::= ((((\"a\"))))"), "nesting");
    assert_eq!(what("root ::= \"a\"{6}"), "repetition");
    assert_eq!(what("root ::= \"a\"{0,99999999999999999999999}"), "repetition");
    assert_eq!(what("root ::= \"aaaaa\"{5}"), "number of symbols");
    assert_eq!(what("root ::= ((\"a\"{3}){3}){3}"), "number of symbols");
    assert_eq!(what(&format!("root ::= {}", "\"a\" ".repeat(21))), "number of symbols");
    assert_eq!(
        ConstraintError::Limit { kind: "grammar", what: "nesting", limit: 64 }.to_string(),
        "grammar: nesting exceeds the limit of 64"
    );
}

#[test]
fn deep_and_long_grammars_do_not_recurse() {
    let deep = format!("root ::= {}\"a\")", "(".repeat(60_000));
    assert!(matches!(read(&deep), Err(ConstraintError::Limit { what: "nesting", .. })));
    let chain: String = (0..1900)
        .map(|n| format!("r{n} ::= r{}\n", n + 1))
        .chain(["r1900 ::= \"a\"\nroot ::= r0\n".to_string()])
        .collect();
    assert!(read(&chain).is_ok());
}

proptest! {
    /// Nothing that a client can send does more than return an error.
    #[test]
    fn any_text_is_read_or_refused(text in "(root ::=)?[\\PC\\n]{0,200}") {
        let _ = read(&text);
    }

    /// The same with the signs that mean something.
    #[test]
    fn any_signs_are_read_or_refused(parts in prop::collection::vec(prop_oneof![
        Just("root"), Just("::="), Just("\n"), Just("\""), Just("["), Just("]"), Just("("), Just(")"), Just("|"),
        Just("*"), Just("+"), Just("?"), Just("{"), Just("}"), Just(","), Just("9"), Just("\\"), Just("x41"),
        Just("<"), Just(">"), Just("!"), Just("^"), Just("-"), Just("#"), Just(" "), Just("ä"), Just("."),
    ], 0..60)) {
        let _ = read(&parts.concat());
        let _ = read(&format!("root ::= {}", parts.concat()));
    }
}
