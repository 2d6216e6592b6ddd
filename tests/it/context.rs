//! What fits into the context: kept text, truncated input, full contexts.

use serde_json::{Value, json};

use crate::harness::{Bench, Client, assert_error, new_job, plain};

const SYSTEM: &str = "You are a helpful clerk who answers in one word.";

async fn usage(client: &Client, predict: Value) -> Value {
    let body = client.predict(predict).await;
    assert!(body["predict"]["usage"].is_object(), "{body}");
    body["predict"]["usage"].clone()
}

fn number(usage: &Value, name: &str) -> u64 {
    usage[name].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn system_is_kept_while_input_is_truncated() {
    let client = plain().client().await;
    let lines: Vec<String> = (0..24).map(|n| format!("Line {n} of a long letter.\n")).collect();
    let one = json!({"max_tokens": 1, "ctx_size": 128});
    let alone = usage(&client, json!({"system": SYSTEM, "input": ["x"], "options": one})).await;
    let all = usage(&client, json!({"system": SYSTEM, "input": lines, "options": one})).await;
    assert!(number(&all, "truncated_tokens") > 0, "{all}");
    let prompt = number(&all, "prompt_tokens");
    // One token of output was asked for, so one place is kept free.
    assert!(prompt <= 127, "{all}");
    assert!(prompt > number(&alone, "prompt_tokens"), "some lines are left: {all}");

    // Whole lines go, from the beginning: what is left is the same prompt as the
    // last lines alone make.
    let tokens_of = async |from: usize| {
        let predict = json!({"system": SYSTEM, "input": lines[from..], "options": one});
        usage(&client, predict).await
    };
    let mut same = None;
    for from in 0..lines.len() {
        let part = tokens_of(from).await;
        if number(&part, "truncated_tokens") == 0 {
            same = Some(number(&part, "prompt_tokens"));
            break;
        }
    }
    assert_eq!(same, Some(prompt));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_lines_are_the_ones_that_stay() {
    let client = plain().client().await;
    let mut lines: Vec<String> =
        (0..80).map(|n| format!("The weather report number {n}.\n")).collect();
    lines.push("The secret word is banana. I repeat, the secret word is".to_owned());
    let options = json!({"max_tokens": 4, "temperature": 0, "ctx_size": 256});
    let body = client.predict(json!({"input": lines, "options": options})).await;
    assert!(number(&body["predict"]["usage"], "truncated_tokens") > 0, "{body}");
    let output = body["predict"]["output"].as_str().unwrap_or_default();
    assert!(output.contains("banana"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn system_comes_before_the_input_in_the_prompt() {
    let client = plain().client().await;
    // Read as one text the three parts are a sentence that has one obvious end.
    let predict = json!({
        "system": "Q: What is the capital of France?",
        "input": ["A: The capital of France is"],
        "options": {"instructions": "\n", "max_tokens": 3, "temperature": 0},
    });
    assert!(client.output(predict).await.contains("Paris"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_text_beyond_the_context_is_an_error_before_the_ack() {
    let client = plain().client().await;
    let long = "word ".repeat(300);
    let text = Some("content and instructions overflow context size 256");
    for predict in [
        json!({"system": long, "input": ["x"], "options": {"ctx_size": 256}}),
        json!({"input": ["x"], "options": {"ctx_size": 256, "instructions": long}}),
        json!({"system": "word ".repeat(130), "input": ["x"],
               "options": {"ctx_size": 256, "instructions": "word ".repeat(130)}}),
    ] {
        assert_error(&client.predict(predict.clone()).await, 7, text);
        let job = new_job();
        let outcome = client.stream(&job, predict).await.finish(&job).await;
        assert!(!outcome.acked, "{outcome:?}");
        assert_error(&outcome.last.body, 7, text);
    }
    // The golden vector: the default context.
    let golden = json!({"system": "word ".repeat(4200), "input": ["x"]});
    let text = Some("content and instructions overflow context size 4096");
    assert_error(&client.predict(golden).await, 7, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_context_ends_the_text_with_length() {
    let client = plain().client().await;
    let predict = json!({
        "input": ["Once upon a time"],
        "options": {"ctx_size": 64, "ignore_eos": true, "max_tokens": 4000},
    });
    let job = new_job();
    let outcome = client.stream(&job, predict).await.finish(&job).await;
    assert!(!outcome.output().is_empty());
    let predict = &outcome.last.body["predict"];
    assert_eq!(predict["finish_reason"], "length", "{outcome:?}");
    let total =
        number(&predict["usage"], "prompt_tokens") + number(&predict["usage"], "completion_tokens");
    assert!((63..=65).contains(&total), "prompt and output fill the context: {predict}");
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_prompt_is_an_error() {
    let client = plain().client().await;
    for predict in [json!({}), json!({"input": []}), json!({"input": [""]})] {
        // A vocabulary with a BOS makes a prompt even of nothing; SmolLM2's asks
        // for none.
        assert_error(&client.predict(predict).await, 7, Some("empty prompt"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_drops_whole_old_messages_and_keeps_the_last() {
    let client = plain().client().await;
    let mut messages = vec![json!({"role": "system", "content": SYSTEM})];
    for n in 0..30 {
        messages.push(json!({"role": "user", "content": format!("This is question number {n}.")}));
        messages
            .push(json!({"role": "assistant", "content": format!("This is answer number {n}.")}));
    }
    messages.push(json!({"role": "user", "content": "The last question."}));
    let options = json!({"max_tokens": 1, "ctx_size": 256});
    let usage = usage(&client, json!({"messages": messages, "options": options})).await;
    assert!(number(&usage, "truncated_tokens") > 0, "{usage}");
    assert!(number(&usage, "prompt_tokens") <= 255, "{usage}");

    let long = "word ".repeat(300);
    let predict = json!({"messages": [{"role": "user", "content": long}], "options": options});
    assert_error(&client.predict(predict).await, 7, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_context_is_made_when_a_request_asks_for_one() {
    let bench = Bench::start(|worker| worker.env("llm_ctx_size", "256"));
    let client = bench.client().await;
    let text = "word ".repeat(300);
    let predict = |options: Value| json!({"system": text, "input": ["x"], "options": options});
    let small = client.predict(predict(json!({"max_tokens": 1}))).await;
    assert_error(&small, 7, Some("content and instructions overflow context size 256"));
    let body = client.predict(predict(json!({"max_tokens": 1, "ctx_size": 512}))).await;
    assert!(number(&body["predict"]["usage"], "prompt_tokens") > 300, "{body}");
    // The default is what it was.
    let small = client.predict(predict(json!({"max_tokens": 1}))).await;
    assert_error(&small, 7, Some("content and instructions overflow context size 256"));
}
