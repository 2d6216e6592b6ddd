//! One client of either side: it sends a request, and notes when each piece of
//! text arrives.
//!
//! Both sides stream, are greedy if they are not told otherwise, and run to an exact
//! number of tokens. What is different between them, the wire, is in [`nats`] and
//! [`http`]; what is sent and how often is the workloads' business.

pub mod http;
pub mod nats;

use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest a request may be silent: the slowest workload makes some of its
/// clients wait for minutes.
const SILENCE: Duration = Duration::from_secs(600);

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt, as it is tokenized.
    pub prompt: String,
    /// Tokens to generate: no more, and no fewer either.
    pub tokens: usize,
    /// A schema that the output must match.
    pub schema: Option<Value>,
    /// Another model than the default one; only the worker knows several.
    pub model: Option<String>,
    /// How much is left to chance; 0 is greedy.
    pub temperature: f64,
}

impl Request {
    /// A greedy request for the default model without a schema.
    pub fn new(prompt: String, tokens: usize) -> Self {
        Self { prompt, tokens, schema: None, model: None, temperature: 0.0 }
    }
}

/// What comes back, one after another.
#[derive(Debug)]
pub enum Event {
    /// A piece of text.
    Text(String),
    /// The end of a request that went well.
    End(Usage),
}

/// Exact counts, as the side itself reports them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Those of them that were not computed, because a cache held them.
    pub cached: u64,
    /// Tokens generated.
    pub completion: u64,
}

/// A connection to one of the sides, or the address of it.
#[derive(Clone)]
pub enum Client {
    /// The worker, over NATS.
    Nats(nats::Client),
    /// llama-server, over HTTP.
    Http(http::Client),
}

/// A request that runs.
pub enum Stream {
    /// See [`Client::Nats`].
    Nats(nats::Stream),
    /// See [`Client::Http`].
    Http(http::Stream),
}

impl Client {
    /// Sends a request.
    pub async fn open(&self, request: &Request) -> Result<Stream, String> {
        match self {
            Self::Nats(client) => client.open(request).await.map(Stream::Nats),
            Self::Http(client) => client.open(request).await.map(Stream::Http),
        }
    }

    /// Sends a request and reads its answer to the end.
    pub async fn run(&self, request: &Request) -> Answer {
        self.watch(request, |_| {}).await
    }

    /// As [`Self::run`]; `on_text` is told how many pieces of text there are by
    /// now, at each one.
    pub async fn watch(&self, request: &Request, mut on_text: impl FnMut(usize)) -> Answer {
        let mut answer = Answer::default();
        let mut stream = match self.open(request).await {
            Ok(stream) => stream,
            Err(error) => return Answer { error: Some(error), ..answer },
        };
        answer.sent = Some(stream.sent());
        loop {
            match stream.next().await {
                Ok(Event::Text(text)) => {
                    answer.arrivals.push(Instant::now());
                    answer.text.push_str(&text);
                    on_text(answer.arrivals.len());
                }
                Ok(Event::End(usage)) => {
                    answer.ended = Some(Instant::now());
                    answer.usage = usage;
                    break;
                }
                Err(error) => {
                    answer.error = Some(error);
                    break;
                }
            }
        }
        if answer.error.is_none() && answer.usage.completion != request.tokens as u64 {
            answer.error = Some(format!(
                "{} tokens came instead of {}",
                answer.usage.completion, request.tokens
            ));
        }
        answer
    }
}

impl Stream {
    /// When the request was sent.
    pub fn sent(&self) -> Instant {
        match self {
            Self::Nats(stream) => stream.sent(),
            Self::Http(stream) => stream.sent(),
        }
    }

    /// What comes next; `Err` ends the stream.
    pub async fn next(&mut self) -> Result<Event, String> {
        let next = async {
            match self {
                Self::Nats(stream) => stream.next().await,
                Self::Http(stream) => stream.next().await,
            }
        };
        let silence = || format!("nothing came for {} s", SILENCE.as_secs());
        tokio::time::timeout(SILENCE, next).await.map_err(|_| silence())?
    }

    /// Ends the request as a client of this side does: by an interrupt, or by
    /// closing the connection. Returns without waiting for an answer.
    pub async fn cancel(self) -> Result<(), String> {
        match self {
            Self::Nats(stream) => stream.cancel().await,
            Self::Http(stream) => {
                stream.cancel();
                Ok(())
            }
        }
    }
}

/// What one request showed.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// When it was sent; `None` if that failed.
    pub sent: Option<Instant>,
    /// When each piece of text arrived.
    pub arrivals: Vec<Instant>,
    /// When the end of it arrived; `None` if it failed.
    pub ended: Option<Instant>,
    /// The text, whole.
    pub text: String,
    /// Counts; zero if it failed.
    pub usage: Usage,
    /// Why it failed.
    pub error: Option<String>,
}

impl Answer {
    /// From sending to the first text.
    pub fn first_text(&self) -> Option<Duration> {
        Some(self.arrivals.first()?.duration_since(self.sent?))
    }

    /// The times between two pieces of text.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.arrivals.windows(2).map(|pair| pair[1].duration_since(pair[0]))
    }

    /// The times between two pieces of text of which the later one came at
    /// `begin` or after it, and the earlier one before `end`.
    pub fn gaps_within(&self, begin: Instant, end: Instant) -> impl Iterator<Item = Duration> {
        self.arrivals
            .windows(2)
            .filter(move |pair| pair[1] >= begin && pair[0] < end)
            .map(|pair| pair[1].duration_since(pair[0]))
    }

    /// Tokens per second from the first text to the last.
    pub fn decode_speed(&self) -> Option<f64> {
        let (first, last) = (self.arrivals.first()?, self.arrivals.last()?);
        let seconds = last.duration_since(*first).as_secs_f64();
        (seconds > 0.0).then(|| self.usage.completion.saturating_sub(1) as f64 / seconds)
    }
}
