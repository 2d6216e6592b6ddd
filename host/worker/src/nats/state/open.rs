//! Opening the bucket at the start of a worker: finding or making it, and finding
//! out whether everything that hooks will need works.

use std::error::Error as _;
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    Context, ContextBuilder, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::kv::Store;
use async_nats::jetstream::stream::{self, DiscardPolicy};
use llamero_hooks::StateError;

use super::bucket::{Bucket, REQUEST_TIMEOUT, WriteError};
use super::envelope::{Content, Envelope, HEADER_BYTES};
use super::error::HookStateError;
use super::key::PROBE;
use crate::nats::connection::Connection;

/// How often the refusals of the server are looked at, and a bucket that does not take
/// anything is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// For how long a bucket may take nothing. The server names a stream that another worker
/// is just making before it takes messages for it ("no stream found for given subject").
const SETTLE: Duration = Duration::from_secs(2);

impl Bucket {
    /// Opens the bucket `name`, and makes it if there is none, for values of up to
    /// `value_bytes`. Everything that operations need is tried once, so that
    /// missing rights show at the start.
    pub async fn open(
        connection: &Connection,
        name: &str,
        value_bytes: usize,
    ) -> Result<Self, HookStateError> {
        let context =
            ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(connection.client.clone());
        let opened = async {
            let store = find_or_make(&context, name, value_bytes).await?;
            let context = context.clone();
            let bucket = Self { store, context, connection: connection.clone() };
            bucket.check_config(value_bytes)?;
            bucket.try_everything().await?;
            Ok(bucket)
        };
        // A refused request is not answered; the refusal is an event.
        tokio::select! {
            opened = opened => opened,
            refusal = refused(connection) => {
                Err(HookStateError::Denied { bucket: name.to_owned(), refusal })
            }
        }
    }

    fn check_config(&self, value_bytes: usize) -> Result<(), HookStateError> {
        let config = &self.store.stream.cached_info().config;
        if config.deny_purge {
            return Err(self.unusable("it denies purging, which deleting a key needs"));
        }
        let most = config.max_message_size;
        if most > 0 && usize::try_from(most).is_ok_and(|most| most < value_bytes + HEADER_BYTES) {
            tracing::warn!(
                bucket = self.store.name,
                max_value_size = most,
                hooks_may_write = value_bytes,
                "the bucket of the hooks' state takes smaller values than hooks may write"
            );
        }
        Ok(())
    }

    fn unusable(&self, reason: impl Into<String>) -> HookStateError {
        HookStateError::Bucket { bucket: self.store.name.clone(), reason: reason.into() }
    }

    /// Writes, reads, lists and removes a key that no plugin can have.
    async fn try_everything(&self) -> Result<(), HookStateError> {
        let failed =
            |what: &str, error: StateError| self.unusable(format!("{what} does not work: {error}"));
        let token = format!("{PROBE}.{}", nuid::next());
        // Over at once, so that a worker which starts later sweeps out what one that
        // was killed here has left.
        let envelope = Envelope { ends: Some(1), content: Content::Counter(0) };
        let began = Instant::now();
        loop {
            match self.write(&token, &envelope, None).await {
                Ok(()) => break,
                Err(WriteError::State(StateError::Unavailable(_))) if began.elapsed() < SETTLE => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(WriteError::State(error)) => return Err(failed("writing", error)),
                Err(WriteError::Conflict) => return Err(self.unusable("writing does not work")),
            }
        }
        self.read(&token, 0).await.map_err(|error| failed("reading", error))?;
        let probes = self.list(PROBE).await.map_err(|error| failed("listing", error))?;
        self.sweep(&probes, |_| {}).await;
        self.remove(&token, None).await.map_err(|error| failed("deleting", error))
    }
}

/// Ends when the server refuses something that has to do with buckets.
async fn refused(connection: &Connection) -> String {
    let known = connection.link.denied().len();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let is_ours = |text: &&String| text.contains("\"$JS.") || text.contains("\"$KV.");
        let refusals = connection.link.denied();
        if let Some(text) = refusals.iter().skip(known).find(is_ours) {
            return text.clone();
        }
    }
}

/// The bucket of this name, made if there is none.
async fn find_or_make(
    context: &Context,
    name: &str,
    value_bytes: usize,
) -> Result<Store, HookStateError> {
    let unusable = |reason: String| HookStateError::Bucket { bucket: name.to_owned(), reason };
    match context.get_stream(format!("KV_{name}")).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => make(context, name, value_bytes).await?,
        Err(error) if has_no_jetstream(&error) => {
            return Err(HookStateError::NoJetStream(error.to_string()));
        }
        Err(error) => return Err(unusable(error.to_string())),
    }
    let store = context.get_key_value(name).await;
    store.map_err(|error| unusable(error.to_string()))
}

/// Makes the stream that a key-value bucket is. The library's own function asks
/// for the account's figures first, which servers before 2.10 answer in a form
/// that it cannot read.
async fn make(context: &Context, name: &str, value_bytes: usize) -> Result<(), HookStateError> {
    let config = stream::Config {
        name: format!("KV_{name}"),
        description: Some("state of Llamero's hooks".to_owned()),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_message_size: i32::try_from(value_bytes + HEADER_BYTES).unwrap_or(i32::MAX),
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: 1,
        ..stream::Config::default()
    };
    match context.create_stream(config).await {
        Ok(_) => {
            tracing::info!(bucket = name, "bucket for the state of hooks made");
            Ok(())
        }
        // Another worker may have made it, for values of another size.
        Err(_) if context.get_stream(format!("KV_{name}")).await.is_ok() => Ok(()),
        Err(error) => Err(HookStateError::Bucket {
            bucket: name.to_owned(),
            reason: format!("there is none, and it cannot be made: {error}"),
        }),
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn has_no_jetstream(error: &GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => matches!(
            error.error_code(),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        ),
        GetStreamErrorKind::Request => error
            .source()
            .and_then(|source| source.downcast_ref::<RequestError>())
            .is_some_and(|error| error.kind() == RequestErrorKind::NoResponders),
        _ => false,
    }
}
