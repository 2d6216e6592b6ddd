//! Output that has to match a grammar or a schema, and hostile ones.

use llamero_engine::{
    CompiledConstraint, Constraint, ConstraintError, FinishReason, GenerationError, Job, Model,
    Sampling, SubmitError,
};
use serde_json::Value;

use crate::support::{alone, block_on, collect, config, greedy, job, model, run};

fn grammar(text: &str) -> Result<CompiledConstraint, ConstraintError> {
    model().compile(&Constraint::Grammar(text.to_string()))
}

fn schema(text: &str) -> Result<CompiledConstraint, ConstraintError> {
    model().compile(&Constraint::JsonSchema(text.to_string()))
}

fn constrained(constraint: CompiledConstraint, max_tokens: u32) -> Job {
    Job { constraint: Some(constraint), ..job("The answer in the requested form is: ", max_tokens) }
}

#[test]
fn grammar_output_matches() {
    let choice = grammar("root ::= \"yes\" | \"no\" | \"maybe\"").unwrap();
    let outcome = run(constrained(choice.clone(), 20));
    assert!(["yes", "no", "maybe"].contains(&outcome.text.as_str()), "{:?}", outcome.text);
    // A finished grammar ends the generation by itself.
    assert_eq!(outcome.finished().reason, FinishReason::Stop);

    // Every sampler obeys, whatever it would rather say.
    for sampling in [
        Sampling { temperature: 3.0, top_k: 5, ..Sampling::default() },
        Sampling { mirostat: 1, ..Sampling::default() },
        Sampling { mirostat: 2, ..Sampling::default() },
        Sampling { ignore_eos: true, ..greedy() },
    ] {
        let outcome = run(Job { sampling: sampling.clone(), ..constrained(choice.clone(), 20) });
        assert!(
            ["yes", "no", "maybe"].contains(&outcome.text.as_str()),
            "{sampling:?}: {:?}",
            outcome.text
        );
    }
}

#[test]
fn grammar_with_rules_and_unicode() {
    let list = grammar(
        "root ::= item (\", \" item){1,3} \"ü\"\nitem ::= [0-9]{1,3} \".\" [a-f]+ # comment\n",
    )
    .unwrap();
    let outcome = run(Job {
        sampling: Sampling { seed: 3, ..Sampling::default() },
        ..constrained(list, 120)
    });
    let text = outcome.text.as_str();
    if outcome.finished().reason == FinishReason::Stop {
        let items = text.strip_suffix('ü').expect("ends with ü");
        let items: Vec<&str> = items.split(", ").collect();
        assert!((2..=4).contains(&items.len()), "{text}");
        for item in items {
            let (digits, letters) = item.split_once('.').expect("digits.letters");
            assert!((1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
            assert!(!letters.is_empty() && letters.bytes().all(|b| (b'a'..=b'f').contains(&b)));
        }
    } else {
        assert!(text.chars().all(|c| "0123456789.abcdef, ü".contains(c)), "{text}");
    }
}

#[test]
fn schema_output_is_valid_json() {
    let person = schema(
        r#"{"type":"object","properties":{"name":{"type":"string","maxLength":20},"age":{"type":"integer","minimum":0,"maximum":150},
           "tags":{"type":"array","items":{"enum":["a","b"]},"maxItems":3}},"required":["name","age","tags"],"additionalProperties":false}"#,
    )
    .unwrap();
    for seed in 1..4 {
        let outcome = run(Job {
            sampling: Sampling { seed, ..Sampling::default() },
            ..constrained(person.clone(), 300)
        });
        assert_eq!(outcome.finished().reason, FinishReason::Stop, "{:?}", outcome.text);
        let value: Value = serde_json::from_str(&outcome.text).expect("valid JSON");
        assert!(value["name"].as_str().unwrap().chars().count() <= 20);
        assert!((0..=150).contains(&value["age"].as_i64().unwrap()));
        assert!(value["tags"].as_array().unwrap().iter().all(|t| t == "a" || t == "b"));
        assert_eq!(value.as_object().unwrap().len(), 3);
    }
}

#[test]
fn constrained_jobs_run_beside_others() {
    let _alone = alone();
    let digits = grammar("root ::= [0-9]{8}").unwrap();
    let generations: Vec<_> = (0..3)
        .map(|_| model().submit(constrained(digits.clone(), 40)).unwrap())
        .chain([model().submit(job("The capital of France is", 8)).unwrap()])
        .collect();
    block_on(async {
        let mut texts = Vec::new();
        for generation in generations {
            texts.push(collect(generation).await.text);
        }
        for text in &texts[..3] {
            assert!(text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit()), "{text:?}");
        }
        assert!(texts[3].contains("Paris"));
    });
}

#[test]
fn control_tokens_are_no_way_out_of_a_grammar() {
    let text = grammar("root ::= .{30,60}").unwrap();
    let outcome = run(Job {
        sampling: Sampling {
            temperature: 5.0,
            top_k: 0,
            top_p: 1.0,
            seed: 5,
            ..Sampling::default()
        },
        ..constrained(text, 200)
    });
    let n = outcome.text.chars().count();
    assert!((30..=60).contains(&n), "{n}: {:?}", outcome.text);
}

#[test]
fn hostile_grammars_are_errors() {
    let mut hostile = vec![
        String::new(),
        "root".to_string(),
        "root ::=".repeat(3),
        "root ::= root".to_string(),
        "root ::= undefined".to_string(),
        "root ::= (((((\"a\")".to_string(),
        "root ::= \"a\"{1001}".to_string(),
        "root ::= \"a\"{0,99999999999}".to_string(),
        "root ::= ((\"a\"{1000}){1000}){1000}{1000}".to_string(),
        "root ::= \"\\xZZ\"".to_string(),
        "root ::= [".to_string(),
        "root ::= <[99999999]>".to_string(),
        "root ::= <no such token>".to_string(),
        "root ::= \"\u{0}\"\u{0}".to_string(),
        format!("root ::= {}", "(".repeat(60_000)),
        format!("root ::= {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000)),
        "x".repeat(70_000),
    ];
    hostile
        .push((0..3000).map(|n| format!("r{n} ::= \"a\"\n")).collect::<String>() + "root ::= r0");
    for text in hostile {
        let shown: String = text.chars().take(60).collect();
        let error = grammar(&text).map(|_| ()).expect_err(&shown);
        let error = error.to_string();
        assert!(error.starts_with("grammar: "), "{shown}: {error}");
        assert!(error.len() < 500, "{shown}: {error}");
    }
}

#[test]
fn costly_grammars_end() {
    // Accepted ones must not take for ever either, nor bring anything down.
    let chain: String = (0..1900)
        .map(|n| format!("r{n} ::= r{}\n", n + 1))
        .chain(["r1900 ::= \"a\"\nroot ::= r0\n".to_string()])
        .collect();
    let costly = [
        chain,
        "root ::= s\ns ::= \"a\" s \"x\" | \"a\" s \"y\" | \"a\"".to_string(),
        "root ::= (\"a\"?){1000}".to_string(),
        "root ::= ((\"a\"?){30}){30}".to_string(),
        "root ::= (\"a\"*)*".to_string(),
        "root ::= [a]+ [a]+ [a]+ [a]+ [a]+ [a]+ [a]+ \"b\"".to_string(),
        "root ::= a a a a a a a a\na ::= b b b b b b b b\nb ::= c c c c c c c c\nc ::= \"x\" | \"\"".to_string(),
    ];
    for text in costly {
        let shown: String = text.chars().take(60).collect();
        match grammar(&text) {
            Ok(constraint) => match run(constrained(constraint, 12)).end {
                Ok(_) | Err(GenerationError::Constraint(_)) => {}
                Err(other) => panic!("{shown}: {other}"),
            },
            Err(error) => assert!(error.to_string().starts_with("grammar: "), "{shown}: {error}"),
        }
    }
    assert!(run(job("The capital of France is", 8)).text.contains("Paris"));
}

#[test]
fn hostile_schemas_are_errors() {
    let deep = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
    let deeper = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let hostile = [
        "",
        "5",
        "[]",
        "{",
        "{\"type\":\"no such type\"}",
        "{\"type\":\"string\",\"pattern\":\"(\"}",
        "{\"$ref\":\"#/none\"}",
        "{\"$ref\":\"http://127.0.0.1:1/x\"}",
        "{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}",
        "{\"enum\":[]}",
        deep.as_str(),
        deeper.as_str(),
    ];
    for text in hostile {
        let shown: String = text.chars().take(60).collect();
        let error = schema(text).map(|_| ()).expect_err(&shown).to_string();
        assert!(error.starts_with("json_schema: "), "{shown}: {error}");
        assert!(error.len() < 500, "{shown}: {error}");
    }
    // A few KiB that would be gigabytes, or take hours.
    let members = |n: usize| (0..n).map(|n| format!("\"{n}\":{{}},")).collect::<String>();
    for text in [
        format!(
            "{{\"properties\":{{{}\"z\":{{}}}},\"anyOf\":[{}{{}}]}}",
            members(3000),
            "{},".repeat(8000)
        ),
        format!("{{\"patternProperties\":{{{}\"z\":{{}}}}}}", members(4000)),
        format!(
            "{{\"properties\":{{{}\"z\":{{}}}},\"minProperties\":1,\"additionalProperties\":false}}",
            members(4000)
        ),
    ] {
        assert_eq!(
            schema(&text).map(|_| ()).unwrap_err().to_string(),
            "json_schema: size written out exceeds the limit of 100000"
        );
    }
    let large = format!("{{\"enum\":[{}\"x\"]}}", "\"0123456789\",".repeat(6000));
    assert_eq!(
        schema(&large).map(|_| ()).unwrap_err().to_string(),
        "json_schema: size in bytes exceeds the limit of 65536"
    );
}

#[test]
fn costly_schemas_end() {
    let alternatives: Vec<String> = (0..300)
        .map(|n| {
            format!("{{\"type\":\"object\",\"properties\":{{\"k{n}\":{{\"type\":\"string\"}}}}}}")
        })
        .collect();
    let costly = [
        "{\"$ref\":\"#\"}".to_string(),
        "{\"anyOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"}]}".to_string(),
        "{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}".to_string(),
        "{\"type\":\"string\",\"maxLength\":100000}".to_string(),
        "{\"type\":\"string\",\"pattern\":\"^(a+)+$\"}".to_string(),
        "{\"type\":\"string\",\"pattern\":\"^((a{1,50}){1,50}){1,50}$\"}".to_string(),
        "{\"type\":\"string\",\"pattern\":\"^(.*a.{30})$\"}".to_string(),
        "{\"type\":\"array\",\"minItems\":100000,\"items\":{\"type\":\"integer\"}}".to_string(),
        format!("{{\"oneOf\":[{}]}}", alternatives.join(",")),
        format!("{{\"allOf\":[{}]}}", alternatives.join(",")),
        "{\"x-guidance\":{\"whitespace_pattern\":\"(a|aa)*\"},\"type\":\"object\"}".to_string(),
    ];
    for text in costly {
        let shown: String = text.chars().take(60).collect();
        match schema(&text) {
            Ok(constraint) => match run(constrained(constraint, 12)).end {
                Ok(_) | Err(GenerationError::Constraint(_)) => {}
                Err(other) => panic!("{shown}: {other}"),
            },
            Err(error) => {
                assert!(error.to_string().starts_with("json_schema: "), "{shown}: {error}")
            }
        }
    }
    assert!(run(job("The capital of France is", 8)).text.contains("Paris"));
}

#[test]
fn constraints_belong_to_their_model() {
    let other = Model::load(config(), |_| true).unwrap();
    let constraint = grammar("root ::= \"a\"").unwrap();
    assert_eq!(
        other.submit(constrained(constraint, 4)).map(|_| ()).unwrap_err(),
        SubmitError::ForeignConstraint
    );
}
