//! Connecting to NATS, for the worker and for the client commands.
//!
//! Responsible for credentials, TLS, reconnecting with jitter and for turning
//! the library's events into few log lines. What is sent over the connection is
//! [`super::outbox`]'s and [`super::intake`]'s.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerError};
use tokio::sync::watch;

use super::auth::Authenticator;
use super::throttle::Throttle;
use crate::settings::{NatsAuth, NatsSettings};

/// The connection name of clients, where the settings leave the worker's.
const CLIENT_NAME: &str = "llm-client";
const WORKER_NAME: &str = "llm-worker";

/// Messages of a subscription that wait for the receive loop. The loop only
/// decodes, so this is the room for a burst. The library's 65536 would let a
/// flood of large requests take tens of GiB before any is dropped.
const SUBSCRIPTION_CAPACITY: usize = 4096;

/// Longest wait between two attempts to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);

/// How often the state of the connection is looked at without an event.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Goes on trying from the first attempt on.
    Worker,
    /// What a worker and others ask each other ([`crate::peers`]): as a worker's, but
    /// it does not hear what it says itself.
    Peers,
    /// Fails if the server cannot be reached now.
    Client,
}

/// The connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file with credentials cannot be used.
    #[error("NATS credentials: {0}")]
    Credentials(String),
    /// The server cannot be reached or refuses the connection.
    #[error("cannot connect to NATS: {0}")]
    Nats(#[from] async_nats::ConnectError),
}

/// A connection, with what the library's events tell about it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client of the library.
    pub client: Client,
    /// What has happened to the connection.
    pub link: Arc<Link>,
}

/// Connects as the settings say.
///
/// # Errors
/// Credentials that cannot be read; for [`Role::Client`] also a server that
/// cannot be reached or refuses.
pub async fn connect(settings: &NatsSettings, role: Role) -> Result<Connection, ConnectError> {
    let mut options = match &settings.auth {
        NatsAuth::None => ConnectOptions::new(),
        auth => {
            let authenticator =
                Authenticator::new(auth.clone()).map_err(ConnectError::Credentials)?;
            ConnectOptions::with_auth_callback(move |nonce| {
                // The files are small and local, and the answer is due at once.
                std::future::ready(authenticator.answer(&nonce))
            })
        }
    };
    let name = match (role, settings.client_name.as_str()) {
        (Role::Client, WORKER_NAME) => CLIENT_NAME.to_owned(),
        (Role::Peers, name) if !name.is_empty() => format!("{name}-peers"),
        (_, name) => name.to_owned(),
    };
    if !name.is_empty() {
        options = options.name(name);
    }
    if let Some(ca) = &settings.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &settings.client_cert {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if settings.tls_first {
        options = options.tls_first();
    }
    let (link, events) = Link::new(role);
    let link = Arc::new(link);
    let observer = Arc::clone(&link);
    options = options
        .require_tls(settings.require_tls)
        .custom_inbox_prefix(&settings.inbox_prefix)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            observer.observe(&event, &events);
            std::future::ready(())
        });
    if role == Role::Peers {
        options = options.no_echo();
    }
    if role != Role::Client {
        options = options.retry_on_initial_connect();
    }
    let client = options.connect(settings.servers.as_slice()).await?;
    Ok(Connection { client, link })
}

/// None before the first two attempts; then a random part of a bound that
/// doubles up to [`MAX_RECONNECT_DELAY`], so that the clients of a restarted
/// server do not come back in step.
fn reconnect_delay(attempt: usize) -> Duration {
    if attempt <= 2 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(16);
    let bound = (Duration::from_millis(50) * 2u32.pow(doublings)).min(MAX_RECONNECT_DELAY);
    bound.mul_f64(random_fraction())
}

/// A number in 0..1. The keys of the standard hasher are random, which is good
/// enough for spreading load.
pub fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    // 53 bits: every value is exact.
    bits as f64 / (1u64 << 53) as f64
}

/// Whether a connection was made, lost or closed since one looked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Connects and disconnects so far.
    pub count: u64,
    /// Whether the connection was closed for good.
    pub is_closed: bool,
}

/// What has happened to a connection, from the library's events.
#[derive(Debug)]
pub struct Link {
    /// For the log: a worker has two connections.
    role: Role,
    changes: watch::Receiver<Changes>,
    /// When the connection was last made anew.
    connected_at: Mutex<Option<Instant>>,
    /// What the server refused, for the check at start.
    denied: Mutex<Vec<String>>,
    slow_consumers: AtomicU64,
    slow_consumer_log: Throttle,
    failure_log: Throttle,
}

impl Link {
    fn new(role: Role) -> (Self, watch::Sender<Changes>) {
        let (sender, changes) = watch::channel(Changes::default());
        let every_ten_seconds = || Throttle::new(Duration::from_secs(10));
        let link = Self {
            role,
            changes,
            connected_at: Mutex::new(None),
            denied: Mutex::new(Vec::new()),
            slow_consumers: AtomicU64::new(0),
            slow_consumer_log: every_ten_seconds(),
            failure_log: every_ten_seconds(),
        };
        (link, sender)
    }

    /// Wakes whenever the connection is made, lost or closed.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    /// How long ago the connection was made, if it ever was.
    pub fn connected_for(&self) -> Option<Duration> {
        lock(&self.connected_at).map(|at| at.elapsed())
    }

    /// The server's refusals so far, such as a denied subscription.
    pub fn denied(&self) -> Vec<String> {
        lock(&self.denied).clone()
    }

    /// How many messages were dropped because the receive loop was too slow.
    pub fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Relaxed)
    }

    fn observe(&self, event: &Event, changes: &watch::Sender<Changes>) {
        let role = self.role;
        match event {
            Event::Connected => {
                *lock(&self.connected_at) = Some(Instant::now());
                changes.send_modify(|changes| changes.count += 1);
                tracing::info!(?role, "connected to NATS");
            }
            Event::Disconnected => {
                changes.send_modify(|changes| changes.count += 1);
                tracing::warn!(?role, "connection to NATS lost, reconnecting");
            }
            Event::LameDuckMode => tracing::info!(?role, "the NATS server is about to shut down"),
            Event::SlowConsumer(_) => {
                let dropped = self.slow_consumers.fetch_add(1, Ordering::Relaxed) + 1;
                if self.slow_consumer_log.pass() {
                    tracing::warn!(?role, dropped, "messages dropped: the receive buffer is full");
                }
            }
            Event::ServerError(error) => {
                if let ServerError::Other(text) = error
                    && text.to_ascii_lowercase().contains("permissions violation")
                {
                    let mut denied = lock(&self.denied);
                    // For the check at start; later ones are only logged.
                    if denied.len() < 16 {
                        denied.push(text.clone());
                    }
                }
                if self.failure_log.pass() {
                    tracing::warn!(?role, %error, "the NATS server reports an error");
                }
            }
            Event::ClientError(error) => {
                if self.failure_log.pass() {
                    tracing::warn!(?role, %error, "cannot connect to NATS, trying again");
                }
            }
            Event::Closed => {
                changes.send_modify(|changes| changes.is_closed = true);
                tracing::debug!(?role, "connection to NATS closed");
            }
            Event::Draining => tracing::debug!(?role, "connection to NATS is draining"),
        }
    }
}

impl Connection {
    /// Whether the connection is up just now.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How often the connection has been made. Messages that were written under
    /// one number may have been lost when it is another one.
    pub fn epoch(&self) -> u64 {
        let statistics = self.client.statistics();
        statistics.connects.load(Ordering::Relaxed)
    }

    /// Waits until the connection is up. False if it was closed for good.
    pub async fn wait_up(&self) -> bool {
        let mut changes = self.link.changes();
        while !self.is_up() {
            if !self.change(&mut changes).await {
                return self.is_up();
            }
        }
        true
    }

    /// Waits until the connection is made or lost, or a moment: the event comes
    /// later than the state, and is lost when the library's event queue is full.
    /// False once the connection was closed for good.
    pub async fn change(&self, changes: &mut watch::Receiver<Changes>) -> bool {
        match tokio::time::timeout(LOOK_AGAIN, changes.changed()).await {
            Err(_) => true,
            Ok(Ok(())) => !changes.borrow_and_update().is_closed,
            // The library has ended the task that tells events.
            Ok(Err(_)) => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnecting_begins_at_once_and_is_spread_out() {
        assert_eq!(reconnect_delay(0), Duration::ZERO);
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        for attempt in 0..200 {
            assert!(reconnect_delay(attempt) <= MAX_RECONNECT_DELAY);
        }
        let first = reconnect_delay(50);
        assert!((0..100).any(|_| reconnect_delay(50) != first));
    }
}
