//! Reads what stands in front of the tensors of a GGUF file.
//!
//! The one reader of such files beside llama.cpp's, for what has to be known before
//! anything is loaded: how much memory a model will take ([`crate::dimensions`]), and
//! whether an adapter is one that llama.cpp survives ([`crate::adapter`]).
//!
//! Nobody has checked these files yet, so nothing here trusts a length: no more is
//! read than the file has and the caller allows, only entries that the caller wants
//! are kept, and what is kept grows with what was read, never with what was promised.
//! What entries mean, and whether tensors fit, is the callers' business.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek};
use std::path::Path;

const MAGIC: &[u8] = b"GGUF";
/// Magic, version, number of tensors, number of metadata entries.
const START: u64 = 24;
/// The smallest metadata entry: key of one byte, type, value of one byte.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// The smallest tensor description: name of one byte, one dimension.
const MIN_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// Longest key, text that is kept, and name of a tensor, in bytes; all that anybody
/// looks for are far shorter.
const MAX_TEXT: u64 = 1 << 16;
/// Most entries that are kept, and most numbers of one: more than any model has
/// layers.
const MAX_KEPT: usize = 1024;
/// More tensors than any model has.
const MAX_TENSORS: u64 = 100_000;
/// The most dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMS: usize = 4;
/// The numbers of types that are not whole numbers.
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F64: u32 = 12;
/// Where data begins is a multiple of this, unless an entry says otherwise.
const ALIGNMENT: u64 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// A value of the metadata, as far as anybody here wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// A whole number, or a truth value. Negative ones are told as 0: they are the
    /// size of nothing.
    Number(u64),
    F32(f32),
    /// So many elements, and the first of them if they are whole numbers.
    Array {
        length: u64,
        numbers: Vec<u64>,
    },
    Other,
}

/// A tensor's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// As ggml counts them: the first changes fastest; 1 where there is none.
    pub(crate) size: [u64; MAX_DIMS],
    /// ggml's number of the type.
    pub(crate) kind: u32,
    /// Where its data is, from [`Header::data`] on.
    pub(crate) offset: u64,
}

/// Entries of the metadata by their keys; of repeated ones the first.
pub(crate) type Entries = BTreeMap<String, Value>;

/// Metadata and tensors of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Header {
    pub(crate) entries: Entries,
    pub(crate) tensors: Vec<Tensor>,
    /// Where the tensors' data begins.
    pub(crate) data: u64,
}

/// Why a header cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error("{0}")]
    Invalid(String),
}

/// Looks at the beginning of a file alone: whether it is one of GGUF's that is long
/// enough for what it promises.
pub(crate) fn check(path: &Path) -> Result<(), HeaderError> {
    Reader::open(path, START).map(drop)
}

/// Reads the entries whose keys are wanted, and passes over the others.
pub(crate) fn entries(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Entries, HeaderError> {
    Reader::open(path, u64::MAX)?.entries(wanted)
}

/// Reads the wanted entries and all tensors, of a header of at most `limit` bytes.
pub(crate) fn header(
    path: &Path,
    limit: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<Header, HeaderError> {
    Reader::open(path, limit)?.header(wanted)
}

/// The value of one key, if it stands within the first `limit` bytes.
pub(crate) fn glance(path: &Path, limit: u64, key: &str) -> Result<Option<Value>, HeaderError> {
    let mut reader = Reader::open(path, limit)?;
    for _ in 0..reader.n_entries {
        if let Some((_, value)) = reader.entry(|other| other == key)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

struct Reader<R> {
    input: BufReader<R>,
    /// Bytes of the file.
    length: u64,
    /// Bytes of it that may be read.
    end: u64,
    /// Of these, those that were neither read nor passed over.
    left: u64,
    n_tensors: u64,
    n_entries: u64,
}

impl Reader<File> {
    fn open(path: &Path, limit: u64) -> Result<Self, HeaderError> {
        // Opening a FIFO would wait for a writer, so look first.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(HeaderError::NotAFile);
        }
        Self::new(File::open(path)?, metadata.len(), limit)
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the beginning; the metadata is next. `length` is the input's, of which at
    /// most `limit` bytes are looked at.
    fn new(input: R, length: u64, limit: u64) -> Result<Self, HeaderError> {
        if length < START {
            return Err(invalid("not a GGUF file: too short"));
        }
        let (input, end) = (BufReader::new(input), length.min(limit));
        let mut reader = Self { input, length, end, left: end, n_tensors: 0, n_entries: 0 };
        let mut magic = [0; MAGIC.len()];
        reader.fill(&mut magic)?;
        if magic != MAGIC {
            return Err(invalid("not a GGUF file: wrong magic"));
        }
        check_version(reader.u32()?)?;
        (reader.n_tensors, reader.n_entries) = (reader.u64()?, reader.u64()?);
        if reader.n_entries == 0 {
            return Err(invalid("no metadata"));
        }
        let tensors = reader.n_tensors.saturating_mul(MIN_TENSOR);
        if reader.n_entries.saturating_mul(MIN_ENTRY).saturating_add(tensors) > length {
            return Err(invalid("truncated, it promises more than it can hold"));
        }
        Ok(reader)
    }

    fn header(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Header, HeaderError> {
        let entries = self.entries(|key| key == ALIGNMENT_KEY || wanted(key))?;
        if self.n_tensors > MAX_TENSORS {
            return Err(invalid("it has too many tensors"));
        }
        let mut tensors = Vec::new();
        for _ in 0..self.n_tensors {
            tensors.push(self.tensor()?);
        }
        let alignment = match entries.get(ALIGNMENT_KEY) {
            Some(Value::Number(alignment)) => (*alignment).max(1),
            _ => ALIGNMENT,
        };
        // No overflow: it is the alignment, or less than twice the length of a file.
        let data = (self.end - self.left).next_multiple_of(alignment);
        Ok(Header { entries, tensors, data })
    }

    fn entries(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Entries, HeaderError> {
        let mut entries = Entries::new();
        for _ in 0..self.n_entries {
            let is_kept =
                |key: &str| entries.len() < MAX_KEPT && wanted(key) && !entries.contains_key(key);
            let entry = self.entry(is_kept)?;
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// Reads the next entry, or passes over it.
    fn entry(
        &mut self,
        wanted: impl FnOnce(&str) -> bool,
    ) -> Result<Option<(String, Value)>, HeaderError> {
        let key = self.text()?;
        let kind = self.u32()?;
        if wanted(&key) {
            return Ok(Some((key, self.value(kind)?)));
        }
        match kind {
            ARRAY => {
                let (kind, n) = (self.u32()?, self.u64()?);
                self.pass(kind, n)?;
            }
            kind => self.pass(kind, 1)?,
        }
        Ok(None)
    }

    fn value(&mut self, kind: u32) -> Result<Value, HeaderError> {
        if let Some(whole) = Whole::of(kind) {
            return self.number(whole).map(Value::Number);
        }
        match kind {
            STRING => self.text().map(Value::Text),
            F32 => Ok(Value::F32(f32::from_bits(self.u32()?))),
            ARRAY => self.array(),
            _ => self.pass(kind, 1).map(|()| Value::Other),
        }
    }

    fn array(&mut self) -> Result<Value, HeaderError> {
        let (kind, length) = (self.u32()?, self.u64()?);
        let mut numbers = Vec::new();
        if let Some(whole) = Whole::of(kind) {
            for _ in 0..length.min(MAX_KEPT as u64) {
                numbers.push(self.number(whole)?);
            }
        }
        self.pass(kind, length - numbers.len() as u64)?;
        Ok(Value::Array { length, numbers })
    }

    /// Passes over `n` values of a type. Arrays of arrays are unknown to llama.cpp as
    /// well.
    fn pass(&mut self, kind: u32, n: u64) -> Result<(), HeaderError> {
        if kind != STRING {
            let width = match (kind, Whole::of(kind)) {
                (F32, _) => 4,
                (F64, _) => 8,
                (_, Some(whole)) => whole.bytes as u64,
                _ => return Err(invalid("a value has an unknown type")),
            };
            return self.skip(n.saturating_mul(width));
        }
        for _ in 0..n {
            let length = self.u64()?;
            self.skip(length)?;
        }
        Ok(())
    }

    fn tensor(&mut self) -> Result<Tensor, HeaderError> {
        let name = self.text()?;
        let n_dims = self.u32()? as usize;
        let mut size = [1; MAX_DIMS];
        let Some(given) = size.get_mut(..n_dims) else {
            return Err(invalid("a tensor has too many dimensions"));
        };
        for n in given {
            *n = self.u64()?;
        }
        Ok(Tensor { name, size, kind: self.u32()?, offset: self.u64()? })
    }

    /// A text; bytes that are no UTF-8 are replaced, which no key and no name that is
    /// looked for contains.
    fn text(&mut self) -> Result<String, HeaderError> {
        let length = self.u64()?;
        if length > MAX_TEXT {
            return Err(invalid("a text of its header is too long"));
        }
        // Counted off first: a length that the file does not have allocates nothing.
        self.spend(length)?;
        let mut bytes = vec![0; length as usize];
        self.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
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

    fn number(&mut self, Whole { bytes, signed }: Whole) -> Result<u64, HeaderError> {
        let mut all = [0; 8];
        self.fill(&mut all[..bytes])?;
        let number = u64::from_le_bytes(all);
        let is_negative = signed && number >> (8 * bytes - 1) == 1;
        Ok(if is_negative { 0 } else { number })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), HeaderError> {
        self.spend(bytes.len() as u64)?;
        self.read(bytes)
    }

    /// Reads what has been counted off.
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), HeaderError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            // The file has become shorter since it was asked for its length.
            ErrorKind::UnexpectedEof => cut_off(),
            _ => HeaderError::Io(error),
        })
    }

    fn skip(&mut self, n: u64) -> Result<(), HeaderError> {
        self.spend(n)?;
        // No file is longer than this type holds.
        let n = i64::try_from(n).map_err(|_| cut_off())?;
        Ok(self.input.seek_relative(n)?)
    }

    /// Counts bytes off; seeking beyond the end would be no error.
    fn spend(&mut self, n: u64) -> Result<(), HeaderError> {
        let is_limited = self.end < self.length;
        self.left = self.left.checked_sub(n).ok_or_else(|| match is_limited {
            true => invalid("its header is too long"),
            false => cut_off(),
        })?;
        Ok(())
    }
}

/// How a whole number, or a truth value, is written.
#[derive(Clone, Copy)]
struct Whole {
    bytes: usize,
    signed: bool,
}

impl Whole {
    fn of(kind: u32) -> Option<Self> {
        let (bytes, signed) = match kind {
            0 | 7 => (1, false),
            1 => (1, true),
            2 => (2, false),
            3 => (2, true),
            4 => (4, false),
            5 => (4, true),
            10 => (8, false),
            11 => (8, true),
            _ => return None,
        };
        Some(Self { bytes, signed })
    }
}

fn check_version(version: u32) -> Result<(), HeaderError> {
    match version {
        2 | 3 => Ok(()),
        1 => Err(invalid("GGUF version 1 is not supported; convert the model again")),
        _ if matches!(version.swap_bytes(), 2 | 3) => {
            Err(invalid("GGUF file of the other byte order"))
        }
        _ => Err(HeaderError::Invalid(format!("GGUF version {version} is not supported"))),
    }
}

fn invalid(reason: &str) -> HeaderError {
    HeaderError::Invalid(reason.to_string())
}

fn cut_off() -> HeaderError {
    invalid("its header is cut off")
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
pub(crate) mod tests;
