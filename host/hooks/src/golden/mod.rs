//! Golden cases: what the operator wants a plugin to decide, written down, and
//! tried on every version before it takes traffic.
//!
//! This module reads the cases and compares verdicts; calling the plugin is
//! `run`. A file of cases is a JSON array of objects:
//!
//! ```json
//! [
//!   {
//!     "name": "mail addresses are masked",
//!     "request": { "model": "m.gguf", "input": ["write to ada@example.com"] },
//!     "want": { "verdict": "patch", "content": { "system": "", "input": ["write to [email]"] } }
//!   },
//!   {
//!     "name": "a secret is cut out, however it is split",
//!     "chunks": ["the key is sk-1", "234", "5 and that is all"],
//!     "want": { "verdict": "done", "text": "the key is [key] and that is all" }
//!   }
//! ]
//! ```
//!
//! Each case has a `name`, a `want`, and one of
//!
//! | input | is |
//! |---|---|
//! | `request` | an object: `input` (a text or a list of texts, with `system`) or `messages` (a list of `role` and `content`); `model`, `options`, `stream` (`true` or `false`) |
//! | `prompt` | an object: `text`; `markup` (a list of `[start, end]`, in bytes; empty unless given); `model`, `template`, `tokens` and `context_length` (numbers, 0 unless given) |
//! | `response` | a text: the whole output |
//! | `chunks` | a list of texts: the output, each text one `push`, whatever granularity the filter asks for |
//!
//! Verdicts are objects. Every member that `want` names must be equal; members
//! that it does not name may be anything, and an absent member equals `null`.
//!
//! | verdict | of | members |
//! |---|---|---|
//! | `pass` | request, prompt, response | |
//! | `patch` | request | what it changes: `model`, `content` (`system` and `input`, or `messages`), `options` (`null` takes one away) |
//! | `respond` | request | `text` |
//! | `replace` | prompt, response | `text`; of a prompt also `markup` |
//! | `reject` | all | `code`, `reason` |
//! | `done` | chunks | `text`: everything released |
//! | `halt` | chunks | `text`: everything released, the last words included; `reason` |
//! | `failed` | all | `kind`, as in error messages: `trap`, `guest`, `invalid-output` … |

pub(crate) mod run;

use std::ops::Range;

use serde_json::{Map, Value};

use crate::data::{Content, Message, Prompt, Request};
use crate::error::Phase;
use crate::policy::{GoldenCase, GoldenInput};
use crate::verdict::check_markup;

/// Most cases in one file.
const CASES: usize = 1_000;

/// What a `want` may call the verdict.
const VERDICTS: &[&str] =
    &["pass", "patch", "respond", "replace", "reject", "done", "halt", "failed"];

/// Reads a file of golden cases: a JSON array of objects with `name`, `want` and
/// one of `request`, `prompt`, `response` and `chunks`.
///
/// Verdicts are objects with the member `verdict` and, depending on it, `model`,
/// `content` and `options`, `text`, `code` and `reason`, or `kind`.
///
/// # Errors
/// Everything that is wrong, each with the case that it is in.
pub fn golden_cases(text: &str) -> Result<Vec<GoldenCase>, Vec<String>> {
    let list: Value =
        serde_json::from_str(text).map_err(|error| vec![format!("it is not JSON: {error}")])?;
    let Value::Array(items) = list else {
        return Err(vec!["it must be a JSON array of cases".to_owned()]);
    };
    if items.len() > CASES {
        return Err(vec![format!("it has {} cases, the limit is {CASES}", items.len())]);
    }
    let mut cases = Vec::with_capacity(items.len());
    let mut problems = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let name = item.get("name").and_then(Value::as_str);
        match case(item) {
            Ok(case) => cases.push(case),
            Err(reason) => {
                let name = name.map_or_else(String::new, |name| format!(" (`{name}`)"));
                problems.push(format!("case {}{name}: {reason}", number + 1));
            }
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

fn case(item: &Value) -> Result<GoldenCase, String> {
    const INPUTS: [&str; 4] = ["request", "prompt", "response", "chunks"];
    let mut members = Members::of(item, "a case")?;
    let name = members.text("name")?.ok_or("`name` is missing")?;
    let want = members.take("want").ok_or("`want` is missing")?;
    check_want(&want)?;
    let mut inputs = INPUTS.iter().filter_map(|name| Some((*name, members.take(name)?)));
    let (Some((kind, input)), None) = (inputs.next(), inputs.next()) else {
        return Err(format!("it needs exactly one of {}", INPUTS.join(", ")));
    };
    members.finish(&["name", "want", "request", "prompt", "response", "chunks"])?;
    let input = match kind {
        "request" => GoldenInput::Request(request(&input)?),
        "prompt" => GoldenInput::Prompt(prompt(&input)?),
        "response" => {
            GoldenInput::Response(input.as_str().ok_or("`response` must be a text")?.to_owned())
        }
        _ => GoldenInput::Stream(texts("chunks", &input)?),
    };
    Ok(GoldenCase { name, input, want })
}

fn check_want(want: &Value) -> Result<(), String> {
    let Some(members) = want.as_object().filter(|members| !members.is_empty()) else {
        return Err("`want` must be an object with at least one member, such as \
                    {\"verdict\": \"pass\"}"
            .to_owned());
    };
    match members.get("verdict") {
        None => Ok(()),
        Some(Value::String(verdict)) if VERDICTS.contains(&verdict.as_str()) => Ok(()),
        Some(other) => Err(format!("`verdict` {other} is none of {}", VERDICTS.join(", "))),
    }
}

fn request(value: &Value) -> Result<Request, String> {
    let mut members = Members::of(value, "`request`")?;
    let model = members.text("model")?.unwrap_or_default();
    let system = members.text("system")?;
    let content = match (members.take("input"), members.take("messages")) {
        (Some(Value::String(input)), None) => {
            Content::Completion { system: system.unwrap_or_default(), input: vec![input] }
        }
        (Some(input), None) => Content::Completion {
            system: system.unwrap_or_default(),
            input: texts("input", &input)?,
        },
        (None, Some(Value::Array(items))) if system.is_none() => {
            Content::Chat(items.iter().map(message).collect::<Result<_, _>>()?)
        }
        _ => {
            return Err("`request` needs `input` (a text or a list of texts, with or without \
                        `system`) or `messages` (a list, without `system`)"
                .to_owned());
        }
    };
    let options = match members.take("options") {
        None => Vec::new(),
        Some(Value::Object(options)) => options.into_iter().collect(),
        Some(_) => return Err("`options` must be an object".to_owned()),
    };
    let wants_stream = match members.take("stream") {
        None => false,
        Some(Value::Bool(stream)) => stream,
        Some(_) => return Err("`stream` must be true or false".to_owned()),
    };
    members.finish(&["model", "system", "input", "messages", "options", "stream"])?;
    Ok(Request { model, content, options, wants_stream })
}

fn message(value: &Value) -> Result<Message, String> {
    let mut members = Members::of(value, "a message")?;
    let role = members.text("role")?.ok_or("a message needs `role`")?;
    let content = members.text("content")?.ok_or("a message needs `content`")?;
    members.finish(&["role", "content"])?;
    Ok(Message { role, content })
}

fn prompt(value: &Value) -> Result<Prompt, String> {
    let mut members = Members::of(value, "`prompt`")?;
    let text = members.text("text")?.ok_or("`prompt` needs `text`")?;
    let markup = members.take("markup").map_or(Ok(Vec::new()), |value| spans(&value))?;
    check_markup(&text, &markup)?;
    let prompt = Prompt {
        model: members.text("model")?.unwrap_or_default(),
        text,
        markup,
        tokens: members.number("tokens")?,
        context_length: members.number("context_length")?,
        template: members.text("template")?,
    };
    members.finish(&["model", "text", "markup", "tokens", "context_length", "template"])?;
    Ok(prompt)
}

fn spans(value: &Value) -> Result<Vec<Range<usize>>, String> {
    let offset = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let span = |item: &Value| match item.as_array()?.as_slice() {
        [start, end] => Some(offset(start)?..offset(end)?),
        _ => None,
    };
    let list = value.as_array().and_then(|items| items.iter().map(span).collect());
    list.ok_or_else(|| "`markup` must be a list of [start, end], in bytes of `text`".to_owned())
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let text = |item: &Value| item.as_str().map(str::to_owned);
    let list = value.as_array().and_then(|items| items.iter().map(text).collect());
    list.ok_or_else(|| format!("`{name}` must be a list of texts"))
}

/// The members of an object that nobody has asked for yet.
struct Members<'a> {
    what: &'a str,
    left: Map<String, Value>,
}

impl<'a> Members<'a> {
    fn of(value: &Value, what: &'a str) -> Result<Self, String> {
        let left = value.as_object().ok_or_else(|| format!("{what} must be an object"))?;
        Ok(Self { what, left: left.clone() })
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name)
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("`{name}` must be a text")),
        }
    }

    fn number(&mut self, name: &str) -> Result<u32, String> {
        let number = self.take(name).unwrap_or(Value::from(0));
        let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("`{name}` must be a whole number"))
    }

    /// What is left was not meant by anybody.
    fn finish(self, known: &[&str]) -> Result<(), String> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!(
                "{} has the unknown member `{name}` (known: {})",
                self.what,
                known.join(", ")
            )),
        }
    }
}

impl GoldenInput {
    /// The phase in which a plugin is given this.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Request(_) => Phase::Request,
            Self::Prompt(_) => Phase::Prompt,
            Self::Stream(_) => Phase::Stream,
            Self::Response(_) => Phase::Response,
        }
    }
}

/// Whether a verdict has everything that is wanted of it.
fn matches(want: &Value, got: &Value) -> bool {
    let members = want.as_object().into_iter().flatten();
    members.into_iter().all(|(name, want)| same(want, got.get(name).unwrap_or(&Value::Null)))
}

/// Equality that does not tell 1 from 1.0, as JSON does not.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn every_input_is_read() {
        let text = json!([
            {"name": "a", "request": {"input": "hi"}, "want": {"verdict": "pass"}},
            {"name": "b", "want": {"verdict": "patch"}, "request": {
                "model": "m", "system": "s", "input": ["x", "y"], "options": {"seed": 7},
                "stream": true,
            }},
            {"name": "c", "want": {"code": 1403}, "request": {
                "messages": [{"role": "user", "content": "hi"}],
            }},
            {"name": "d", "want": {"text": "u"}, "prompt": {
                "text": "té", "markup": [[0, 1], [1, 3]], "tokens": 3, "context_length": 9,
            }},
            {"name": "e", "response": "all", "want": {"verdict": "pass"}},
            {"name": "f", "chunks": ["a", "b"], "want": {"verdict": "done", "text": "ab"}},
        ]);
        let cases = golden_cases(&text.to_string()).unwrap();
        let phases: Vec<_> = cases.iter().map(|case| case.input.phase()).collect();
        use Phase::{Prompt, Request, Response, Stream};
        assert_eq!(phases, [Request, Request, Request, Prompt, Response, Stream]);
        let GoldenInput::Request(request) = &cases[1].input else { panic!() };
        assert_eq!(request.options, [("seed".to_owned(), json!(7))]);
        assert!(request.wants_stream && request.model == "m");
        let input = vec!["x".to_owned(), "y".to_owned()];
        assert_eq!(request.content, Content::Completion { system: "s".to_owned(), input });
        let GoldenInput::Prompt(prompt) = &cases[3].input else { panic!() };
        assert_eq!((prompt.tokens, prompt.context_length), (3, 9));
        assert_eq!(prompt.markup, [0..1, 1..3]);
    }

    #[test]
    fn everything_wrong_is_reported_with_its_case() {
        let want = json!({"verdict": "pass"});
        let text = json!([
            3,
            {"request": {"input": "x"}, "want": want},
            {"name": "no want", "request": {"input": "x"}},
            {"name": "two", "prompt": {"text": ""}, "response": "", "want": want},
            {"name": "none", "want": want},
            {"name": "typo", "respones": "", "response": "", "want": want},
            {"name": "odd verdict", "response": "", "want": {"verdict": "accept"}},
            {"name": "empty", "response": "", "want": {}},
            {"name": "both", "request": {"input": "x", "messages": []}, "want": want},
            {"name": "inner", "request": {"input": "x", "temperature": 1}, "want": want},
            {"name": "chunk", "chunks": ["a", 1], "want": want},
            {"name": "number", "prompt": {"text": "", "tokens": -1}, "want": want},
            {"name": "span", "prompt": {"text": "t", "markup": [[0]]}, "want": want},
            {"name": "half", "prompt": {"text": "é", "markup": [[0, 1]]}, "want": want},
        ]);
        let problems = golden_cases(&text.to_string()).unwrap_err();
        for (problem, expected) in problems.iter().zip([
            "case 1: a case must be an object",
            "case 2: `name` is missing",
            "case 3 (`no want`): `want` is missing",
            "case 4 (`two`): it needs exactly one of",
            "case 5 (`none`): it needs exactly one of",
            "case 6 (`typo`): a case has the unknown member `respones`",
            "case 7 (`odd verdict`): `verdict` \"accept\" is none of pass,",
            "case 8 (`empty`): `want` must be",
            "case 9 (`both`): `request` needs",
            "case 10 (`inner`): `request` has the unknown member `temperature`",
            "case 11 (`chunk`): `chunks` must be a list of texts",
            "case 12 (`number`): `tokens` must be a whole number",
            "case 13 (`span`): `markup` must be a list of [start, end]",
            "case 14 (`half`): `markup[0]` is 0 to 1: spans begin and end between",
        ]) {
            assert!(problem.starts_with(expected), "{problem}");
        }
        assert_eq!(problems.len(), 14, "{problems:#?}");
        assert!(golden_cases("{}").unwrap_err()[0].contains("array"));
        assert!(golden_cases("[").unwrap_err()[0].contains("not JSON"));
        let many = vec![json!({}); CASES + 1];
        assert!(golden_cases(&json!(many).to_string()).unwrap_err()[0].contains("the limit is"));
    }

    #[test]
    fn only_what_is_wanted_is_compared() {
        let got = json!({"verdict": "patch", "options": {"temperature": 0, "stop": ["a"]}});
        for want in [
            json!({"verdict": "patch"}),
            json!({"options": {"stop": ["a"], "temperature": 0.0}}),
            json!({"model": null}),
        ] {
            assert!(matches(&want, &got), "{want}");
        }
        for want in [
            json!({"verdict": "pass"}),
            json!({"options": {"temperature": 0}}),
            json!({"options": {"temperature": 0, "stop": ["b"]}}),
            json!({"model": "m"}),
            json!({"verdict": "patch", "code": 9}),
        ] {
            assert!(!matches(&want, &got), "{want}");
        }
    }
}
