//! Reading responses, the client's side: patient with what it does not know.

use llamero_protocol::{FinishReason, HookFailureKind, HookPhase, WorkerResponse, decode_response};
use serde_json::json;

fn decode(payload: &str) -> WorkerResponse {
    decode_response(payload.as_bytes()).unwrap_or_else(|error| panic!("{payload}: {error}"))
}

#[test]
fn a_go_workers_answers() {
    assert_eq!(decode(r#"{"job":"a"}"#), WorkerResponse::ack("a"));
    assert_eq!(decode("{}"), WorkerResponse::default());
    assert_eq!(
        decode(r#"{"job":"a","stream":{"output":"\u003cb\u003e"}}"#),
        WorkerResponse::fragment("a", "<b>")
    );
    let listed = decode(
        r#"{"job":"a","list":{"models":[{"model":"m.bin","options":[{"name":"seed","value":0,"use":"u"}]}]}}"#,
    );
    let model = &listed.list.unwrap().models[0];
    assert_eq!(
        (model.model.as_str(), model.options[0].name.as_str(), &model.options[0].value),
        ("m.bin", "seed", &json!(0))
    );
    // Interrupts were answered without a job.
    assert!(decode(r#"{"interrupt":{}}"#).interrupt.is_some());
    assert_eq!(decode(r#"{"job":"a","error":{"error":"x"}}"#).error.unwrap().code, 0);
}

#[test]
fn unknown_members_and_words_are_no_hindrance() {
    let response = decode(
        r#"{"job":"a","new":[1],"predict":{"output":"x","finish_reason":"tool","usage":{"prompt_tokens":3.0,"energy":1},"timings":5}}"#,
    );
    let predict = response.predict.unwrap();
    assert_eq!(predict.finish_reason, Some(FinishReason::Other("tool".into())));
    assert_eq!((predict.usage.unwrap().prompt_tokens, predict.timings), (3, None));
    let error = decode(r#"{"error":{"code":9,"error":"x","hook":{"plugin":"h","phase":"later","kind":"odd","x":1}}}"#).error.unwrap();
    let hook = error.hook.unwrap();
    assert_eq!(
        (hook.phase, hook.kind),
        (HookPhase::Other("later".into()), HookFailureKind::Other("odd".into()))
    );
}

#[test]
fn vectors_are_read_strictly_and_the_rest_of_their_message_is_not() {
    let embed = |payload: &str| decode(payload).embed.unwrap();
    let read =
        embed(r#"{"embed":{"Embeddings":[[1,-0.5],[]],"model":5,"usage":{"prompt_tokens":3.0}}}"#);
    assert_eq!(read.embeddings, [vec![1.0_f32, -0.5], vec![]]);
    assert_eq!((read.model.as_str(), read.usage.unwrap().prompt_tokens), ("", 3));
    assert_eq!(embed(r#"{"embed":{"embeddings":[[1e400]]}}"#).embeddings, [[f32::MAX]]);
    for vectors in ["5", "[5]", "[null]", "[[null]]", r#"[["1"]]"#] {
        let payload = format!(r#"{{"embed":{{"embeddings":{vectors}}}}}"#);
        assert!(decode_response(payload.as_bytes()).is_err(), "{payload}");
    }
}

#[test]
fn odd_codes_are_unknown_ones() {
    for code in ["-1", "1.5", "99999999999", "1e400"] {
        assert_eq!(
            decode(&format!(r#"{{"error":{{"code":{code},"error":"x"}}}}"#)).error.unwrap().code,
            0,
            "{code}"
        );
    }
    assert_eq!(decode(r#"{"error":{"code":1001.0,"error":"x"}}"#).error.unwrap().code, 1001);
}

#[test]
fn what_is_no_response_is_an_error() {
    for payload in [
        "",
        "5",
        "[]",
        "{",
        r#"{"job":5}"#,
        r#"{"predict":{"output":["x"]}}"#,
        r#"{"error":{"code":"x"}}"#,
    ] {
        let error = decode_response(payload.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("response is not a valid JSON object: "), "{error}");
    }
}
