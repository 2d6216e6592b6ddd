//! The numbers that tell how much memory a model takes, as its files have them.
//!
//! Reading them is [`crate::gguf`]'s business, adding them up [`crate::memory`]'s.

use std::io;
use std::path::Path;

use crate::gguf::{self, Entries, HeaderError, Value};

/// Entries that are looked for, behind the architecture's name and a dot.
const WANTED: [&str; 19] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.key_length_mla",
    "attention.key_length_swa",
    "attention.shared_kv_layers",
    "attention.value_length",
    "attention.value_length_swa",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "full_attention_interval",
    "ssm.conv_kernel",
    "ssm.group_count",
    "ssm.inner_size",
    "ssm.state_size",
];
const ARCHITECTURE: &str = "general.architecture";
const TOKENS: &str = "tokenizer.ggml.tokens";

/// What a model's metadata says about its size.
#[derive(Debug)]
pub(crate) struct Dimensions {
    architecture: String,
    entries: Entries,
    /// Tokens in the vocabulary.
    pub(crate) n_vocab: u64,
}

impl Dimensions {
    /// Reads a model's file.
    ///
    /// # Errors
    /// The file cannot be read, or its metadata is damaged.
    pub(crate) fn read(path: &Path) -> Result<Self, HeaderError> {
        // Which architecture it is may stand behind its entries.
        let is_wanted = |key: &str| {
            let name = key.split_once('.').map(|(_, name)| name);
            key == ARCHITECTURE || key == TOKENS || name.is_some_and(|n| WANTED.contains(&n))
        };
        let entries = gguf::entries(path, is_wanted)?;
        let architecture = match entries.get(ARCHITECTURE) {
            Some(Value::Text(architecture)) => architecture.clone(),
            _ => String::new(),
        };
        let n_vocab = match entries.get(TOKENS) {
            Some(Value::Array { length, .. }) => *length,
            _ => 0,
        };
        Ok(Self { architecture, entries, n_vocab })
    }

    /// The numbers of an entry: one, or one for each layer.
    pub(crate) fn numbers(&self, name: &str) -> &[u64] {
        match self.entries.get(&format!("{}.{name}", self.architecture)) {
            Some(Value::Number(number)) => std::slice::from_ref(number),
            Some(Value::Array { numbers, .. }) => numbers,
            _ => &[],
        }
    }

    /// The largest number of an entry.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.numbers(name).iter().copied().max()
    }
}

/// Bytes of all files of a model: of one that is split into parts, the given one
/// is the first.
///
/// # Errors
/// The first file cannot be looked at. Parts that are not there count as nothing:
/// llama.cpp will refuse the model.
pub(crate) fn file_bytes(path: &Path) -> io::Result<u64> {
    let first = std::fs::metadata(path)?.len();
    let rest = other_parts(path);
    let rest = rest.iter().filter_map(|part| std::fs::metadata(part).ok());
    Ok(rest.fold(first, |sum, part| sum.saturating_add(part.len())))
}

/// The files beside `model-00001-of-00003.gguf` that belong to it.
fn other_parts(path: &Path) -> Vec<std::path::PathBuf> {
    let parts = || {
        let name = path.file_name()?.to_str()?;
        let (stem, extension) = name.rsplit_once('.')?;
        let (rest, total) = stem.rsplit_once("-of-")?;
        let rest = rest.strip_suffix("-00001")?;
        let count = total.parse::<u32>().ok().filter(|_| total.len() == 5)?;
        let name = |part| format!("{rest}-{part:05}-of-{total}.{extension}");
        Some((2..=count).map(|part| path.with_file_name(name(part))).collect())
    };
    parts().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;
    use crate::gguf::tests::{Written, file};

    fn read(bytes: &[u8]) -> Result<Dimensions, HeaderError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Dimensions::read(file.path())
    }

    fn example() -> Vec<u8> {
        let entries = [
            ("llama.block_count", Written::U32(30)),
            (ARCHITECTURE, Written::Text("llama")),
            ("llama.attention.head_count_kv", Written::I32s(&[3, 0, -1])),
            ("llama.rope.freq_base", Written::F32(1e5)),
            ("clip.block_count", Written::U32(99)),
            (TOKENS, Written::Texts(7)),
            ("llama.embedding_length", Written::U32(576)),
            ("llama.context_length", Written::Text("long")),
        ];
        file(&entries, &[])
    }

    #[test]
    fn numbers_are_found_by_name() {
        let dimensions = read(&example()).unwrap();
        assert_eq!(dimensions.number("block_count"), Some(30));
        assert_eq!(dimensions.number("embedding_length"), Some(576));
        assert_eq!(dimensions.numbers("attention.head_count_kv"), [3, 0, 0]);
        assert_eq!(dimensions.number("rope.freq_base"), None, "nobody wants it");
        assert_eq!(dimensions.number("context_length"), None, "a text is no number");
        assert_eq!(dimensions.n_vocab, 7);
    }

    #[test]
    fn a_damaged_file_has_none() {
        let bytes = example();
        assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(HeaderError::Invalid(_))));
        assert!(matches!(read(b"no model"), Err(HeaderError::Invalid(_))));
    }

    #[test]
    fn parts_are_counted_together() {
        let folder = tempfile::tempdir().unwrap();
        for (name, length) in [
            ("m-00001-of-00003.gguf", 10),
            ("m-00002-of-00003.gguf", 20),
            ("m-00003-of-00003.gguf", 30),
            ("other-00002-of-00003.gguf", 1000),
            ("m.gguf", 5),
        ] {
            std::fs::write(folder.path().join(name), vec![0; length]).unwrap();
        }
        let bytes = |name: &str| file_bytes(&folder.path().join(name)).unwrap();
        assert_eq!((bytes("m-00001-of-00003.gguf"), bytes("m.gguf")), (60, 5));
        std::fs::remove_file(folder.path().join("m-00003-of-00003.gguf")).unwrap();
        assert_eq!(bytes("m-00001-of-00003.gguf"), 30);
        assert!(file_bytes(&folder.path().join("none")).is_err());
    }
}
