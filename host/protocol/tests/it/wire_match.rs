//! Loads the exchanges of `tests/cases/wire` and compares answers with what they
//! expect, as the README there describes. It needs `serde_json` and nothing else,
//! so that the end-to-end tests can include this file and replay the same
//! exchanges against a live worker.
#![allow(dead_code, reason = "each of the two includers uses its own part")]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// One line of a case file.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub setup: String,
    /// The payloads, in order, with `stream` put in for `@STREAM@`.
    pub send: Vec<Vec<u8>>,
    pub expect: Vec<Expect>,
}

/// One thing that has to arrive.
#[derive(Debug)]
pub struct Expect {
    /// `reply` or `stream`.
    pub on: String,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// Any number of fragments of this job, none of them empty.
    Fragments(String),
    /// One message.
    Message { json: Value, exact: bool },
}

/// Every case of every file, in order. `root` is the root of the repository.
pub fn load(root: &Path, stream: &str) -> Vec<Case> {
    let folder = root.join("tests/cases/wire");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("{}:{}", file.display(), index + 1);
            let case =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{place}: {error}"));
            cases.push(
                read_case(&case, stream).unwrap_or_else(|reason| panic!("{place}: {reason}")),
            );
        }
    }
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    cases
}

fn read_case(case: &Value, stream: &str) -> Result<Case, String> {
    let text =
        |name: &str| case[name].as_str().map(str::to_owned).ok_or(format!("{name} is missing"));
    let list = |name: &str| {
        case[name].as_array().filter(|list| !list.is_empty()).ok_or(format!("{name} is empty"))
    };
    Ok(Case {
        name: text("name")?,
        setup: text("setup")?,
        send: list("send")?
            .iter()
            .map(|payload| read_payload(payload, stream))
            .collect::<Result<_, _>>()?,
        expect: list("expect")?.iter().map(read_expect).collect::<Result<_, _>>()?,
    })
}

fn read_payload(payload: &Value, stream: &str) -> Result<Vec<u8>, String> {
    if let Some(hex) = payload["hex"].as_str() {
        let digits: Option<Vec<u8>> = hex.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
        let digits = digits
            .filter(|digits| digits.len().is_multiple_of(2))
            .ok_or("hex must be pairs of digits")?;
        return Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect());
    }
    let text = payload
        .as_str()
        .or(payload["text"].as_str())
        .ok_or("a payload is a string, {text} or {hex}")?;
    let mut text = text.replace("@STREAM@", stream);
    if let Some(fill) = payload["fill"].as_object() {
        for (mark, what) in fill {
            let (Some(repeat), Some(times)) = (what["repeat"].as_str(), what["times"].as_u64())
            else {
                return Err("fill takes repeat and times".into());
            };
            assert!(text.contains(mark.as_str()), "nothing to fill for {mark}");
            text = text.replace(mark.as_str(), &repeat.repeat(times as usize));
        }
    }
    Ok(text.into_bytes())
}

fn read_expect(expect: &Value) -> Result<Expect, String> {
    let on = expect["on"]
        .as_str()
        .filter(|on| ["reply", "stream"].contains(on))
        .ok_or("on is reply or stream")?;
    let what = match (&expect["fragments"], expect["mode"].as_str()) {
        (Value::String(job), None) => What::Fragments(job.clone()),
        (Value::Null, Some(mode @ ("exact" | "subset"))) if expect["json"].is_object() => {
            What::Message { json: expect["json"].clone(), exact: mode == "exact" }
        }
        _ => return Err("an expectation has fragments, or json and mode".into()),
    };
    Ok(Expect { on: on.to_owned(), what })
}

/// Compares an answer with an expected one; the error says where they differ.
pub fn compare(expected: &Value, actual: &Value, exact: bool) -> Result<(), String> {
    compare_at("$", expected, actual, exact)
}

fn compare_at(path: &str, expected: &Value, actual: &Value, exact: bool) -> Result<(), String> {
    match (expected, actual) {
        (Value::String(any), _) if any == "..." => Ok(()),
        (Value::Object(expected), Value::Object(actual)) => {
            for (name, value) in expected {
                let found = actual.get(name).ok_or_else(|| format!("{path}.{name} is missing"))?;
                compare_at(&format!("{path}.{name}"), value, found, exact)?;
            }
            match actual.keys().find(|name| exact && !expected.contains_key(*name)) {
                Some(name) => Err(format!("{path}.{name} is one too many")),
                None => Ok(()),
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            let open = expected.last().is_some_and(|last| last == "...");
            let shown = &expected[..expected.len() - usize::from(open)];
            if actual.len() < shown.len() || (!open && actual.len() > shown.len()) {
                return Err(format!("{path} has {} elements", actual.len()));
            }
            for (index, (expected, actual)) in shown.iter().zip(actual).enumerate() {
                compare_at(&format!("{path}[{index}]"), expected, actual, exact)?;
            }
            Ok(())
        }
        // 1 and 1.0 are the same number to any reader.
        (Value::Number(expected), Value::Number(actual))
            if expected.as_f64() == actual.as_f64() =>
        {
            Ok(())
        }
        (expected, actual) if expected == actual => Ok(()),
        (expected, actual) => Err(format!("{path} is {actual}, not {expected}")),
    }
}
