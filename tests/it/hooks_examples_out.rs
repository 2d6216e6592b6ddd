//! The example plugins that look at answers, keep state or set schemas, each in a
//! live worker of its own configuration.

use serde_json::{Value, json};

use crate::harness::{Bench, Client, HooksDir, assert_error, endless, new_job};

const LIMITS: &str = "
    hook_wall_ms = 60000
    hook_cpu_ms = 10000
    hook_push_wall_ms = 60000
    hook_push_cpu_ms = 10000
    hook_observer_wall_ms = 60000
    hook_observer_cpu_ms = 10000
    hook_hold_ms = 60000
";

fn bench(hooks: HooksDir, config: &str) -> Bench {
    Bench::with_hooks(hooks, |worker| worker.config(LIMITS).config(config).flag("--queue", "64"))
}

/// A request to which the model can say one thing only.
fn forced(text: &str) -> Value {
    let options = json!({"grammar": format!("root ::= {}", json!(text)), "max_tokens": 128});
    json!({"input": [format!("Say it! [[options:{options}]]")]})
}

async fn both(client: &Client, predict: Value) -> [String; 2] {
    let whole = client.output(predict.clone()).await;
    let job = new_job();
    let outcome = client.stream(&job, predict).await.finish(&job).await;
    assert!(outcome.acked, "{outcome:?}");
    [outcome.output().to_owned(), whole]
}

#[tokio::test(flavor = "multi_thread")]
async fn redact_masks_what_the_model_writes_token_by_token() {
    // Before it in the chain, so that its own request hook does not mask what the
    // model is made to say.
    let hooks = HooksDir::empty().test_as("options", "a-options").test_as("respond", "a-respond");
    let bench = bench(hooks.example("redact"), "");
    let client = bench.client().await;
    for output in both(
        &client,
        forced("Mail jane.doe@example.com or call +49 171 2345678, or pay 4111 1111 1111 1111."),
    )
    .await
    {
        assert_eq!(output, "Mail [email] or call [phone], or pay [card].");
    }
    let harmless = "In 2024 we counted 12 345 letters (10 more than before) and 3.5 of all.";
    for output in both(&client, forced(harmless)).await {
        assert_eq!(output, harmless);
    }
    let answer = json!({"input": ["[[respond:Ask bob@example.org]]"]});
    for output in both(&client, answer).await {
        assert_eq!(output, "Ask [email]", "at the very end, and not from the model");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redact_leaves_the_output_alone_if_told_so() {
    let hooks = HooksDir::empty().test_as("respond", "a-respond").example("redact");
    let bench = bench(hooks, "[plugins.redact]\nconfig = { output = false }");
    let client = bench.client().await;
    for output in both(&client, json!({"input": ["[[respond:Ask bob@example.org]]"]})).await {
        assert_eq!(output, "Ask bob@example.org");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_counts_and_answers_busy() {
    let bench = bench(
        HooksDir::empty().example("quota").test("respond"),
        "[plugins.quota]\ngrant = [\"state\"]\nconfig = { requests = 3, window_s = 3600 }",
    );
    let client = bench.client().await;
    let predict = json!({"input": ["[[respond]]"]});
    for _ in 0..3 {
        assert_eq!(client.output(predict.clone()).await, "canned answer");
    }
    for _ in 0..2 {
        let body = client.predict(predict.clone()).await;
        assert_error(
            &body,
            6,
            Some(
                "quota used up: 3 requests in 3600 s, all unknown accounts together; \
                 try again later",
            ),
        );
        assert_eq!(body["error"]["hook"]["kind"], "rejected", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_schema_sets_the_schema_and_finds_what_was_cut_off() {
    let bench = bench(
        HooksDir::empty().example("json-schema"),
        "[[plugins.json-schema.config.rules]]\n\
         schema = { type = \"array\", items = { type = \"boolean\" }, minItems = 2, maxItems = 3 }",
    );
    let client = bench.client().await;
    let predict = |max_tokens: u32| json!({"input": ["Yes or no?"], "options": {"max_tokens": max_tokens, "temperature": 0}});
    for output in both(&client, predict(200)).await {
        let value: Value = serde_json::from_str(&output).expect("JSON");
        assert!(value.as_array().is_some_and(|array| array.len() >= 2), "{output}");
    }
    let body = client.predict(predict(2)).await;
    assert_error(&body, 1422, None);
    assert_eq!(body["error"]["hook"]["phase"], "response", "{body}");
    let job = new_job();
    let outcome = client.stream(&job, predict(2)).await.finish(&job).await;
    assert_error(&outcome.last.body, 1422, None);
    assert!(!outcome.fragments.is_empty(), "a stream is not held back: {outcome:?}");
    // A client's own schema is its own business, cut off or not.
    let mut own = predict(2);
    own["options"]["json_schema"] = json!({"type": "string"});
    let output = client.output(own).await;
    assert!(output.starts_with('"'), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_writes_a_line_for_every_job() {
    let bench = bench(HooksDir::empty().example("audit").test("reject-code"), "");
    let client = bench.client().await;
    client.output(endless(3)).await;
    assert_error(&client.predict(json!({"input": ["[[reject-code]]"]})).await, 1001, None);
    for outcome in ["length", "rejected"] {
        bench.worker.logs(&["audit", "total_ms", outcome]).await;
    }
}

/// Host calls that a plugin can abuse.
#[tokio::test(flavor = "multi_thread")]
async fn imports_have_their_limits() {
    let hooks = ["handle-bomb", "host-call-bomb", "metrics", "metrics-bomb", "slow-host-call"]
        .into_iter()
        .chain(["state-bomb", "state-counter"])
        .fold(HooksDir::empty(), HooksDir::test);
    let bench = bench(
        hooks,
        "[plugins.state-bomb]\ngrant = [\"state\"]\nlimits = { state_keys = 100 }\n\
         [plugins.state-counter]\ngrant = [\"state\"]\n\
         [plugins.slow-host-call]\nlimits = { wall_ms = 300 }",
    );
    let client = bench.client().await;
    for (plugin, kind) in
        [("handle-bomb", "quota"), ("host-call-bomb", "quota"), ("slow-host-call", "wall")]
    {
        let body = client.predict(json!({"input": [format!("[[{plugin}]]")]})).await;
        assert_error(&body, 9, None);
        let hook = json!({"plugin": plugin, "phase": "request", "kind": kind});
        assert_eq!(body["error"]["hook"], hook, "{body}");
    }
    let answer = async |trigger: &str| client.output(json!({"input": [trigger]})).await;
    for expected in ["1", "2", "3"] {
        assert_eq!(answer("[[state-counter]]").await, expected, "it outlives its instance");
    }
    assert_eq!(answer("[[state-counter:other]]").await, "1");
    for _ in 0..2 {
        let text = answer("[[state-bomb:10]]").await;
        assert!(text.starts_with("100 ") && text.contains("QuotaExceeded"), "{text}");
    }
    assert_eq!(answer("[[state-counter]]").await, "4", "another plugin's quota is its own");
    assert_eq!(answer("[[metrics]]").await, "recorded");
    assert_eq!(answer("[[metrics-bomb]]").await, "recorded");
    client.assert_alive().await;
}
