//! One request and how it ended, without giving up at the first that ends badly: bad
//! ends are what is counted here.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Exchange, new_job};

/// A request without an end after this time is lost. Far above every limit of the
/// worker, and above what a busy machine makes of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The whole output.
    pub text: String,
    /// Tokens that were generated.
    pub tokens: u64,
    /// From sending to the last message.
    pub took: Duration,
}

/// A bad end.
#[derive(Debug)]
pub enum Lost {
    /// The worker said why.
    Refused {
        /// The error code.
        code: u64,
        /// The kind of a hook's failure, or nothing.
        kind: String,
        /// The text.
        text: String,
        /// From sending to the error.
        took: Duration,
    },
    /// Nothing came.
    TimedOut,
    /// What came cannot be right.
    Broken(String),
}

impl Lost {
    /// For a table.
    pub fn text(&self) -> String {
        match self {
            Self::Refused { code, text, .. } => format!("code {code}: {text}"),
            Self::TimedOut => "no answer".to_owned(),
            Self::Broken(text) => text.clone(),
        }
    }
}

/// A prediction of one input.
pub fn predict(input: &str, max_tokens: usize) -> Value {
    let options = json!({"temperature": 0, "max_tokens": max_tokens, "ignore_eos": true});
    json!({"input": [input], "options": options})
}

/// Sends a prediction and waits for its end.
pub async fn ask(client: &Client, predict: Value, stream: bool) -> Result<Answer, Lost> {
    let job = new_job();
    let mut exchange = Exchange::open(client).await;
    let sent = Instant::now();
    if stream {
        exchange.request_stream(client, &job, predict).await;
    } else {
        let request = json!({"job": job, "predict": predict});
        exchange.publish(client, request.to_string().into_bytes()).await;
    }
    let end = tokio::time::timeout(PATIENCE, end(&mut exchange, &job, stream));
    let mut answer = end.await.unwrap_or(Err(Lost::TimedOut));
    match &mut answer {
        Ok(Answer { took, .. }) | Err(Lost::Refused { took, .. }) => *took = sent.elapsed(),
        Err(_) => {}
    }
    answer
}

/// Reads to the last message. Times are filled in by the caller.
async fn end(exchange: &mut Exchange, job: &str, stream: bool) -> Result<Answer, Lost> {
    let mut fragments = String::new();
    let mut acked = false;
    loop {
        let Ok(seen) = exchange.next_message().await else {
            return Err(Lost::Broken("nobody listens".to_owned()));
        };
        let body = &seen.body;
        if body["job"] != job {
            return Err(Lost::Broken(format!("an answer of another job: {body}")));
        }
        if let Some(code) = seen.code() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let error = &body["error"];
            let (kind, text) = (text(&error["hook"]["kind"]), text(&error["error"]));
            return Err(Lost::Refused { code, kind, text, took: Duration::ZERO });
        }
        if let Some(fragment) = body["stream"]["output"].as_str() {
            fragments.push_str(fragment);
        } else if let Some(end) = body.get("predict") {
            let text = end["output"].as_str().unwrap_or_default().to_owned();
            if stream && (!acked || fragments != text) {
                let text = format!("a stream whose fragments are not its output: {body}");
                return Err(Lost::Broken(text));
            }
            let tokens = end["usage"]["completion_tokens"].as_u64().unwrap_or(0);
            return Ok(Answer { text, tokens, took: Duration::ZERO });
        } else {
            acked = true;
        }
    }
}
