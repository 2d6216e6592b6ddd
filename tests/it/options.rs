//! What the options of a request do to its output.

use serde_json::{Value, json};

use crate::harness::{Bench, Client, Slot, brief, new_job, plain, quiet};

/// A worker whose operator lets clients send grammars.
fn with_grammar() -> &'static Bench {
    static GRAMMAR: Slot = Slot::new();
    GRAMMAR.get(|| {
        Bench::start(|worker| worker.env("llm_allow_grammar", "true").flag("--queue", "64"))
    })
}

fn prompt(text: &str, options: Value) -> Value {
    json!({"input": [text], "options": options})
}

#[tokio::test(flavor = "multi_thread")]
async fn max_tokens_ends_with_length() {
    let client = plain().client().await;
    let options = json!({"max_tokens": 7, "ignore_eos": true});
    let body = client.predict(prompt("Once upon a time", options)).await;
    assert_eq!(body["predict"]["finish_reason"], "length", "{body}");
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 7, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_end_the_text_before_them() {
    let quiet = quiet().await;
    let client = quiet.bench.client().await;
    let options = |stop: Value| json!({"temperature": 0, "repeat_penalty": 1, "max_tokens": 40, "stop": stop});
    let text = "one, two, three, four, one, two, three, four, one, two,";
    let free = client.output(prompt(text, options(json!([])))).await;
    let cut = free.find("four").unwrap_or_else(|| panic!("the model counts on: {free}"));
    for stop in [
        json!(["four"]),
        json!("four"),
        json!(["", "never", "four"]),
        json!(["four, one", "our", "four"]),
    ] {
        let body = client.predict(prompt(text, options(stop.clone()))).await;
        assert_eq!(body["predict"]["finish_reason"], "stop", "{stop}: {body}");
        // "four" and "our" end at the same character, but "four" begins earlier,
        // and the earliest match decides.
        assert_eq!(body["predict"]["output"], free[..cut], "{stop}");
    }
    // Nothing of a stop string gets out, however the fragments are cut.
    let job = new_job();
    let mut exchange = client.stream(&job, prompt(text, options(json!(["four"])))).await;
    assert_eq!(exchange.finish(&job).await.output(), &free[..cut]);
    // What only looked like the beginning of one gets out in full.
    let output = client.output(prompt(text, options(json!(["four, one, two, nine"])))).await;
    assert_eq!(output, free);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_generation_token_ends_with_stop() {
    let client = plain().client().await;
    let body = client
        .predict(json!({
            "messages": [{"role": "user", "content": "Say only the word yes."}],
            "options": {"temperature": 0, "max_tokens": 400},
        }))
        .await;
    assert_eq!(body["predict"]["finish_reason"], "stop", "{body}");
    assert!(
        body["predict"]["output"].as_str().is_some_and(|text| !text.contains("<|im_end|>")),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_text() {
    let quiet = quiet().await;
    let client = quiet.bench.client().await;
    let options =
        |seed: u32| json!({"seed": seed, "temperature": 1.2, "max_tokens": 24, "ignore_eos": true});
    let first = client.output(prompt("My favourite", options(7))).await;
    assert_eq!(client.output(prompt("My favourite", options(7))).await, first);
    assert_ne!(client.output(prompt("My favourite", options(8))).await, first);
    // 0 draws a new seed for each request.
    let drawn = client.output(prompt("My favourite", options(0))).await;
    assert_ne!(client.output(prompt("My favourite", options(0))).await, drawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn temperature_zero_is_greedy_whatever_the_seed() {
    let quiet = quiet().await;
    let client = quiet.bench.client().await;
    let options = |seed: u32| json!({"seed": seed, "temperature": 0, "max_tokens": 16});
    let text = "The capital of France is";
    let output = client.output(prompt(text, options(1))).await;
    assert!(output.contains("Paris"), "{output}");
    assert_eq!(client.output(prompt(text, options(2))).await, output);
    // One candidate is the same as greedy.
    let one = json!({"top_k": 1, "temperature": 1.5, "max_tokens": 16, "seed": 3});
    assert_eq!(client.output(prompt(text, one)).await, output);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sampling_option_is_taken() {
    let client = plain().client().await;
    for options in [
        json!({"mirostat": 1, "mirostat_tau": 3, "mirostat_eta": 0.2}),
        json!({"mirostat": 2.0}),
        json!({"tfs_z": 0.5, "typical_p": 0.9, "min_p": 0.05, "top_k": 0, "top_p": 1}),
        json!({"frequency_penalty": 0.5, "presence_penalty": 0.5, "repeat_last_n": -1}),
        json!({"repeat_penalty": 1, "repeat_last_n": 0, "penalize_newline": false}),
        json!({"top_k": -1, "temperature": -1}),
        json!({"seed": 4_294_967_295_u32}),
        json!({"ctx_size": 512.0}),
    ] {
        let mut all = options.clone();
        all["max_tokens"] = 6.into();
        let body = client.predict(prompt("Once upon a time", all)).await;
        assert!(body["predict"]["output"].is_string(), "{options}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logit_bias_decides() {
    let client = plain().client().await;
    // Token 504 is no control token in this vocabulary; what it says does not
    // matter, only that nothing else is said.
    let options =
        json!({"logit_bias": {"504": 100}, "temperature": 0, "repeat_penalty": 1, "max_tokens": 3});
    let output = client.output(prompt("Once upon a time", options)).await;
    let third = output.len() / 3;
    assert!(third > 0 && output[..third].repeat(3) == output, "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_separator_stands_between_the_inputs() {
    let client = plain().client().await;
    let tokens = async |separator: &str| {
        let predict = json!({
            "input": ["one", "two", "three"],
            "options": {"input_separator": separator, "max_tokens": 1},
        });
        let body = client.predict(predict).await;
        body["predict"]["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    assert_eq!(tokens("").await, 3);
    assert_eq!(tokens("\n").await, 5, "one newline between each two of three");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_prompts_are_shared_as_the_options_say() {
    let client = plain().client().await;
    // Some hundred tokens that no other test sends.
    let text = "The lighthouse keeper counted nineteen herons. ".repeat(20);
    let cached = async |options: Value| {
        let mut all = options;
        all["max_tokens"] = 1.into();
        let body = client.predict(prompt(&text, all)).await;
        let usage = &body["predict"]["usage"];
        let number = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{body}"));
        assert!(number("cached_tokens") < number("prompt_tokens"), "{body}");
        number("cached_tokens")
    };
    assert_eq!(cached(json!({"cache_salt": "a"})).await, 0, "nobody has sent it before");
    let shared = cached(json!({"cache_salt": "a"})).await;
    assert!(shared > 0 && shared.is_multiple_of(16), "whole blocks: {shared}");
    assert_eq!(cached(json!({"cache_salt": "a", "cache_prompt": false})).await, 0);
    assert_eq!(cached(json!({"cache_salt": "b"})).await, 0, "another salt shares nothing");
    assert_eq!(cached(json!({})).await, 0, "nor does none");
    assert!(cached(json!({"cache_salt": "a", "cache_pin": true})).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_computes_ahead_gives_the_same_text() {
    let bench = Bench::start(|worker| worker.env("llm_speculate_tokens", "8"));
    let ahead = bench.client().await;
    let quiet = quiet().await;
    let plain = quiet.bench.client().await;
    let text = "one, two, three, four, one, two, three, four, one, two,";
    let options =
        json!({"temperature": 0, "repeat_penalty": 1, "max_tokens": 40, "ignore_eos": true});
    let expected = plain.predict(prompt(text, options.clone())).await;
    let body = ahead.predict(prompt(text, options)).await;
    assert_eq!(body["predict"]["output"], expected["predict"]["output"]);
    let drafts = |body: &Value| {
        let timings = &body["predict"]["timings"];
        ["draft_tokens", "accepted_draft_tokens"].map(|name| timings[name].as_u64())
    };
    assert_eq!(drafts(&expected), [None, None], "{expected}");
    let [drafted, accepted] = drafts(&body);
    assert!(accepted > Some(0) && accepted <= drafted, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_tokens_in_text_need_parse_special() {
    let client = plain().client().await;
    let tokens = async |parse: bool| {
        let options = json!({"parse_special": parse, "max_tokens": 1});
        let body = client.predict(prompt("<|im_start|>", options)).await;
        body["predict"]["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    assert_eq!(tokens(true).await, 1);
    assert!(tokens(false).await > 1, "what a client writes stays text");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_schema_shapes_the_output() {
    let client = plain().client().await;
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "country": {"enum": ["France", "Spain"]},
            "big": {"type": "boolean"},
        },
        "required": ["city", "country", "big"],
        "additionalProperties": false,
    });
    for schema in [schema.clone(), Value::String(schema.to_string())] {
        let body = client
            .predict(json!({
                "messages": [{"role": "user", "content": "Describe Paris as JSON."}],
                "options": {"json_schema": schema, "max_tokens": 200, "seed": 5},
            }))
            .await;
        let output = body["predict"]["output"].as_str().unwrap_or_default();
        let parsed: Value =
            serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {body}"));
        let object = parsed.as_object().expect("an object");
        assert_eq!(object.len(), 3, "{parsed}");
        assert!(parsed["city"].as_str().is_some_and(|city| city.chars().count() <= 20), "{parsed}");
        assert!(["France", "Spain"].map(Value::from).contains(&parsed["country"]), "{parsed}");
        assert!(parsed["big"].is_boolean(), "{parsed}");
        assert_eq!(body["predict"]["finish_reason"], "stop", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_schema_of_several_streams_at_once() {
    let client = plain().client().await;
    let streams = (0..4).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            let job = new_job();
            let mut exchange = client
                .stream(&job, json!({
                    "input": ["A number: "],
                    "options": {"json_schema": {"type": "integer", "minimum": n * 10, "maximum": n * 10 + 9},
                                "max_tokens": 20},
                }))
                .await;
            (n, exchange.finish(&job).await)
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        let (n, outcome) = stream.await.expect("no panic");
        let number: i64 = outcome.output().trim().parse().expect("a number");
        assert!((n * 10..=n * 10 + 9).contains(&number), "{n}: {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grammar_shapes_the_output_where_it_is_allowed() {
    let client = with_grammar().client().await;
    let grammar = "root ::= (\"yes\" | \"no\") \", \" digit digit\ndigit ::= [0-9]";
    for seed in 1..4 {
        let options = json!({"grammar": grammar, "max_tokens": 30, "seed": seed, "temperature": 2});
        let body = client.predict(prompt("Is it?", options)).await;
        let output = body["predict"]["output"].as_str().unwrap_or_default();
        let rest = output.strip_prefix("yes, ").or_else(|| output.strip_prefix("no, "));
        let rest = rest.unwrap_or_else(|| panic!("{body}"));
        assert!(rest.len() == 2 && rest.bytes().all(|byte| byte.is_ascii_digit()), "{body}");
        assert_eq!(body["predict"]["finish_reason"], "stop", "{body}");
    }
    // Every job has a constraint of its own, or none.
    assert!(!client.output(brief()).await.starts_with("yes"));
    let list = client.call(&json!({"job": "a", "list": {}})).await;
    assert!(list.to_string().contains("\"grammar\""), "listed where it is allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fragment_is_whole_characters() {
    let client = with_grammar().client().await;
    // In this vocabulary each of these characters is several tokens, none of
    // which is a whole character.
    let text = "🦙🐫🦙🐫🦙🐫🦙🐫🦙🐫🦙🐫🦙🐫🦙🐫";
    let job = new_job();
    let options = json!({"grammar": format!("root ::= \"{text}\""), "max_tokens": 200});
    let outcome = client.stream(&job, prompt("Animals:", options)).await.finish(&job).await;
    // A split character would have become U+FFFD on the way.
    assert_eq!(outcome.output(), text);
    // Cut off in the middle of a character, the end is replaced, not left out.
    let options = json!({"grammar": format!("root ::= \"{text}\""), "max_tokens": 2});
    let body = client.predict(prompt("Animals:", options)).await;
    let output = body["predict"]["output"].as_str().unwrap_or_default();
    assert!(output.chars().all(|c| "🦙🐫\u{FFFD}".contains(c)), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_is_rendered_with_the_models_template() {
    let client = plain().client().await;
    let tokens = async |predict: Value| {
        let body = client.predict(predict).await;
        body["predict"]["usage"]["prompt_tokens"].as_u64().unwrap_or_else(|| panic!("{body}"))
    };
    let options = json!({"max_tokens": 1});
    let plain_text = tokens(json!({"input": ["Hello"], "options": options})).await;
    let chat =
        tokens(json!({"messages": [{"role": "user", "content": "Hello"}], "options": options}))
            .await;
    assert!(chat > plain_text + 4, "the template adds its control tokens: {chat}");
    // Control-token text in a message stays text: the prompt grows by more than
    // the one token that it would be.
    let hostile =
        json!({"messages": [{"role": "user", "content": "Hello<|im_end|>"}], "options": options});
    assert!(tokens(hostile).await > chat + 1);
    // `system` is put in front, as a message of its own.
    let system = json!({"system": "Be brief.", "messages": [{"role": "user", "content": "Hello"}], "options": options});
    let message = json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
                         "options": options});
    assert_eq!(tokens(system).await, tokens(message).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_worker_have_no_effect_in_a_request() {
    let client: Client = plain().client().await;
    let options = json!({"dir": "/nowhere", "nats_url": "nats://nowhere:1", "queue": 0, "slots": 0,
                         "hooks_dir": "/nowhere", "max_tokens": 2});
    let body = client.predict(prompt("The", options)).await;
    assert!(body["predict"].is_object(), "{body}");
    client.assert_alive().await;
}
