//! The thread that computes vectors, and the way to it.
//!
//! ```text
//!            first text                      idle for a while, or the last Model is gone
//!   (none) ─────────────▶ context is made ──────────────────────────────▶ (none)
//!                              │    ▲
//!                              ▼    │ one request after the other, from a bounded queue
//!                             batches ──▶ vectors
//! ```
//!
//! A thread of its own, because a batch takes long and those who generate wait for
//! the engine's thread. A request is computed alone: its texts fill batches, but
//! never together with those of another one, so that stopping it stops nobody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::pack::pack;
use super::{Embedding, TextTokens};
use crate::config::{FlashAttention, KvType, ModelConfig};
use crate::error::EmbedError;
use crate::ffi::{Batch, Context, ContextConfig, ContextError, Decoded, Pooling, Purpose};
use crate::memory;
use crate::vocabulary::Vocabulary;

/// Most texts in one batch.
const MAX_SEQUENCES: u32 = 16;

/// The cache lives for one batch: what its type costs or saves is not worth a setting.
const KV_TYPE: KvType = KvType::F16;

/// How vectors are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pooling: Pooling,
    /// Most tokens of one text.
    limit: u32,
    /// Tokens of a batch.
    n_batch: u32,
    /// Texts of a batch.
    n_seq: u32,
    n_threads: u32,
    poll: u32,
    flash_attention: FlashAttention,
    on_cpu: bool,
    queue: usize,
    idle: Duration,
}

impl Plan {
    /// `n_threads` are those that generate.
    pub(crate) fn new(
        config: &ModelConfig,
        pooling: Pooling,
        n_ctx_train: u32,
        n_threads: u32,
    ) -> Self {
        // Positions beyond what the model was trained with are positions that some
        // models have no row for.
        let limit = match n_ctx_train {
            0 => config.embedding.max_tokens,
            n_ctx_train => config.embedding.max_tokens.min(n_ctx_train),
        };
        let n_seq = MAX_SEQUENCES.min(limit).max(1);
        Self {
            pooling,
            limit,
            // llama.cpp plans its memory with a multiple of the sequences, and aborts
            // the process where that is more than the outputs it may have.
            n_batch: limit.max(1).next_multiple_of(n_seq),
            n_seq,
            n_threads: match config.embedding.threads {
                0 => n_threads,
                n => n,
            },
            poll: config.poll,
            flash_attention: config.flash_attention,
            on_cpu: config.gpu_layers == 0,
            queue: config.queue.max(1),
            idle: config.embedding.idle,
        }
    }

    /// Most tokens of one text.
    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    fn context(&self) -> ContextConfig {
        ContextConfig {
            purpose: Purpose::Embed(self.pooling),
            n_cells: self.n_batch,
            n_batch: self.n_batch,
            n_seq: self.n_seq,
            // Every token is an output.
            n_outputs: 0,
            n_threads: self.n_threads,
            poll: self.poll,
            flash_attention: self.flash_attention,
            type_k: KV_TYPE,
            type_v: KV_TYPE,
            // It is small, and comes and goes.
            huge_pages: false,
        }
    }
}

/// Vectors of one model, on demand.
#[derive(Debug)]
pub(crate) struct Service {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    vocabulary: Arc<Vocabulary>,
    plan: Plan,
    /// The way to the thread, if there is one. The thread takes it away under the
    /// lock before it ends, so no request is sent to nobody.
    thread: Mutex<Option<SyncSender<Request>>>,
}

#[derive(Debug)]
struct Request {
    texts: Vec<Vec<u32>>,
    cancel: Arc<Cancel>,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>, EmbedError>>,
}

impl Service {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, plan: Plan) -> Self {
        Self { shared: Arc::new(Shared { vocabulary, plan, thread: Mutex::new(None) }) }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Asks for vectors. Never blocks for long: at most for the start of a thread.
    pub(crate) fn submit(&self, tokens: TextTokens) -> Result<Embedding, EmbedError> {
        let (sender, answer) = oneshot::channel();
        let cancel = Arc::new(Cancel::default());
        let embedding = Embedding { answer, cancel: Arc::clone(&cancel) };
        let mut request = Request { texts: tokens.texts, cancel, answer: sender };
        let mut thread = self.shared.lock();
        if let Some(requests) = &*thread {
            match requests.try_send(request) {
                Ok(()) => return Ok(embedding),
                Err(TrySendError::Full(_)) => return Err(EmbedError::Busy),
                // The thread has panicked.
                Err(TrySendError::Disconnected(returned)) => request = returned,
            }
        }
        let (requests, receiver) = sync_channel(self.shared.plan.queue);
        let shared = Arc::downgrade(&self.shared);
        let (vocabulary, plan) = (Arc::clone(&self.shared.vocabulary), self.shared.plan.clone());
        std::thread::Builder::new()
            .name("llamero-embed".to_string())
            .spawn(move || run(&shared, &receiver, &vocabulary, &plan))
            .map_err(|error| EmbedError::Context(format!("no thread: {error}")))?;
        // There is room: nobody else knows the channel yet.
        requests.try_send(request).map_err(|_| EmbedError::Stopped)?;
        *thread = Some(requests);
        Ok(embedding)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<SyncSender<Request>>> {
        // What it guards is replaced whole.
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops one request.
#[derive(Debug, Default)]
pub(super) struct Cancel {
    cancelled: AtomicBool,
    /// The context's abort flag, while it computes this request.
    abort: Mutex<Option<Arc<AtomicBool>>>,
}

impl Cancel {
    /// Without effect once the request is done.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(abort) = &*self.lock() {
            abort.store(true, Ordering::SeqCst);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// From now on the flag is this request's.
    fn arm(&self, abort: &Arc<AtomicBool>) {
        abort.store(false, Ordering::SeqCst);
        *self.lock() = Some(Arc::clone(abort));
    }

    /// The flag is the next request's: nothing sets it on behalf of this one any
    /// more.
    fn disarm(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<AtomicBool>>> {
        self.abort.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(
    shared: &Weak<Shared>,
    requests: &Receiver<Request>,
    vocabulary: &Arc<Vocabulary>,
    plan: &Plan,
) {
    let mut computer = match Computer::new(vocabulary, plan) {
        Ok(computer) => computer,
        Err(error) => {
            tracing::warn!(%error, "no context for embeddings");
            refuse_all(shared, requests, &error);
            return;
        }
    };
    tracing::debug!(n_batch = plan.n_batch, "context for embeddings made");
    loop {
        match requests.recv_timeout(plan.idle) {
            Ok(request) => computer.serve(request),
            Err(RecvTimeoutError::Timeout) => match last_request(shared, requests) {
                Some(request) => computer.serve(request),
                None => break,
            },
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    tracing::debug!("context for embeddings freed");
}

/// A request that came at the last moment; without one, nobody can send any more.
fn last_request(shared: &Weak<Shared>, requests: &Receiver<Request>) -> Option<Request> {
    let shared = shared.upgrade()?;
    let mut thread = shared.lock();
    match requests.try_recv() {
        Ok(request) => Some(request),
        Err(_) => {
            *thread = None;
            None
        }
    }
}

/// Answers all who wait, and takes nobody else: the next request tries again.
fn refuse_all(shared: &Weak<Shared>, requests: &Receiver<Request>, error: &EmbedError) {
    let shared = shared.upgrade();
    let mut thread = shared.as_ref().map(|shared| shared.lock());
    while let Ok(request) = requests.try_recv() {
        // Whoever has gone needs no answer.
        let _ = request.answer.send(Err(error.clone()));
    }
    if let Some(thread) = &mut thread {
        **thread = None;
    }
}

/// The context and its batch; made and used by the thread.
struct Computer {
    context: Context,
    batch: Batch,
    abort: Arc<AtomicBool>,
}

impl Computer {
    fn new(vocabulary: &Vocabulary, plan: &Plan) -> Result<Self, EmbedError> {
        let weights = vocabulary.model();
        if plan.on_cpu {
            // llama.cpp keeps the logits of every token of a batch, too, once as a
            // result and once in the graph.
            let cells = u64::from(plan.n_batch);
            let logits = 8u64.saturating_mul(u64::from(vocabulary.n_vocab())).saturating_mul(cells);
            let needed = memory::kv_bytes([KV_TYPE; 2], weights, cells).saturating_add(logits);
            if let Some(available) = memory::available().filter(|available| needed > *available) {
                return Err(EmbedError::Context(format!(
                    "it needs {} MiB and {} MiB are available",
                    needed >> 20,
                    available >> 20
                )));
            }
        }
        let context = Context::new(weights, &plan.context()).map_err(|error| match error {
            ContextError::Refused(reason) => EmbedError::Context(reason),
            ContextError::NoMemory => EmbedError::Context("it has no memory".to_string()),
        })?;
        let batch = Batch::new(context.limits());
        let abort = context.abort_flag();
        Ok(Self { context, batch, abort })
    }

    fn serve(&mut self, request: Request) {
        let Request { texts, cancel, answer } = request;
        cancel.arm(&self.abort);
        let vectors = self.compute(&texts, &cancel);
        cancel.disarm();
        // Whoever has gone needs no answer.
        let _ = answer.send(vectors);
    }

    fn compute(
        &mut self,
        texts: &[Vec<u32>],
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let limits = self.context.limits();
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in pack(&lengths, limits.n_batch, limits.n_seq).into_iter().map(|at| &texts[at]) {
            if cancel.is_cancelled() {
                return Err(EmbedError::Cancelled);
            }
            self.fill(texts)?;
            match self.context.decode(&mut self.batch) {
                Decoded::Ok => {}
                Decoded::Aborted => return Err(EmbedError::Cancelled),
                other => return Err(EmbedError::Engine(format!("batch not computed: {other:?}"))),
            }
            for sequence in 0..texts.len() {
                let vector = self.context.embedding(sequence);
                let vector = vector.ok_or_else(|| EmbedError::Engine("no vector".to_string()))?;
                vectors.push(normalized(vector)?);
            }
        }
        Ok(vectors)
    }

    /// A batch with a sequence for each text, in a context that remembers nothing.
    fn fill(&mut self, texts: &[Vec<u32>]) -> Result<(), EmbedError> {
        self.context.clear();
        self.batch.clear();
        for (sequence, text) in texts.iter().enumerate() {
            for (position, token) in text.iter().enumerate() {
                self.batch
                    .add(*token, position, sequence, true)
                    .map_err(|error| EmbedError::Engine(error.to_string()))?;
            }
        }
        Ok(())
    }
}

/// The vector with length 1; one of zeros stays as it is.
fn normalized(vector: &[f32]) -> Result<Vec<f32>, EmbedError> {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt();
    if !length.is_finite() {
        return Err(EmbedError::Engine("a vector is not a number".to_string()));
    }
    if length == 0.0 {
        return Ok(vector.to_vec());
    }
    Ok(vector.iter().map(|x| (f64::from(*x) / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;
    use crate::config::EmbeddingConfig;

    fn plan(max_tokens: u32, n_ctx_train: u32) -> Plan {
        let embedding = EmbeddingConfig { max_tokens, ..EmbeddingConfig::default() };
        let config = ModelConfig { embedding, ..ModelConfig::default() };
        Plan::new(&config, Pooling::Mean, n_ctx_train, 4)
    }

    #[test]
    fn sizes_suit_llama_cpp() {
        for (max_tokens, trained, limit) in
            [(512, 8192, 512), (512, 100, 100), (1, 8192, 1), (500, 0, 500), (17, 8192, 17)]
        {
            let plan = plan(max_tokens, trained);
            assert_eq!(plan.limit(), limit, "{plan:?}");
            assert!(plan.n_batch as usize >= limit && plan.n_batch >= plan.n_seq, "{plan:?}");
            assert_eq!(plan.n_batch % plan.n_seq, 0, "{plan:?}");
        }
        assert_eq!(plan(512, 8192).n_threads, 1, "few, because others compute beside it");
    }

    #[test]
    fn vectors_get_length_one() {
        assert_eq!(normalized(&[3.0, -4.0]).unwrap(), [0.6_f32, -0.8]);
        assert_eq!(normalized(&[0.0, 0.0]).unwrap(), [0.0_f32, 0.0]);
        assert_eq!(normalized(&[f32::MAX, 0.0]).unwrap(), [1.0_f32, 0.0]);
        assert_eq!(normalized(&[]).unwrap(), [0.0_f32; 0]);
        assert!(normalized(&[f32::NAN]).is_err());
        assert!(normalized(&[f32::INFINITY, 1.0]).is_err());
    }

    #[test]
    fn a_request_stops_itself_only() {
        let flag = Arc::new(AtomicBool::new(true));
        let (first, second) = (Cancel::default(), Cancel::default());
        first.arm(&flag);
        assert!(!flag.load(Ordering::SeqCst), "set on behalf of an earlier one");
        second.cancel();
        assert!(!flag.load(Ordering::SeqCst) && !first.is_cancelled());
        first.disarm();
        first.cancel();
        assert!(!flag.load(Ordering::SeqCst), "it is done");
        second.arm(&flag);
        assert!(second.is_cancelled(), "it was stopped while it waited");
        second.cancel();
        assert!(flag.load(Ordering::SeqCst));
    }
}
