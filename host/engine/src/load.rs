//! Loads a model and starts its engine thread.
//!
//! Weights, vocabulary and context are made on the thread that will compute
//! with them. What a file must be like is [`crate::check`]'s business.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use crate::adapter::Adapters;
use crate::check::{check_config, check_file};
use crate::config::{MAX_SLOTS, ModelConfig, ModelInfo};
use crate::engine::alarm::Alarm;
use crate::engine::backend::LlamaBackend;
use crate::engine::cache::CacheLimits;
use crate::engine::scheduler::{Engine, Policy};
use crate::engine::stats::SharedStats;
use crate::engine::thread::{self, EngineHandle, Inbox};
use crate::error::LoadError;
use crate::ffi::{self, Context, ContextConfig, log::Capture};
use crate::memory;
use crate::prompt::template::ChatTemplate;
use crate::vocabulary::Vocabulary;

/// A loaded model whose engine thread runs.
pub(crate) struct Loaded {
    pub(crate) config: ModelConfig,
    pub(crate) info: ModelInfo,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) adapters: Adapters,
    pub(crate) engine: EngineHandle,
}

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
    std::thread::Builder::new()
        .name(format!("llamero-{}", config.name))
        .spawn(move || {
            let name = config.name.clone();
            match load(config, progress) {
                Ok((model, mut engine, inbox)) => {
                    if report.send(Ok(model)).is_ok() {
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
) -> Result<(Loaded, Engine<LlamaBackend>, Inbox), LoadError> {
    let started = Instant::now();
    let weights = load_weights(&config, progress)?;
    let unsupported = |reason: &str| LoadError::Unsupported {
        path: config.path.clone(),
        reason: reason.to_string(),
    };
    if ffi::has_encoder(&weights) {
        return Err(unsupported("it has an encoder"));
    }
    let vocabulary = Vocabulary::new(Arc::clone(&weights)).map_err(|e| unsupported(&e))?;
    let vocabulary = Arc::new(vocabulary);
    let n_ctx = match config.n_ctx {
        0 => weights.n_ctx_train(),
        n_ctx => n_ctx,
    };
    // A job that could not have the whole cache even alone would have to fail.
    let n_ctx = match config.kv_cells {
        0 => n_ctx,
        n_cells => n_ctx.min(n_cells),
    };
    let shares = shares_prefixes(&config, &weights);
    let context = create_context(&config, &weights, n_ctx, shares)?;
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
        n_ctx_train: weights.n_ctx_train(),
        slots: config.slots,
        n_vocab: vocabulary.n_vocab(),
        bos: vocabulary.bos(),
        eos: vocabulary.eos(),
        size_bytes: weights.size(),
        n_params: weights.n_params(),
        description: ffi::describe(&weights),
        has_chat_template: template.is_some(),
        kv_cells: context.n_cells(),
        prefix_cache: shares,
    };
    tracing::info!(
        model = info.name,
        description = info.description,
        n_ctx,
        slots = info.slots,
        kv_cells = info.kv_cells,
        prefix_cache = info.prefix_cache,
        elapsed = ?started.elapsed(),
        "model loaded"
    );

    let adapters = Adapters::new(weights, context.adapter_lock(), config.max_adapters);
    let stats = Arc::new(SharedStats::default());
    let alarm = Arc::new(Alarm::new(context.abort_flag()));
    let policy = policy(&config, context.n_cells(), shares);
    let slots = config.slots as usize;
    let engine = Engine::new(
        LlamaBackend::new(context, Arc::clone(&vocabulary), slots, shares),
        vocabulary.eog().to_vec(),
        policy,
        Arc::clone(&alarm),
        Arc::clone(&stats),
    );
    let max_jobs = (config.slots as usize).saturating_add(config.queue);
    let (handle, inbox) = EngineHandle::new(max_jobs, alarm, stats);
    let loaded = Loaded { config, info, template, vocabulary, adapters, engine: handle };
    Ok((loaded, engine, inbox))
}

/// Whether equal beginnings are to be computed once, and can be.
fn shares_prefixes(config: &ModelConfig, weights: &LlamaModel) -> bool {
    if !config.prefix_cache {
        return false;
    }
    match ffi::unshareable(weights) {
        None => true,
        Some(reason) => {
            tracing::info!(model = config.name, reason, "prefix cache is off for this model");
            false
        }
    }
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
    }
}

fn load_weights(
    config: &ModelConfig,
    mut progress: impl FnMut(f32) -> bool + Send + 'static,
) -> Result<Arc<LlamaModel>, LoadError> {
    let refused = |reason: String| LoadError::Refused { path: config.path.clone(), reason };
    let backend = ffi::backend().map_err(refused)?;
    let aborted = Arc::new(AtomicBool::new(false));
    let params = {
        let aborted = Arc::clone(&aborted);
        LlamaModelParams::default()
            .with_n_gpu_layers(config.gpu_layers)
            .with_use_mmap(config.use_mmap)
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
    match LlamaModel::load_from_file(backend, &config.path, &params) {
        Ok(weights) => Ok(Arc::new(weights)),
        Err(_) if aborted.load(Ordering::SeqCst) => Err(LoadError::Aborted),
        Err(_) => Err(refused(capture.reason())),
    }
}

fn create_context(
    config: &ModelConfig,
    weights: &Arc<LlamaModel>,
    n_ctx: u32,
    shares: bool,
) -> Result<Context, LoadError> {
    let too_large = |reason: String| LoadError::Context { n_ctx, slots: config.slots, reason };
    let n_cells = match config.kv_cells {
        0 => n_ctx.checked_mul(config.slots),
        n_cells => Some(n_cells),
    };
    let n_cells = n_cells
        .filter(|cells| i32::try_from(*cells).is_ok())
        .ok_or_else(|| too_large("more cells than llama.cpp can count".to_string()))?;
    if config.gpu_layers == 0 {
        let needed = memory::kv_bytes(weights, u64::from(n_cells));
        if let Some(available) = memory::available().filter(|available| needed > *available) {
            return Err(too_large(format!(
                "the KV cache needs {} MiB and {} MiB are available",
                needed >> 20,
                available >> 20
            )));
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = match config.threads {
        0 => u32::try_from(cores).unwrap_or(1),
        n => n,
    };
    let n_leaves = if shares { config.cache_leaves.min(MAX_SLOTS - config.slots) } else { 0 };
    Context::new(
        weights,
        &ContextConfig {
            n_cells,
            n_batch: config.n_batch,
            // Every sequence may have an output, those of leaves never do; but
            // llama.cpp reserves rows for all of them.
            n_seq: config.slots + n_leaves,
            n_threads,
            poll: config.poll,
            flash_attention: config.flash_attention,
        },
    )
    .map_err(too_large)
}
