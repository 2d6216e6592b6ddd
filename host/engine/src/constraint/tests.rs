#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use llguidance::toktrie::ApproximateTokEnv;
use proptest::prelude::*;

use super::*;
use crate::error::GenerationError;

/// A compiler whose vocabulary is the 256 bytes.
fn compiler() -> Compiler {
    Compiler::new(&ApproximateTokEnv::single_byte_env(), &ConstraintLimits::default()).unwrap()
}

fn start(compiler: &Compiler, grammar: &str) -> OutputMatcher {
    let grammar = gbnf::parse(grammar, &compiler.limits).expect("grammar is read");
    let lark = lark::write(&grammar, 256, |_| None).expect("grammar is written");
    let mut parser = compiler
        .factory
        .create_parser(TopLevelGrammar::from_lark(lark.clone()))
        .unwrap_or_else(|e| panic!("{e}\n{lark}"));
    parser.start_without_prompt();
    OutputMatcher::new(Matcher::new(Ok(parser)))
}

/// Whether the grammar takes the whole text.
fn takes(compiler: &Compiler, grammar: &str, text: &str) -> bool {
    let mut matcher = start(compiler, grammar);
    for byte in text.bytes() {
        if matcher.is_finished() || !matcher.allows(u32::from(byte)).unwrap() {
            return false;
        }
        matcher.accept(u32::from(byte)).unwrap();
    }
    matcher.may_end().unwrap()
}

#[test]
fn gbnf_keeps_its_meaning() {
    let compiler = compiler();
    let check = |grammar: &str, yes: &[&str], no: &[&str]| {
        for text in yes {
            assert!(takes(&compiler, grammar, text), "{grammar:?} takes {text:?}");
        }
        for text in no {
            assert!(!takes(&compiler, grammar, text), "{grammar:?} refuses {text:?}");
        }
    };
    check("root ::= \"yes\" | \"no\"", &["yes", "no"], &["", "ye", "yesno", "maybe"]);
    check("root ::= \"a\"* \"b\"", &["b", "ab", "aaab"], &["", "a", "ba"]);
    check("root ::= [a-c]{2,3}", &["ab", "abc"], &["a", "abca", "ad"]);
    check("root ::= [a-c]{2}", &["ab"], &["a", "abc"]);
    check("root ::= \"ab\"{2,} \"c\"?", &["abab", "ababc", "ababab"], &["ab", "abc"]);
    check("root ::= \"x\"{0} \"y\" \"z\"{0,0}", &["y"], &["xy", "yz"]);
    check("root ::= \"\" | \"a\"", &["", "a"], &["aa"]);
    check("root ::= (\"a\" | )", &["", "a"], &["b"]);
    check("root ::= [^a-y\"]", &["z", "ä", "\n", "0"], &["a", "y", "\"", ""]);
    check("root ::= . .", &["ab", "\nä", "😀😀"], &["a", "abc"]);
    check("root ::= \"\\x41\\u00e4\\U0001F600\\t\\\"\\\\\\[\\]\"", &["Aä😀\t\"\\[]"], &["A"]);
    check("root ::= [\\-a\\]/.*+?$^(){}|&~#<>_%-]+", &["-a]/.*+?$^(){}|&~#<>_%"], &["b", ""]);
    check("root ::= \"a\" root \"b\" | \"\"", &["", "ab", "aabb"], &["aab", "ba"]);
    // A terminal that is a beginning of another one must not swallow it.
    check("root ::= (\"a\" | \"ab\") (\"c\" | \"bc\")", &["ac", "abc", "abbc"], &["ab", "abcc"]);
    check("root ::= [a-z]* \"end\"", &["end", "endend", "xend"], &["en", "endx"]);
    // Two classes that share a character.
    check("root ::= [a-m] \"x\" | [h-z] \"y\"", &["hx", "hy", "ax", "zy"], &["ay", "zx"]);
    check("root ::= x{2}*\nx ::= \"a\"", &["", "aa", "aaaa"], &["a", "aaa"]);
    check("root ::= \"ä\" # comment\n\n", &["ä"], &["\u{e4}\u{e4}", "a"]);
}

#[test]
fn ambiguity_does_not_explode() {
    let compiler = compiler();
    // Every further "a" doubles the ways to read the text.
    let grammar = "root ::= s\ns ::= \"a\" s \"x\" | \"a\" s \"y\" | \"a\"";
    let mut matcher = start(&compiler, grammar);
    for n in 0..200 {
        match matcher.accept(u32::from(b'a')) {
            Ok(()) => {}
            Err(GenerationError::Constraint(_)) => {
                assert!(n > 10);
                return;
            }
            Err(other) => panic!("{other}"),
        }
        matcher.mask().map(|_| ()).unwrap_or(());
    }
}

#[test]
fn tokens_that_do_not_exist_are_an_error() {
    let grammar = gbnf::parse("root ::= <[256]>", &ConstraintLimits::default()).unwrap();
    assert!(lark::write(&grammar, 256, |_| None).is_err());
    let grammar = gbnf::parse("root ::= <think>", &ConstraintLimits::default()).unwrap();
    assert!(lark::write(&grammar, 256, |_| None).is_err());
    let text = lark::write(&grammar, 256, |t| (t == "<think>").then_some(7)).unwrap();
    assert!(text.contains("<[7]>"), "{text}");
}

#[test]
fn schemas_have_limits() {
    let compiler = Compiler::new(
        &ApproximateTokEnv::single_byte_env(),
        &ConstraintLimits { max_bytes: 200, max_depth: 3, ..ConstraintLimits::default() },
    )
    .unwrap();
    let what = |text: &str| compiler.read_schema(text).unwrap_err().to_string();
    assert_eq!(what(&" ".repeat(201)), "json_schema: size in bytes exceeds the limit of 200");
    assert_eq!(what("[[]]"), "json_schema: must be an object");
    assert_eq!(what("true"), "json_schema: must be an object");
    assert_eq!(what(r#"{"a":{"b":{"c":{}}}}"#), "json_schema: nesting exceeds the limit of 3");
    assert!(what("{").starts_with("json_schema: "));
}

/// A piece of grammar, and whether it takes the beginning of a text: all
/// lengths it can take.
#[derive(Debug, Clone)]
enum Part {
    Text(&'static str),
    Class(&'static str, &'static str),
    Seq(Vec<Part>),
    Alt(Vec<Part>),
    Times(Box<Part>, usize, Option<usize>),
}

impl Part {
    fn write(&self) -> String {
        match self {
            Part::Text(text) => format!("\"{text}\""),
            Part::Class(class, _) => format!("[{class}]"),
            Part::Seq(parts) => {
                format!("({})", parts.iter().map(Part::write).collect::<Vec<_>>().join(" "))
            }
            Part::Alt(parts) => {
                format!("({})", parts.iter().map(Part::write).collect::<Vec<_>>().join(" | "))
            }
            Part::Times(part, min, max) => match max {
                Some(max) => format!("{}{{{min},{max}}}", part.write()),
                None => format!("{}{{{min},}}", part.write()),
            },
        }
    }

    /// Where the part may end if it begins at `at`.
    fn ends(&self, text: &str, at: usize) -> Vec<usize> {
        let mut ends = match self {
            Part::Text(literal) => {
                if text[at..].starts_with(literal) {
                    vec![at + literal.len()]
                } else {
                    Vec::new()
                }
            }
            Part::Class(_, members) => match text[at..].chars().next() {
                Some(c) if members.contains(c) => vec![at + 1],
                _ => Vec::new(),
            },
            Part::Seq(parts) => parts.iter().fold(vec![at], |starts, part| {
                let mut ends: Vec<usize> =
                    starts.iter().flat_map(|s| part.ends(text, *s)).collect();
                ends.sort_unstable();
                ends.dedup();
                ends
            }),
            Part::Alt(parts) => parts.iter().flat_map(|p| p.ends(text, at)).collect(),
            Part::Times(part, min, max) => {
                let mut all = Vec::new();
                let mut starts = vec![at];
                for n in 0..=max.unwrap_or(min + text.len() + 1) {
                    if n >= *min {
                        all.extend(&starts);
                    }
                    starts = starts.iter().flat_map(|s| part.ends(text, *s)).collect();
                    starts.sort_unstable();
                    starts.dedup();
                }
                all
            }
        };
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

fn part() -> impl Strategy<Value = Part> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["a", "b", "ab", "ba", ""]).prop_map(Part::Text),
        prop::sample::select(vec![("a", "a"), ("ab", "ab"), ("b-c", "bc")])
            .prop_map(|(class, members)| Part::Class(class, members)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Part::Seq),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Part::Alt),
            (inner, 0usize..3, prop::option::of(0usize..3)).prop_map(|(part, min, more)| {
                Part::Times(Box::new(part), min, more.map(|more| min + more))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A grammar takes exactly what a plain backtracking matcher takes.
    #[test]
    fn grammars_match_what_they_say(
        part in part(),
        texts in prop::collection::vec("[abc]{0,6}", 1..12),
    ) {
        let compiler = compiler();
        let grammar = format!("root ::= {}", part.write());
        for text in texts {
            let expected = part.ends(&text, 0).contains(&text.len());
            prop_assert_eq!(takes(&compiler, &grammar, &text), expected, "{} on {:?}", grammar, text);
        }
    }
}
