//! LoRA adapters in the models folder, named by requests.

use serde_json::{Value, json};

use crate::harness::{Bench, HooksDir, MODEL, ModelsDir, Nats, assert_error};
use crate::lora_file::LoraFile;

const TEXT: &str = "The capital of France is";

fn models() -> ModelsDir {
    let wrong = LoraFile { architecture: "qwen2", ..LoraFile::new(1) };
    let whole = LoraFile::new(3).bytes();
    ModelsDir::real()
        .file("one.gguf", &LoraFile::new(1).bytes())
        .file("two.gguf", &LoraFile::new(2).bytes())
        .file("wrong.gguf", &wrong.bytes())
        .file("cut.gguf", &whole[..whole.len() / 2])
        .file("notes.gguf", b"no GGUF file at all, though it is named like one")
}

fn ask(lora: &Value) -> Value {
    json!({
        "input": [TEXT],
        "options": {"model": MODEL, "temperature": 0, "repeat_penalty": 1, "max_tokens": 12,
                    "ignore_eos": true, "lora": lora},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_name_their_adapters() {
    let bench = Bench::on(Nats::start(), models(), |worker| worker.flag("--queue", "64"));
    let client = bench.client().await;
    let base = client.output(ask(&Value::Null)).await;
    assert!(base.contains("Paris"), "{base}");
    let one = client.output(ask(&json!("one.gguf"))).await;
    let two = client.output(ask(&json!({"two.gguf": 1}))).await;
    assert!(one != base && two != base && one != two, "{base:?}, {one:?}, {two:?}");
    assert_eq!(client.output(ask(&json!({"one.gguf": 0}))).await, base);
    assert_eq!(client.output(ask(&json!({"one.gguf": 1.0, "two.gguf": 0}))).await, one);

    // Together they give what they give alone: none of them is in the other's batch.
    let asked = [Value::Null, json!("one.gguf"), json!("two.gguf")].map(|lora| ask(&lora));
    let outputs = asked.map(|predict| client.output(predict));
    let outputs = futures_util::future::join_all(outputs).await;
    assert_eq!(outputs, [base, one, two]);

    // Adapters are no models.
    let list = client.call(&json!({"job": "l", "list": {}})).await;
    let names: Vec<&Value> =
        list["list"]["models"].as_array().expect("models").iter().map(|m| &m["model"]).collect();
    assert_eq!(names, [MODEL, "notes.gguf"], "{list}");
    let body = client.predict(json!({"input": ["x"], "options": {"model": "one.gguf"}})).await;
    assert_error(&body, 10, Some("failed to load \"one.gguf\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_an_error_of_the_option() {
    let bench = Bench::on(Nats::start(), models(), |worker| worker.env("llm_max_adapters", "1"));
    let client = bench.client().await;
    for (lora, reason) in [
        (json!("none.gguf"), "\"none.gguf\" is not there"),
        (json!(MODEL), &*format!("{MODEL:?} is not an adapter")),
        (
            json!("wrong.gguf"),
            "\"wrong.gguf\" is made for the architecture \"qwen2\", and the model's is \"llama\"",
        ),
        (json!("cut.gguf"), "\"cut.gguf\" cannot be used: its data is cut off"),
        (json!("notes.gguf"), "\"notes.gguf\" cannot be used: not a GGUF file: wrong magic"),
        (
            json!({"one.gguf": 1, "two.gguf": 1}),
            "\"two.gguf\" is one too many: this worker keeps 1 adapters loaded",
        ),
    ] {
        let body = client.predict(ask(&lora)).await;
        assert_error(&body, 7, Some(&format!("option lora: {reason}")));
    }
    // One place is enough for one after the other.
    for lora in ["one.gguf", "two.gguf", "one.gguf"] {
        client.output(ask(&json!(lora))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_chooses_the_adapter() {
    let hooks = HooksDir::empty().test("options");
    let bench = Bench::on(Nats::start(), models(), |w| w.flag("--hooks", hooks.path()));
    let client = bench.client().await;
    let patched = |patch: &Value| {
        json!({
            "input": [format!("{TEXT} [[options:{patch}]]")],
            "options": {"model": MODEL, "max_tokens": 2},
        })
    };
    client.output(patched(&json!({"lora": "one.gguf"}))).await;
    client.output(patched(&json!({"lora": {"one.gguf": 0.5, "two.gguf": -1}}))).await;
    let body = client.predict(patched(&json!({"lora": "none.gguf"}))).await;
    assert_error(&body, 7, Some("option lora: \"none.gguf\" is not there"));
    // A value of the wrong type is the plugin's failure.
    let body = client.predict(patched(&json!({"lora": "../one.gguf"}))).await;
    assert_error(&body, 9, None);
}
