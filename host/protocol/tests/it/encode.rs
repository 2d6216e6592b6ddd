//! The written form, byte for byte: names, order, and what is left out.

use std::time::Duration;

use llamero_protocol::{
    EmbedRequest, EmbedResponse, EmbedUsage, ErrorBody, FinishReason, HookFailureKind, HookPhase,
    InterruptRequest, ListRequest, Message, ModelInfo, ModelOption, PredictRequest,
    PredictResponse, Timings, Usage, WorkerRequest, WorkerResponse, encode_request,
    encode_response,
};
use serde_json::json;

#[track_caller]
fn check_request(request: WorkerRequest, expected: &str) {
    assert_eq!(String::from_utf8(encode_request(&request)).unwrap(), expected);
}

#[track_caller]
fn check_response(response: WorkerResponse, expected: &str) {
    assert_eq!(String::from_utf8(encode_response(&response)).unwrap(), expected);
}

#[test]
fn requests() {
    let job = || WorkerRequest { job: "a".into(), ..WorkerRequest::default() };
    check_request(WorkerRequest::default(), "{}");
    check_request(
        WorkerRequest { list: Some(ListRequest {}), ..job() },
        r#"{"job":"a","list":{}}"#,
    );
    check_request(
        WorkerRequest { interrupt: Some(InterruptRequest {}), ..job() },
        r#"{"job":"a","interrupt":{}}"#,
    );
    check_request(
        WorkerRequest { predict: Some(PredictRequest::default()), ..job() },
        r#"{"job":"a","predict":{}}"#,
    );
    let predict = PredictRequest {
        system: "s".into(),
        input: vec!["x".into(), "".into()],
        messages: vec![Message { role: "user".into(), content: "<&>".into() }],
        stream: "_INBOX.s".into(),
        options: [
            ("Top_K", json!(40)),
            ("a", json!(null)),
            ("seed", json!(1)),
            ("b", json!({"z":1,"a":2})),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect(),
    };
    let all = WorkerRequest {
        list: Some(ListRequest {}),
        interrupt: Some(InterruptRequest {}),
        predict: Some(predict),
        embed: Some(EmbedRequest {
            input: vec!["x".into(), "y".into()],
            model: "m.gguf".into(),
            options: [("model".to_owned(), json!("n.gguf"))].into_iter().collect(),
        }),
        ..job()
    };
    check_request(
        all,
        r#"{"job":"a","list":{},"interrupt":{},"predict":{"system":"s","input":["x",""],"messages":[{"role":"user","content":"<&>"}],"stream":"_INBOX.s","options":{"Top_K":40,"seed":1,"b":{"z":1,"a":2}}},"embed":{"input":["x","y"],"model":"m.gguf","options":{"model":"n.gguf"}}}"#,
    );
}

#[test]
fn vectors() {
    check_response(
        WorkerResponse::embedded("a", EmbedResponse::default()),
        r#"{"job":"a","embed":{}}"#,
    );
    let embed = EmbedResponse {
        embeddings: vec![vec![0.1, -1.0, 0.0], vec![1e-7]],
        model: "m.gguf".into(),
        usage: Some(EmbedUsage { prompt_tokens: 7 }),
    };
    check_response(
        WorkerResponse::embedded("a", embed),
        r#"{"job":"a","embed":{"embeddings":[[0.1,-1.0,0.0],[1e-7]],"model":"m.gguf","usage":{"prompt_tokens":7}}}"#,
    );
}

#[test]
fn plain_responses() {
    check_response(WorkerResponse::default(), "{}");
    check_response(WorkerResponse::ack("a"), r#"{"job":"a"}"#);
    check_response(WorkerResponse::listed("a", vec![]), r#"{"job":"a","list":{}}"#);
    check_response(WorkerResponse::interrupted("a"), r#"{"job":"a","interrupt":{}}"#);
    check_response(WorkerResponse::fragment("a", " x"), r#"{"job":"a","stream":{"output":" x"}}"#);
    check_response(
        WorkerResponse::predicted("a", PredictResponse::default()),
        r#"{"job":"a","predict":{}}"#,
    );
}

#[test]
fn list_entries_always_write_name_value_and_use() {
    let option =
        |name: &str, init| ModelOption { name: name.into(), init, ..ModelOption::default() };
    let models = vec![
        ModelInfo {
            model: "m.gguf".into(),
            options: vec![option("model", true), option("", false)],
        },
        ModelInfo::default(),
    ];
    check_response(
        WorkerResponse::listed("a", models),
        r#"{"job":"a","list":{"models":[{"model":"m.gguf","options":[{"name":"model","value":null,"use":"","init":true},{"name":"","value":null,"use":""}]},{}]}}"#,
    );
}

#[test]
fn predictions_with_extensions() {
    let ms = Duration::from_millis;
    let predict = PredictResponse {
        output: "hé".into(),
        finish_reason: Some(FinishReason::Length),
        usage: Some(Usage {
            prompt_tokens: 3,
            cached_tokens: 0,
            completion_tokens: 2,
            truncated_tokens: 0,
        }),
        timings: Some(Timings::from_durations(
            ms(1),
            ms(0),
            Duration::from_nanos(1_234_567),
            ms(20),
        )),
    };
    check_response(
        WorkerResponse::predicted("a", predict.clone()),
        r#"{"job":"a","predict":{"output":"hé","finish_reason":"length","usage":{"prompt_tokens":3,"cached_tokens":0,"completion_tokens":2},"timings":{"queue_ms":1.0,"hooks_ms":0.0,"prompt_ms":1.235,"predict_ms":20.0}}}"#,
    );
    let cut = PredictResponse {
        usage: Some(Usage { truncated_tokens: 7, ..Usage::default() }),
        timings: Some(Timings { draft_tokens: 8, accepted_draft_tokens: 5, ..Timings::default() }),
        finish_reason: Some(FinishReason::from("other")),
        ..predict
    };
    check_response(
        WorkerResponse::predicted("a", cut),
        r#"{"job":"a","predict":{"output":"hé","finish_reason":"other","usage":{"prompt_tokens":0,"cached_tokens":0,"completion_tokens":0,"truncated_tokens":7},"timings":{"queue_ms":0.0,"hooks_ms":0.0,"prompt_ms":0.0,"predict_ms":0.0,"draft_tokens":8,"accepted_draft_tokens":5}}}"#,
    );
}

#[test]
fn errors_always_write_their_text() {
    check_response(
        WorkerResponse::failed("a", ErrorBody::default()),
        r#"{"job":"a","error":{"error":""}}"#,
    );
    check_response(
        WorkerResponse::failed("", ErrorBody::busy()),
        r#"{"error":{"code":6,"error":"worker busy"}}"#,
    );
    check_response(
        WorkerResponse::failed(
            "a",
            ErrorBody::hook_failed("h", HookPhase::Request, HookFailureKind::Trap, false),
        ),
        r#"{"job":"a","error":{"code":9,"error":"hook \"h\" failed: trap","hook":{"plugin":"h","phase":"request","kind":"trap"}}}"#,
    );
    check_response(
        WorkerResponse::failed("a", ErrorBody::hook_busy("h", HookPhase::Stream)),
        r#"{"job":"a","error":{"code":6,"error":"worker busy","hook":{"plugin":"h","phase":"stream","kind":"busy","retryable":true}}}"#,
    );
}
