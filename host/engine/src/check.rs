//! Looks at a configuration and a model file before llama.cpp does.
//!
//! llama.cpp says why it refuses a file in its log only, and stumbles over some
//! files that are none of its own. What can be told from the first bytes is
//! told by [`crate::gguf`]; the rest of a file is checked by llama.cpp itself, which
//! refuses tensors beyond the file's end, and whose log [`crate::ffi::log`] captures.

use std::path::Path;

use crate::config::{FlashAttention, MAX_SLOTS, MAX_SPECULATE_TOKENS, ModelConfig};
use crate::error::LoadError;
use crate::ffi::threadpool::MAX_THREADS;
use crate::gguf::{self, HeaderError};

/// Refuses a configuration that cannot work.
pub(crate) fn check_config(config: &ModelConfig) -> Result<(), LoadError> {
    let wrong =
        |field, value: String, expected: String| Err(LoadError::Config { field, value, expected });
    if config.slots == 0 || config.slots > MAX_SLOTS {
        return wrong("slots", config.slots.to_string(), format!("1 to {MAX_SLOTS}"));
    }
    if config.n_batch < config.slots.max(32) || config.n_batch > 65_536 {
        return wrong(
            "n_batch",
            config.n_batch.to_string(),
            format!("{} to 65536", config.slots.max(32)),
        );
    }
    if config.threads > MAX_THREADS {
        return wrong("threads", config.threads.to_string(), format!("0 to {MAX_THREADS}"));
    }
    if config.event_capacity == 0 || config.event_capacity > 1 << 20 {
        return wrong(
            "event_capacity",
            config.event_capacity.to_string(),
            "1 to 1048576".to_string(),
        );
    }
    if config.queue > 1 << 20 {
        return wrong("queue", config.queue.to_string(), "0 to 1048576".to_string());
    }
    if config.kv_cells != 0 && config.kv_cells < 32 {
        return wrong("kv_cells", config.kv_cells.to_string(), "0 or 32 and more".to_string());
    }
    if config.stall_target_ms == 0 || config.stall_target_ms > 60_000 {
        return wrong(
            "stall_target_ms",
            config.stall_target_ms.to_string(),
            "1 to 60000".to_string(),
        );
    }
    if config.speculate_tokens > MAX_SPECULATE_TOKENS {
        return wrong(
            "speculate_tokens",
            config.speculate_tokens.to_string(),
            format!("0 to {MAX_SPECULATE_TOKENS}"),
        );
    }
    if config.cache_block == 0 || config.cache_block > 1024 {
        return wrong("cache_block", config.cache_block.to_string(), "1 to 1024".to_string());
    }
    if config.flash_attention == FlashAttention::Off {
        // llama.cpp refuses such values, and does not check that such keys have
        // whole blocks.
        for (field, kv_type) in [("kv_type_k", config.kv_type_k), ("kv_type_v", config.kv_type_v)] {
            if kv_type.is_quantised() {
                return wrong(
                    field,
                    kv_type.name().to_string(),
                    "f32, f16 or bf16 without flash attention".to_string(),
                );
            }
        }
    }
    if config.embedding.max_tokens == 0 || config.embedding.max_tokens > 65_536 {
        return wrong(
            "embedding.max_tokens",
            config.embedding.max_tokens.to_string(),
            "1 to 65536".to_string(),
        );
    }
    if config.embedding.threads > MAX_THREADS {
        return wrong(
            "embedding.threads",
            config.embedding.threads.to_string(),
            format!("0 to {MAX_THREADS}"),
        );
    }
    if config.poll > 100 {
        return wrong("poll", config.poll.to_string(), "0 to 100".to_string());
    }
    Ok(())
}

/// Refuses a file that is no GGUF file.
pub(crate) fn check_file(path: &Path) -> Result<(), LoadError> {
    gguf::check(path).map_err(|error| unusable(path, error))?;
    if path.to_str().is_none() {
        let reason = "the path is not UTF-8".to_string();
        return Err(LoadError::InvalidFile { path: path.to_path_buf(), reason });
    }
    Ok(())
}

/// What a header that cannot be read is to somebody who wants to load the model.
pub(crate) fn unusable(path: &Path, error: HeaderError) -> LoadError {
    let path = path.to_path_buf();
    match error {
        HeaderError::Io(source) => LoadError::Io { path, source },
        HeaderError::NotAFile => LoadError::NotAFile { path },
        HeaderError::Invalid(reason) => LoadError::InvalidFile { path, reason },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;
    use crate::config::KvType;

    #[test]
    fn files_that_are_no_model() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [b'x'; 100]).unwrap();
        let error = check_file(file.path()).unwrap_err();
        assert!(matches!(error, LoadError::InvalidFile { .. }), "{error}");
        assert!(error.to_string().ends_with(": not a GGUF file: wrong magic"), "{error}");
    }

    #[test]
    fn paths_that_are_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(check_file(dir.path()), Err(LoadError::NotAFile { .. })));
        assert!(matches!(check_file(&dir.path().join("none.gguf")), Err(LoadError::Io { .. })));
    }

    #[test]
    fn every_limit_of_the_configuration() {
        let wrong = |change: fn(&mut ModelConfig)| {
            let mut config = ModelConfig::default();
            change(&mut config);
            match check_config(&config) {
                Err(LoadError::Config { field, .. }) => field,
                other => panic!("expected a refusal, got {other:?}"),
            }
        };
        assert!(check_config(&ModelConfig::default()).is_ok());
        assert_eq!(wrong(|c| c.slots = 0), "slots");
        assert_eq!(wrong(|c| c.slots = 257), "slots");
        assert_eq!(wrong(|c| c.n_batch = 31), "n_batch");
        assert_eq!(wrong(|c| (c.slots, c.n_batch) = (64, 63)), "n_batch");
        assert_eq!(wrong(|c| c.n_batch = 65_537), "n_batch");
        assert_eq!(wrong(|c| c.threads = 513), "threads");
        assert_eq!(wrong(|c| c.event_capacity = 0), "event_capacity");
        assert_eq!(wrong(|c| c.queue = usize::MAX), "queue");
        assert_eq!(wrong(|c| c.poll = 101), "poll");
        assert_eq!(wrong(|c| c.kv_cells = 31), "kv_cells");
        assert_eq!(wrong(|c| c.stall_target_ms = 0), "stall_target_ms");
        assert_eq!(wrong(|c| c.stall_target_ms = 60_001), "stall_target_ms");
        assert_eq!(wrong(|c| c.speculate_tokens = 17), "speculate_tokens");
        assert_eq!(wrong(|c| c.cache_block = 0), "cache_block");
        assert_eq!(wrong(|c| c.cache_block = 1025), "cache_block");
        let off = FlashAttention::Off;
        let without = ModelConfig { flash_attention: off, ..ModelConfig::default() };
        assert!(check_config(&without).is_ok());
        let quantised = ModelConfig { kv_type_v: KvType::Q4_0, ..ModelConfig::default() };
        assert!(check_config(&quantised).is_ok());
        assert_eq!(
            check_config(&ModelConfig { flash_attention: off, ..quantised })
                .unwrap_err()
                .to_string(),
            "kv_type_v is q4_0, but must be f32, f16 or bf16 without flash attention"
        );
        let keys = ModelConfig { kv_type_k: KvType::Q8_0, ..without };
        assert!(matches!(check_config(&keys), Err(LoadError::Config { field: "kv_type_k", .. })));
        assert_eq!(wrong(|c| c.embedding.max_tokens = 0), "embedding.max_tokens");
        assert_eq!(wrong(|c| c.embedding.max_tokens = 65_537), "embedding.max_tokens");
        assert_eq!(wrong(|c| c.embedding.threads = 513), "embedding.threads");
    }
}
