//! Reads what stands in front of the tensors of a GGUF file.
//!
//! llama.cpp asserts that some keys of an adapter have the type it expects, and
//! that its tensors fit together, so both are looked at before. Nothing here
//! trusts a length: what is read is bounded by a budget, whatever the file says.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

/// Most bytes in front of an adapter's tensors.
const MAX_HEADER: u64 = 16 << 20;
/// How far a file is read to find out what it is: writers put `general.*` first.
const MAX_GLANCE: u64 = 64 << 10;
/// The most dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;
const MAGIC: &[u8] = b"GGUF";
/// The numbers of types.
const U32: u32 = 4;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Where data begins is a multiple of this, unless the file says otherwise.
const ALIGNMENT: u32 = 32;

/// A value of the metadata, as far as anybody here wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    F32(f32),
    U32(u32),
    Other,
}

/// A tensor's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// As ggml counts them: the first changes fastest; 1 where there is none.
    pub(crate) size: [u64; MAX_DIMS as usize],
    /// ggml's number of the type.
    pub(crate) kind: u32,
    /// Where its data is, from [`Header::data`] on.
    pub(crate) offset: u64,
}

/// Metadata and tensors of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Header {
    entries: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Where the tensors' data begins.
    pub(crate) data: u64,
}

impl Header {
    /// The value of a key; of a repeated one the first.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// Why a header cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Invalid(&'static str),
}

/// Reads a whole header.
pub(crate) fn read(path: &Path) -> Result<Header, HeaderError> {
    let mut reader = Reader::open(path, MAX_HEADER)?;
    let (n_tensors, n_entries) = reader.counts()?;
    let mut header = Header::default();
    for _ in 0..n_entries {
        let entry = (reader.text()?, reader.value()?);
        header.entries.push(entry);
    }
    for _ in 0..n_tensors {
        let tensor = reader.tensor()?;
        header.tensors.push(tensor);
    }
    let alignment = match header.get("general.alignment") {
        Some(Value::U32(alignment)) => *alignment,
        _ => ALIGNMENT,
    };
    header.data = (MAX_HEADER - reader.left).next_multiple_of(u64::from(alignment.max(1)));
    Ok(header)
}

/// Whether a file says of itself that it is an adapter and no model. False for
/// all that cannot be read: what is wrong with it is told when it is used.
pub(crate) fn is_adapter(path: &Path) -> bool {
    let general_type = || -> Result<Option<Value>, HeaderError> {
        let mut reader = Reader::open(path, MAX_GLANCE)?;
        let (_, n_entries) = reader.counts()?;
        for _ in 0..n_entries {
            let (key, value) = (reader.text()?, reader.value()?);
            if key == "general.type" {
                return Ok(Some(value));
            }
        }
        Ok(None)
    };
    matches!(general_type(), Ok(Some(Value::Text(text))) if text == "adapter")
}

struct Reader<R> {
    input: R,
    left: u64,
}

impl Reader<BufReader<File>> {
    fn open(path: &Path, budget: u64) -> Result<Self, HeaderError> {
        // Opening a FIFO would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(HeaderError::Invalid("not a regular file"));
        }
        Ok(Self { input: BufReader::new(File::open(path)?), left: budget })
    }
}

impl<R: Read> Reader<R> {
    /// Numbers of tensors and of entries.
    fn counts(&mut self) -> Result<(u64, u64), HeaderError> {
        if self.bytes(4)? != MAGIC {
            return Err(HeaderError::Invalid("wrong magic"));
        }
        // Version 1 has shorter numbers; others are not known.
        if !matches!(self.u32()?, 2 | 3) {
            return Err(HeaderError::Invalid("unknown version"));
        }
        Ok((self.u64()?, self.u64()?))
    }

    fn tensor(&mut self) -> Result<Tensor, HeaderError> {
        let name = self.text()?;
        let n_dims = self.u32()?;
        if n_dims > MAX_DIMS {
            return Err(HeaderError::Invalid("a tensor has too many dimensions"));
        }
        let mut size = [1; MAX_DIMS as usize];
        for n in size.iter_mut().take(n_dims as usize) {
            *n = self.u64()?;
        }
        Ok(Tensor { name, size, kind: self.u32()?, offset: self.u64()? })
    }

    fn value(&mut self) -> Result<Value, HeaderError> {
        match self.u32()? {
            STRING => self.text().map(Value::Text),
            U32 => Ok(Value::U32(self.u32()?)),
            F32 => Ok(Value::F32(f32::from_bits(self.u32()?))),
            ARRAY => {
                let (kind, n) = (self.u32()?, self.u64()?);
                if kind == STRING {
                    for _ in 0..n {
                        let length = self.u64()?;
                        self.skip(length)?;
                    }
                } else {
                    self.skip(n.saturating_mul(width(kind)?))?;
                }
                Ok(Value::Other)
            }
            kind => {
                self.skip(width(kind)?)?;
                Ok(Value::Other)
            }
        }
    }

    /// A string; bytes that are no UTF-8 are replaced, which no key and no name
    /// that is looked for contains.
    fn text(&mut self) -> Result<String, HeaderError> {
        let length = self.u64()?;
        self.bytes(length).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn bytes(&mut self, n: u64) -> Result<Vec<u8>, HeaderError> {
        self.spend(n)?;
        let mut bytes = Vec::new();
        // Grows with what there is, not with what was promised.
        self.input.by_ref().take(n).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == n { Ok(bytes) } else { Err(cut_off()) }
    }

    fn skip(&mut self, n: u64) -> Result<(), HeaderError> {
        self.spend(n)?;
        let skipped = std::io::copy(&mut self.input.by_ref().take(n), &mut std::io::sink())?;
        if skipped == n { Ok(()) } else { Err(cut_off()) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), HeaderError> {
        self.spend(bytes.len() as u64)?;
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => cut_off(),
            _ => HeaderError::Io(error),
        })
    }

    fn spend(&mut self, n: u64) -> Result<(), HeaderError> {
        self.left =
            self.left.checked_sub(n).ok_or(HeaderError::Invalid("its header is too long"))?;
        Ok(())
    }
}

fn cut_off() -> HeaderError {
    HeaderError::Invalid("its header is cut off")
}

/// Bytes of a plain value.
fn width(kind: u32) -> Result<u64, HeaderError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(HeaderError::Invalid("a value has an unknown type")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [text(key).as_slice(), &kind.to_le_bytes(), value].concat()
    }

    fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((entries.len() as u64).to_le_bytes());
        bytes.extend(entries.concat());
        bytes.extend(tensors.concat());
        bytes
    }

    fn with_file<T>(bytes: &[u8], look: impl FnOnce(&Path) -> T) -> T {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        look(file.path())
    }

    fn strings(texts: &[&str]) -> Vec<u8> {
        let texts = texts.iter().flat_map(|t| text(t));
        let head = [STRING.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec()].concat();
        head.into_iter().chain(texts).collect()
    }

    fn sample() -> Vec<u8> {
        let numbers = [4u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), vec![0; 8]];
        let tensor = [
            text("blk.0.x.lora_a"),
            2u32.to_le_bytes().to_vec(),
            5u64.to_le_bytes().to_vec(),
            3u64.to_le_bytes().to_vec(),
            1u32.to_le_bytes().to_vec(),
            7u64.to_le_bytes().to_vec(),
        ];
        file(
            &[
                entry("a", ARRAY, &strings(&["x", "yz"])),
                entry("b", ARRAY, &numbers.concat()),
                entry("c", 10, &[0; 8]),
                entry("general.type", STRING, &text("adapter")),
                entry("alpha", F32, &1.5f32.to_le_bytes()),
            ],
            &[tensor.concat()],
        )
    }

    #[test]
    fn a_header_is_read() {
        let header = with_file(&sample(), |path| read(path).unwrap());
        assert_eq!(header.get("a"), Some(&Value::Other));
        assert_eq!(header.get("alpha"), Some(&Value::F32(1.5)));
        assert_eq!(header.get("general.type"), Some(&Value::Text("adapter".into())));
        assert_eq!(header.get("none"), None);
        let tensor =
            Tensor { name: "blk.0.x.lora_a".into(), size: [5, 3, 1, 1], kind: 1, offset: 7 };
        assert_eq!(header.tensors, [tensor]);
        assert_eq!(header.data as usize, sample().len().next_multiple_of(32));
        assert!(with_file(&sample(), is_adapter));
    }

    #[test]
    fn what_is_no_adapter() {
        let model = file(&[entry("general.type", STRING, &text("model"))], &[]);
        let number = file(&[entry("general.type", F32, &[0; 4])], &[]);
        for bytes in [b"".to_vec(), b"GGUF".to_vec(), vec![7; 4096], model, number] {
            assert!(!with_file(&bytes, is_adapter));
        }
        assert!(!is_adapter(Path::new("/nowhere.gguf")));
        assert!(!is_adapter(&std::env::temp_dir()));
        // Too far from the beginning for a glance.
        let long = text(&"y".repeat(MAX_GLANCE as usize));
        let far = [entry("x", STRING, &long), entry("general.type", STRING, &text("adapter"))];
        assert!(!with_file(&file(&far, &[]), is_adapter));
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert!(with_file(&bytes[..n], |path| read(path).is_err()), "{n} bytes");
        }
    }

    proptest! {
        /// Whatever the bytes are, they are read or refused, and nothing of the size
        /// that they promise is allocated.
        #[test]
        fn any_bytes_do_no_harm(at in 8usize..228, bent in any::<[u8; 8]>()) {
            let mut bytes = sample();
            for (byte, value) in bytes[at..].iter_mut().zip(bent) {
                *byte = value;
            }
            let _ = with_file(&bytes, read);
            let _ = with_file(&bytes, is_adapter);
        }
    }
}
