//! Why a worker does not start with the state of its hooks in NATS.

/// Why the bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HookStateError {
    /// The server has no JetStream, or not for this account.
    #[error(
        "hook_state is \"nats\", but this NATS account has no JetStream ({0}); turn it on in the \
         server's configuration, or set hook_state = \"memory\""
    )]
    NoJetStream(String),
    /// The worker's user lacks rights.
    #[error(
        "hook_state is \"nats\", but the NATS server denies what the bucket {bucket} needs: \
         {refusal}; allow the worker's user to publish to \"$JS.API.>\" and \"$KV.{bucket}.>\", \
         or set hook_state = \"memory\""
    )]
    Denied {
        /// The bucket.
        bucket: String,
        /// What the server said.
        refusal: String,
    },
    /// Anything else.
    #[error(
        "hook_state is \"nats\", but the bucket {bucket} cannot be used: {reason}; look at \
         hook_state_bucket, or set hook_state = \"memory\""
    )]
    Bucket {
        /// The bucket.
        bucket: String,
        /// Why.
        reason: String,
    },
}
