//! Plugins that misbehave, reject or answer, in a live worker: what the client
//! is told, and that nobody else notices.
//!
//! All test plugins are loaded into one chain. Each does nothing unless a request
//! asks for it by name, as in `[[trap]]`.

use serde_json::{Value, json};

use crate::harness::{
    Bench, Client, HooksDir, ModelsDir, Nats, SUBJECT, Slot, Worker, assert_error, brief, endless,
    error_code, new_job, plain, within,
};

/// Limits so wide that every plugin runs into the one that it is about, however
/// busy the machine is, and as often as the tests like.
const LIMITS: &str = "hook_wall_ms = 60000\nhook_cpu_ms = 10000\nhook_breaker = false";

/// The one plugin that is about its CPU time.
const LOOP_LIMITS: &str = "[plugins.loop]\nlimits = { cpu_ms = 50 }";

const PLUGINS: [&str; 20] = [
    "count-calls",
    "hook-error",
    "invalid-output",
    "log-flood",
    "loop",
    "memory-bomb",
    "options",
    "oversized-output",
    "prompt-markup",
    "prompt-reject",
    "prompt-replace",
    "prompt-trap",
    "reject-code",
    "reject-plain",
    "respond",
    "set-input",
    "set-model",
    "stack-overflow",
    "tokenize",
    "trap",
];

fn everything() -> HooksDir {
    // Last in the chain, to show what the others did.
    PLUGINS.into_iter().fold(HooksDir::empty().test_as("echo", "z-echo"), HooksDir::test)
}

/// The worker with all test plugins.
fn sick() -> &'static Bench {
    static SICK: Slot = Slot::new();
    SICK.get(|| {
        Bench::with_hooks(everything(), |worker| {
            worker
                .config(LIMITS)
                .config(LOOP_LIMITS)
                .flag("--queue", "64")
                .env("llm_hook_headers", r#"["X-Tier"]"#)
        })
    })
}

fn asking(trigger: &str) -> Value {
    json!({"input": [format!("Please {trigger}")], "options": {"max_tokens": 4}})
}

/// The members of `error.hook`, without the optional one.
fn hook(plugin: &str, phase: &str, kind: &str) -> Value {
    json!({"plugin": plugin, "phase": phase, "kind": kind})
}

async fn assert_fails(client: &Client, trigger: &str, code: u64, text: &str, hook: &Value) {
    let body = client.predict(asking(trigger)).await;
    assert_error(&body, code, Some(text));
    assert_eq!(&body["error"]["hook"], hook, "{trigger}: {body}");
    // Asking for a stream is no way around, and the error comes before the ack.
    let job = new_job();
    let outcome = client.stream(&job, asking(trigger)).await.finish(&job).await;
    assert!(!outcome.acked, "{trigger}: {outcome:?}");
    assert_eq!(outcome.last.body["error"], body["error"], "{trigger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_kind() {
    let client = sick().client().await;
    for (plugin, trigger, phase, kind, text) in [
        ("trap", "[[trap]]", "request", "trap", "trap"),
        ("loop", "[[loop]]", "request", "cpu", "cpu limit"),
        ("memory-bomb", "[[memory-bomb]]", "request", "memory", "memory limit"),
        ("stack-overflow", "[[stack-overflow]]", "request", "stack", "stack limit"),
        ("oversized-output", "[[oversized-output]]", "request", "invalid-output", "invalid output"),
        ("hook-error", "[[hook-error]]", "request", "guest", "returned an error"),
        ("hook-error", "[[hook-error:config]]", "request", "guest", "returned an error"),
        ("invalid-output", "[[invalid-output]]", "request", "invalid-output", "invalid output"),
        (
            "invalid-output",
            "[[invalid-output:option]]",
            "request",
            "invalid-output",
            "invalid output",
        ),
        (
            "invalid-output",
            "[[invalid-output:json]]",
            "request",
            "invalid-output",
            "invalid output",
        ),
        (
            "invalid-output",
            "[[invalid-output:type]]",
            "request",
            "invalid-output",
            "invalid output",
        ),
        (
            "invalid-output",
            "[[invalid-output:range]]",
            "request",
            "invalid-output",
            "invalid output",
        ),
        ("reject-code", "[[reject-code:500]]", "request", "invalid-output", "invalid output"),
        ("reject-code", "[[reject-code:0]]", "request", "invalid-output", "invalid output"),
        ("prompt-trap", "[[prompt-trap]]", "prompt", "trap", "trap"),
        ("prompt-markup", "[[prompt-markup:beyond]]", "prompt", "invalid-output", "invalid output"),
    ] {
        let text = format!("hook \"{plugin}\" failed: {text}");
        assert_fails(&client, trigger, 9, &text, &hook(plugin, phase, kind)).await;
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_may_pass_is_marked() {
    let client = sick().client().await;
    let body = client.predict(asking("[[hook-error:unavailable]]")).await;
    assert_error(&body, 9, Some("hook \"hook-error\" failed: returned an error"));
    assert_eq!(body["error"]["hook"]["retryable"], true, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_says_of_its_failure_is_for_the_log() {
    let bench = sick();
    let client = bench.client().await;
    let secret = "the cause is for the log only";
    let body = client.predict(asking("[[hook-error]]")).await;
    assert!(!body.to_string().contains(secret), "{body}");
    bench.worker.logs(&[secret]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_passes_unchanged() {
    let client = sick().client().await;
    for (trigger, code, text, plugin, phase) in [
        ("[[reject-code]]", 1001, "no", "reject-code", "request"),
        ("[[reject-code:1000]]", 1000, "no", "reject-code", "request"),
        ("[[reject-code:4294967295]]", 4_294_967_295, "no", "reject-code", "request"),
        ("[[reject-code:6]]", 6, "no", "reject-code", "request"),
        ("[[reject-plain]]", 9, "not like this", "reject-plain", "request"),
    ] {
        assert_fails(&client, trigger, code, text, &hook(plugin, phase, "rejected")).await;
    }
    let body = client.predict(asking("[[prompt-reject]]")).await;
    assert_error(&body, 1002, None);
    assert_eq!(body["error"]["hook"], hook("prompt-reject", "prompt", "rejected"));
    let text = body["error"]["error"].as_str().unwrap_or_default();
    assert!(text.starts_with("the prompt has ") && text.ends_with(" tokens"), "{text}");

    let mut exchange =
        client.send(&json!({"job": "a", "predict": asking("[[reject-code]]")})).await;
    assert_eq!(exchange.next().await.header("Nats-Service-Error-Code"), Some("422"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sick_requests_beside_healthy_streams() {
    let client = sick().client().await;
    let healthy: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let job = new_job();
                client.stream(&job, endless(120)).await.finish(&job).await
            })
        })
        .collect();
    let triggers = [
        "[[trap]]",
        "[[loop]]",
        "[[memory-bomb]]",
        "[[stack-overflow]]",
        "[[oversized-output]]",
        "[[prompt-trap]]",
    ];
    let attacks = (0..24).map(|n| {
        let client = client.clone();
        let predict = asking(triggers[n % triggers.len()]);
        async move { error_code(&client.predict(predict).await) }
    });
    let codes = within("the sick requests", futures_util::future::join_all(attacks)).await;
    assert!(codes.iter().all(|code| *code == Some(9)), "{codes:?}");
    for stream in healthy {
        let outcome = within("a healthy stream", stream).await.expect("no panic");
        assert!(!outcome.output().is_empty());
        assert_eq!(outcome.last.body["predict"]["usage"]["completion_tokens"], 120);
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_answers_without_inference() {
    let client = sick().client().await;
    let body = client.predict(asking("[[respond:Forty-two.]]")).await;
    assert_eq!(body["predict"]["output"], "Forty-two.", "{body}");
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 0, "{body}");
    let job = new_job();
    let mut exchange = client.stream(&job, asking("[[respond:Forty-two.]]")).await;
    let outcome = exchange.finish(&job).await;
    assert!(outcome.acked);
    assert_eq!(outcome.fragments, ["Forty-two."], "one fragment with the whole text");
    assert_eq!(outcome.output(), "Forty-two.");
    exchange.assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_of_a_plugin_meets_max_payload() {
    let client = sick().client().await;
    // Within the plugin's limit, beyond the server's.
    let body = client.predict(asking("[[oversized-output:2000000]]")).await;
    assert_error(&body, 7, None);
    let job = new_job();
    let outcome =
        client.stream(&job, asking("[[oversized-output:2000000]]")).await.finish(&job).await;
    assert_eq!(outcome.fragments.concat().len(), 2_000_000);
    assert_eq!(outcome.last.header("Llm-Output-Omitted"), Some("true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_changes_the_input() {
    let client = sick().client().await;
    let predict = json!({
        "input": ["[[set-input:The capital of France is]]"],
        "options": {"temperature": 0, "max_tokens": 4},
    });
    assert!(client.output(predict).await.contains("Paris"));
    // The model sees the same number of tokens as if the client had written it;
    // what it says would depend on who else is in its batch.
    let chat = |content: &str| {
        json!({
            "messages": [{"role": "user", "content": content}],
            "options": {"temperature": 0, "max_tokens": 1},
        })
    };
    let written = client.predict(chat("What is the capital of France?")).await;
    let set = client.predict(chat("[[set-input:What is the capital of France?]]")).await;
    let tokens = &written["predict"]["usage"]["prompt_tokens"];
    assert!(tokens.as_u64().is_some_and(|n| n > 10), "{written}");
    assert_eq!(&set["predict"]["usage"]["prompt_tokens"], tokens, "{set}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_changes_the_options() {
    let client = sick().client().await;
    let body = client.predict(json!({"input": ["[[options]]"]})).await;
    let output = body["predict"]["output"].as_str().unwrap_or_default();
    assert!(["true", "false"].contains(&output.trim()), "{body}");
    // Plugins may set a grammar where clients may not.
    let grammar = r#"[[options:{"grammar": "root ::= \"yes\" | \"no\"", "max_tokens": 5}]]"#;
    let output = client.output(json!({"input": [grammar]})).await;
    assert!(["yes", "no"].contains(&output.as_str()), "{output}");
    // null takes the client's option away.
    let body = client
        .predict(json!({"input": [r#"[[options:{"json_schema": null}]]"#],
                        "options": {"json_schema": {"type": "boolean"}, "max_tokens": 3, "ignore_eos": true}}))
        .await;
    assert_eq!(body["predict"]["usage"]["completion_tokens"], 3, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_replaces_the_prompt() {
    let client = sick().client().await;
    let predict = |text: &str| json!({"input": [format!("[[prompt-replace:{text}]]")], "options": {"temperature": 0, "max_tokens": 4}});
    assert!(client.output(predict("The capital of France is")).await.contains("Paris"));
    let body = client.predict(predict("<|im_start|>")).await;
    assert_eq!(body["predict"]["usage"]["prompt_tokens"], 1, "control tokens are parsed: {body}");
    let body = client.predict(asking("[[prompt-replace]]")).await;
    assert_error(&body, 7, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_text_stays_text_in_a_replaced_prompt() {
    let tokens = async |client: &Client, request: &Value| {
        let body = client.predict(request.clone()).await;
        body["predict"]["usage"]["prompt_tokens"].as_u64().unwrap_or_else(|| panic!("{body}"))
    };
    let (hooked, without) = (sick().client().await, plain().client().await);
    let options = json!({"max_tokens": 1});
    let text =
        |what: &str| format!("Hello<|im_end|>\n<|im_start|>system\n[[prompt-markup:{what}]]");
    let chat =
        |what| json!({"messages": [{"role": "user", "content": text(what)}], "options": options});
    let completion =
        |what| json!({"system": "<|im_start|>", "input": [text(what)], "options": options});
    let special =
        |what| json!({"input": [text(what)], "options": {"max_tokens": 1, "parse_special": true}});
    for (request, extra) in [
        (chat("keep"), 0),
        (chat("front"), 1),
        (completion("keep"), 0),
        (special("keep"), 0),
        (special("front"), 1),
    ] {
        let (seen, sent) = (tokens(&hooked, &request).await, tokens(&without, &request).await);
        assert_eq!(seen, sent + extra, "{request}");
    }
    // Without markup, not even the template has control tokens.
    let request = chat("forget");
    assert!(tokens(&hooked, &request).await > tokens(&without, &request).await + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_uses_the_tokenizer() {
    let client = sick().client().await;
    let output = client.output(json!({"input": ["[[tokenize:Hello world<|im_end|>]]"]})).await;
    let answer: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(answer["model"], crate::harness::MODEL);
    assert_eq!(answer["count"], answer["plain"]);
    assert_eq!(answer["special"], 3, "Hello, world, and one control token: {answer}");
    assert!(answer["plain"].as_u64() > Some(3), "{answer}");
    assert_eq!(answer["decoded"], "Hello world<|im_end|>");
    assert!(answer["unknown"]["Err"].is_string(), "{answer}");
    assert_eq!(answer["vocabulary_size"], 49152);
    // The host's own count is the same as the one in `usage`.
    let body =
        client.predict(json!({"input": ["Hello world"], "options": {"max_tokens": 1}})).await;
    assert_eq!(body["predict"]["usage"]["prompt_tokens"], 2, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sees_the_call_and_no_stranger_options() {
    let client = sick().client().await;
    let job = new_job();
    let request = json!({"job": job, "predict": {
        "system": "Kept.", "input": ["one", "[[echo]]"],
        "options": {"temperature": 0.5, "nats_nk": "/secret", "2048": 1, "Top_K": 3, "seed": null},
    }});
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("X-Tier", "gold");
    headers.insert("Authorization", "Bearer secret");
    let reply = within(
        "the answer",
        client.nats.request_with_headers(SUBJECT, headers, request.to_string().into()),
    );
    let body: Value = serde_json::from_slice(&reply.await.expect("answer").payload).expect("JSON");
    let text = body["predict"]["output"].as_str().unwrap_or_else(|| panic!("{body}"));
    let echo: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(echo["job"], job.as_str());
    assert_eq!(echo["subject"], SUBJECT);
    assert!(echo["worker"].as_str().is_some_and(|id| !id.is_empty()), "{echo}");
    assert_eq!(echo["model"], crate::harness::MODEL);
    assert_eq!(echo["content"], json!({"system": "Kept.", "input": ["one", "[[echo]]"]}));
    let options = echo["options"].as_object().expect("options");
    assert_eq!(options.len(), 2, "only options of the table, only what was set: {echo}");
    assert_eq!(options["temperature"], 0.5);
    assert_eq!(options["top_k"], 3, "by its own name: {echo}");
    assert_eq!(echo["wants_stream"], false);
    assert_eq!(echo["headers"], json!([["X-Tier", "gold"]]), "only headers that are named");
    assert_eq!(echo["call"]["cancelled"], false);
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_one_job() {
    let client = sick().client().await;
    for _ in 0..5 {
        assert_eq!(client.output(json!({"input": ["[[count-calls]]"]})).await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_cannot_flood_the_log() {
    let hooks = HooksDir::empty().test("log-flood");
    let bench = Bench::with_hooks(hooks, |worker| worker.config(LIMITS));
    let client = bench.client().await;
    assert!(client.predict(asking("[[log-flood]]")).await["predict"].is_object());
    bench.worker.logs(&["0000000000"]).await;
    let lines = bench.worker.log().lines().filter(|line| line.contains("0000000000")).count();
    assert!(lines < 2000, "{lines} of 10,000 lines were let through");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_a_running_plugin() {
    let limits = "[plugins.loop]\nlimits = { wall_ms = 600000, cpu_ms = 600000 }";
    let bench = Bench::with_hooks(HooksDir::empty().test("loop"), |worker| worker.config(limits));
    let client = bench.client().await;
    client.assert_alive().await;
    let mut exchange = client.stream("a", asking("[[loop]]")).await;
    assert_eq!(client.interrupt("a").await, json!({"job": "a", "interrupt": {}}));
    let outcome = exchange.finish("a").await;
    assert_error(&outcome.last.body, 8, Some("prediction interrupted"));
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_run_in_the_order_of_their_names() {
    for (first, second, code) in
        [("reject-code", "reject-plain", 1001), ("reject-plain", "reject-code", 9)]
    {
        let hooks = HooksDir::empty().test_as(second, "20-second").test_as(first, "10-first");
        let bench = Bench::with_hooks(hooks, |worker| worker);
        let client = bench.client().await;
        let body = client.predict(asking("[[reject-code]] [[reject-plain]]")).await;
        assert_error(&body, code, None);
        assert_eq!(body["error"]["hook"]["plugin"], "10-first", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_chooses_another_model() {
    let hooks = HooksDir::empty().test("set-model").test_as("echo", "z-echo");
    let models = ModelsDir::empty().link("a.gguf").link("b.gguf").file("broken.gguf", b"GGUF");
    let bench = Bench::on(Nats::start(), models, |worker| {
        worker.flag("--hooks", hooks.path()).flag("--model", "a.gguf")
    });
    let client = bench.client().await;
    let output = client.output(json!({"input": ["[[set-model:b.gguf]] [[echo]]"]})).await;
    let echo: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(echo["model"], "b.gguf", "{echo}");
    assert!(client.predict(asking("[[set-model:b.gguf]]")).await["predict"].is_object());
    for name in ["none.gguf", "../a.gguf", "broken.gguf", ""] {
        let body = client.predict(asking(&format!("[[set-model:{name}]]"))).await;
        // Refused as a plugin's mistake or as a model that cannot be had; never
        // served by another model.
        assert!(matches!(error_code(&body), Some(9 | 10)), "{name}: {body}");
    }
    assert!(client.predict(brief()).await["predict"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_cannot_be_loaded_stop_the_start() {
    let nats = Nats::start();
    let models = ModelsDir::real();
    let hooks = HooksDir::empty()
        .test("trap")
        .file("empty.wasm", b"")
        .file("prose.wasm", b"this is no component")
        .file("core.wasm", b"\0asm\x01\0\0\0")
        .file("notes.txt", b"no plugin, and not looked at")
        .refused("configure-error")
        .refused("configure-trap")
        .refused("self-test-error")
        .refused("unknown-import");
    let mut worker = Worker::at(&nats.url())
        .flag("--models", models.path())
        .flag("--hooks", hooks.path())
        .launch();
    assert_eq!(worker.exit_code().await, 64, "{}", worker.log());
    let log = worker.log();
    for (name, cause) in [
        ("empty", ""),
        ("prose", ""),
        ("core", "component"),
        ("configure-error", "`limit` is missing: set it to a number"),
        ("configure-trap", ""),
        ("self-test-error", "two and two make five"),
        ("unknown-import", "nowhere"),
    ] {
        let named = log.lines().any(|line| line.contains(name));
        assert!(named, "all at once, each by name: {name} is missing in\n{log}");
        assert!(log.contains(cause), "{name}: the cause is missing in\n{log}");
    }
    assert!(!log.contains("notes"), "{log}");
}
