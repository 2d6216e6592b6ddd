//! Messages that arrive exactly in the window in which async-nats would drop
//! them, from a server that follows a script.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use super::*;
use crate::nats::script::{Op, Peer, Script, outbox};

/// Which server the script plays.
#[derive(Clone, Copy, PartialEq)]
enum Play {
    /// nats-server: a huge number in UNSUB means "now".
    NatsServer,
    /// A server that would wait for that many messages.
    Literal,
}

/// Serves the connection. When the subscription ends, three more messages come
/// for it, each in a packet of its own, before anything that the client has sent
/// after that is answered. Returns the numbers behind each UNSUB.
async fn serve(mut peer: Peer, play: Play) -> Vec<String> {
    let mut unsubs = Vec::new();
    let mut has_ended = false;
    while let Some(op) = peer.next().await {
        match op {
            Op::Sub { subject, .. } if subject == "work" => {
                peer.deliver("work", "1").await;
            }
            Op::Sub { .. } => {}
            Op::Unsub { max, .. } => {
                let means_now = play == Play::NatsServer || max.is_empty();
                unsubs.push(max);
                if means_now && !std::mem::replace(&mut has_ended, true) {
                    for payload in ["2", "3", "4"] {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        peer.deliver("work", payload).await;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Op::Pub(message) => {
                peer.deliver(&message.subject, &message.payload).await;
            }
        }
    }
    unsubs
}

fn texts(messages: &[Message]) -> Vec<&str> {
    let payloads = messages.iter().map(|message| &message.payload);
    payloads.map(|payload| std::str::from_utf8(payload).unwrap()).collect()
}

/// Publishes all the time, as a running stream does.
fn chatter(client: async_nats::Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let _ = client.publish("elsewhere", "token".into()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Drains a subscription while a stream publishes; gives what came out of it and
/// the numbers behind each UNSUB.
async fn drained(play: Play) -> (Vec<String>, Vec<String>) {
    let script = Script::bind().await;
    let (connection, peer) = script.connect(1 << 20).await;
    let server = tokio::spawn(serve(peer, play));
    let outbox = outbox(&connection).await;
    let client = connection.client.clone();
    let mut subscriber = client.queue_subscribe("work", "group".into()).await.unwrap();
    let first = subscriber.next().await.unwrap();
    assert_eq!(texts(std::slice::from_ref(&first)), ["1"]);

    let chatter = chatter(client.clone());
    let rest = drain(subscriber, &outbox).await;
    chatter.abort();
    let _ = chatter.await;
    client.drain().await.unwrap();
    // Ends with the connection.
    let unsubs = server.await.unwrap();
    (texts(&rest).into_iter().map(str::to_owned).collect(), unsubs)
}

#[tokio::test]
async fn nothing_that_was_routed_is_lost_while_a_stream_publishes() {
    let (rest, unsubs) = drained(Play::NatsServer).await;
    assert_eq!(rest, ["2", "3", "4"]);
    assert_eq!(unsubs[..2], [u64::MAX.to_string(), String::new()]);
}

#[tokio::test]
async fn a_server_that_takes_the_number_literally_is_unsubscribed_too() {
    let (_, unsubs) = drained(Play::Literal).await;
    assert!(unsubs.iter().any(String::is_empty), "{unsubs:?}");
}

/// The reason for this module. When it fails, the library has learnt to drain,
/// and the module can go.
#[tokio::test]
async fn the_librarys_own_drain_loses_messages() {
    let script = Script::bind().await;
    let (connection, peer) = script.connect(1 << 20).await;
    let server = tokio::spawn(serve(peer, Play::NatsServer));
    let client = connection.client;
    let mut subscriber = client.queue_subscribe("work", "group".into()).await.unwrap();
    subscriber.next().await.unwrap();
    let chatter = chatter(client.clone());
    subscriber.drain().await.unwrap();
    let mut rest = Vec::new();
    while let Some(message) = subscriber.next().await {
        rest.push(message);
    }
    chatter.abort();
    server.abort();
    assert!(rest.len() < 3, "{:?}", texts(&rest));
}
