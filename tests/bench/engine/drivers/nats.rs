//! The worker's wire, written by hand as a client sees it.

use std::time::Instant;

use async_nats::{StatusCode, Subscriber};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Event, Request, Usage};

/// The subject of a worker that was not told another one.
const SUBJECT: &str = "llm.worker.default";

/// One connection.
#[derive(Clone)]
pub struct Client {
    nats: async_nats::Client,
}

impl Client {
    /// Connects under a name: the worker may treat clients by it.
    pub async fn connect(url: &str, name: &str) -> Result<Self, String> {
        let options = async_nats::ConnectOptions::new().name(name).subscription_capacity(65_536);
        let nats = options.connect(url).await.map_err(|error| error.to_string())?;
        Ok(Self { nats })
    }

    /// Sends a request.
    pub async fn open(&self, request: &Request) -> Result<Stream, String> {
        let job = nuid::next().to_string();
        let base = self.nats.new_inbox();
        // Subscribed before the clock starts: a client does so once.
        let messages =
            self.nats.subscribe(format!("{base}.*")).await.map_err(|error| error.to_string())?;
        let mut options = json!({
            "temperature": request.temperature,
            "repeat_penalty": 1.0,
            "max_tokens": request.tokens,
            "ignore_eos": true,
        });
        if let Some(schema) = &request.schema {
            options["json_schema"] = schema.clone();
        }
        if let Some(model) = &request.model {
            options["model"] = model.as_str().into();
        }
        let body = json!({"job": job, "predict": {
            "input": [request.prompt],
            "stream": format!("{base}.stream"),
            "options": options,
        }});
        let sent = Instant::now();
        self.publish(format!("{base}.reply"), &body).await?;
        Ok(Stream { client: self.clone(), job, messages, sent })
    }

    async fn publish(&self, reply: String, body: &Value) -> Result<(), String> {
        let payload = body.to_string().into_bytes().into();
        self.nats
            .publish_with_reply(SUBJECT, reply, payload)
            .await
            .map_err(|error| error.to_string())?;
        self.nats.flush().await.map_err(|error| error.to_string())
    }
}

/// A request that runs. Reply and stream share one subscription.
pub struct Stream {
    client: Client,
    job: String,
    messages: Subscriber,
    sent: Instant,
}

impl Stream {
    /// When the request was sent.
    pub fn sent(&self) -> Instant {
        self.sent
    }

    /// What comes next; the acknowledgement is passed over.
    pub async fn next(&mut self) -> Result<Event, String> {
        loop {
            let message = self.messages.next().await.ok_or("the connection was closed")?;
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(format!("nobody listens on {SUBJECT}"));
            }
            let body: Value =
                serde_json::from_slice(&message.payload).map_err(|error| error.to_string())?;
            if let Some(text) = body["stream"]["output"].as_str() {
                return Ok(Event::Text(text.to_owned()));
            }
            if let Some(end) = body.get("predict") {
                let count = |name: &str| end["usage"][name].as_u64().unwrap_or(0);
                return Ok(Event::End(Usage {
                    prompt: count("prompt_tokens"),
                    cached: count("cached_tokens"),
                    completion: count("completion_tokens"),
                }));
            }
            if let Some(error) = body.get("error") {
                return Err(error.to_string());
            }
        }
    }

    /// Interrupts the job.
    pub async fn cancel(self) -> Result<(), String> {
        let reply = self.client.nats.new_inbox();
        self.client.publish(reply, &json!({"job": self.job, "interrupt": {}})).await
    }
}
