//! The handle of a loaded model.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use llama_cpp_2::sampling::LlamaSampler;

use crate::adapter::{Adapter, AdapterRoom, AdapterSet, Adapters, MAX_JOB_ADAPTERS};
use crate::config::{EngineStats, MemorySize, ModelConfig, ModelInfo};
use crate::constraint::{CompiledConstraint, Compiler, Constraint};
use crate::embed::{Embedding, Service, TextTokens};
use crate::engine::outlet::Outlet;
use crate::engine::sequence::{Caching, Guard, Submission};
use crate::engine::thread::EngineHandle;
use crate::error::{
    AdapterError, BackendError, ConstraintError, EmbedError, LoadError, PromptError, SubmitError,
};
use crate::ffi;
use crate::generation::Generation;
use crate::job::{GuardPlan, Job};
use crate::kernels::SystemInfo;
use crate::load;
use crate::memory;
use crate::prompt::completion::{self, Completion};
use crate::prompt::template::ChatTemplate;
use crate::prompt::{Content, Prompt, PromptLimits, chat, whole_text};
use crate::sampling::{Sampler, Tokens, check};
use crate::text::TextFilter;
use crate::tokenizer::Tokenizer;
use crate::vocabulary::Vocabulary;

/// A loaded model. Clones share it; the engine thread ends with the last one
/// and the last [`Generation`].
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ModelConfig,
    info: ModelInfo,
    tokens: Tokens,
    template: Option<ChatTemplate>,
    compiler: OnceLock<Result<Compiler, String>>,
    vocabulary: Arc<Vocabulary>,
    adapters: Adapters,
    /// Nothing for a model that only reads texts.
    engine: Option<Arc<EngineHandle>>,
    freed: Arc<Mutex<Receiver<()>>>,
    /// Nothing, and why, for a model without vectors.
    embedding: Result<Service, &'static str>,
}

impl Model {
    /// Loads a model file and starts its engine thread. Blocks.
    ///
    /// `progress` is called on the engine thread with values from 0 to 1; when
    /// it returns false the load ends with [`LoadError::Aborted`].
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the configuration, the file or the
    /// memory.
    pub fn load(
        config: ModelConfig,
        progress: impl FnMut(f32) -> bool + Send + 'static,
    ) -> Result<Model, LoadError> {
        let loaded = load::start(config, progress)?;
        let vocabulary = Arc::clone(&loaded.vocabulary);
        let inner = Inner {
            tokens: Tokens {
                n_vocab: loaded.info.n_vocab,
                eog: loaded.vocabulary.eog().to_vec(),
                newline: loaded.vocabulary.newline(),
            },
            config: loaded.config,
            info: loaded.info,
            template: loaded.template,
            compiler: OnceLock::new(),
            vocabulary: loaded.vocabulary,
            adapters: loaded.adapters,
            engine: loaded.engine.map(Arc::new),
            freed: Arc::new(Mutex::new(loaded.freed)),
            embedding: loaded.embedding.map(|plan| Service::new(vocabulary, plan)),
        };
        Ok(Model { inner: Arc::new(inner) })
    }

    /// How much memory a model will take, by its file's metadata alone. Reads the
    /// beginning of the file, and blocks for that.
    ///
    /// # Errors
    /// [`LoadError`], as far as it can be seen without loading.
    pub fn estimate(config: &ModelConfig) -> Result<MemorySize, LoadError> {
        memory::estimate(config)
    }

    /// Lets go of the model and waits until its context has been freed: for the
    /// last [`Generation`], and for all other clones.
    pub fn unload(self) {
        let freed = Arc::clone(&self.inner.freed);
        drop(self);
        // Nothing is ever sent: this waits for the end of the engine thread.
        let _ = freed.lock().unwrap_or_else(PoisonError::into_inner).recv();
    }

    /// What is known about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer::new(Arc::clone(&self.inner.vocabulary))
    }

    /// Turns the content of a request into a prompt that fits.
    ///
    /// # Errors
    /// [`PromptError`]: what must be kept does not fit, there is nothing to
    /// continue, or the chat template is missing or refuses the messages.
    pub fn prepare(&self, content: &Content, limits: &PromptLimits) -> Result<Prompt, PromptError> {
        let limits = PromptLimits { n_ctx: self.context_size(limits.n_ctx)?, ..*limits };
        let vocabulary = self.inner.vocabulary.as_ref();
        match content {
            Content::Completion { system, instructions, input, separator } => completion::prepare(
                vocabulary,
                Completion { system, instructions, input, separator },
                &limits,
            ),
            Content::Chat { messages } => chat::prepare(
                vocabulary,
                self.inner.template.as_ref(),
                vocabulary.control(),
                messages,
                &limits,
            ),
        }
    }

    /// Turns one finished text into a prompt: control tokens are parsed in `markup`
    /// (see [`Prompt::markup`]) and nowhere else, and nothing is dropped.
    ///
    /// # Errors
    /// [`PromptError`]: the text is empty or does not fit.
    ///
    /// # Panics
    /// If a span of `markup` does not begin and end between two characters.
    pub fn prepare_text(
        &self,
        text: &str,
        markup: &[Range<usize>],
        limits: &PromptLimits,
    ) -> Result<Prompt, PromptError> {
        let n_ctx = self.context_size(limits.n_ctx)?;
        let vocabulary = self.inner.vocabulary.as_ref();
        whole_text(vocabulary, vocabulary.control(), text, markup, n_ctx)
    }

    /// Compiles a grammar or a schema. Blocks for as long as the limits allow,
    /// and the first time for as long as it takes to walk the vocabulary.
    ///
    /// # Errors
    /// [`ConstraintError`]: a syntax error, an unsupported feature or a limit.
    pub fn compile(&self, constraint: &Constraint) -> Result<CompiledConstraint, ConstraintError> {
        let vocabulary = &self.inner.vocabulary;
        let compiler = self.inner.compiler.get_or_init(|| {
            if vocabulary.eog().is_empty() {
                return Err("the vocabulary has no token that ends a text".to_string());
            }
            let env = LlamaSampler::llguidance_tok_env(vocabulary.model());
            Compiler::new(&env, &self.inner.config.constraint_limits)
        });
        match compiler {
            Ok(compiler) => compiler.compile(vocabulary, constraint),
            Err(reason) => Err(match constraint {
                Constraint::Grammar(_) => ConstraintError::Grammar(reason.clone()),
                Constraint::JsonSchema(_) => ConstraintError::Schema(reason.clone()),
            }),
        }
    }

    /// The LoRA adapter in a file, for jobs of this model. Blocks while it is
    /// loaded; one that is kept ([`ModelConfig::max_adapters`]) is there at once,
    /// unless its file has changed.
    ///
    /// # Errors
    /// [`AdapterError`]: the file is none, or is not for this model; or all that
    /// may be loaded are in use.
    pub fn adapter(&self, path: &Path) -> Result<Adapter, AdapterError> {
        self.adapter_within(path, |_, _| Ok(Box::new(())))
    }

    /// As [`Self::adapter`], for callers with a budget of memory: before a file is
    /// loaded, `room` is asked for as many bytes as its tensors have, and what it gives
    /// is kept for as long as the adapter. It may call the function that it is given,
    /// which frees an adapter of this model that nobody uses and is false when there
    /// is none.
    ///
    /// # Errors
    /// Those of [`Self::adapter`], and what `room` says.
    pub fn adapter_within<E: From<AdapterError>>(
        &self,
        path: &Path,
        room: impl FnOnce(u64, &mut dyn FnMut() -> bool) -> Result<AdapterRoom, E>,
    ) -> Result<Adapter, E> {
        self.inner.adapters.get(path, room)
    }

    /// Turns texts into tokens to embed. Nothing is cut.
    ///
    /// # Errors
    /// [`EmbedError`]: a text is too long or empty, or the model has no vectors.
    pub fn prepare_texts(&self, texts: &[String]) -> Result<TextTokens, EmbedError> {
        let limit = self.embedding()?.plan().limit();
        TextTokens::new(&self.inner.vocabulary, texts, limit)
    }

    /// Computes a vector of length 1 for each text. Never blocks; what is returned
    /// is a future, and dropping it stops the work.
    ///
    /// # Errors
    /// [`EmbedError`]: too many requests wait, or the model has no vectors.
    pub fn embed(&self, texts: TextTokens) -> Result<Embedding, EmbedError> {
        self.embedding()?.submit(texts)
    }

    fn embedding(&self) -> Result<&Service, EmbedError> {
        self.inner.embedding.as_ref().map_err(|&reason| EmbedError::Unsupported(reason))
    }

    /// Hands a job to the engine. Never blocks.
    ///
    /// # Errors
    /// [`SubmitError`]: the engine's queue is full, the job is not valid, or the
    /// model only reads texts.
    pub fn submit(&self, job: Job) -> Result<Generation, SubmitError> {
        let inner = &self.inner;
        let engine = inner.engine.as_ref().ok_or(SubmitError::CannotGenerate)?;
        let n_ctx = self.check(&job)?;
        let place = engine.place().ok_or(SubmitError::Busy)?;
        let signal = engine.signal();
        let (outlet, events) = Outlet::new(inner.config.event_capacity, Arc::clone(&signal), place);
        let submitted = Instant::now();
        let prompt_tokens = u32::try_from(job.prompt.len()).unwrap_or(u32::MAX);
        let constraint = job.constraint.as_ref().map(CompiledConstraint::start);
        let (guard, verdicts) = job
            .guard
            .map(|plan| {
                let (sender, verdicts) = sync_channel(1);
                (Guard { plan, verdicts }, sender)
            })
            .unzip();
        engine.submit(Submission {
            label: job.label,
            prompt: job.prompt,
            n_ctx: n_ctx as usize,
            max_tokens: job.max_tokens as usize,
            sampler: Sampler::new(&job.sampling, &inner.tokens, constraint),
            filter: TextFilter::new(&job.stop),
            outlet,
            submitted,
            tenant: Arc::from(job.tenant),
            deadline: job.deadline,
            caching: job.cache.then_some(Caching { salt: job.cache_salt, pin: job.cache_pin }),
            guard,
            adapters: AdapterSet::new(job.adapters),
        })?;
        let engine = Arc::clone(engine);
        Ok(Generation::new(events, signal, engine, prompt_tokens, submitted, verdicts))
    }

    /// What the engine is doing.
    pub fn stats(&self) -> EngineStats {
        let engine = self.inner.engine.as_ref();
        engine.map_or_else(EngineStats::default, |engine| engine.stats().read())
    }

    /// The job's context limit; everything else about it is refused here.
    fn check(&self, job: &Job) -> Result<u32, SubmitError> {
        let inner = &self.inner;
        let n_ctx = self
            .context_size(job.n_ctx)
            .map_err(|_| SubmitError::ContextSize { n_ctx: job.n_ctx, max: inner.info.n_ctx })?;
        if job.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if job.prompt.len() >= n_ctx as usize {
            return Err(SubmitError::PromptTooLong { tokens: job.prompt.len(), n_ctx });
        }
        let n_vocab = inner.info.n_vocab;
        if let Some(&token) = job.prompt.iter().find(|token| **token >= n_vocab) {
            return Err(SubmitError::InvalidToken { token, n_vocab });
        }
        check(&job.sampling, &inner.tokens)?;
        if let Some(plan) = job.guard {
            check_guard(plan)?;
        }
        self.check_adapters(&job.adapters)?;
        let stop_bytes: usize = job.stop.iter().map(String::len).sum();
        if stop_bytes > inner.config.max_stop_bytes {
            return Err(SubmitError::StopTooLong {
                bytes: stop_bytes,
                limit: inner.config.max_stop_bytes,
            });
        }
        match &job.constraint {
            Some(constraint) if !constraint.is_for(&inner.vocabulary) => {
                Err(SubmitError::ForeignConstraint)
            }
            _ => Ok(n_ctx),
        }
    }

    fn check_adapters(&self, adapters: &[(Adapter, f32)]) -> Result<(), SubmitError> {
        let (n, max) = (adapters.len(), MAX_JOB_ADAPTERS);
        if n > max {
            return Err(SubmitError::TooManyAdapters { n, max });
        }
        if !adapters.iter().all(|(_, scale)| scale.is_finite()) {
            return Err(SubmitError::AdapterScale);
        }
        match adapters.iter().all(|(adapter, _)| self.inner.adapters.own(adapter)) {
            true => Ok(()),
            false => Err(SubmitError::ForeignAdapter),
        }
    }

    fn context_size(&self, asked: u32) -> Result<u32, PromptError> {
        let max = self.inner.info.n_ctx;
        match asked {
            0 => Ok(max),
            n_ctx if n_ctx > max => Err(PromptError::ContextSize { n_ctx, max }),
            n_ctx => Ok(n_ctx),
        }
    }
}

fn check_guard(plan: GuardPlan) -> Result<(), SubmitError> {
    let wrong = |field, value, expected| Err(SubmitError::Guard { field, value, expected });
    if plan.top_k == 0 || plan.top_k > GuardPlan::MAX_TOP_K {
        return wrong("top_k", plan.top_k, "1 to 64");
    }
    if plan.every == 0 {
        return wrong("every", plan.every, "1 or more");
    }
    Ok(())
}

/// Ends the process at once, with this exit code.
///
/// A process that has used llama.cpp must end this way. An ordinary end runs the
/// destructors of llama.cpp's global variables while an engine thread may still
/// be computing, loading, or freeing its context, which is a crash now and then.
/// Output that is still buffered is lost: flush it before.
pub fn exit_process(code: u8) -> ! {
    crate::ffi::exit_process(code)
}

/// Makes freed memory of a megabyte and more go back to the system at once, for
/// processes that live long. To be called once, at their start; without effect where
/// the C library is not glibc.
pub fn return_large_blocks() {
    crate::ffi::return_large_blocks();
}

/// The instruction sets and options that llama.cpp computes with. A portable build
/// chooses them for this machine.
///
/// # Errors
/// [`BackendError`]: it cannot compute here, so no model can be loaded either.
pub fn system_info() -> Result<SystemInfo, BackendError> {
    ffi::system_info()
}
