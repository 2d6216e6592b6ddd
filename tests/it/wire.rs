//! The golden exchanges of `tests/cases/wire`, replayed against live workers.
//!
//! The reader of the case files and the comparison are the protocol crate's own
//! test code: what the decoder is tested with is what the worker is tested with.

#[path = "../../host/protocol/tests/it/wire_match.rs"]
mod wire_match;

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::prerequisites::tests_folder;
use crate::harness::{Bench, Client, Exchange, ModelsDir, Nats, Place, SUBJECT, plain};
use wire_match::{Case, Expect, What, compare, load};

/// Replays the cases that ask for `setup`, one after the other.
async fn replay(setup: &str, bench: &Bench) {
    let client = bench.client().await;
    let mut exchange = Exchange::open(&client).await;
    let root = tests_folder().parent().unwrap_or(Path::new(".."));
    let cases = load(root, &exchange.stream_subject());
    let chosen: Vec<&Case> = cases.iter().filter(|case| case.setup == setup).collect();
    assert!(!chosen.is_empty(), "no case asks for the setup {setup}");
    for case in chosen {
        for payload in &case.send {
            exchange.publish(&client, payload.clone()).await;
        }
        let mut output = None;
        let mut streamed = String::new();
        for expect in &case.expect {
            check(case, expect, &mut exchange, &mut streamed, &mut output).await;
        }
        if let Some(output) = output {
            assert!(
                output.starts_with(&streamed),
                "{}: {streamed:?} is no beginning of {output:?}",
                case.name
            );
        }
        fence(&client).await;
    }
    exchange.assert_silence().await;
}

/// Reads what one expectation asks for. Fragments are "any number": they end
/// where another message begins, so they are read by the expectation after them.
async fn check(
    case: &Case,
    expect: &Expect,
    exchange: &mut Exchange,
    streamed: &mut String,
    output: &mut Option<String>,
) {
    let (wanted, exact) = match &expect.what {
        What::Fragments(_) => return,
        What::Message { json, exact } => (json, *exact),
    };
    let place = if expect.on == "stream" { Place::Stream } else { Place::Reply };
    loop {
        let seen = exchange.next().await;
        assert_eq!(seen.place, place, "{}: {seen:?}", case.name);
        if let Some(text) = fragment(case, &seen.body) {
            streamed.push_str(&text);
            continue;
        }
        if let Err(difference) = compare(wanted, &seen.body, exact) {
            panic!("{}: {difference}: {}", case.name, seen.body);
        }
        if let Some(text) = seen.body["predict"]["output"].as_str() {
            *output = Some(text.to_owned());
        }
        return;
    }
}

/// The text of a fragment that the case expects.
fn fragment(case: &Case, body: &Value) -> Option<String> {
    let expected = case.expect.iter().find_map(|expect| match &expect.what {
        What::Fragments(job) => Some(job),
        What::Message { .. } => None,
    })?;
    let text = body["stream"]["output"].as_str()?;
    assert_eq!(body, &json!({"job": expected, "stream": {"output": text}}), "{}", case.name);
    assert!(!text.is_empty(), "{}: an empty fragment", case.name);
    Some(text.to_owned())
}

/// A round trip through the worker. What it published before is delivered
/// before, so that a message too many shows in the case that caused it.
async fn fence(client: &Client) {
    let list = json!({"job": "fence", "list": {}}).to_string();
    client.nats.request(SUBJECT, list.into()).await.expect("the worker answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_worker() {
    replay("any", plain()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_dir() {
    replay("empty_dir", &Bench::on(Nats::start(), ModelsDir::empty(), |worker| worker)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_model() {
    let models = ModelsDir::empty().link("m.gguf");
    replay("one_model", &Bench::on(Nats::start(), models, |worker| worker)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_model_go() {
    let models = ModelsDir::empty().link("m.gguf");
    let bench =
        Bench::on(Nats::start(), models, |worker| worker.env("llm_response_extras", "false"));
    replay("one_model_go", &bench).await;
}
