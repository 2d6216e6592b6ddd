//! Properties: nothing sent can make the crate panic, everything written can be
//! read again, and reading follows the one rule for names, duplicates and null.

use llamero_protocol::{
    EmbedRequest, EmbedResponse, EmbedUsage, ErrorBody, FinishReason, HookFailure, HookFailureKind,
    HookPhase, InterruptRequest, ListRequest, Message, ModelInfo, ModelOption, OPTIONS,
    OptionDefaults, Options, PredictRequest, PredictResponse, Timings, Usage, WorkerRequest,
    WorkerResponse, check_hook_options, decode_request, decode_response, encode_request,
    encode_response, list_options, model_choice, resolve,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Number, Value};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z]{1,8}",
        any::<String>(),
        "[\\\\\"{}\\[\\]<>&\u{0}-\u{1f}\u{7f}\u{2028}\u{fffd}\u{1f600}]{0,12}",
    ]
}

fn number() -> impl Strategy<Value = Value> {
    let floats = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3_i64..100).prop_map(Value::from),
        floats.prop_map(|float| Value::Number(Number::from_f64(float).unwrap())),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number(),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec((text(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A name in random case: bit n of the mask decides about letter n.
fn recase(name: &str, mask: u32) -> String {
    let recased = |(index, c): (usize, char)| {
        if mask >> (index % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c }
    };
    name.chars().enumerate().map(recased).collect()
}

fn option_name() -> impl Strategy<Value = String> {
    let known = (0..OPTIONS.len()).prop_map(|index| OPTIONS[index].name.to_owned());
    let varied = (0..OPTIONS.len(), any::<u32>())
        .prop_map(|(index, mask)| recase(OPTIONS[index].name, mask));
    prop_oneof![3 => known, 1 => varied, 1 => text()]
}

fn options() -> impl Strategy<Value = Options> {
    vec((option_name(), json()), 0..8).prop_map(|entries| entries.into_iter().collect())
}

fn predict_request() -> impl Strategy<Value = PredictRequest> {
    let message =
        (text(), text()).prop_map(|(role, content)| Message { role: format!("r{role}"), content });
    let content = prop_oneof![
        vec(text(), 0..4).prop_map(|input| (input, vec![])),
        vec(message, 0..4).prop_map(|messages| (vec![], messages)),
    ];
    (text(), content, text(), options()).prop_map(|(system, (input, messages), stream, options)| {
        PredictRequest { system, input, messages, stream, options }
    })
}

fn embed_request() -> impl Strategy<Value = EmbedRequest> {
    let input = vec(text().prop_map(|text| format!("t{text}")), 1..4);
    (input, text(), options()).prop_map(|(input, model, options)| EmbedRequest {
        input,
        model,
        options,
    })
}

fn request() -> impl Strategy<Value = WorkerRequest> {
    let commands = (option::of(predict_request()), option::of(embed_request()));
    (text(), any::<bool>(), any::<bool>(), commands).prop_map(
        |(job, list, interrupt, (predict, embed))| {
            let is_job = predict.is_some() || embed.is_some();
            WorkerRequest {
                job: format!("j{}", job.chars().take(200).collect::<String>()),
                list: (list || (!interrupt && !is_job)).then_some(ListRequest {}),
                interrupt: interrupt.then_some(InterruptRequest {}),
                predict,
                embed,
            }
        },
    )
}

fn list_models() -> impl Strategy<Value = Vec<ModelInfo>> {
    let entry = (text(), json(), text(), any::<bool>())
        .prop_map(|(name, value, use_text, init)| ModelOption { name, value, use_text, init });
    vec((text(), vec(entry, 0..4)).prop_map(|(model, options)| ModelInfo { model, options }), 0..3)
}

fn predict_response() -> impl Strategy<Value = PredictResponse> {
    let reason = "[a-z]{3,8}|stop|length|filtered"
        .prop_map(|word: String| FinishReason::from(word.as_str()));
    let usage = any::<[u32; 4]>().prop_map(
        |[prompt_tokens, cached_tokens, completion_tokens, truncated_tokens]| Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            truncated_tokens,
        },
    );
    let ms = || 0.0..1e9_f64;
    let timings = ([ms(), ms(), ms(), ms()], any::<[u32; 2]>()).prop_map(
        |([queue_ms, hooks_ms, prompt_ms, predict_ms], [draft_tokens, accepted_draft_tokens])| {
            Timings {
                queue_ms,
                hooks_ms,
                prompt_ms,
                predict_ms,
                draft_tokens,
                accepted_draft_tokens,
            }
        },
    );
    (text(), option::of(reason), option::of(usage), option::of(timings)).prop_map(
        |(output, finish_reason, usage, timings)| PredictResponse {
            output,
            finish_reason,
            usage,
            timings,
        },
    )
}

fn embed_response() -> impl Strategy<Value = EmbedResponse> {
    let floats = prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL;
    let usage = any::<u32>().prop_map(|prompt_tokens| EmbedUsage { prompt_tokens });
    (vec(vec(floats, 0..6), 0..4), text(), option::of(usage))
        .prop_map(|(embeddings, model, usage)| EmbedResponse { embeddings, model, usage })
}

fn error() -> impl Strategy<Value = ErrorBody> {
    let hook = ("[a-z-]{1,8}", "[a-z]{1,8}|prompt", "[a-z]{1,8}|invalid-output", any::<bool>())
        .prop_map(|(plugin, phase, kind, retryable): (String, String, String, bool)| HookFailure {
            plugin,
            phase: HookPhase::from(phase.as_str()),
            kind: HookFailureKind::from(kind.as_str()),
            retryable,
        });
    (any::<u32>(), text(), option::of(hook)).prop_map(|(code, error, hook)| ErrorBody {
        code,
        error,
        hook: hook.map(Box::new),
    })
}

fn response() -> impl Strategy<Value = WorkerResponse> {
    (text(), 0..7).prop_flat_map(|(job, kind)| match kind {
        0 => Just(WorkerResponse::ack(job)).boxed(),
        1 => list_models()
            .prop_map(move |models| WorkerResponse::listed(job.clone(), models))
            .boxed(),
        2 => predict_response()
            .prop_map(move |predict| WorkerResponse::predicted(job.clone(), predict))
            .boxed(),
        3 => Just(WorkerResponse::interrupted(job)).boxed(),
        4 => text().prop_map(move |output| WorkerResponse::fragment(job.clone(), output)).boxed(),
        5 => embed_response()
            .prop_map(move |embed| WorkerResponse::embedded(job.clone(), embed))
            .boxed(),
        _ => error().prop_map(move |error| WorkerResponse::failed(job.clone(), error)).boxed(),
    })
}

/// Bytes that are nearly a request.
fn near_json() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 23] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\u",
        b"\\ud83d",
        b"\\udc00",
        b"\xe2\x82",
        b"\xff",
        b"1e999",
        b"-",
        b"null",
        b"\"job\":",
        b"\"a\"",
        b"\"list\":{}",
        b"\"predict\":",
        b"\"embed\":",
        b"\"input\":\"x\"",
        b"\"options\":{",
        b" ",
    ];
    let piece = prop::sample::select(&PIECES[..]);
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Decodes both ways; that it returns at all is what is tested.
fn survive(payload: &[u8]) {
    if let Err(rejected) = decode_request(payload) {
        assert!((1..=3).contains(&rejected.error.code));
        let answer = encode_response(&rejected.clone().into_response());
        let read = decode_response(&answer).unwrap();
        assert_eq!(
            (Some(read.job).filter(|job| !job.is_empty()), read.error),
            (rejected.job, Some(rejected.error))
        );
    }
    let _ = decode_response(payload);
}

/// What a member of the rule test holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    Null,
    Right(u8),
    Wrong,
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![3 => Just(Held::Null), 6 => any::<u8>().prop_map(Held::Right), 1 => Just(Held::Wrong)]
}

/// Members as (field, case, value), written by hand: no library writes duplicates.
fn write(names: &[&str], members: &[(usize, u32, Held)], right: fn(&str, u8) -> String) -> String {
    let member = |&(field, mask, held): &(usize, u32, Held)| {
        let name = names[field];
        let value = match held {
            Held::Null => "null".to_owned(),
            Held::Right(number) => right(name, number),
            Held::Wrong => "true".to_owned(),
        };
        format!("\"{}\":{value}", recase(name, mask))
    };
    format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
}

/// The rule: the last member of a field counts, and `null` counts as none.
fn last(members: &[(usize, u32, Held)], field: usize) -> Held {
    members.iter().rev().find(|member| member.0 == field).map_or(Held::Null, |member| member.2)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(payload in vec(any::<u8>(), 0..200)) {
        survive(&payload);
    }

    #[test]
    fn no_near_json_panics(payload in near_json()) {
        survive(&payload);
    }

    #[test]
    fn no_damaged_request_panics(request in request(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut payload = encode_request(&request);
        let at = at.index(payload.len());
        if cut { payload.truncate(at) } else { payload[at] = byte }
        survive(&payload);
    }

    #[test]
    fn no_json_panics(value in json()) {
        survive(value.to_string().as_bytes());
    }

    #[test]
    fn requests_round_trip(request in request()) {
        let payload = encode_request(&request);
        let read = decode_request(&payload).unwrap();
        // Bytes too: comparing options does not look at their order.
        prop_assert_eq!(encode_request(&read), payload);
        prop_assert_eq!(read, request);
    }

    #[test]
    fn responses_round_trip(response in response()) {
        let payload = encode_response(&response);
        let read = decode_response(&payload).unwrap();
        prop_assert_eq!(encode_response(&read), payload);
        prop_assert_eq!(read, response);
    }

    #[test]
    fn members_of_predict_follow_the_rule(members in vec((0..4_usize, any::<u32>(), held()), 0..10)) {
        const NAMES: [&str; 4] = ["system", "stream", "input", "options"];
        let right = |name: &str, number: u8| match name {
            "input" if number.is_multiple_of(2) => format!("[\"{number}\"]"),
            "options" => format!("{{\"seed\":{number}}}"),
            _ => format!("\"{number}\""),
        };
        let payload = format!("{{\"predict\":{},\"job\":\"a\"}}", write(&NAMES, &members, right));
        let expected = [0, 1, 2, 3].map(|field| last(&members, field));
        match decode_request(payload.as_bytes()) {
            Err(rejected) => {
                prop_assert!(expected.contains(&Held::Wrong), "{payload}: {rejected:?}");
                prop_assert_eq!((rejected.error.code, rejected.job.as_deref()), (1, Some("a")));
            }
            Ok(request) => {
                let predict = request.predict.unwrap();
                let held = |text: Option<String>| text.map_or(Held::Null, |text| Held::Right(text.parse().unwrap()));
                let filled = |text: String| Some(text).filter(|text| !text.is_empty());
                let actual = [
                    held(filled(predict.system)),
                    held(filled(predict.stream)),
                    held(predict.input.into_iter().next()),
                    held(predict.options.get("seed").map(Value::to_string)),
                ];
                prop_assert_eq!(actual, expected, "{}", payload);
            }
        }
    }

    #[test]
    fn members_of_the_request_follow_the_rule(members in vec((0..5_usize, any::<u32>(), held()), 0..10)) {
        const NAMES: [&str; 5] = ["job", "list", "interrupt", "predict", "embed"];
        let right = |name: &str, number: u8| match name {
            "job" => format!("\"{number}\""),
            "embed" => format!("{{\"input\":\"{number}\"}}"),
            _ => format!("{{\"{number}\":{number}}}"),
        };
        let payload = write(&NAMES, &members, right);
        let expected = [0, 1, 2, 3, 4].map(|field| last(&members, field));
        let job = match expected[0] { Held::Right(number) => Some(number.to_string()), _ => None };
        let commands = &expected[1..];
        let code = if expected.contains(&Held::Wrong) { Some(1) }
            else if job.is_none() { Some(2) }
            else if commands.iter().all(|held| *held == Held::Null) { Some(3) }
            else { None };
        match decode_request(payload.as_bytes()) {
            Err(rejected) => prop_assert_eq!((Some(rejected.error.code), rejected.job), (code, job), "{}", payload),
            Ok(request) => {
                prop_assert_eq!(code, None, "{}", payload);
                prop_assert_eq!(Some(request.job), job);
                let present = [request.list.is_some(), request.interrupt.is_some(), request.predict.is_some(), request.embed.is_some()];
                prop_assert_eq!(&present[..], &commands.iter().map(|held| *held != Held::Null).collect::<Vec<_>>()[..]);
            }
        }
    }

    #[test]
    fn competing_spellings_of_an_option(entries in vec((any::<u32>(), option::of(any::<u16>())), 0..6)) {
        let members: Vec<String> = entries.iter().map(|(mask, value)| {
            let value = value.map_or("null".to_owned(), |value| value.to_string());
            format!("\"{}\":{value}", recase("top_k", mask % 4))
        }).collect();
        let payload = format!(r#"{{"job":"a","predict":{{"options":{{{}}}}}}}"#, members.join(","));
        // Of each spelling the last; without the nulls; the exact one, or the last.
        let mut spellings: Vec<(u32, i32)> = Vec::new();
        for (index, (mask, value)) in entries.iter().enumerate() {
            let repeated = entries[index + 1..].iter().any(|later| later.0 % 4 == mask % 4);
            if let (false, Some(value)) = (repeated, value) {
                spellings.push((mask % 4, i32::from(*value)));
            }
        }
        let exact = spellings.iter().find(|(mask, _)| *mask == 0);
        let expected = exact.or(spellings.last()).map_or(40, |(_, value)| *value);
        let options = decode_request(payload.as_bytes()).unwrap().predict.unwrap().options;
        let resolved = resolve(&options, &OptionDefaults::default(), false).unwrap();
        prop_assert_eq!(resolved.top_k, expected, "{}", payload);
        prop_assert_eq!(resolve(&options.known(), &OptionDefaults::default(), false).unwrap(), resolved);
    }

    #[test]
    fn surrogate_escapes_decode_as_utf16(units in vec(prop_oneof![Just(0x41_u16), 0xD800..=0xDFFF_u16, any::<u16>()], 0..8)) {
        let escapes: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let payload = format!(r#"{{"job":"a","predict":{{"system":"{escapes}"}}}}"#);
        let system = decode_request(payload.as_bytes()).unwrap().predict.unwrap().system;
        prop_assert_eq!(system, String::from_utf16_lossy(&units));
    }

    #[test]
    fn resolution_never_panics_and_stays_in_range(request in options(), configured in vec((option_name(), json()), 0..4), grammar in any::<bool>()) {
        let defaults = OptionDefaults::new(configured).unwrap_or_default();
        let _ = model_choice(&request, &defaults);
        let _ = check_hook_options(&Options::default(), &request);
        let _ = list_options(&defaults, grammar, true);
        match resolve(&request, &defaults, grammar) {
            Err(error) => prop_assert_eq!(ErrorBody::from(error.clone()).code, if error.init { 10 } else { 7 }),
            Ok(options) => {
                let floats = [
                    options.repeat_penalty, options.temperature, options.top_p, options.tfs_z, options.typical_p, options.min_p,
                    options.mirostat_tau, options.mirostat_eta, options.frequency_penalty, options.presence_penalty,
                ];
                prop_assert!(floats.iter().all(|float| float.is_finite()));
                prop_assert!(options.ctx_size > 0 && options.mirostat <= 2 && options.repeat_last_n >= -1);
                prop_assert!(options.grammar.is_none() || options.json_schema.is_none());
                prop_assert!(!options.ignore_eos || options.max_tokens > 0);
            }
        }
    }

    #[test]
    fn each_option_survives_any_value(index in 0..OPTIONS.len(), value in prop_oneof![json(), number()]) {
        let spec = &OPTIONS[index];
        let alone = spec.check(&value);
        let request: Options = [(spec.name.to_owned(), value), ("max_tokens".to_owned(), 1.into())].into_iter().collect();
        if spec.name != "max_tokens" {
            prop_assert_eq!(resolve(&request, &OptionDefaults::default(), true).map(drop), alone);
        }
    }
}
