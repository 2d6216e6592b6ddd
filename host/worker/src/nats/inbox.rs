//! The worker's own inbox: two kinds of question to the server.
//!
//! A *fence* is an empty message to oneself. When it comes back, everything sent
//! before it has been handled by the server, and everything the server sent
//! before it has been read. A *receipt* is a reply subject on a message; the
//! server answers there with status 503 if the message met no subscriber, and
//! with nothing otherwise. A fence behind a message makes "nothing" an answer.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use tokio::sync::oneshot;

use super::connection::Connection;

/// Subjects `BASE.f<number>` are fences, `BASE.r<number>` receipts.
#[derive(Debug)]
pub struct Inbox {
    base: String,
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    fences: HashMap<u64, oneshot::Sender<()>>,
    /// Receipts that are asked for, and those of them that met nobody.
    receipts: HashSet<u64>,
    unmet: HashSet<u64>,
}

/// A reply subject that is listened to for as long as this lives.
#[derive(Debug)]
pub struct ReceiptSlot {
    inbox: Arc<Inbox>,
    number: u64,
}

impl Inbox {
    /// Subscribes an inbox of this connection and starts reading it.
    pub async fn open(connection: &Connection) -> Result<Arc<Self>, async_nats::SubscribeError> {
        let base = connection.client.new_inbox();
        let subscriber = connection.client.subscribe(format!("{base}.*")).await?;
        let inbox = Arc::new(Self { base, next: AtomicU64::new(0), state: Mutex::default() });
        tokio::spawn(read(Arc::downgrade(&inbox), subscriber));
        Ok(inbox)
    }

    /// A subject, and what completes when a message arrives there.
    pub fn fence(self: &Arc<Self>) -> (String, FenceWait) {
        let number = self.number();
        let (sender, receiver) = oneshot::channel();
        self.lock().fences.insert(number, sender);
        let wait = FenceWait { inbox: Arc::clone(self), number, receiver };
        (format!("{}.f{number}", self.base), wait)
    }

    /// A reply subject to put on one message.
    pub fn receipt(self: &Arc<Self>) -> ReceiptSlot {
        let number = self.number();
        self.lock().receipts.insert(number);
        ReceiptSlot { inbox: Arc::clone(self), number }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, message: &Message) {
        let token = message.subject.strip_prefix(self.base.as_str());
        let Some(token) = token.and_then(|rest| rest.strip_prefix('.')) else {
            return;
        };
        let number = |digits: &str| digits.parse::<u64>().ok();
        if let Some(number) = token.strip_prefix('f').and_then(number) {
            if let Some(sender) = self.lock().fences.remove(&number) {
                let _ = sender.send(());
            }
        } else if let Some(number) = token.strip_prefix('r').and_then(number)
            && message.status == Some(StatusCode::NO_RESPONDERS)
        {
            // A client may answer on the reply subject; only the server's own
            // status counts, and only while somebody asks for it.
            let mut state = self.lock();
            if state.receipts.contains(&number) {
                state.unmet.insert(number);
            }
        }
    }
}

/// Reads the inbox until it is closed with the connection or nobody uses it.
async fn read(inbox: std::sync::Weak<Inbox>, mut subscriber: Subscriber) {
    while let Some(message) = subscriber.next().await {
        let Some(inbox) = inbox.upgrade() else { return };
        inbox.handle(&message);
    }
}

/// Waits for a fence; forgets it when dropped.
#[derive(Debug)]
pub struct FenceWait {
    inbox: Arc<Inbox>,
    number: u64,
    receiver: oneshot::Receiver<()>,
}

impl std::future::Future for FenceWait {
    type Output = Result<(), oneshot::error::RecvError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.receiver).poll(context)
    }
}

impl Drop for FenceWait {
    fn drop(&mut self) {
        self.inbox.lock().fences.remove(&self.number);
    }
}

impl ReceiptSlot {
    /// The subject to put on the message.
    pub fn subject(&self) -> String {
        format!("{}.r{}", self.inbox.base, self.number)
    }

    /// Whether the server said that nobody got the message. Meaningful once a
    /// fence behind the message is back.
    pub fn nobody(&self) -> bool {
        self.inbox.lock().unmet.contains(&self.number)
    }
}

impl Drop for ReceiptSlot {
    fn drop(&mut self) {
        let mut state = self.inbox.lock();
        state.receipts.remove(&self.number);
        state.unmet.remove(&self.number);
    }
}
