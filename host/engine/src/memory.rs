//! How much memory a model takes, before and while it is loaded.
//!
//! Linux grants more memory than it has, and llama.cpp writes to the whole KV
//! cache at once: a context that is too large does not fail, it gets the
//! process killed. So the size is estimated and compared first. Budgets over
//! several models are the worker's business, with the estimate that is made here
//! from the file's metadata alone.

use llama_cpp_2::model::LlamaModel;

use crate::check::{check_config, check_file, unusable};
use crate::config::{FlashAttention, KvType, MAX_SLOTS, MemorySize, ModelConfig};
use crate::dimensions::{self, Dimensions};
use crate::engine::speculate::MAX_JOBS;
use crate::error::LoadError;
use crate::ffi::log::Sizes;

/// llama.cpp rounds the number of cells up to a multiple of this.
const CELLS_PAD: u64 = 256;

/// Memory that a model will take, by its file's metadata. Blocks.
///
/// # Errors
/// What is wrong with the configuration or the file, as far as it can be seen
/// without loading.
pub(crate) fn estimate(config: &ModelConfig) -> Result<MemorySize, LoadError> {
    check_config(config)?;
    check_file(&config.path)?;
    let unusable = |error| unusable(&config.path, error);
    let weights = dimensions::file_bytes(&config.path).map_err(|error| unusable(error.into()))?;
    let dimensions = Dimensions::read(&config.path).map_err(unusable)?;
    Ok(MemorySize { weights, ..context_size(&dimensions, config) })
}

/// What the context takes: everything but the weights.
fn context_size(dimensions: &Dimensions, config: &ModelConfig) -> MemorySize {
    let number = |name: &str| dimensions.number(name).unwrap_or(0);
    let trained = u32::try_from(number("context_length")).unwrap_or(u32::MAX);
    let n_ctx = n_ctx(config, trained);
    // More cells than llama.cpp counts are refused when the model is loaded.
    let cells = n_cells(config, n_ctx).map_or(u64::from(u32::MAX), u64::from);
    let cells = cells.next_multiple_of(CELLS_PAD);
    let tokens = u64::from(config.n_batch).min(cells);
    let n_seq = u64::from(n_seq(config, config.prefix_cache));

    let n_embd = number("embedding_length");
    let heads = number("attention.head_count").max(1);
    let row = |names: [&str; 2]| {
        names.iter().filter_map(|name| dimensions.number(name)).max().unwrap_or(n_embd / heads)
    };
    let key = row(["attention.key_length", "attention.key_length_swa"]);
    // Such a model keeps keys alone, and makes values of them.
    let value = match dimensions.number("attention.key_length_mla") {
        Some(_) => 0,
        None => row(["attention.value_length", "attention.value_length_swa"]),
    };
    let bytes_of = |kv_heads: u64| {
        let keys = config.kv_type_k.row_bytes(key.saturating_mul(kv_heads));
        keys.saturating_add(config.kv_type_v.row_bytes(value.saturating_mul(kv_heads)))
    };
    let layers = number("block_count");
    let kv_layers = layers.saturating_sub(number("attention.shared_kv_layers"));
    let kv_layers = match number("full_attention_interval") {
        0 => kv_layers,
        interval => kv_layers / interval,
    };
    let cell = match dimensions.numbers("attention.head_count_kv") {
        [] => kv_layers.saturating_mul(bytes_of(heads)),
        [every] => kv_layers.saturating_mul(bytes_of(*every)),
        // One number for each layer; 0 where a layer has no cache.
        each => each.iter().fold(0, |sum: u64, heads| sum.saturating_add(bytes_of(*heads))),
    };
    let kv = cells.saturating_mul(cell);

    // The state of a recurrent layer, in single precision, for each sequence.
    let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
    let mixed = number("ssm.group_count").saturating_mul(state).saturating_mul(2);
    let kept =
        number("ssm.conv_kernel").saturating_sub(1).saturating_mul(inner.saturating_add(mixed));
    let state = kept.saturating_add(inner.saturating_mul(state)).saturating_mul(4);
    let states = n_seq.saturating_mul(layers).saturating_mul(state);

    // Rows of logits, in the output buffer and in the graph.
    let n_outputs = u64::from(n_outputs(config, config.prefix_cache));
    let rows = n_outputs.saturating_mul(dimensions.n_vocab).saturating_mul(8);
    let flash = config.flash_attention != FlashAttention::Off;
    // The mask, and without flash attention what it is laid over.
    let pair = if flash { 2 } else { 4u64.saturating_add(heads.saturating_mul(4)) };
    let mut attention = cells.saturating_mul(tokens).saturating_mul(pair);
    let kv_heads = dimensions.number("attention.head_count_kv").unwrap_or(heads);
    for (kv_type, length) in [(config.kv_type_k, key), (config.kv_type_v, value)] {
        if flash && kv_type == KvType::F32 {
            // Flash attention reads a copy in half precision, a layer at a time.
            let copy = cells.saturating_mul(length).saturating_mul(kv_heads).saturating_mul(2);
            attention = attention.saturating_add(copy);
        }
    }
    let experts = number("expert_feed_forward_length").saturating_mul(number("expert_used_count"));
    let wide = number("feed_forward_length").max(experts).saturating_mul(3);
    let narrow =
        n_embd.saturating_mul(4).saturating_add(heads.saturating_mul(key).saturating_mul(2));
    let layer = tokens.saturating_mul(wide.saturating_add(narrow)).saturating_mul(4);

    MemorySize {
        weights: 0,
        kv: kv.saturating_add(states),
        buffers: rows.saturating_add(attention).saturating_add(layer),
    }
}

/// Memory that a loaded model takes: what llama.cpp said, or what is known if it
/// should have said nothing.
pub(crate) fn taken(
    config: &ModelConfig,
    weights: &LlamaModel,
    n_cells: u32,
    n_outputs: u32,
    said: Sizes,
) -> MemorySize {
    let or = |said: u64, known: u64| if said == 0 { known } else { said };
    let n_vocab = u64::try_from(weights.n_vocab()).unwrap_or(0);
    MemorySize {
        weights: weights.size(),
        kv: or(
            said.kv,
            kv_bytes([config.kv_type_k, config.kv_type_v], weights, u64::from(n_cells)),
        ),
        buffers: or(said.buffers, u64::from(n_outputs).saturating_mul(n_vocab).saturating_mul(8)),
    }
}

/// Bytes of the KV cache for `n_cells` tokens.
pub(crate) fn kv_bytes([keys, values]: [KvType; 2], model: &LlamaModel, n_cells: u64) -> u64 {
    let n_embd = u64::try_from(model.n_embd()).unwrap_or(0);
    let heads = u64::from(model.n_head()).max(1);
    let row = (n_embd / heads).saturating_mul(u64::from(model.n_head_kv()));
    let both = keys.row_bytes(row).saturating_add(values.row_bytes(row));
    both.saturating_mul(u64::from(model.n_layer())).saturating_mul(n_cells)
}

/// Context limit of one job.
pub(crate) fn n_ctx(config: &ModelConfig, trained: u32) -> u32 {
    let n_ctx = if config.n_ctx == 0 { trained } else { config.n_ctx };
    // A job that could not have the whole cache even alone would have to fail.
    if config.kv_cells == 0 { n_ctx } else { n_ctx.min(config.kv_cells) }
}

/// Cells of the KV cache; `None`: more than llama.cpp can count.
pub(crate) fn n_cells(config: &ModelConfig, n_ctx: u32) -> Option<u32> {
    let n_cells = match config.kv_cells {
        0 => n_ctx.checked_mul(config.slots),
        n_cells => Some(n_cells),
    };
    n_cells.filter(|cells| i32::try_from(*cells).is_ok())
}

/// Sequences: a slot each, and the leaves of the prefix cache if there is one.
pub(crate) fn n_seq(config: &ModelConfig, shares: bool) -> u32 {
    let n_leaves = if shares { config.cache_leaves.min(MAX_SLOTS - config.slots) } else { 0 };
    config.slots + n_leaves
}

/// Rows of logits that a step may ask for: one for each sequence, as llama.cpp wants
/// it, or what the steps that have drafts need.
pub(crate) fn n_outputs(config: &ModelConfig, shares: bool) -> u32 {
    n_seq(config, shares).max(config.slots.min(MAX_JOBS) * (1 + config.speculate_tokens))
}

/// Bytes this process may still use, if the system says so: the less of what
/// the machine has and what the control group leaves.
pub(crate) fn available() -> Option<u64> {
    let machine =
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let read = |name: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    let group = read("memory.max")
        .zip(read("memory.current"))
        .map(|(max, current)| max.saturating_sub(current));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;
    use crate::gguf::tests::{Written, file as gguf};

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:  100 kB\nMemAvailable:     42 kB\n";
        assert_eq!(mem_available(text), Some(42 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB"), None);
    }

    /// The metadata of a model as small as SmolLM2, with more.
    fn size(more: &[(&str, u32)], change: impl FnOnce(&mut ModelConfig)) -> MemorySize {
        let mut entries = vec![
            ("general.architecture", Written::Text("llama")),
            ("tokenizer.ggml.tokens", Written::Texts(1000)),
        ];
        for (name, number) in [
            ("llama.block_count", 30),
            ("llama.context_length", 8192),
            ("llama.embedding_length", 576),
            ("llama.feed_forward_length", 1536),
            ("llama.attention.head_count", 9),
        ] {
            entries.push((name, Written::U32(number)));
        }
        entries.extend(more.iter().map(|(name, number)| (*name, Written::U32(*number))));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), gguf(&entries, &[])).unwrap();
        let mut config = ModelConfig { path: file.path().to_path_buf(), ..ModelConfig::default() };
        (config.n_ctx, config.slots) = (2048, 4);
        change(&mut config);
        let size = estimate(&config).unwrap();
        assert_eq!(size.weights, std::fs::metadata(file.path()).unwrap().len());
        size
    }

    const KV_HEADS: (&str, u32) = ("llama.attention.head_count_kv", 3);

    #[test]
    fn the_kv_cache_is_cells_by_layers_by_rows() {
        let kv = |change: fn(&mut ModelConfig)| size(&[KV_HEADS], change).kv;
        // Keys and values of 3 heads of 64 numbers, in 30 layers.
        assert_eq!(kv(|_| {}), 4 * 2048 * 30 * 2 * 192 * 2);
        assert_eq!(kv(|c| c.slots = 1), 2048 * 30 * 2 * 192 * 2);
        assert_eq!(kv(|c| (c.n_ctx, c.slots) = (0, 1)), 8192 * 30 * 2 * 192 * 2);
        // Rounded up, as llama.cpp does.
        assert_eq!(kv(|c| c.kv_cells = 1000), 1024 * 30 * 2 * 192 * 2);
        assert_eq!(kv(|c| c.kv_type_k = KvType::Q8_0), 8192 * 30 * (384 + 204));
        assert_eq!(kv(|c| c.kv_type_v = KvType::Q4_0), 8192 * 30 * (384 + 108));
        // Without the entry every head has its own.
        assert_eq!(size(&[], |_| {}).kv, 8192 * 30 * 2 * 576 * 2);
    }

    #[test]
    fn layers_without_a_cache_are_left_out() {
        let kv = |more: (&str, u32)| size(&[KV_HEADS, more], |_| {}).kv;
        let layer = 8192 * 2 * 192 * 2;
        assert_eq!(kv(("llama.attention.shared_kv_layers", 10)), 20 * layer);
        assert_eq!(kv(("llama.full_attention_interval", 4)), 7 * layer);
        assert_eq!(kv(("llama.attention.key_length_mla", 192)), 30 * layer / 2);
        assert_eq!(kv(("llama.attention.key_length", 128)), 30 * layer * 3 / 2);
        // Recurrent layers have a state for each of 4 slots and 16 leaves.
        let recurrent = [("llama.ssm.inner_size", 512), ("llama.ssm.state_size", 16), KV_HEADS];
        assert_eq!(size(&recurrent, |_| {}).kv, 30 * layer + 20 * 30 * 512 * 16 * 4);
    }

    #[test]
    fn buffers_grow_with_what_they_hold() {
        let buffers = |change: fn(&mut ModelConfig)| size(&[KV_HEADS], change).buffers;
        let usual = buffers(|_| {});
        // 16 rows of logits, twice.
        assert_eq!(usual - buffers(|c| c.prefix_cache = false), 16 * 1000 * 8);
        assert_eq!(usual - buffers(|c| c.cache_leaves = 0), 16 * 1000 * 8);
        // Drafts fit into the rows that leaves never use, up to a point: 2 jobs with 17
        // rows each are 14 more than the 20 of slots and leaves.
        assert_eq!(buffers(|c| c.speculate_tokens = 9), usual);
        assert_eq!(buffers(|c| c.speculate_tokens = 16) - usual, 14 * 1000 * 8);
        assert!(buffers(|c| c.n_batch = 1024) > usual);
        assert!(buffers(|c| c.flash_attention = FlashAttention::Off) > 2 * usual);
        assert!(buffers(|c| c.kv_type_k = KvType::F32) > usual);
    }

    #[test]
    fn numbers_that_make_no_sense_are_very_much_memory() {
        let large = [
            ("llama.block_count", u32::MAX),
            ("llama.attention.head_count_kv", u32::MAX),
            ("llama.attention.key_length", u32::MAX),
            ("llama.attention.value_length", u32::MAX),
        ];
        assert_eq!(size(&large, |c| c.n_ctx = u32::MAX).total(), u64::MAX);
    }
}
