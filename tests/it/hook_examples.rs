//! The example plugins in one chain, three of them in Rust, one in JavaScript
//! and one in Python: each changes what it says that it changes.

use serde_json::{Value, json};

use crate::harness::{Bench, Client, HooksDir, Slot, assert_error, new_job};

/// What an operator might configure. The two large runtimes get more memory and
/// time than the defaults, as their READMEs say.
const CONFIG: &str = r#"
    [plugins.prompt-template]
    config = { template = "Question: {{input}}\nAnswer ({{tone}}):", values = { tone = "brief" } }
    limits = { wall_ms = 60000, cpu_ms = 20000, memory_mib = 256 }

    [plugins.prompt-window]
    config = { max_context_tokens = 40 }
    limits = { wall_ms = 60000, cpu_ms = 20000 }

    [plugins.redact]
    limits = { wall_ms = 60000, cpu_ms = 20000 }

    [plugins.system-prompt]
    config = { text = "You are a clerk.", separator = "\n" }
    limits = { wall_ms = 60000, cpu_ms = 20000 }

    [plugins.topic-guard]
    config = { topics = { finance = ["stock market", "invest*"] } }
    limits = { wall_ms = 60000, cpu_ms = 20000, memory_mib = 256 }
"#;

fn examples() -> &'static Bench {
    static EXAMPLES: Slot = Slot::new();
    EXAMPLES.get(|| {
        let names = ["prompt-template", "prompt-window", "redact", "system-prompt", "topic-guard"];
        let hooks = names.into_iter().fold(HooksDir::empty(), HooksDir::example);
        Bench::with_hooks(hooks.test_as("echo", "z-echo"), |worker| {
            worker.config(CONFIG).flag("--queue", "64")
        })
    })
}

/// The request as the last plugin of the chain sees it.
async fn seen(client: &Client, mut predict: Value) -> Value {
    predict["options"] = json!({"max_tokens": 4});
    let output = client.output(predict).await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_plugin_leaves_its_mark_on_a_completion() {
    let client = examples().client().await;
    let text =
        "Write to jane.doe@example.org or call +49 30 1234567, card 4111 1111 1111 1111. [[echo]]";
    let echo = seen(&client, json!({"system": "Be kind.", "input": [text]})).await;
    // system-prompt, in Rust.
    let system = echo["content"]["system"].as_str().expect("system");
    assert!(system.starts_with("You are a clerk.\nBe kind."), "{echo}");
    // prompt-template, in JavaScript.
    let input = echo["content"]["input"][0].as_str().expect("input");
    assert!(input.starts_with("Question: Write to "), "{echo}");
    assert!(input.ends_with("\nAnswer (brief):"), "{echo}");
    // redact, in Rust.
    for secret in ["jane.doe", "1234567", "4111"] {
        assert!(!input.contains(secret), "{secret} is still there: {echo}");
    }
    assert!(
        input.contains("[email]") && input.contains("[phone]") && input.contains("[card]"),
        "{echo}"
    );
    assert_eq!(echo["call"]["redact_note"], "email=1 card=1 phone=1", "{echo}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_plugin_leaves_its_mark_on_a_chat() {
    let client = examples().client().await;
    let echo = seen(
        &client,
        json!({"messages": [
            {"role": "user", "content": "I am bob@example.org."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Who am I? [[echo]]"},
        ]}),
    )
    .await;
    assert_eq!(
        echo["content"],
        json!([
            {"role": "system", "content": "You are a clerk."},
            {"role": "user", "content": "I am [email]."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Question: Who am I? [[echo]]\nAnswer (brief):"},
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_guard_in_python_rejects_with_its_own_code() {
    let client = examples().client().await;
    for text in ["How does the Stock  Market work?", "Where should I INVEST?", "Is investing safe?"]
    {
        let body = client.predict(json!({"input": [text], "options": {"max_tokens": 2}})).await;
        assert_error(&body, 1403, Some("The topic finance is not served here."));
        let hook = json!({"plugin": "topic-guard", "phase": "request", "kind": "rejected"});
        assert_eq!(body["error"]["hook"], hook);
    }
    let harmless =
        json!({"input": ["How does a market stall work?"], "options": {"max_tokens": 2}});
    assert!(client.predict(harmless).await["predict"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_window_fits_the_context_into_its_budget() {
    let client = examples().client().await;
    let tokens = async |context: &str| {
        let text = format!("<context>{context}</context> What is said above?");
        let body = client.predict(json!({"input": [text], "options": {"max_tokens": 1}})).await;
        body["predict"]["usage"]["prompt_tokens"].as_i64().unwrap_or_else(|| panic!("{body}"))
    };
    let chunks: Vec<String> =
        (0..20).map(|n| format!("Chunk {n} tells of a river that runs to the sea.")).collect();
    let empty = tokens("").await;
    let one = tokens(&chunks[..1].join("\n\n")).await;
    let all = tokens(&chunks.join("\n\n")).await;
    assert!(one > empty, "a chunk that fits stays: {one} and {empty}");
    assert!(all >= one, "what fits is not dropped: {all} and {one}");
    // 20 chunks of about 12 tokens each, of which 40 tokens may stay.
    assert!(all - empty <= 44, "{all} and {empty}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_chain_streams_an_answer() {
    let client = examples().client().await;
    let job = new_job();
    let predict = json!({
        "input": ["What is the capital of France? Write to me@example.org."],
        "options": {"temperature": 0, "max_tokens": 24},
    });
    let outcome = client.stream(&job, predict).await.finish(&job).await;
    assert!(outcome.acked && !outcome.output().is_empty(), "{outcome:?}");
    let hooks = outcome.last.body["predict"]["timings"]["hooks_ms"].as_f64();
    assert!(hooks.is_some_and(|ms| ms > 0.0), "{outcome:?}");
}
