//! What becomes of a last message when the connection breaks under it, or when
//! nobody is there.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use super::*;
use crate::nats::script::{Script, outbox};

fn last_message(outbox: &Outbox) -> OutboundMessage {
    let error = ErrorBody::interrupted();
    outbox.message("_INBOX.client", &WorkerResponse::failed("a", error))
}

/// Sends a last message and waits until its arrival is known.
fn deliver(outbox: Outbox) -> tokio::task::JoinHandle<Delivered> {
    tokio::spawn(async move {
        let receipt = outbox.send_with_receipt(last_message(&outbox)).await.unwrap();
        outbox.confirm(receipt).await
    })
}

#[tokio::test]
async fn a_message_that_arrives_is_sent_once() {
    let script = Script::bind().await;
    let (connection, mut peer) = script.connect(1 << 20).await;
    let outbox = outbox(&connection).await;
    let delivering = deliver(outbox);
    let message = peer.next_message().await.unwrap();
    assert_eq!(message.subject, "_INBOX.client");
    assert_eq!(
        message.payload,
        r#"{"job":"a","error":{"code":8,"error":"prediction interrupted"}}"#
    );
    for line in [
        "Nats-Service-Error: prediction interrupted",
        "Nats-Service-Error-Code: 499",
        "Llm-Worker: worker",
    ] {
        assert!(message.headers.contains(line), "{}", message.headers);
    }
    // The fence is echoed while the next message is waited for; there is none.
    let more = tokio::spawn(async move { peer.next_message().await });
    assert_eq!(delivering.await.unwrap(), Delivered::Yes);
    connection.client.drain().await.unwrap();
    assert_eq!(more.await.unwrap(), None);
}

#[tokio::test]
async fn a_message_lost_with_the_connection_is_sent_again() {
    let script = Script::bind().await;
    let (connection, mut peer) = script.connect(1 << 20).await;
    let outbox = outbox(&connection).await;
    let delivering = deliver(outbox);
    let first = peer.next_message().await.unwrap();
    // The server has read it, but dies before it could say so.
    drop(peer);
    let mut peer = script.accept(1 << 20).await;
    let second = peer.next_message().await.unwrap();
    assert_eq!(second.payload, first.payload);
    assert_ne!(second.reply, first.reply);
    let serving = tokio::spawn(async move { peer.next_message().await });
    assert_eq!(delivering.await.unwrap(), Delivered::Yes);
    serving.abort();
}

#[tokio::test]
async fn after_a_reconnect_a_message_is_offered_until_somebody_is_back() {
    let script = Script::bind().await;
    let (connection, peer) = script.connect(1 << 20).await;
    let outbox = outbox(&connection).await;
    drop(peer);
    let mut peer = script.accept(1 << 20).await;
    while connection.epoch() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let delivering = deliver(outbox);
    for _ in 0..3 {
        let offered = peer.next_message().await.unwrap();
        peer.no_responders(&offered).await;
    }
    // Now the client has subscribed again.
    peer.next_message().await.unwrap();
    let serving = tokio::spawn(async move { peer.next_message().await });
    assert_eq!(delivering.await.unwrap(), Delivered::Yes);
    serving.abort();
}

#[tokio::test]
async fn a_client_that_is_gone_is_not_waited_for() {
    let script = Script::bind().await;
    let (connection, mut peer) = script.connect(1 << 20).await;
    let outbox = outbox(&connection).await;
    let delivering = deliver(outbox);
    let message = peer.next_message().await.unwrap();
    peer.no_responders(&message).await;
    let more = tokio::spawn(async move { peer.next_message().await });
    assert_eq!(delivering.await.unwrap(), Delivered::Nobody);
    connection.client.drain().await.unwrap();
    assert_eq!(more.await.unwrap(), None);
}

#[tokio::test]
async fn without_an_inbox_nothing_is_asked() {
    let script = Script::bind().await;
    let (connection, mut peer) = script.connect(1 << 20).await;
    let outbox = outbox(&connection).await;
    // A server that does not answer the probe.
    let silent = tokio::spawn(async move { while peer.next().await.is_some() {} });
    assert!(!outbox.probe().await);
    let receipt = outbox.send_with_receipt(last_message(&outbox)).await.unwrap();
    assert_eq!(outbox.confirm(receipt).await, Delivered::Yes);
    silent.abort();
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let script = Script::bind().await;
    let (connection, _peer) = script.connect(50).await;
    let outbox = outbox(&connection).await;
    let message = last_message(&outbox);
    assert!(matches!(outbox.send(message).await, Err(SendError::TooLarge { max: 50 })));
}
