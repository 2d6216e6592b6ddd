//! A NATS server for tests that does what a test tells it to, in the order that
//! the test wants: messages inside a window of a few microseconds, connections
//! that break at a chosen message, subscribers that are not there.
//!
//! It knows as much of the protocol as async-nats sends.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::connection::{Connection, Role, connect};
use super::inbox::Inbox;
use super::outbox::Outbox;
use crate::settings::{Flags, MapSource, Settings};

/// A server that waits for connections.
pub struct Script {
    listener: TcpListener,
    url: String,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A subscription.
    Sub { subject: String, sid: String },
    /// The end of one, with the number behind it, if any.
    Unsub { sid: String, max: String },
    /// A message.
    Pub(Published),
}

/// A message of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: String,
    pub payload: String,
}

/// One connection, from the server's side.
pub struct Peer {
    /// What the client wants of the connection, as JSON.
    pub wishes: String,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// Subject and sid.
    subscriptions: Vec<(String, String)>,
}

impl Script {
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// The settings of a worker that uses this server.
    pub fn settings(&self) -> Settings {
        let mut flags = Flags::default();
        flags.set("nats_url", self.url.as_str(), "--nats");
        Settings::load(&MapSource::default(), &flags).unwrap()
    }

    /// A connection of the worker to this server, and the server's side of it.
    pub async fn connect(&self, max_payload: usize) -> (Connection, Peer) {
        let settings = self.settings();
        let (connection, peer) =
            tokio::join!(connect(&settings.nats, Role::Client), self.accept(max_payload));
        (connection.unwrap(), peer)
    }

    /// The next connection.
    pub async fn accept(&self, max_payload: usize) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        Peer::greet(stream, max_payload).await
    }
}

/// An outbox over this connection, its inbox being subscribed.
pub async fn outbox(connection: &Connection) -> Outbox {
    let inbox: Arc<Inbox> = Inbox::open(connection).await.unwrap();
    Outbox::new(connection.clone(), inbox, "worker")
}

impl Peer {
    async fn greet(stream: TcpStream, max_payload: usize) -> Self {
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        let (wishes, read) = (String::new(), BufReader::new(read));
        let mut peer = Self { wishes, read, write, subscriptions: Vec::new() };
        let info = format!(
            "INFO {{\"server_id\":\"s\",\"version\":\"2.10.0\",\"proto\":1,\"headers\":true,\"max_payload\":{max_payload}}}\r\n"
        );
        peer.send(&info).await;
        // CONNECT and PING; without the answer the client would not go on.
        let mut line = String::new();
        while line != "PING\r\n" {
            line.clear();
            peer.read.read_line(&mut line).await.unwrap();
            if let Some(wishes) = line.strip_prefix("CONNECT ") {
                peer.wishes = wishes.to_owned();
            }
        }
        peer.send("PONG\r\n").await;
        peer
    }

    async fn send(&mut self, text: &str) {
        // The client may be gone already.
        let _ = self.write.write_all(text.as_bytes()).await;
    }

    /// What the client sends next, PING and the like being answered. Nothing
    /// once it is gone.
    pub async fn next(&mut self) -> Option<Op> {
        loop {
            let mut line = String::new();
            if self.read.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["PING"] => self.send("PONG\r\n").await,
                ["SUB", subject, .., sid] => {
                    let (subject, sid) = ((*subject).to_owned(), (*sid).to_owned());
                    self.subscriptions.push((subject.clone(), sid.clone()));
                    return Some(Op::Sub { subject, sid });
                }
                ["UNSUB", sid, max @ ..] => {
                    return Some(Op::Unsub { sid: (*sid).to_owned(), max: max.join("") });
                }
                ["PUB", subject, reply @ .., size] => {
                    let message = self.published(subject, reply, "0", size).await?;
                    return Some(Op::Pub(message));
                }
                ["HPUB", subject, reply @ .., headers, size] => {
                    let message = self.published(subject, reply, headers, size).await?;
                    return Some(Op::Pub(message));
                }
                _ => {}
            }
        }
    }

    async fn published(
        &mut self,
        subject: &str,
        reply: &[&str],
        headers: &str,
        size: &str,
    ) -> Option<Published> {
        let (headers, size): (usize, usize) = (headers.parse().ok()?, size.parse().ok()?);
        let mut bytes = vec![0; size + 2];
        self.read.read_exact(&mut bytes).await.ok()?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some(Published {
            subject: subject.to_owned(),
            reply: reply.first().map(|reply| (*reply).to_owned()),
            headers: text(&bytes[..headers]),
            payload: text(&bytes[headers..size]),
        })
    }

    /// The next message of the client that is not for itself; those are echoed,
    /// as a server does unless it was asked not to.
    pub async fn next_message(&mut self) -> Option<Published> {
        let echoes = !self.wishes.contains(r#""echo":false"#);
        loop {
            if let Op::Pub(message) = self.next().await?
                && !(echoes && self.deliver(&message.subject, &message.payload).await)
            {
                return Some(message);
            }
        }
    }

    /// Sends a message to the client if it has a subscription for it.
    pub async fn deliver(&mut self, subject: &str, payload: &str) -> bool {
        let Some(sid) = self.sid(subject) else {
            return false;
        };
        let text = format!("MSG {subject} {sid} {}\r\n{payload}\r\n", payload.len());
        self.send(&text).await;
        true
    }

    /// Tells the client that nobody listens where it has published.
    pub async fn no_responders(&mut self, message: &Published) {
        let reply = message.reply.as_deref().unwrap();
        let sid = self.sid(reply).unwrap();
        let headers = "NATS/1.0 503\r\n\r\n";
        let size = headers.len();
        let text = format!("HMSG {reply} {sid} {size} {size}\r\n{headers}\r\n");
        self.send(&text).await;
    }

    fn sid(&self, subject: &str) -> Option<String> {
        let found = self.subscriptions.iter().rev().find(|(pattern, _)| {
            let base = pattern.strip_suffix('*');
            pattern == subject || base.is_some_and(|base| subject.starts_with(base))
        });
        found.map(|(_, sid)| sid.clone())
    }
}
