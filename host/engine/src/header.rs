//! The metadata at the beginning of a GGUF file, as far as it tells how much
//! memory the model takes.
//!
//! Read here and not by llama.cpp, because it is asked before anything is
//! loaded, of files that nobody has checked yet: every length is compared with
//! what is left of the file, and nothing but a few numbers is kept.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

use crate::error::LoadError;

/// Entries that are kept, behind the architecture's name and a dot.
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

/// Most entries kept, and most numbers of one: more than any model has layers.
const MAX_KEPT: usize = 1024;

/// Longest key that is read; llama.cpp's own are far shorter.
const MAX_KEY: u64 = 1 << 16;

/// What was kept of a file's metadata.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    architecture: String,
    entries: Vec<(String, Vec<u64>)>,
    /// Tokens in the vocabulary.
    pub(crate) n_vocab: u64,
}

impl Header {
    /// Reads a file that is known to be GGUF.
    ///
    /// # Errors
    /// The file cannot be read, or its metadata is damaged.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        let left = file.metadata().map_err(io)?.len();
        let mut source = Source { file: BufReader::new(file), left };
        source.header().map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => LoadError::InvalidFile {
                path: path.to_path_buf(),
                reason: "its metadata is damaged".to_string(),
            },
            _ => io(error),
        })
    }

    /// The numbers of an entry: one, or one for each layer.
    pub(crate) fn numbers(&self, name: &str) -> &[u64] {
        let is_it = |key: &str| {
            key.strip_prefix(self.architecture.as_str()).and_then(|key| key.strip_prefix('.'))
                == Some(name)
        };
        let found = self.entries.iter().find(|(key, _)| is_it(key));
        found.map_or(&[], |(_, numbers)| numbers.as_slice())
    }

    /// The largest number of an entry.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.numbers(name).iter().copied().max()
    }
}

struct Source {
    file: BufReader<File>,
    /// Bytes behind the place that is read next.
    left: u64,
}

impl Source {
    fn header(&mut self) -> io::Result<Header> {
        // Magic, version and number of tensors.
        self.skip(16)?;
        let n_entries = self.u64()?;
        let mut header = Header::default();
        for _ in 0..n_entries {
            let key = self.text(MAX_KEY)?;
            let kind = self.u32()?;
            match (key.as_str(), kind) {
                ("general.architecture", STRING) => header.architecture = self.text(MAX_KEY)?,
                ("tokenizer.ggml.tokens", ARRAY) => header.n_vocab = self.array(|_| {})?,
                _ if is_wanted(&key) && header.entries.len() < MAX_KEPT => {
                    let mut numbers = Vec::new();
                    let keep = |number| {
                        if numbers.len() < MAX_KEPT {
                            numbers.push(number);
                        }
                    };
                    if kind == ARRAY {
                        self.array(keep)?;
                    } else {
                        self.value(kind, keep)?;
                    }
                    header.entries.push((key, numbers));
                }
                (_, ARRAY) => {
                    self.array(|_| {})?;
                }
                _ => self.value(kind, |_| {})?,
            }
        }
        Ok(header)
    }

    /// Reads an array; its numbers are told, its texts are passed over. Returns
    /// its length.
    fn array(&mut self, mut told: impl FnMut(u64)) -> io::Result<u64> {
        let kind = self.u32()?;
        let length = self.u64()?;
        for _ in 0..length {
            self.value(kind, &mut told)?;
        }
        Ok(length)
    }

    /// Reads one value that is no array.
    fn value(&mut self, kind: u32, mut told: impl FnMut(u64)) -> io::Result<()> {
        let (bytes, signed) = match kind {
            STRING => {
                let length = self.u64()?;
                return self.skip(length);
            }
            // Fractions are not told: they are the size of nothing.
            6 => return self.skip(4),
            12 => return self.skip(8),
            0 | 7 => (1, false),
            1 => (1, true),
            2 => (2, false),
            3 => (2, true),
            4 => (4, false),
            5 => (4, true),
            10 => (8, false),
            11 => (8, true),
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        let number = self.number(bytes)?;
        let is_negative = signed && number >> (8 * bytes - 1) == 1;
        told(if is_negative { 0 } else { number });
        Ok(())
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.number(4).map(|number| number as u32)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.number(8)
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, n: usize) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.take(n as u64)?;
        self.file.read_exact(&mut bytes[..n])?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self, max: u64) -> io::Result<String> {
        let length = self.u64()?;
        if length > max {
            return Err(ErrorKind::InvalidData.into());
        }
        self.take(length)?;
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, n: u64) -> io::Result<()> {
        self.take(n)?;
        // No file is longer than this type holds.
        let n = i64::try_from(n).map_err(|_| ErrorKind::InvalidData)?;
        self.file.seek_relative(n)
    }

    /// Counts bytes off; seeking beyond the end would be no error.
    fn take(&mut self, n: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(n).ok_or(ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn is_wanted(key: &str) -> bool {
    key.split_once('.').is_some_and(|(_, name)| WANTED.contains(&name))
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
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use proptest::prelude::*;

    use super::*;

    /// A value of a metadata entry.
    pub(crate) enum Value<'a> {
        U32(u32),
        I32s(&'a [i32]),
        Text(&'a str),
        Texts(usize),
        F32(f32),
    }

    /// The beginning of a file with these entries.
    pub(crate) fn gguf(entries: &[(&str, Value)]) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend((entries.len() as u64).to_le_bytes());
        for (key, value) in entries {
            bytes.extend(text(key));
            match value {
                Value::U32(number) => {
                    bytes.extend(4u32.to_le_bytes());
                    bytes.extend(number.to_le_bytes());
                }
                Value::F32(number) => {
                    bytes.extend(6u32.to_le_bytes());
                    bytes.extend(number.to_le_bytes());
                }
                Value::I32s(numbers) => {
                    bytes.extend(ARRAY.to_le_bytes());
                    bytes.extend(5u32.to_le_bytes());
                    bytes.extend((numbers.len() as u64).to_le_bytes());
                    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
                }
                Value::Text(value) => {
                    bytes.extend(STRING.to_le_bytes());
                    bytes.extend(text(value));
                }
                Value::Texts(count) => {
                    bytes.extend(ARRAY.to_le_bytes());
                    bytes.extend(STRING.to_le_bytes());
                    bytes.extend((*count as u64).to_le_bytes());
                    (0..*count).for_each(|_| bytes.extend(text("token")));
                }
            }
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, LoadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Header::read(file.path())
    }

    fn example() -> Vec<u8> {
        gguf(&[
            ("llama.block_count", Value::U32(30)),
            ("general.architecture", Value::Text("llama")),
            ("llama.attention.head_count_kv", Value::I32s(&[3, 0, -1])),
            ("llama.rope.freq_base", Value::F32(1e5)),
            ("clip.block_count", Value::U32(99)),
            ("tokenizer.ggml.tokens", Value::Texts(7)),
            ("llama.embedding_length", Value::U32(576)),
        ])
    }

    #[test]
    fn numbers_are_found_by_name() {
        let header = read(&example()).unwrap();
        assert_eq!(header.number("block_count"), Some(30));
        assert_eq!(header.number("embedding_length"), Some(576));
        assert_eq!(header.numbers("attention.head_count_kv"), [3, 0, 0]);
        assert_eq!(header.number("context_length"), None);
        assert_eq!(header.n_vocab, 7);
    }

    #[test]
    fn metadata_that_ends_too_early_is_damaged() {
        let bytes = example();
        for length in 0..bytes.len() {
            let error = read(&bytes[..length]).unwrap_err();
            assert!(matches!(error, LoadError::InvalidFile { .. }), "{length}: {error}");
        }
        // More entries, or a longer text, than the file can hold.
        let mut many = bytes.clone();
        many[16..24].fill(0xFF);
        assert!(read(&many).is_err());
        let mut long = bytes;
        long[24..32].fill(0xFF);
        assert!(read(&long).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_byte_does_no_harm(at in 16usize..200, byte in any::<u8>()) {
            let mut bytes = example();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = read(&bytes);
        }
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
