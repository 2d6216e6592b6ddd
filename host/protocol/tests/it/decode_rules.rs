//! The decode rules, row by row.

use llamero_protocol::{
    ErrorCode, MAX_JOB_BYTES, MAX_NESTING, Message, PredictRequest, Rejected, WorkerRequest,
    decode_request,
};
use serde_json::json;

fn decode(payload: &str) -> WorkerRequest {
    decode_request(payload.as_bytes()).unwrap_or_else(|rejected| panic!("{payload}: {rejected:?}"))
}

fn predict(payload: &str) -> PredictRequest {
    decode(payload).predict.unwrap_or_else(|| panic!("{payload}: no predict"))
}

fn rejected(payload: impl AsRef<[u8]>) -> Rejected {
    let payload = payload.as_ref();
    match decode_request(payload) {
        Err(rejected) => rejected,
        Ok(request) => panic!("{}: {request:?}", payload.escape_ascii()),
    }
}

/// Checks code and job of a refused payload.
#[track_caller]
fn check_rejected(payload: impl AsRef<[u8]>, code: ErrorCode, job: Option<&str>) {
    let rejected = rejected(payload);
    assert_eq!(
        (rejected.error.kind(), rejected.job.as_deref()),
        (Some(code), job),
        "{}",
        rejected.error
    );
}

#[test]
fn every_member_arrives() {
    let request = decode(
        r#"{"job":"a","list":{},"interrupt":{},"predict":{"system":"s","input":["x","y"],
            "stream":"_INBOX.s","options":{"top_k":1}}}"#,
    );
    assert_eq!(request.job, "a");
    assert!(request.list.is_some() && request.interrupt.is_some());
    let predict = request.predict.unwrap();
    assert_eq!((predict.system.as_str(), predict.stream.as_str()), ("s", "_INBOX.s"));
    assert_eq!(predict.input, ["x", "y"]);
    assert_eq!(predict.options.get("top_k"), Some(&json!(1)));
}

#[test]
fn embed_takes_texts_a_model_and_options() {
    let embed = |payload: &str| decode(payload).embed.unwrap();
    let request = embed(
        r#"{"job":"a","EMBED":{"Input":["x","y"],"MODEL":"m.gguf","options":{"model":"n"},"z":1}}"#,
    );
    assert_eq!((request.input, request.model.as_str()), (vec!["x".into(), "y".into()], "m.gguf"));
    assert_eq!(request.options.get("model"), Some(&json!("n")));
    let request = embed(r#"{"job":"a","embed":{"input":"x","model":null,"options":null}}"#);
    assert_eq!((request.input, request.model.as_str()), (vec!["x".to_owned()], ""));
    for payload in [
        r#"{"job":"a","embed":{}}"#,
        r#"{"job":"a","embed":{"input":null}}"#,
        r#"{"job":"a","embed":{"input":""}}"#,
        r#"{"job":"a","embed":{"input":[]}}"#,
        r#"{"job":"a","embed":{"input":["x",""]}}"#,
        r#"{"job":"a","embed":{"input":["x",null]}}"#,
        r#"{"job":"a","list":{},"embed":{"input":[]}}"#,
    ] {
        check_rejected(payload, ErrorCode::InvalidRequest, Some("a"));
    }
    for payload in [
        r#"{"job":"a","embed":"x"}"#,
        r#"{"job":"a","embed":{"input":5}}"#,
        r#"{"job":"a","embed":{"input":["x",5]}}"#,
        r#"{"job":"a","embed":{"input":"x","model":5}}"#,
        r#"{"job":"a","embed":{"input":"x","options":[]}}"#,
        r#"{"job":"a","list":{},"embed":[]}"#,
    ] {
        check_rejected(payload, ErrorCode::IllegibleRequest, Some("a"));
    }
    check_rejected(r#"{"job":"a","embed":null}"#, ErrorCode::UnsupportedCommand, Some("a"));
}

#[test]
fn messages_arrive_and_other_members_of_them_are_ignored() {
    let request = predict(
        r#"{"job":"a","predict":{"messages":[{"role":"user","content":"hi","name":1},{"ROLE":"x"}]}}"#,
    );
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    assert_eq!(request.messages, [message("user", "hi"), message("x", "")]);
}

#[test]
fn unknown_fields_are_ignored_whatever_they_hold() {
    let request = decode(
        r#"{"x":[{"job":"b"}],"job":"a","n":1e999,"list":{"x":1},"predict":{"y":{},"input":["z"]}}"#,
    );
    assert_eq!(request.job, "a");
    assert_eq!(request.predict.unwrap().input, ["z"]);
}

#[test]
fn field_names_ignore_ascii_case_and_nothing_more() {
    let request = decode(r#"{"JOB":"a","List":{},"pREDICT":{"Input":["x"],"SYSTEM":"s"}}"#);
    assert_eq!((request.job.as_str(), request.list.is_some()), ("a", true));
    assert_eq!(request.predict.unwrap().system, "s");
    // The long s and the Kelvin sign fold to s and k elsewhere, not here.
    check_rejected("{\"job\":\"a\",\"li\u{17f}t\":{}}", ErrorCode::UnsupportedCommand, Some("a"));
}

#[test]
fn null_is_absent() {
    check_rejected(r#"{"job":"a","list":null}"#, ErrorCode::UnsupportedCommand, Some("a"));
    check_rejected(r#"{"job":null,"list":{}}"#, ErrorCode::InvalidRequest, None);
    let request = predict(
        r#"{"job":"a","predict":{"system":null,"input":null,"messages":null,"stream":null,"options":{"seed":null}}}"#,
    );
    assert_eq!(request, PredictRequest::default());
    assert!(predict(r#"{"job":"a","predict":{"options":null}}"#).options.is_empty());
    // In a list it is the empty value, as in Go: the others keep their places.
    assert_eq!(predict(r#"{"job":"a","predict":{"input":["x",null]}}"#).input, ["x", ""]);
}

#[test]
fn the_last_duplicate_wins() {
    assert_eq!(decode(r#"{"job":"a","list":{},"job":"b"}"#).job, "b");
    assert_eq!(decode(r#"{"job":"a","list":{},"JOB":"b","job":"c"}"#).job, "c");
    assert_eq!(decode(r#"{"job":5,"list":{},"job":"c"}"#).job, "c");
    check_rejected(
        r#"{"job":"a","list":{},"list":null}"#,
        ErrorCode::UnsupportedCommand,
        Some("a"),
    );
    let request = predict(
        r#"{"job":"a","predict":{"system":"s"},"predict":{"input":["x"],"options":{"seed":1,"seed":2}}}"#,
    );
    assert_eq!((request.system.as_str(), request.options.get("seed")), ("", Some(&json!(2))));
}

#[test]
fn invalid_text_becomes_the_replacement_character() {
    let request = decode_request(b"{\"job\":\"a\xff\",\"list\":{}}").unwrap();
    assert_eq!(request.job, "a\u{fffd}");
    let input =
        |text: &str| predict(&format!(r#"{{"job":"a","predict":{{"input":["{text}"]}}}}"#)).input;
    assert_eq!(input(r"\ud800"), ["\u{fffd}"]);
    assert_eq!(input(r"x\udc00y"), ["x\u{fffd}y"]);
    assert_eq!(input(r"\ud83d\ude00 \\ud800"), ["\u{1f600} \\ud800"]);
}

#[test]
fn input_may_be_one_string() {
    assert_eq!(predict(r#"{"job":"a","predict":{"input":"x"}}"#).input, ["x"]);
    assert!(predict(r#"{"job":"a","predict":{"input":""}}"#).input.is_empty());
}

#[test]
fn nothing_sent_needs_a_job() {
    for payload in ["null", "{}", " null ", r#"{"list":{}}"#, r#"{"job":"","list":{}}"#] {
        check_rejected(payload, ErrorCode::InvalidRequest, None);
        assert_eq!(rejected(payload).error.error, "job id is required");
    }
}

#[test]
fn what_is_no_object_is_illegible() {
    let payloads: &[&[u8]] = &[
        b"",
        b" ",
        b"{\"job\":",
        b"{\"job\":\"a\",\"list\":{}",
        b"5",
        b"\"x\"",
        b"true",
        b"[]",
        b"{\"job\":\"a\"}x",
        b"{\"job\":\"a\"}{}",
        b"{'job':'a'}",
        b"{\"job\":\"a\",}",
        b"{\"job\":\"a\" \"list\":{}}",
        b"nul",
        b"{\"job\":01}",
        b"\xff",
        b"\xef\xbb\xbf{\"job\":\"a\",\"list\":{}}",
        b"{\"job\":\"a\n\",\"list\":{}}",
        b"{\"job\":\"\\x\"}",
        b"{\"job\":\"a\",\"list\":{},\"x\":1.e400}",
        b"{\"job\":\"\\ud80\",\"list\":{}}",
    ];
    for payload in payloads {
        let rejected = rejected(payload);
        assert_eq!((rejected.error.code, rejected.job), (1, None), "{}", payload.escape_ascii());
        let text = rejected.error.error;
        assert!(text.starts_with("request is not a valid JSON object: "), "{text}");
    }
}

#[test]
fn nesting_is_allowed_to_the_limit_and_refused_beyond() {
    // The object is a level of its own.
    let payload = |lists: usize| {
        format!(r#"{{"x":{}{},"job":"a","list":{{}}}}"#, "[".repeat(lists), "]".repeat(lists))
    };
    assert_eq!(decode(&payload(MAX_NESTING - 1)).job, "a");
    check_rejected(payload(MAX_NESTING), ErrorCode::IllegibleRequest, None);
    check_rejected("[".repeat(1_000_000), ErrorCode::IllegibleRequest, None);
    check_rejected(r#"{"a":"#.repeat(1_000_000), ErrorCode::IllegibleRequest, None);
}

#[test]
fn a_wrong_type_is_answered_with_the_job_wherever_it_stands() {
    let wrong = [
        r#""list":5"#,
        r#""list":[]"#,
        r#""interrupt":"x""#,
        r#""predict":true"#,
        r#""predict":{"system":1}"#,
        r#""predict":{"input":5}"#,
        r#""predict":{"input":[1]}"#,
        r#""predict":{"input":{}}"#,
        r#""predict":{"stream":{}}"#,
        r#""predict":{"options":[]}"#,
        r#""predict":{"messages":"x"}"#,
        r#""predict":{"messages":[1]}"#,
        r#""predict":{"messages":[{"role":1}]}"#,
        r#""predict":{"messages":[{"role":"user","content":["x"]}]}"#,
    ];
    for member in wrong {
        check_rejected(
            format!(r#"{{{member},"job":"a"}}"#),
            ErrorCode::IllegibleRequest,
            Some("a"),
        );
        check_rejected(
            format!(r#"{{"job":"a",{member}}}"#),
            ErrorCode::IllegibleRequest,
            Some("a"),
        );
        check_rejected(format!(r#"{{{member},"job":["a"]}}"#), ErrorCode::IllegibleRequest, None);
        check_rejected(format!("{{{member}}}"), ErrorCode::IllegibleRequest, None);
    }
}

#[test]
fn an_error_names_the_field_and_quotes_nothing() {
    let text = rejected(r#"{"predict":{"messages":[{"role":"user"},{"role":7777}]},"job":"a"}"#)
        .error
        .error;
    assert_eq!(
        text,
        "request is not a valid JSON object: field predict.messages[1].role must be a string, it is a number"
    );
    for secret in [
        r#"{"job":"a","predict":{"options":{"x":hunter2}}}"#,
        r#"{"job":"a","predict":{"options":"hunter2"}}"#,
    ] {
        assert!(!rejected(secret).error.error.contains("hunter"), "{secret}");
    }
}

#[test]
fn job_length_is_limited_in_bytes() {
    let payload = |job: &str| format!(r#"{{"job":"{job}","list":{{}}}}"#);
    let longest = "\u{e9}".repeat(MAX_JOB_BYTES / 2);
    assert_eq!(decode(&payload(&longest)).job, longest);
    let longer = format!("{longest}x");
    check_rejected(payload(&longer), ErrorCode::InvalidRequest, Some(&longer));
}

#[test]
fn a_request_without_known_command_is_unsupported() {
    for payload in [r#"{"job":"a"}"#, r#"{"job":"a","dance":{}}"#, r#"{"job":"a","predict":null}"#]
    {
        check_rejected(payload, ErrorCode::UnsupportedCommand, Some("a"));
    }
}

#[test]
fn refused_combinations_of_values() {
    let message = r#"{"role":"user","content":"y"}"#;
    check_rejected(
        format!(r#"{{"job":"a","predict":{{"input":["x"],"messages":[{message}]}}}}"#),
        ErrorCode::InvalidRequest,
        Some("a"),
    );
    assert_eq!(
        predict(&format!(r#"{{"job":"a","predict":{{"input":[],"messages":[{message}]}}}}"#))
            .messages
            .len(),
        1
    );
    check_rejected(
        r#"{"job":"a","predict":{"messages":[{"content":"y"}]}}"#,
        ErrorCode::InvalidRequest,
        Some("a"),
    );
}

#[test]
fn rejections_become_answers() {
    let answer = |payload: &str| serde_json::to_value(rejected(payload).into_response()).unwrap();
    assert_eq!(answer("null"), json!({"error":{"code":2,"error":"job id is required"}}));
    assert_eq!(
        answer(r#"{"job":"a"}"#),
        json!({"job":"a","error":{"code":3,"error":"command not supported"}})
    );
}
