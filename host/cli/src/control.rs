//! The client's side of commands about hooks: which workers there are, and what
//! each of them answers.
//!
//! The number of workers is known to nobody, so whoever listens on `SUBJECT._ctl`
//! is asked for its id first; a command then goes to each of them by itself, on
//! `SUBJECT._w.ID`, so that one that does not answer is noticed. What an answer
//! means is the commands' business (`commands::hook`).

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{RequestErrorKind, StatusCode};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::client::{Client, ClientError};

/// How long workers have to make themselves known before a command is sent.
pub const DISCOVERY: Duration = Duration::from_secs(2);

/// What a worker answered, or that it did not.
#[derive(Debug)]
pub struct Answer {
    /// The worker's id.
    pub worker: String,
    /// The answer as it came, with `hook` or `error`.
    pub result: Result<Value, ClientError>,
}

/// Who is meant.
#[derive(Debug, Clone, Copy)]
pub enum Whom<'a> {
    /// Every worker on the subject.
    All,
    /// The worker of this id.
    One(&'a str),
}

/// The plugins of the workers: every answer that comes within `wait`.
///
/// # Errors
/// Nobody listens, or nobody answers in time.
pub async fn list(
    client: &Client,
    whom: Whom<'_>,
    wait: Duration,
) -> Result<Vec<Answer>, ClientError> {
    let request = request("list", None);
    match whom {
        Whom::One(worker) => Ok(vec![ask(client, worker, &request, wait).await]),
        Whom::All => {
            let answers = collect(client, &request, wait).await?;
            Ok(answers
                .into_iter()
                .map(|(worker, body)| Answer { worker, result: Ok(body) })
                .collect())
        }
    }
}

/// Sends a command to every worker that is meant and waits for each of them.
///
/// # Errors
/// Nobody listens, or nobody makes itself known in time.
pub async fn command(
    client: &Client,
    whom: Whom<'_>,
    action: &str,
    name: Option<&str>,
    wait: Duration,
) -> Result<Vec<Answer>, ClientError> {
    let request = request(action, name);
    let workers = match whom {
        Whom::One(worker) => vec![worker.to_owned()],
        Whom::All => {
            let known = collect(client, &self::request("list", None), DISCOVERY).await?;
            known.into_keys().collect()
        }
    };
    Ok(join_all(workers.iter().map(|worker| ask(client, worker, &request, wait))).await)
}

fn request(action: &str, name: Option<&str>) -> String {
    let mut hook = json!({ "action": action });
    if let Some(name) = name {
        hook["name"] = name.into();
    }
    json!({ "hook": hook }).to_string()
}

/// Asks one worker.
async fn ask(client: &Client, worker: &str, request: &str, wait: Duration) -> Answer {
    let subject = format!("{}._w.{worker}", client.subject());
    let question =
        async_nats::Request::new().payload(request.to_owned().into()).timeout(Some(wait));
    let answer = client.nats().send_request(subject, question).await;
    let result = match answer {
        Ok(message) => body(&message.payload),
        Err(error) => Err(match error.kind() {
            RequestErrorKind::NoResponders => client.no_worker(),
            RequestErrorKind::TimedOut => ClientError::Timeout(wait),
            _ => ClientError::Nats(error.to_string()),
        }),
    };
    Answer { worker: worker.to_owned(), result }
}

/// Asks all workers and collects what they answer, by their ids.
async fn collect(
    client: &Client,
    request: &str,
    wait: Duration,
) -> Result<BTreeMap<String, Value>, ClientError> {
    let nats = |error: &dyn std::fmt::Display| ClientError::Nats(error.to_string());
    let inbox = client.nats().new_inbox();
    let mut messages =
        client.nats().subscribe(inbox.clone()).await.map_err(|error| nats(&error))?;
    let subject = format!("{}._ctl", client.subject());
    let published = client.nats().publish_with_reply(subject, inbox, request.to_owned().into());
    published.await.map_err(|error| nats(&error))?;
    let end = tokio::time::Instant::now() + wait;
    let mut answers = BTreeMap::new();
    while let Ok(message) = tokio::time::timeout_at(end, messages.next()).await {
        let Some(message) = message else {
            return Err(ClientError::Nats("the connection was closed".to_owned()));
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(client.no_worker());
        }
        let body = body(&message.payload)?;
        let worker = body["worker"].as_str().unwrap_or_default().to_owned();
        answers.insert(worker, body);
    }
    if answers.is_empty() { Err(ClientError::Timeout(wait)) } else { Ok(answers) }
}

/// An answer is an object that names its worker.
fn body(payload: &[u8]) -> Result<Value, ClientError> {
    let illegible = |reason: &str| ClientError::Illegible(reason.to_owned());
    let body: Value =
        serde_json::from_slice(payload).map_err(|error| illegible(&error.to_string()))?;
    if body["worker"].as_str().is_none_or(str::is_empty) {
        return Err(illegible("it names no worker"));
    }
    if !body["hook"].is_object() && !body["error"].is_object() {
        return Err(illegible("it holds neither `hook` nor `error`"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_workers_read() {
        assert_eq!(request("list", None), r#"{"hook":{"action":"list"}}"#);
        assert_eq!(request("rollback", Some("a")), r#"{"hook":{"action":"rollback","name":"a"}}"#);
    }

    #[test]
    fn answers_of_something_else_are_illegible() {
        for text in [
            "",
            "7",
            "{}",
            r#"{"hook": {}}"#,
            r#"{"worker": "", "hook": {}}"#,
            r#"{"worker": "w"}"#,
        ] {
            assert!(matches!(body(text.as_bytes()), Err(ClientError::Illegible(_))), "{text}");
        }
        for text in
            [r#"{"worker": "w", "hook": {}}"#, r#"{"worker": "w", "error": {"error": "x"}}"#]
        {
            assert!(body(text.as_bytes()).is_ok(), "{text}");
        }
    }
}
