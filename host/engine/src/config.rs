//! What a model is loaded with, and what is known about it afterwards.
//!
//! Plain data only. Reading settings files and environment variables is the
//! worker's business; checking the model file is [`crate::check`]'s.

use std::path::PathBuf;
use std::time::Duration;

/// The most sequences llama.cpp can hold in one context (`LLAMA_MAX_SEQ`).
pub const MAX_SLOTS: u32 = 256;

/// The longest draft. What a longer one costs in vain is more than it can save.
pub const MAX_SPECULATE_TOKENS: u32 = 16;

/// How a model is loaded and how many jobs it serves at once.
///
/// Every field has a default, so `ModelConfig { path, ..Default::default() }`
/// is enough to load a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The name used in logs and in [`ModelInfo::name`]. Empty: the file's name.
    pub name: String,
    /// The GGUF file.
    pub path: PathBuf,
    /// Context limit of one job, in tokens (prompt and output together).
    /// 0 takes the length the model was trained with. Default 4096.
    ///
    /// Never more than [`Self::kv_cells`]: a job that is alone always fits.
    pub n_ctx: u32,
    /// Jobs that compute at the same time, 1 to [`MAX_SLOTS`]. Default 4.
    pub slots: u32,
    /// Tokens that the KV cache has room for, all jobs and cached prefixes
    /// together. 0 makes it `n_ctx * slots`, so that no running job can take
    /// another one's room. With less, jobs enter while they fit, and when room
    /// runs out the youngest one makes way and is computed again later. Default 0.
    pub kv_cells: u32,
    /// Cells that must be free beyond its prompt for a job to enter, or what it
    /// can generate at most if that is less. More means fewer jobs at a time and
    /// fewer preemptions. Default 64.
    pub kv_reserve: u32,
    /// The longest that prompts may hold up those who generate, in milliseconds,
    /// 1 to 60000: a step gets as much of a prompt as fits into this by what
    /// steps have taken so far, and at least 32 tokens. Default 200.
    ///
    /// Where jobs have different adapters, their sets take turns of this length
    /// together (and of at most 8 steps each), so that between two tokens of a job
    /// may be twice as much.
    pub stall_target_ms: u32,
    /// After how many milliseconds a waiting tenant that has no running job may
    /// take a slot from the one that has most: that one's youngest job waits and
    /// goes on later. 0 never does. Default 500.
    pub fair_preempt_ms: u32,
    /// Whether equal beginnings of prompts are computed once. Without effect,
    /// with a line in the log, for models whose memory cannot share. Default true.
    pub prefix_cache: bool,
    /// Prefixes that are kept after their jobs have ended; each costs 8 bytes for
    /// each token of the vocabulary. `slots` and this together are at most
    /// [`MAX_SLOTS`]; the excess is dropped. Default 16.
    pub cache_leaves: u32,
    /// Cells that kept prefixes may hold together, what they share counted once.
    /// They give way to running jobs, but attention passes over them in every
    /// step, at a few nanoseconds for each. 0 takes a quarter of the KV cache.
    /// Default 0.
    pub cache_cells: u32,
    /// Most tokens that a step computes ahead of a job, 0 to
    /// [`MAX_SPECULATE_TOKENS`]: what followed the job's last tokens where they stood
    /// before in its prompt or its output. Where that comes again, several tokens
    /// come of one step; the output is the same either way, but for what the last
    /// bits of logits, which hang on the sizes of steps, may change.
    ///
    /// Only in steps in which one or two jobs generate and no prompt is computed, in
    /// cells that are free; jobs with a guard have no part in it, and jobs whose
    /// drafts are mostly wrong pause with them. Without effect, with a line in the
    /// log, for models whose memory cannot drop a part of a sequence. Two drafts need
    /// rows of logits, which `slots` and [`Self::cache_leaves`] have for up to 9
    /// tokens by default; each further row costs 8 bytes for each token of the
    /// vocabulary. Default 0.
    pub speculate_tokens: u32,
    /// Cells that pinned prefixes may hold together; beyond, the one that was
    /// used least recently is an ordinary one again. Jobs enter as if these
    /// cells did not exist, unless nobody else runs. Default 2048.
    pub cache_pin_cells: u32,
    /// Prefixes are shared in whole blocks of so many tokens, 1 to 1024. The
    /// larger, the harder it is to guess the prompt of another job of the same
    /// salt piece by piece. Default 16.
    pub cache_block: u32,
    /// Jobs that may wait inside the engine for a slot; one more is refused
    /// with [`crate::SubmitError::Busy`]. Default 64.
    pub queue: usize,
    /// Threads that compute, the engine's own included. 0 takes every core
    /// this process may run on. Default 0.
    pub threads: u32,
    /// How eagerly idle compute threads spin while they wait for work, 0
    /// (sleep at once) to 100. Spinning costs the rest of the process its
    /// cores. Default 50, as in llama.cpp.
    pub poll: u32,
    /// Most tokens in one step of the engine, at least `slots`. Default 512.
    pub n_batch: u32,
    /// Layers to put on a GPU; without effect in a CPU build. Default 0.
    pub gpu_layers: u32,
    /// Map the file instead of reading it, unless it goes into huge pages. Default true.
    pub use_mmap: bool,
    /// Put the KV cache into huge pages, and the weights as well if all that the model
    /// takes is no more than half of the memory that is available: they are read then.
    /// Without effect with layers on a GPU, and where the system gives no huge pages.
    /// Default true.
    pub huge_pages: bool,
    /// Keep the weights in RAM; needs a sufficient memlock limit. Default false.
    pub use_mlock: bool,
    /// When flash attention is used. Default [`FlashAttention::Auto`].
    pub flash_attention: FlashAttention,
    /// How keys are stored in the KV cache. A quantised type takes less memory
    /// and some of the model's accuracy, and needs flash attention. Default f16.
    pub kv_type_k: KvType,
    /// How values are stored, likewise. Default f16.
    pub kv_type_v: KvType,
    /// Text events a job may have undelivered before its sequence pauses, at
    /// least 1. Default 256.
    pub event_capacity: usize,
    /// Most bytes in all stop strings of a job together. Default 16384.
    pub max_stop_bytes: usize,
    /// LoRA adapters kept in memory, in use or not. When there is one more, the
    /// one used longest ago goes; if all are in use, it is refused. 0 allows
    /// none. Default 8.
    pub max_adapters: usize,
    /// Bounds for grammars and schemas.
    pub constraint_limits: ConstraintLimits,
    /// How vectors of texts are computed.
    pub embedding: EmbeddingConfig,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            path: PathBuf::new(),
            n_ctx: 4096,
            slots: 4,
            kv_cells: 0,
            kv_reserve: 64,
            stall_target_ms: 200,
            fair_preempt_ms: 500,
            prefix_cache: true,
            cache_leaves: 16,
            cache_cells: 0,
            speculate_tokens: 0,
            cache_pin_cells: 2048,
            cache_block: 16,
            queue: 64,
            threads: 0,
            poll: 50,
            n_batch: 512,
            gpu_layers: 0,
            use_mmap: true,
            huge_pages: true,
            use_mlock: false,
            flash_attention: FlashAttention::Auto,
            kv_type_k: KvType::F16,
            kv_type_v: KvType::F16,
            event_capacity: 256,
            max_stop_bytes: 16 * 1024,
            max_adapters: 8,
            constraint_limits: ConstraintLimits::default(),
            embedding: EmbeddingConfig::default(),
        }
    }
}

/// How [`crate::Model::embed`] computes. The context for it is made when the first
/// text comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingConfig {
    /// Most tokens of one text, 1 to 65536, those that the model wants around it
    /// included; never more than it was trained with. Costs memory: eight bytes for
    /// each of them and each token of the vocabulary. Default 512.
    pub max_tokens: u32,
    /// Threads that compute; 0 takes as many as generating does. More are faster and
    /// slow down those who generate meanwhile, whose threads wait for each other.
    /// Default 1.
    pub threads: u32,
    /// How long the context is kept after the last text. Default 60 s.
    pub idle: Duration,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self { max_tokens: 512, threads: 1, idle: Duration::from_secs(60) }
    }
}

/// When llama.cpp's flash attention is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// llama.cpp decides by what the backend supports.
    #[default]
    Auto,
    /// Always; loading fails if the backend cannot.
    On,
    /// Never.
    Off,
}

/// How the numbers of the KV cache are stored: the types that llama.cpp takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are llama.cpp's and say all there is to say")]
pub enum KvType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

impl KvType {
    /// Every type, in the order of [`Self::NAMES`].
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
        Self::Iq4Nl,
    ];

    /// Their names, as llama.cpp writes them.
    pub const NAMES: &'static [&'static str] =
        &["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"];

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kv_type| kv_type.name() == name)
    }

    /// The name, as llama.cpp writes it.
    pub fn name(self) -> &'static str {
        // In the order of the variants, which a test checks.
        Self::NAMES[self as usize]
    }

    /// Whether numbers are rounded together, in blocks of 32.
    pub fn is_quantised(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes of a row of `n` numbers.
    pub(crate) fn row_bytes(self, n: u64) -> u64 {
        let (numbers, bytes) = self.block();
        n.div_ceil(numbers).saturating_mul(bytes)
    }

    /// Numbers in a block, and its bytes.
    fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q5_1 => (32, 24),
            Self::Q5_0 => (32, 22),
            Self::Q4_1 => (32, 20),
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
        }
    }
}

/// Memory that a model takes, in bytes, wherever it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemorySize {
    /// The weights.
    pub weights: u64,
    /// The KV cache, or the states of a recurrent model.
    pub kv: u64,
    /// What a step computes in, and the rows of its outputs.
    pub buffers: u64,
}

impl MemorySize {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.buffers)
    }
}

/// Bounds that keep a hostile grammar or schema from costing more than an
/// error. A constraint that passes one of them is refused, or ends its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConstraintLimits {
    /// Longest grammar or schema text, in bytes. Default 65536.
    pub max_bytes: usize,
    /// Most rules in a grammar. Default 2000.
    pub max_rules: usize,
    /// Deepest nesting of groups in a grammar, and of values in a schema.
    /// Default 64.
    pub max_depth: usize,
    /// Largest count in a repetition such as `{0,1000}`. Default 1000.
    pub max_repetition: usize,
    /// Most symbols a grammar may have once it is expanded, and most parts of a schema
    /// that is written out. Default 100000.
    pub max_symbols: usize,
    /// Largest least common multiple of all `multipleOf` of a schema, in units of the
    /// finest of them; its remainders are told apart one by one. Default 1000000, far
    /// more than prices, percentages and minutes need.
    pub max_multiple: usize,
    /// Most parser items created for one token. Default 50000 (about 2.5 ms).
    pub max_step_items: usize,
}

impl Default for ConstraintLimits {
    fn default() -> Self {
        Self {
            max_bytes: 64 * 1024,
            max_rules: 2000,
            max_depth: 64,
            max_repetition: 1000,
            max_symbols: 100_000,
            max_multiple: 1_000_000,
            max_step_items: 50_000,
        }
    }
}

/// What is known about a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// [`ModelConfig::name`], or the file's name.
    pub name: String,
    /// Context limit of one job, in tokens.
    pub n_ctx: u32,
    /// Context length the model was trained with, in tokens.
    pub n_ctx_train: u32,
    /// Jobs that compute at the same time.
    pub slots: u32,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// The token that begins a text, if the vocabulary has one.
    pub bos: Option<u32>,
    /// The token that ends a text, if the vocabulary has one.
    pub eos: Option<u32>,
    /// Size of all tensors, in bytes.
    pub size_bytes: u64,
    /// Number of parameters.
    pub n_params: u64,
    /// One line for people: architecture, size, quantisation.
    pub description: String,
    /// Whether chat messages can be rendered.
    pub has_chat_template: bool,
    /// Tokens that the KV cache has room for.
    pub kv_cells: u32,
    /// Whether equal beginnings of prompts are computed once.
    pub prefix_cache: bool,
    /// Memory that the model takes, as llama.cpp allocated it.
    pub memory: MemorySize,
    /// Whether it can go on with a text. Models that only read texts cannot.
    pub generates: bool,
    /// How long its vectors are, and most tokens of one text; `None` if it has no
    /// vectors to give.
    pub embedding: Option<EmbeddingInfo>,
}

/// The vectors of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingInfo {
    /// Numbers in a vector.
    pub size: u32,
    /// Most tokens of one text.
    pub max_tokens: u32,
}

/// What an engine is doing now, and has done since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Jobs that hold a slot.
    pub running: u32,
    /// Jobs that wait for a slot.
    pub queued: u32,
    /// Running jobs whose reader does not keep up.
    pub paused: u32,
    /// KV cache cells that running jobs hold; what several share counts once.
    pub kv_used: u64,
    /// KV cache cells there are, in tokens.
    pub kv_total: u64,
    /// KV cache cells that kept prefixes hold, those of running jobs included
    /// where they share.
    pub cache_cells: u64,
    /// Jobs so far that took a part of their prompt from the cache, or from
    /// another running job.
    pub cache_hits: u64,
    /// Tokens so far that were taken instead of being computed, those of jobs
    /// that come back after a preemption included.
    pub cache_tokens: u64,
    /// Times that a job had to make way for others.
    pub preemptions: u64,
    /// Prompt tokens computed so far.
    pub prompt_tokens: u64,
    /// Tokens generated so far.
    pub completion_tokens: u64,
    /// Tokens computed ahead so far ([`ModelConfig::speculate_tokens`]).
    pub draft_tokens: u64,
    /// Those of them that were right, and saved a step each.
    pub accepted_draft_tokens: u64,
    /// Steps (calls of `llama_decode`) so far.
    pub steps: u64,
    /// Jobs that ended so far, whichever way.
    pub jobs_done: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kv_types_have_their_names() {
        for (index, kv_type) in KvType::ALL.into_iter().enumerate() {
            assert_eq!(KvType::NAMES[index], kv_type.name());
            assert_eq!(KvType::from_name(kv_type.name()), Some(kv_type));
            assert_eq!(
                kv_type.name(),
                format!("{kv_type:?}").to_lowercase().replace("iq4nl", "iq4_nl")
            );
        }
        assert_eq!(KvType::from_name("q2_k"), None);
        assert_eq!((KvType::F16.row_bytes(192), KvType::Q8_0.row_bytes(192)), (384, 204));
        assert!(KvType::Q4_0.is_quantised() && !KvType::Bf16.is_quantised());
    }
}
