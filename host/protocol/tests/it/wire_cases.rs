//! The golden exchanges, as far as this crate decides them: everything that is
//! answered before a model is needed.

#[path = "wire_match.rs"]
mod wire_match;

use std::collections::HashSet;
use std::path::Path;

use llamero_protocol::{
    DEFAULT_STREAM_SUBJECTS, ErrorBody, OptionDefaults, WorkerResponse, check_model_name,
    check_stream_subject, decode_request, decode_response, encode_response, model_choice, resolve,
};
use serde_json::{Value, json};
use wire_match::{Case, What, compare, load};

const SETUPS: [&str; 4] = ["any", "empty_dir", "one_model", "one_model_go"];

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    load(&root, "_INBOX.s")
}

/// The refusal of a request by rules that need no worker.
fn refusal(payload: &[u8]) -> Option<WorkerResponse> {
    let request = match decode_request(payload) {
        Ok(request) => request,
        Err(rejected) => return Some(rejected.into_response()),
    };
    let predict = request.predict?;
    let check = || -> Result<(), ErrorBody> {
        let defaults = OptionDefaults::default();
        let allowed: Vec<String> =
            DEFAULT_STREAM_SUBJECTS.iter().map(|&subject| subject.to_owned()).collect();
        if !predict.stream.is_empty() {
            check_stream_subject(&predict.stream, &allowed).map_err(ErrorBody::invalid_request)?;
        }
        if let Some(model) = model_choice(&predict.options, &defaults)?.model {
            check_model_name(&model)?;
        }
        resolve(&predict.options, &defaults, false)?;
        Ok(())
    };
    check().err().map(|error| WorkerResponse::failed(request.job.clone(), error))
}

#[test]
fn refused_requests_get_their_golden_answers() {
    let mut refused = 0;
    for case in cases() {
        let [payload] = &case.send[..] else { continue };
        let Some(response) = refusal(payload) else {
            assert!(!expects_early_error(&case), "{} was not refused", case.name);
            continue;
        };
        refused += 1;
        let [expect] = &case.expect[..] else { panic!("{}: a refusal is one message", case.name) };
        let What::Message { json, exact } = &expect.what else {
            panic!("{}: no message", case.name)
        };
        assert_eq!(expect.on, "reply", "{}", case.name);
        let actual: Value = serde_json::from_slice(&encode_response(&response)).unwrap();
        compare(json, &actual, *exact)
            .unwrap_or_else(|difference| panic!("{}: {difference}", case.name));
    }
    assert!(refused > 20, "only {refused} cases were refused");
}

fn expects_early_error(case: &Case) -> bool {
    case.expect.iter().any(|expect| match &expect.what {
        What::Message { json, .. } => matches!(json["error"]["code"].as_u64(), Some(1..=3)),
        What::Fragments(_) => false,
    })
}

#[test]
fn cases_are_well_formed() {
    let mut names = HashSet::new();
    for case in cases() {
        assert!(names.insert(case.name.clone()), "{} occurs twice", case.name);
        assert!(SETUPS.contains(&case.setup.as_str()), "{}: {}", case.name, case.setup);
        for expect in &case.expect {
            if let What::Message { json, .. } = &expect.what {
                // What is expected is itself a response. `...` stands for values
                // of other types too, so the members it may replace are left out.
                let mut message = json.clone();
                message.as_object_mut().unwrap().retain(|name, _| name == "job" || name == "error");
                decode_response(message.to_string().as_bytes()).unwrap();
            }
        }
    }
}

#[test]
fn comparison_finds_differences() {
    let same = |expected: Value, actual: Value| compare(&expected, &actual, true).is_ok();
    assert!(same(json!({"a": "...", "b": [1, "..."]}), json!({"a": {}, "b": [1.0, 2, 3]})));
    for (expected, actual) in [
        (json!({"a": 1}), json!({"a": 2})),
        (json!({"a": 1}), json!({})),
        (json!({}), json!({"a": 1})),
        (json!([1]), json!([1, 2])),
        (json!([1, 2, "..."]), json!([1])),
        (json!({"a": "..."}), json!({})),
        (json!({"a": "1"}), json!({"a": 1})),
    ] {
        assert!(!same(expected.clone(), actual.clone()), "{expected} {actual}");
    }
    assert!(compare(&json!({"a": {}}), &json!({"a": {"b": 1}}), false).is_ok());
}
