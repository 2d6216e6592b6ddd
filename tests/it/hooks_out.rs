//! Plugins that see what was generated, in a live worker: what they change, end or
//! break is changed, ended or broken for the client, streamed or not, and nothing
//! that they hold gets out.
//!
//! As in `hooks`, all test plugins are loaded into one chain, and each does nothing
//! unless a request asks for it by name, as in `[[stream-trap]]`.

use serde_json::{Value, json};

use crate::harness::{
    Bench, Client, HooksDir, Slot, assert_error, endless, error_code, new_job, within,
};

/// Limits so wide that every plugin runs into the one that it is about, however
/// busy the machine is.
const LIMITS: &str = "
    hook_wall_ms = 60000
    hook_cpu_ms = 10000
    hook_push_wall_ms = 60000
    hook_push_cpu_ms = 10000
    hook_observer_wall_ms = 60000
    hook_observer_cpu_ms = 10000
    hook_hold_ms = 60000
";

/// The one plugin that is about its CPU time.
const LOOP_LIMITS: &str = "[plugins.stream-loop]\nlimits = { push_cpu_ms = 50 }";

const FILTERS: [&str; 11] = [
    "observe-note",
    "options",
    "reject-code",
    "stream-bad-release",
    "stream-halt",
    "stream-hold",
    "stream-loop",
    "stream-reject",
    "stream-trap",
    "stream-upper",
    "trap",
];

/// Plugins that see the whole answer, for which every stream of their worker is
/// collected first.
const JUDGES: [&str; 6] = [
    "observe-note",
    "options",
    "response-reject",
    "response-replace",
    "response-trap",
    "stream-upper",
];

fn bench(plugins: &[&str]) -> Bench {
    // Last in the chain, so that the others have seen the request before.
    let hooks = HooksDir::empty().test_as("respond", "z-respond");
    let hooks = plugins.iter().fold(hooks, |hooks, plugin| hooks.test(plugin));
    Bench::with_hooks(hooks, |worker| {
        let worker = worker.config(LIMITS).flag("--queue", "64");
        if plugins.contains(&"stream-loop") { worker.config(LOOP_LIMITS) } else { worker }
    })
}

/// The worker with all test plugins that filter streams.
fn filtered() -> &'static Bench {
    static FILTERED: Slot = Slot::new();
    FILTERED.get(|| bench(&FILTERS))
}

/// The worker with all test plugins that judge whole answers.
fn judged() -> &'static Bench {
    static JUDGED: Slot = Slot::new();
    JUDGED.get(|| bench(&JUDGES))
}

/// What the model is made to say, token by token.
const FORCED: &str = "one two three four five six seven eight nine ten";

/// A request for a plugin, of which the model can say one thing only.
fn asking(trigger: &str) -> Value {
    forced(trigger, FORCED)
}

fn forced(trigger: &str, text: &str) -> Value {
    let grammar = format!("root ::= {}", json!(text));
    let options = json!({"grammar": grammar, "max_tokens": 64});
    json!({"input": [format!("Count! {trigger} [[options:{options}]]")]})
}

/// The text of a stream and of the same request without one, after checking that
/// each is whole.
async fn both(client: &Client, predict: Value) -> (String, String) {
    let whole = client.output(predict.clone()).await;
    let job = new_job();
    let mut exchange = client.stream(&job, predict).await;
    let outcome = exchange.finish(&job).await;
    assert!(outcome.acked, "{outcome:?}");
    let streamed = outcome.output().to_owned();
    exchange.assert_silence().await;
    (streamed, whole)
}

/// Some requests that harm nobody: a plugin that does nothing but fail is not
/// called for a while, and the tests ask for more failures than any user would.
async fn calm(client: &Client) {
    for _ in 0..3 {
        client.output(json!({"input": ["[[respond]]"]})).await;
    }
}

/// The members of `error.hook`, without the optional one.
fn hook(plugin: &str, phase: &str, kind: &str) -> Value {
    json!({"plugin": plugin, "phase": phase, "kind": kind})
}

/// Checks the error of a request with and without a stream, and returns what was
/// streamed before it.
async fn both_fail(client: &Client, trigger: &str, code: u64, hook: &Value) -> String {
    let body = client.predict(asking(trigger)).await;
    assert_error(&body, code, None);
    assert_eq!(&body["error"]["hook"], hook, "{trigger}: {body}");
    calm(client).await;

    let job = new_job();
    let mut exchange = client.stream(&job, asking(trigger)).await;
    let outcome = exchange.finish(&job).await;
    assert!(outcome.acked, "{trigger}: it began to generate: {outcome:?}");
    assert_error(&outcome.last.body, code, None);
    assert_eq!(&outcome.last.body["error"]["hook"], hook, "{trigger}: {outcome:?}");
    exchange.assert_silence().await;
    calm(client).await;
    outcome.fragments.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_the_filters_change_nothing() {
    let client = filtered().client().await;
    let (streamed, whole) = both(&client, asking("")).await;
    assert_eq!((streamed.as_str(), whole.as_str()), (FORCED, FORCED));
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_and_unstreamed_output_is_filtered() {
    let client = filtered().client().await;
    for trigger in [
        "[[stream-upper]]",
        "[[stream-upper:line]]",
        "[[stream-upper:sentence]]",
        "[[stream-upper:whole]]",
        "[[stream-upper:5]]",
    ] {
        let (streamed, whole) = both(&client, asking(trigger)).await;
        assert_eq!(streamed, FORCED.to_uppercase(), "{trigger}");
        assert_eq!(whole, FORCED.to_uppercase(), "{trigger}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_plugin_is_filtered_too() {
    let client = filtered().client().await;
    let predict = json!({"input": ["[[stream-upper]] [[respond:Forty-two.]]"]});
    let (streamed, whole) = both(&client, predict).await;
    assert_eq!((streamed.as_str(), whole.as_str()), ("FORTY-TWO.", "FORTY-TWO."));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_filters_in_a_row() {
    let client = filtered().client().await;
    let (streamed, whole) = both(&client, asking("[[stream-hold]] [[stream-upper]]")).await;
    assert_eq!((streamed, whole), (FORCED.to_uppercase(), FORCED.to_uppercase()));
    // Held to the end, and then gone.
    let (streamed, whole) = both(&client, asking("[[stream-hold:discard]]")).await;
    assert_eq!((streamed.as_str(), whole.as_str()), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_hook_makes_one_fragment_of_a_stream() {
    let client = judged().client().await;
    let job = new_job();
    let outcome = client.stream(&job, asking("")).await.finish(&job).await;
    assert_eq!(outcome.fragments, [FORCED], "asked or not, it must see the whole");
    let job = new_job();
    let predict = asking("[[response-replace]]");
    let outcome = client.stream(&job, predict.clone()).await.finish(&job).await;
    assert_eq!(outcome.fragments, [format!("[{FORCED}]")]);
    assert_eq!(outcome.output(), format!("[{FORCED}]"));
    assert_eq!(client.output(predict).await, format!("[{FORCED}]"));
    // Behind a filter it sees what that one made of it.
    let (streamed, whole) = both(&client, asking("[[response-replace]] [[stream-upper]]")).await;
    let expected = format!("[{}]", FORCED.to_uppercase());
    assert_eq!((streamed, whole), (expected.clone(), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_before_a_response_hook_has_judged_it() {
    let bench = judged();
    let client = bench.client().await;
    let rejected = hook("response-reject", "response", "rejected");
    let before = both_fail(&client, "[[response-reject]]", 1004, &rejected).await;
    assert_eq!(before, "");
    let trapped = hook("response-trap", "response", "trap");
    let before = both_fail(&client, "[[response-trap]]", 9, &trapped).await;
    assert_eq!(before, "");
    let job = new_job();
    client.call(&json!({"job": job, "predict": asking("[[response-reject]]")})).await;
    let line = observed(bench, &job).await;
    assert!(line.contains("outcome=rejected detail=1004 "), "{line}");
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_ends_the_job_well_with_its_own_finish_reason() {
    let client = filtered().client().await;
    let predict = json!({
        "input": ["Once upon a time [[stream-halt:5]]"],
        "options": {"ignore_eos": true, "max_tokens": 3000},
    });
    for stream in [false, true] {
        let body = if stream {
            let job = new_job();
            let mut exchange = client.stream(&job, predict.clone()).await;
            let outcome = exchange.finish(&job).await;
            outcome.output();
            exchange.assert_silence().await;
            outcome.last.body
        } else {
            client.predict(predict.clone()).await
        };
        assert_eq!(body["predict"]["finish_reason"], "filtered", "{body}");
        let output = body["predict"]["output"].as_str().unwrap_or_default();
        assert!(output.ends_with("[stopped]"), "{body}");
        // It ended the generation, not only the output.
        let tokens = body["predict"]["usage"]["completion_tokens"].as_u64();
        assert!(tokens.is_some_and(|tokens| tokens < 1000), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_of_the_output_arrives_on_the_stream() {
    let client = filtered().client().await;
    let rejected = hook("stream-reject", "stream", "rejected");
    let before = both_fail(&client, "[[stream-reject]]", 1003, &rejected).await;
    assert!(FORCED.starts_with(&before) && before.len() < FORCED.len(), "{before}");

    let rejected = hook("stream-hold", "stream", "rejected");
    let before = both_fail(&client, "[[stream-hold:reject]]", 1005, &rejected).await;
    assert_eq!(before, "", "what was held is not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_in_mid_stream_has_its_kind_and_leaks_nothing() {
    let client = filtered().client().await;
    for (trigger, plugin, phase, kind) in [
        ("[[stream-trap:1]]", "stream-trap", "stream", "trap"),
        ("[[stream-trap]]", "stream-trap", "stream", "trap"),
        ("[[stream-trap:close]]", "stream-trap", "stream", "trap"),
        ("[[stream-loop]]", "stream-loop", "stream", "cpu"),
        ("[[stream-bad-release]]", "stream-bad-release", "stream", "invalid-output"),
        ("[[stream-bad-release:beyond]]", "stream-bad-release", "stream", "invalid-output"),
        ("[[stream-hold:100000]]", "stream-hold", "stream", "hold"),
    ] {
        let before = both_fail(&client, trigger, 9, &hook(plugin, phase, kind)).await;
        // At most what was passed before: a push or two.
        assert!(FORCED.starts_with(&before), "{trigger}: {before}");
        assert!(before.len() < FORCED.len() / 2, "{trigger}: {before}");
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sick_filters_beside_healthy_streams() {
    let client = filtered().client().await;
    let healthy: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let job = new_job();
                client.stream(&job, endless(120)).await.finish(&job).await
            })
        })
        .collect();
    let triggers =
        ["[[stream-trap]]", "[[stream-loop]]", "[[stream-bad-release]]", "[[stream-hold:100000]]"];
    let attacks = (0..8).map(|n| {
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
    calm(&client).await;
    client.assert_alive().await;
}

/// The line that the observer wrote for a job.
async fn observed(bench: &Bench, job: &str) -> String {
    bench.worker.logs(&[&format!("observed job={job} ")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_are_told_of_every_outcome() {
    let bench = filtered();
    let client = bench.client().await;
    let cut_short = json!({"input": ["The sea"], "options": {"ignore_eos": true, "max_tokens": 3}});
    for (predict, expected) in [
        (asking(""), "outcome=stop "),
        (cut_short, "outcome=length detail= tokens=3 first=true"),
        (json!({"input": ["[[respond]]"]}), "outcome=stop detail= tokens=0 first=false"),
        (asking("[[stream-halt]]"), "outcome=filtered detail=enough "),
        (asking("[[reject-code]]"), "outcome=rejected detail=1001 tokens=0 first=false"),
        (asking("[[stream-reject]]"), "outcome=rejected detail=1003 "),
        (asking("[[trap]]"), "outcome=failed detail=9 tokens=0 first=false"),
        (asking("[[stream-trap]]"), "outcome=failed detail=9 "),
    ] {
        for stream in [false, true] {
            let job = new_job();
            if stream {
                client.stream(&job, predict.clone()).await.finish(&job).await;
            } else {
                client.call(&json!({"job": job, "predict": predict})).await;
            }
            let line = observed(bench, &job).await;
            assert!(line.contains(expected), "{expected}: {line}");
            assert!(line.contains(crate::harness::MODEL), "{line}");
        }
        calm(&client).await;
    }
    let job = new_job();
    let mut exchange = client.stream(&job, endless(3000)).await;
    exchange.first_fragment(&job).await;
    client.interrupt(&job).await;
    let line = observed(bench, &job).await;
    assert!(line.contains("outcome=cancelled ") && line.contains("first=true"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_filtered_stream() {
    for (bench, trigger) in [
        (filtered(), "[[stream-upper]]"),
        (filtered(), "[[stream-upper:whole]]"),
        (judged(), "[[response-replace]]"),
    ] {
        let client = bench.client().await;
        let job = new_job();
        let mut predict = endless(3000);
        predict["input"] = json!([format!("Once upon a time {trigger}")]);
        let mut exchange = client.stream(&job, predict).await;
        exchange.ack(&job).await;
        assert_eq!(client.interrupt(&job).await, json!({"job": job, "interrupt": {}}));
        let outcome = exchange.finish_acked(&job).await;
        assert_error(&outcome.last.body, 8, Some("prediction interrupted"));
        exchange.assert_silence().await;
        client.assert_alive().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fails_open_lets_the_rest_pass() {
    let hooks = HooksDir::empty().test("options").test("stream-trap").test("stream-upper");
    let bench = Bench::with_hooks(hooks, |worker| {
        worker.config(LIMITS).config(
            "[plugins.stream-trap]\nfail = \"open\"\nconfig = { at = 2 }\n\
             [plugins.stream-upper]\nmode = \"shadow\"",
        )
    });
    let client = bench.client().await;
    // It traps at its second push, and holds nothing until then; the other one is
    // only tried out.
    let (streamed, whole) = both(&client, asking("[[stream-trap]] [[stream-upper]]")).await;
    assert_eq!((streamed.as_str(), whole.as_str()), (FORCED, FORCED));
    // At its third push it holds the second one: that cannot be made good.
    let body = client.predict(asking("[[stream-trap:3]]")).await;
    assert_error(&body, 9, None);
    assert_eq!(body["error"]["hook"], hook("stream-trap", "stream", "trap"), "{body}");
}
