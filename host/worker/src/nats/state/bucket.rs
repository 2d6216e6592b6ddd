//! An open bucket, and the five things that are done with it.
//!
//! Every request is bounded in time, and every failure comes out as what a plugin
//! is told. How it is opened stands in `open`; what a plugin may write is `tally`'s
//! question; how its operations are put together is the parent module's.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{Context, PublishError, PublishErrorKind};
use async_nats::jetstream::kv::{Operation, Store};
use async_nats::jetstream::{Error as ApiError, ErrorCode};
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use llamero_hooks::StateError;

use super::envelope::{Envelope, HEADER_BYTES};
use super::key::token_bytes;
use super::tally::Listed;
use crate::nats::connection::Connection;

/// How long one request to JetStream may take. Plugins' calls end sooner.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the keys of one plugin may be listed.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a listing waits for keys that were counted and do not come.
const LIST_WAIT: Duration = Duration::from_millis(500);

/// Keys of a listing that are asked for at once.
const LIST_BATCH: usize = 500;

/// Ended keys that are swept after one listing, and how many at once.
const SWEEP: usize = 5_000;
const SWEEP_AT_ONCE: usize = 16;

/// The header that tells a listing, which gets no values, when a value ends.
const ENDS_HEADER: &str = "Llamero-Ends";

/// What the server says the size of a value is, where it sends none.
const SIZE_HEADER: &str = "Nats-Msg-Size";

/// An open bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub store: Store,
    pub context: Context,
    pub connection: Connection,
}

/// What stands under a key.
#[derive(Debug)]
pub struct Found {
    /// The number of the entry; 0 if there is none.
    pub revision: u64,
    /// The entry, unless it is gone or has ended.
    pub live: Option<Envelope>,
}

/// Why a write did not happen.
#[derive(Debug)]
pub enum WriteError {
    /// Somebody else was faster.
    Conflict,
    /// What the plugin is told.
    State(StateError),
}

impl From<StateError> for WriteError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl Bucket {
    fn up(&self) -> Result<(), StateError> {
        if self.connection.is_up() {
            return Ok(());
        }
        Err(StateError::Unavailable("no connection to NATS".to_owned()))
    }

    /// What stands under `token` at `now`. A replicated bucket may answer from a
    /// server that is a moment behind.
    pub async fn read(&self, token: &str, now: u64) -> Result<Found, StateError> {
        self.up()?;
        let entry = self.store.entry(token).await.map_err(|error| unavailable(&error))?;
        let Some(entry) = entry else {
            return Ok(Found { revision: 0, live: None });
        };
        let live = match entry.operation {
            Operation::Put => {
                let envelope = Envelope::decode(&entry.value);
                Some(envelope.map_err(|error| StateError::Other(error.to_string()))?)
            }
            Operation::Delete | Operation::Purge => None,
        };
        let live = live.filter(|envelope| !envelope.is_over(now));
        Ok(Found { revision: entry.revision, live })
    }

    /// Writes under `token`; with a revision only if that is still the last one.
    pub async fn write(
        &self,
        token: &str,
        envelope: &Envelope,
        revision: Option<u64>,
    ) -> Result<(), WriteError> {
        self.up()?;
        let mut headers = HeaderMap::new();
        if let Some(revision) = revision {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(revision));
        }
        if let Some(ends) = envelope.ends {
            headers.insert(ENDS_HEADER, HeaderValue::from(ends));
        }
        let payload: Bytes = envelope.encode();
        let most = self.store.stream.cached_info().config.max_message_size;
        if most > 0 && usize::try_from(most).is_ok_and(|most| payload.len() > most) {
            return Err(too_large(payload.len(), "max_value_size of the bucket").into());
        }
        let size = payload.len();
        let sent = self.context.publish_with_headers(self.subject(token), headers, payload);
        let result = match sent.await {
            Ok(acknowledged) => acknowledged.await,
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => Err(write_error(&error, size)),
        }
    }

    /// Removes what stands under `token`, leaving nothing; with a revision only
    /// what is not newer.
    pub async fn remove(&self, token: &str, revision: Option<u64>) -> Result<(), StateError> {
        self.up()?;
        let purge = self.store.stream.purge().filter(self.subject(token));
        let purged = match revision {
            Some(revision) => purge.sequence(revision.saturating_add(1)).await,
            None => purge.await,
        };
        purged.map(drop).map_err(|error| unavailable(&error))
    }

    /// The keys of a plugin, without their values. A key that is written meanwhile
    /// may come twice.
    pub async fn list(&self, plugin: &str) -> Result<Vec<Listed>, StateError> {
        self.up()?;
        let listing = tokio::time::timeout(LIST_TIMEOUT, self.list_all(plugin)).await;
        listing.unwrap_or_else(|_| Err(StateError::Unavailable("listing takes too long".into())))
    }

    async fn list_all(&self, plugin: &str) -> Result<Vec<Listed>, StateError> {
        let consumer = self.store.stream.create_consumer(pull::Config {
            description: Some("a worker counts a hook's keys".to_owned()),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subject: self.subject(&format!("{plugin}.>")),
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            // It is deleted below, and by the server if that does not happen.
            inactive_threshold: 2 * LIST_TIMEOUT,
            ..pull::Config::default()
        });
        let consumer = consumer.await.map_err(|error| unavailable(&error))?;
        let mut left = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
        let mut listed = Vec::new();
        while left > 0 {
            // No more than there are, or the server may keep the request open. Keys
            // that were removed since they were counted are waited for in vain.
            let batch = consumer.batch().max_messages(left.min(LIST_BATCH)).expires(LIST_WAIT);
            let mut batch = batch.messages().await.map_err(|error| unavailable(&error))?;
            let mut arrived = 0;
            while let Some(message) = batch.next().await {
                let message = message.map_err(|error| unavailable(error.as_ref()))?;
                arrived += 1;
                listed.extend(self.line(&message));
            }
            if arrived == 0 {
                // Removed since they were counted.
                break;
            }
            left = left.saturating_sub(arrived);
        }
        let _ = self.store.stream.delete_consumer(&consumer.cached_info().name).await;
        Ok(listed)
    }

    /// The key that a message without its payload is about; a marker of a deletion
    /// is none.
    fn line(&self, message: &async_nats::jetstream::Message) -> Option<Listed> {
        let token = message.subject.strip_prefix(self.store.prefix.as_str())?.to_owned();
        let headers = message.headers.as_ref()?;
        if headers.get("KV-Operation").is_some() {
            return None;
        }
        let number = |name: &str| headers.get(name)?.as_str().parse::<u64>().ok();
        let size = usize::try_from(number(SIZE_HEADER)?).ok()?;
        Some(Listed {
            revision: message.info().ok()?.stream_sequence,
            bytes: token_bytes(&token) + size.saturating_sub(HEADER_BYTES),
            ends: number(ENDS_HEADER),
            token,
        })
    }

    /// Removes keys that have ended, as many as one round allows, and says of each
    /// that is gone. Nothing that was written since is touched.
    pub async fn sweep(&self, ended: &[Listed], swept: impl Fn(&Listed)) -> usize {
        let n_swept = AtomicUsize::new(0);
        // Workers that sweep at the same time begin at different places.
        let start = match ended.len() {
            0 => return 0,
            length => (nuid::next().bytes().map(usize::from).sum::<usize>() * 7919) % length,
        };
        let round = ended[start..].iter().chain(&ended[..start]).take(SWEEP);
        stream::iter(round)
            .for_each_concurrent(SWEEP_AT_ONCE, |line| {
                let (swept, n_swept) = (&swept, &n_swept);
                async move {
                    if self.remove(&line.token, Some(line.revision)).await.is_ok() {
                        swept(line);
                        n_swept.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
            .await;
        n_swept.into_inner()
    }

    fn subject(&self, token: &str) -> String {
        format!("{}{token}", self.store.prefix)
    }
}

fn unavailable(error: &dyn std::error::Error) -> StateError {
    StateError::Unavailable(error.to_string())
}

fn too_large(size: usize, limit: &str) -> StateError {
    let size = size.saturating_sub(HEADER_BYTES);
    StateError::Other(format!("a value of {size} bytes is more than the {limit} allows"))
}

fn write_error(error: &PublishError, size: usize) -> WriteError {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<ApiError>())
        .map(ApiError::error_code);
    match (error.kind(), code) {
        (PublishErrorKind::WrongLastSequence, _)
        | (_, Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)) => WriteError::Conflict,
        (PublishErrorKind::MaxPayloadExceeded, _) => {
            too_large(size, "max_payload of the NATS server").into()
        }
        (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)) => {
            too_large(size, "max_value_size of the bucket").into()
        }
        _ => unavailable(error).into(),
    }
}
