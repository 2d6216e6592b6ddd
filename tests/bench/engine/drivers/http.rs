//! llama-server's wire: HTTP/1.1 with server-sent events.
//!
//! Every request has a connection of its own, made before its clock starts, as a
//! client's pool would have it ready. Closing it is how a request is cancelled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::{Event, Usage};

/// Where a server listens, and what is added to each request.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    extra: Arc<Map<String, Value>>,
}

/// Closes the connection when it is dropped.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// A client of the server at `address`; `extra` is added to each completion.
    pub fn new(address: SocketAddr, extra: Map<String, Value>) -> Self {
        Self { address, extra: Arc::new(extra) }
    }

    /// Sends a completion.
    pub async fn open(&self, request: &super::Request) -> Result<Stream, String> {
        let mut body = json!({
            "prompt": request.prompt,
            "n_predict": request.tokens,
            "temperature": request.temperature,
            "ignore_eos": true,
            "stream": true,
        });
        if let Some(schema) = &request.schema {
            body["json_schema"] = schema.clone();
        }
        for (name, value) in self.extra.iter() {
            body[name] = value.clone();
        }
        let (mut sender, connection) = self.connect().await?;
        let sent = Instant::now();
        let response = send(&mut sender, self.address, "POST", "/completion", &body).await?;
        let (parts, mut body) = response.into_parts();
        if !parts.status.is_success() {
            let text = collect(&mut body).await?;
            return Err(format!("{}: {}", parts.status, String::from_utf8_lossy(&text)));
        }
        Ok(Stream { _sender: sender, _connection: connection, body, buffer: Vec::new(), sent })
    }

    /// Calls one of the endpoints that answer with one JSON object; `Null` is no
    /// body.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (mut sender, _connection) = self.connect().await?;
        let response = send(&mut sender, self.address, method, path, body).await?;
        let (parts, mut body) = response.into_parts();
        let text = collect(&mut body).await?;
        if !parts.status.is_success() {
            return Err(format!("{}: {}", parts.status, String::from_utf8_lossy(&text)));
        }
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Connection), String> {
        let socket = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| error.to_string())?;
        // How a connection ends is seen by the one who reads from it.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok((sender, Connection(task.abort_handle())))
    }
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<hyper::Response<Incoming>, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("Host", address.to_string())
        .header("Content-Type", "application/json")
        .header("Connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    sender.send_request(request).await.map_err(|error| error.to_string())
}

async fn collect(body: &mut Incoming) -> Result<Bytes, String> {
    let collected = body.collect().await.map_err(|error| error.to_string())?;
    Ok(collected.to_bytes())
}

/// A completion that runs.
pub struct Stream {
    // Dropping the sender would end the connection after this response anyway;
    // kept so that only `cancel` and the end do so.
    _sender: SendRequest<Full<Bytes>>,
    _connection: Connection,
    body: Incoming,
    /// Bytes of an event that is not complete.
    buffer: Vec<u8>,
    sent: Instant,
}

impl Stream {
    /// When the request was sent.
    pub fn sent(&self) -> Instant {
        self.sent
    }

    /// What comes next; events without text are passed over.
    pub async fn next(&mut self) -> Result<Event, String> {
        loop {
            while let Some(event) = self.take_event() {
                if let Some(event) = read_event(&event)? {
                    return Ok(event);
                }
            }
            let frame = self.body.frame().await.ok_or("the stream ended too early")?;
            let frame = frame.map_err(|error| error.to_string())?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }

    /// Closes the connection.
    pub fn cancel(self) {}

    /// The first complete event of the buffer, without the empty line after it.
    fn take_event(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let event = self.buffer[..end].to_vec();
        self.buffer.drain(..end + 2);
        Some(event)
    }
}

/// One event: `data: JSON`. `None` for one that says nothing of interest.
fn read_event(event: &[u8]) -> Result<Option<Event>, String> {
    let Some(data) = event.strip_prefix(b"data: ") else { return Ok(None) };
    let body: Value = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    if let Some(error) = body.get("error") {
        return Err(error.to_string());
    }
    if body["stop"].as_bool() == Some(true) {
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        return Ok(Some(Event::End(Usage {
            prompt: count(&body["tokens_evaluated"]),
            cached: count(&body["timings"]["cache_n"]),
            completion: count(&body["tokens_predicted"]),
        })));
    }
    let text = body["content"].as_str().unwrap_or_default();
    Ok((!text.is_empty()).then(|| Event::Text(text.to_owned())))
}
