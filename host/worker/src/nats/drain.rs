//! Ends a subscription without losing a message that the server has already
//! routed to it.
//!
//! async-nats' own `Subscriber::drain` sends UNSUB and then takes the
//! subscription out of its map at the next wake-up of the connection, whatever
//! woke it: a token of a running stream that is published just then, or the
//! first of several messages that are still coming. Those that arrive later are
//! dropped without a word, and their clients wait for ever (`lib.rs` of 0.51.0,
//! the loop over `drain_pings`).
//!
//! This module keeps the subscription in the map until the server has certainly
//! nothing more for it. `unsubscribe_after` with the largest number makes the
//! library write `UNSUB sid 18446744073709551615`. Every nats-server reads that
//! number as -1: since 2.2 because it refuses more than nine digits, before
//! because it overflows. A number that is not positive means "now", so the
//! server stops routing at once, while the library goes on delivering. A fence
//! behind it shows when everything routed before has been read. A server that
//! takes the number literally is served by the library's drain afterwards.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};

use super::outbox::Outbox;

/// How long the server's answer is waited for. A connection that is down has
/// nothing to deliver.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// Stops the subscription and gives back every message that was still to come.
pub async fn drain(mut subscriber: Subscriber, outbox: &Outbox) -> Vec<Message> {
    let mut rest = Vec::new();
    if subscriber.unsubscribe_after(u64::MAX).await.is_err() {
        // The connection is closed for good; what has been received is here.
        while let Some(Some(message)) = subscriber.next().now_or_never() {
            rest.push(message);
        }
        return rest;
    }
    let fence = tokio::time::timeout(DRAIN_WAIT, outbox.round_trip());
    tokio::pin!(fence);
    loop {
        tokio::select! {
            biased;
            message = subscriber.next() => match message {
                Some(message) => rest.push(message),
                None => return rest,
            },
            _ = &mut fence => break,
        }
    }
    // Read before the fence was, so it is all here already.
    while let Some(Some(message)) = subscriber.next().now_or_never() {
        rest.push(message);
    }
    let _ = subscriber.drain().await;
    let remaining = async {
        while let Some(message) = subscriber.next().await {
            rest.push(message);
        }
    };
    let _ = tokio::time::timeout(DRAIN_WAIT, remaining).await;
    rest
}

#[cfg(test)]
mod tests;
