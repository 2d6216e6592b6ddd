//! Loads a model and starts its engine thread.
//!
//! Weights, vocabulary and context are made on the thread that will compute
//! with them. A model that only reads texts has no such thread and no such context:
//! what it is for is [`crate::embed`]'s. What a file must be like is
//! [`crate::check`]'s business.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use crate::adapter::Adapters;
use crate::check::{check_config, check_file};
use crate::config::{EmbeddingInfo, MemorySize, ModelConfig, ModelInfo};
use crate::embed;
use crate::engine::alarm::Alarm;
use crate::engine::backend::LlamaBackend;
use crate::engine::cache::CacheLimits;
use crate::engine::scheduler::{Engine, Policy};
use crate::engine::stats::SharedStats;
use crate::engine::thread::{self, EngineHandle, Inbox};
use crate::error::LoadError;
use crate::ffi::{self, Context, ContextConfig, ContextError, Purpose, huge_pages, log::Capture};
use crate::memory;
use crate::prompt::template::ChatTemplate;
use crate::vocabulary::Vocabulary;

/// A loaded model whose engine thread runs, if it generates.
pub(crate) struct Loaded {
    pub(crate) config: ModelConfig,
    pub(crate) info: ModelInfo,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) adapters: Adapters,
    pub(crate) engine: Option<EngineHandle>,
    /// Disconnected once the engine thread has freed the context, if there is one.
    pub(crate) freed: Receiver<()>,
    /// How it gives vectors, or why it cannot.
    pub(crate) embedding: Result<embed::Plan, &'static str>,
}

/// What the engine's thread runs.
type Running = (Engine<LlamaBackend>, Inbox);

/// Loads a model on a new thread, which then waits for jobs. Blocks until the
/// model is loaded.
pub(crate) fn start(
    config: ModelConfig,
    progress: impl FnMut(f32) -> bool + Send + 'static,
) -> Result<Loaded, LoadError> {
    check_config(&config)?;
    check_file(&config.path)?;
    let config = named(config);
    let (report, loaded) = sync_channel(1);
    let (alive, freed) = sync_channel(1);
    std::thread::Builder::new()
        .name(format!("llamero-{}", config.name))
        .spawn(move || {
            // Declared first, so that it goes after the engine.
            let _alive = alive;
            let name = config.name.clone();
            match load(config, progress, freed) {
                Ok((model, running)) => {
                    if report.send(Ok(model)).is_ok()
                        && let Some((mut engine, inbox)) = running
                    {
                        thread::run(&mut engine, &inbox);
                    }
                    tracing::debug!(model = name, "engine stopped");
                }
                Err(error) => {
                    // The one who waits is gone if this fails.
                    let _ = report.send(Err(error));
                }
            }
        })
        .map_err(|e| LoadError::Thread(e.to_string()))?;
    loaded.recv().unwrap_or_else(|_| Err(LoadError::Thread("ended while loading".to_string())))
}

/// A configuration without a name takes the file's.
fn named(mut config: ModelConfig) -> ModelConfig {
    if config.name.is_empty() {
        config.name = config
            .path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
    }
    // A NUL in a thread's name is an error of the standard library's.
    config.name.retain(|c| c != '\0');
    config
}

fn load(
    config: ModelConfig,
    progress: impl FnMut(f32) -> bool + Send + 'static,
    freed: Receiver<()>,
) -> Result<(Loaded, Option<Running>), LoadError> {
    let started = Instant::now();
    let weights = load_weights(&config, progress)?;
    let config = as_far_as_possible(config, &weights);
    let unsupported = |reason: &str| LoadError::Unsupported {
        path: config.path.clone(),
        reason: reason.to_string(),
    };
    if ffi::has_encoder(&weights) {
        return Err(unsupported("it has an encoder"));
    }
    let vocabulary = Vocabulary::new(Arc::clone(&weights)).map_err(|e| unsupported(&e))?;
    let vocabulary = Arc::new(vocabulary);
    if config.kv_type_k.is_quantised() && !ffi::has_flash_attention(&weights) {
        // llama.cpp turns it off for this model, and then does not check that
        // keys have whole blocks; it does refuse such values itself.
        return Err(unsupported("kv_type_k needs flash attention, which this model cannot use"));
    }
    let n_ctx = memory::n_ctx(&config, weights.n_ctx_train());
    let shares = config.prefix_cache;
    let context = create_context(&config, &weights, n_ctx, shares)?;
    let n_ctx_train = weights.n_ctx_train();
    let embedding = embed::pooling(&weights)
        .map(|pooling| embed::Plan::new(&config, pooling, n_ctx_train, n_threads(&config)));
    if let (None, Err(reason)) = (&context, &embedding) {
        return Err(unsupported(&format!("it only reads it, and {reason}")));
    }
    let template =
        weights.chat_template(None).ok().and_then(|template| template.to_string().ok()).map(
            |source| {
                let text = |token: Option<u32>| {
                    token.map_or_else(String::new, |token| {
                        String::from_utf8_lossy(&vocabulary.piece(token, true)).into_owned()
                    })
                };
                ChatTemplate::new(source, text(vocabulary.bos()), text(vocabulary.eos()))
            },
        );
    let info = ModelInfo {
        name: config.name.clone(),
        n_ctx,
        n_ctx_train,
        slots: config.slots,
        n_vocab: vocabulary.n_vocab(),
        bos: vocabulary.bos(),
        eos: vocabulary.eos(),
        size_bytes: weights.size(),
        n_params: weights.n_params(),
        description: ffi::describe(&weights),
        has_chat_template: template.is_some(),
        kv_cells: context.as_ref().map_or(0, Context::n_cells),
        prefix_cache: shares && context.is_some(),
        memory: match &context {
            Some(context) => memory::taken(
                &config,
                &weights,
                context.n_cells(),
                memory::n_outputs(&config, shares),
                context.sizes(),
            ),
            None => MemorySize { weights: weights.size(), ..MemorySize::default() },
        },
        generates: context.is_some(),
        embedding: embedding.as_ref().ok().map(|plan| EmbeddingInfo {
            size: u32::try_from(weights.n_embd_out()).unwrap_or(0),
            max_tokens: u32::try_from(plan.limit()).unwrap_or(u32::MAX),
        }),
    };
    tracing::info!(
        model = info.name,
        description = info.description,
        n_ctx,
        slots = info.slots,
        kv_cells = info.kv_cells,
        prefix_cache = info.prefix_cache,
        memory_mib = info.memory.total() >> 20,
        generates = info.generates,
        elapsed = ?started.elapsed(),
        "model loaded"
    );

    let lock = context.as_ref().map_or_else(Arc::default, Context::adapter_lock);
    let adapters = Adapters::new(weights, lock, config.max_adapters);
    let (engine, running) =
        context.map(|context| start_engine(&config, context, &vocabulary, shares)).unzip();
    let loaded = Loaded { config, info, template, vocabulary, adapters, engine, freed, embedding };
    Ok((loaded, running))
}

fn start_engine(
    config: &ModelConfig,
    context: Context,
    vocabulary: &Arc<Vocabulary>,
    shares: bool,
) -> (EngineHandle, Running) {
    let stats = Arc::new(SharedStats::default());
    let alarm = Arc::new(Alarm::new(context.abort_flag()));
    let policy = policy(config, context.n_cells(), shares);
    let slots = config.slots as usize;
    let on_cpu = config.gpu_layers == 0;
    let engine = Engine::new(
        LlamaBackend::new(context, Arc::clone(vocabulary), slots, shares, on_cpu),
        vocabulary.eog().to_vec(),
        policy,
        Arc::clone(&alarm),
        Arc::clone(&stats),
    );
    let (handle, inbox) = EngineHandle::new(slots.saturating_add(config.queue), alarm, stats);
    (handle, (engine, inbox))
}

/// The configuration without what the model's memory cannot do: share cells, and
/// drop a part of a sequence.
fn as_far_as_possible(mut config: ModelConfig, weights: &LlamaModel) -> ModelConfig {
    let Some(reason) = ffi::unshareable(weights) else { return config };
    if std::mem::take(&mut config.prefix_cache) {
        tracing::info!(model = config.name, reason, "prefix cache is off for this model");
    }
    if std::mem::take(&mut config.speculate_tokens) > 0 {
        tracing::info!(model = config.name, reason, "speculation is off for this model");
    }
    config
}

fn policy(config: &ModelConfig, n_cells: u32, shares: bool) -> Policy {
    let milliseconds = |n: u32| Duration::from_millis(u64::from(n));
    let cells = match config.cache_cells {
        0 => n_cells / 4,
        n => n.min(n_cells),
    };
    Policy {
        stall_target: milliseconds(config.stall_target_ms),
        reserve: config.kv_reserve as usize,
        fair_preempt: (config.fair_preempt_ms > 0).then(|| milliseconds(config.fair_preempt_ms)),
        cache: shares.then_some(CacheLimits {
            block: config.cache_block as usize,
            cells: cells as usize,
            pinned_cells: config.cache_pin_cells as usize,
        }),
        speculate: config.speculate_tokens as usize,
    }
}

fn load_weights(
    config: &ModelConfig,
    mut progress: impl FnMut(f32) -> bool + Send + 'static,
) -> Result<Arc<LlamaModel>, LoadError> {
    let backend = ffi::backend()?;
    let aborted = Arc::new(AtomicBool::new(false));
    let in_huge_pages = wants_huge_pages(config) && leaves_half_of_the_memory(config);
    let params = {
        let aborted = Arc::clone(&aborted);
        LlamaModelParams::default()
            .with_n_gpu_layers(config.gpu_layers)
            .with_use_mmap(config.use_mmap && !in_huge_pages)
            .with_use_mlock(config.use_mlock)
            .with_progress_callback(move |value| {
                // llama.cpp calls this; a panic must not unwind into it.
                let go_on = catch_unwind(AssertUnwindSafe(|| progress(value))).unwrap_or(false);
                if !go_on {
                    aborted.store(true, Ordering::SeqCst);
                }
                go_on
            })
    };
    let capture = Capture::start();
    let load = || LlamaModel::load_from_file(backend, &config.path, &params);
    let loaded = if in_huge_pages { huge_pages::within(load) } else { load() };
    match loaded {
        Ok(weights) => Ok(Arc::new(weights)),
        Err(_) if aborted.load(Ordering::SeqCst) => Err(LoadError::Aborted),
        Err(_) => Err(LoadError::Refused { path: config.path.clone(), reason: capture.reason() }),
    }
}

/// Whether buffers are to lie in huge pages. A GPU's memory is no matter of ours.
fn wants_huge_pages(config: &ModelConfig) -> bool {
    config.huge_pages && config.gpu_layers == 0 && huge_pages::are_available()
}

/// Whether the weights can be read instead of mapped. Unlike mapped ones they cannot be
/// dropped and read again, so half of the memory stays for everything else. The KV cache
/// counts as well: what a mapped file leaves room for must not be refused for a read one.
fn leaves_half_of_the_memory(config: &ModelConfig) -> bool {
    let need = memory::estimate(config).map(|size| size.total());
    need.ok().zip(memory::available()).is_some_and(|(need, available)| need <= available / 2)
}

/// The context that generates; `None` for a model that only reads texts.
fn create_context(
    config: &ModelConfig,
    weights: &Arc<LlamaModel>,
    n_ctx: u32,
    shares: bool,
) -> Result<Option<Context>, LoadError> {
    if !embed::is_causal(weights) {
        return Ok(None);
    }
    let too_large = |reason: String| LoadError::Context { n_ctx, slots: config.slots, reason };
    let n_cells = memory::n_cells(config, n_ctx)
        .ok_or_else(|| too_large("more cells than llama.cpp can count".to_string()))?;
    if config.gpu_layers == 0 {
        let needed =
            memory::kv_bytes([config.kv_type_k, config.kv_type_v], weights, u64::from(n_cells));
        if let Some(available) = memory::available().filter(|available| needed > *available) {
            return Err(too_large(format!(
                "the KV cache needs {} MiB and {} MiB are available",
                needed >> 20,
                available >> 20
            )));
        }
    }
    let context = Context::new(
        weights,
        &ContextConfig {
            purpose: Purpose::Generate,
            n_cells,
            n_batch: config.n_batch,
            n_seq: memory::n_seq(config, shares),
            // Leaves never have an output; but llama.cpp reserves rows for every
            // sequence.
            n_outputs: memory::n_outputs(config, shares),
            n_threads: n_threads(config),
            poll: config.poll,
            flash_attention: config.flash_attention,
            type_k: config.kv_type_k,
            type_v: config.kv_type_v,
            huge_pages: wants_huge_pages(config),
        },
    );
    match context {
        Ok(context) => Ok(Some(context)),
        // Not every file of a model that only reads says so.
        Err(ContextError::NoMemory) => Ok(None),
        Err(ContextError::Refused(reason)) => Err(too_large(reason)),
    }
}

/// Threads that generate.
fn n_threads(config: &ModelConfig) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match config.threads {
        0 => u32::try_from(cores).unwrap_or(1),
        n => n,
    }
}
