//! What the store tells: how a load goes on, and why a job gets no model.

use std::sync::Arc;
use std::time::Duration;

use llamero_engine::{AdapterError, LoadError, MemorySize};
use llamero_protocol::ErrorBody;

/// What is told about loading, to whoever shows it to people.
#[derive(Debug, Clone)]
pub enum LoadEvent {
    /// A load begins.
    Started {
        /// The model's name.
        model: String,
    },
    /// It goes on.
    Progress {
        /// The model's name.
        model: String,
        /// From 0 to 1.
        fraction: f32,
    },
    /// It is done.
    Finished {
        /// The model's name.
        model: String,
        /// How long it took.
        took: Duration,
    },
    /// It failed or was aborted.
    Failed {
        /// The model's name.
        model: String,
    },
}

/// Called for each [`LoadEvent`], from the loading thread.
pub type LoadProgress = Arc<dyn Fn(LoadEvent) + Send + Sync>;

/// Why a job gets no model.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// The name is refused before anything is opened.
    #[error("{0}")]
    Name(ErrorBody),
    /// None is named, and the folder does not hold exactly one.
    #[error("no model is named, and the folder does not hold exactly one")]
    NoneNamed,
    /// The folder holds no model of that name.
    #[error("there is no model {name:?}")]
    NotListed {
        /// The name.
        name: String,
    },
    /// The folder cannot be read.
    #[error("the models folder cannot be read: {cause}")]
    Unreadable {
        /// The name that was asked for, if any.
        name: String,
        /// The operating system's reason.
        cause: String,
    },
    /// The engine refused the file. The cause is for the operator only.
    #[error("{name:?} cannot be loaded: {cause}")]
    Load {
        /// The name.
        name: String,
        /// The engine's reason.
        cause: Arc<LoadError>,
    },
    /// Loading panicked.
    #[error("loading {name:?} panicked")]
    Panicked {
        /// The name.
        name: String,
    },
    /// Alone it takes more memory than all models may take together.
    #[error(
        "{name:?} with ctx_size {n_ctx} needs {} MiB (weights {}, KV cache {}, buffers {}), but \
         models_ram_mib is {}; a smaller ctx_size, fewer slots or kv_cells, or smaller types as \
         kv_type_k and kv_type_v take less",
        mib(need.total()), mib(need.weights), mib(need.kv), mib(need.buffers), budget >> 20
    )]
    TooLarge {
        /// The name.
        name: String,
        /// The context that it would be loaded with.
        n_ctx: u32,
        /// What it takes, by estimate.
        need: MemorySize,
        /// What there is, in bytes.
        budget: u64,
    },
    /// More context than the operator allows.
    #[error("ctx_size {wanted} is larger than {limit}, the most this worker allows")]
    CtxSize {
        /// What was asked for.
        wanted: u32,
        /// The most there is.
        limit: u32,
    },
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Why a job does not get an adapter that it names.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} {cause}")]
pub struct AdapterFailure {
    /// The adapter's file name.
    pub name: String,
    /// The reason.
    pub cause: AdapterCause,
}

/// What is wrong with an adapter.
#[derive(Debug, thiserror::Error)]
pub enum AdapterCause {
    /// The folder holds no such file.
    #[error("is not there")]
    Missing,
    /// More are named at once than may be loaded.
    #[error("is one too many: this worker keeps {max} adapters loaded")]
    TooMany {
        /// The setting `max_adapters`.
        max: usize,
    },
    /// With its model and the request's other adapters it takes more memory than all
    /// models may take together.
    #[error(
        "needs {} MiB beside the {} MiB of its model and of other adapters in the request, but \
         models_ram_mib is {}",
        mib(*bytes), mib(*beside), budget >> 20
    )]
    TooLarge {
        /// What it takes.
        bytes: u64,
        /// What those take that it needs to be of use.
        beside: u64,
        /// What there is.
        budget: u64,
    },
    /// What others use leaves no memory for it.
    #[error("has no room beside what is in use")]
    NoRoom,
    /// The engine refused it.
    #[error("{0}")]
    Engine(#[from] AdapterError),
    /// Loading panicked.
    #[error("cannot be loaded")]
    Panicked,
}

impl ModelError {
    /// The load ended because nobody waited for it any more.
    pub(super) fn aborted(name: &str) -> Self {
        Self::Load { name: name.to_owned(), cause: Arc::new(LoadError::Aborted) }
    }

    /// Whether the load ended because nobody waited; who came later tries anew.
    pub(super) fn is_aborted(&self) -> bool {
        matches!(self, Self::Load { cause, .. } if matches!(**cause, LoadError::Aborted))
    }
}
