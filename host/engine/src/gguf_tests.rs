//! Headers that are sound, and headers of every other kind.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// A value as it stands in a file.
pub(crate) enum Written<'a> {
    U32(u32),
    F32(f32),
    Text(&'a str),
    /// So many texts.
    Texts(usize),
    I32s(&'a [i32]),
    /// A type's number and bytes.
    Raw(u32, &'a [u8]),
}

/// A file of these entries and tensors, without the tensors' data.
pub(crate) fn file(entries: &[(&str, Written)], tensors: &[Tensor]) -> Vec<u8> {
    let mut bytes = start(3, tensors.len() as u64, entries.len() as u64);
    for (key, value) in entries {
        bytes.extend(text(key));
        bytes.extend(written(value));
    }
    for tensor in tensors {
        bytes.extend(text(&tensor.name));
        bytes.extend((tensor.size.len() as u32).to_le_bytes());
        tensor.size.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend(tensor.kind.to_le_bytes());
        bytes.extend(tensor.offset.to_le_bytes());
    }
    bytes
}

fn start(version: u32, n_tensors: u64, n_entries: u64) -> Vec<u8> {
    let version = version.to_le_bytes();
    [MAGIC, &version, &n_tensors.to_le_bytes(), &n_entries.to_le_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn written(value: &Written) -> Vec<u8> {
    let array = |kind: u32, n: usize, elements: Vec<u8>| {
        (ARRAY, [kind.to_le_bytes().to_vec(), (n as u64).to_le_bytes().to_vec(), elements].concat())
    };
    let (kind, bytes) = match value {
        Written::U32(number) => (4, number.to_le_bytes().to_vec()),
        Written::F32(number) => (F32, number.to_le_bytes().to_vec()),
        Written::Text(value) => (STRING, text(value)),
        Written::Texts(n) => array(STRING, *n, text("token").repeat(*n)),
        Written::I32s(numbers) => {
            array(5, numbers.len(), numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
        }
        Written::Raw(kind, bytes) => (*kind, bytes.to_vec()),
    };
    [kind.to_le_bytes().to_vec(), bytes].concat()
}

fn sample() -> Vec<u8> {
    let tensor = Tensor { name: "blk.0.x".into(), size: [5, 3, 1, 1], kind: 1, offset: 7 };
    file(
        &[
            ("texts", Written::Texts(3)),
            ("numbers", Written::I32s(&[3, 0, -1])),
            ("passed", Written::I32s(&[1, 2])),
            ("large", Written::Raw(10, &[1, 0, 0, 0, 0, 0, 0, 1])),
            ("negative", Written::Raw(1, &[0x80])),
            ("true", Written::Raw(7, &[1])),
            ("double", Written::Raw(F64, &[0; 8])),
            ("general.type", Written::Text("adapter")),
            ("alpha", Written::F32(1.5)),
        ],
        &[tensor.clone(), Tensor { name: "second".into(), ..tensor }],
    )
}

fn header_of(bytes: &[u8], limit: u64) -> Result<Header, HeaderError> {
    let mut reader = Reader::new(Cursor::new(bytes), bytes.len() as u64, limit)?;
    reader.header(|key| key != "passed")
}

fn refusal(bytes: &[u8]) -> String {
    header_of(bytes, u64::MAX).unwrap_err().to_string()
}

#[test]
fn a_header_is_read() {
    let header = header_of(&sample(), u64::MAX).unwrap();
    let expected = [
        ("texts", Value::Array { length: 3, numbers: Vec::new() }),
        ("numbers", Value::Array { length: 3, numbers: vec![3, 0, 0] }),
        ("large", Value::Number(1 << 56 | 1)),
        ("negative", Value::Number(0)),
        ("true", Value::Number(1)),
        ("double", Value::Other),
        ("general.type", Value::Text("adapter".into())),
        ("alpha", Value::F32(1.5)),
    ];
    assert_eq!(header.entries.len(), expected.len());
    for (key, value) in expected {
        assert_eq!(header.entries.get(key), Some(&value), "{key}");
    }
    let tensor = Tensor { name: "blk.0.x".into(), size: [5, 3, 1, 1], kind: 1, offset: 7 };
    assert_eq!(header.tensors[0], tensor);
    assert_eq!(header.tensors.len(), 2);
    assert_eq!(header.data as usize, sample().len().next_multiple_of(32));
}

#[test]
fn data_is_aligned_as_the_file_says() {
    let data = |alignment: Written| {
        let bytes = file(&[(ALIGNMENT_KEY, alignment)], &[]);
        (header_of(&bytes, u64::MAX).unwrap().data, bytes.len() as u64)
    };
    let (at, length) = data(Written::U32(64));
    assert_eq!(at, length.next_multiple_of(64));
    let (at, length) = data(Written::U32(0));
    assert_eq!(at, length);
    let most = u64::MAX.to_le_bytes();
    assert_eq!(data(Written::Raw(10, &most)).0, u64::MAX);
}

#[test]
fn files_that_are_none() {
    assert_eq!(refusal(b""), "not a GGUF file: too short");
    assert_eq!(refusal(&[b'x'; 100]), "not a GGUF file: wrong magic");
    let one = "GGUF version 1 is not supported; convert the model again";
    assert_eq!(refusal(&start(1, 1, 1)), one);
    assert_eq!(refusal(&start(9, 1, 1)), "GGUF version 9 is not supported");
    assert_eq!(refusal(&start(3u32.swap_bytes(), 1, 1)), "GGUF file of the other byte order");
    assert_eq!(refusal(&start(3, 0, 0)), "no metadata");
    let most = start(3, u64::MAX, u64::MAX);
    assert_eq!(refusal(&most), "truncated, it promises more than it can hold");
    assert!(matches!(check(&std::env::temp_dir()), Err(HeaderError::NotAFile)));
    assert!(matches!(check(Path::new("/nowhere.gguf")), Err(HeaderError::Io(_))));
}

#[test]
fn a_length_is_compared_with_what_there_is() {
    let one = |value: Written| refusal(&file(&[("key", value)], &[]));
    let most = u64::MAX.to_le_bytes();
    assert_eq!(one(Written::Raw(STRING, &most)), "a text of its header is too long");
    assert_eq!(one(Written::Raw(STRING, &60_000u64.to_le_bytes())), "its header is cut off");
    for kind in [0, 5, F32, STRING, 11, F64] {
        let array = [&kind.to_le_bytes()[..], &most].concat();
        assert_eq!(one(Written::Raw(ARRAY, &array)), "its header is cut off", "{kind}");
    }
    // Nor can an array be an element, which could nest without an end.
    let nested = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    assert_eq!(one(Written::Raw(ARRAY, &nested)), "a value has an unknown type");
    assert_eq!(one(Written::Raw(99, &[])), "a value has an unknown type");
    // The same where the value is passed over.
    let passed = file(&[("passed", Written::Raw(STRING, &most))], &[]);
    assert_eq!(refusal(&passed), "its header is cut off");
    let mut wide = sample();
    let dims = wide.windows(7).rposition(|name| name == b"blk.0.x").unwrap() + 7;
    wide[dims] = 5;
    assert_eq!(refusal(&wide), "a tensor has too many dimensions");
}

#[test]
fn too_many_tensors_are_refused_before_they_are_read() {
    let mut bytes = file(&[("key", Written::U32(1))], &[]);
    bytes[8..16].copy_from_slice(&(MAX_TENSORS + 1).to_le_bytes());
    bytes.resize(bytes.len() + (MIN_TENSOR * (MAX_TENSORS + 1)) as usize, 0);
    assert_eq!(refusal(&bytes), "it has too many tensors");
}

#[test]
fn no_more_is_kept_than_anybody_needs() {
    let keys: Vec<String> = (0..MAX_KEPT + 10).map(|n| format!("key{n}")).collect();
    let entries: Vec<_> = keys.iter().map(|key| (key.as_str(), Written::U32(1))).collect();
    let header = header_of(&file(&entries, &[]), u64::MAX).unwrap();
    assert_eq!(header.entries.len(), MAX_KEPT);
    let many = vec![7; MAX_KEPT + 10];
    let header = header_of(&file(&[("n", Written::I32s(&many))], &[]), u64::MAX).unwrap();
    let Some(Value::Array { length, numbers }) = header.entries.get("n") else {
        panic!("{header:?}")
    };
    assert_eq!((*length as usize, numbers.len()), (MAX_KEPT + 10, MAX_KEPT));
    // Of a repeated key the first.
    let twice = file(&[("n", Written::U32(1)), ("n", Written::U32(2))], &[]);
    assert_eq!(header_of(&twice, u64::MAX).unwrap().entries["n"], Value::Number(1));
}

#[test]
fn a_limit_ends_the_reading() {
    let bytes = sample();
    assert!(header_of(&bytes, bytes.len() as u64).is_ok());
    for limit in START..bytes.len() as u64 {
        let error = header_of(&bytes, limit).unwrap_err();
        assert_eq!(error.to_string(), "its header is too long", "{limit}");
    }
}

#[test]
fn every_cut_is_an_error() {
    let bytes = sample();
    for n in 0..bytes.len() {
        assert!(matches!(header_of(&bytes[..n], u64::MAX), Err(HeaderError::Invalid(_))), "{n}");
        // The same if the file was longer when it was looked at.
        let reader = Reader::new(Cursor::new(&bytes[..n]), bytes.len() as u64, u64::MAX);
        assert!(reader.and_then(|mut reader| reader.header(|_| true)).is_err(), "{n}");
    }
}

/// Bytes that a header holds.
fn held(header: &Header) -> usize {
    let entries = header.entries.iter().map(|(key, value)| {
        let value = match value {
            Value::Text(text) => text.capacity(),
            Value::Array { numbers, .. } => numbers.capacity() * size_of::<u64>(),
            Value::Number(_) | Value::F32(_) | Value::Other => 0,
        };
        size_of::<(String, Value)>() + key.capacity() + value
    });
    let names = header.tensors.iter().map(|tensor| tensor.name.capacity());
    entries.chain(names).sum::<usize>() + header.tensors.capacity() * size_of::<Tensor>()
}

/// Whatever the bytes are, they are read or refused, and what is kept is in proportion
/// to them and not to what they promise.
fn do_no_harm(bytes: &[u8]) {
    for limit in [START, 64, u64::MAX] {
        if let Ok(header) = header_of(bytes, limit) {
            assert!(held(&header) <= 64 * bytes.len(), "{} bytes: {header:?}", bytes.len());
        }
    }
}

/// Numbers as a hostile file would have them.
fn length() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 8, MAX_TEXT, MAX_TEXT + 1, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];
    prop_oneof![prop::sample::select(edges.to_vec()), 0..300u64, any::<u64>()]
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        do_no_harm(&bytes);
        // The same behind a beginning that lets them be read.
        do_no_harm(&[start(3, 1, 4), bytes].concat());
    }

    #[test]
    fn any_lengths_do_no_harm(changes in prop::collection::vec((8usize..400, length()), 1..4)) {
        let mut bytes = sample();
        for (at, length) in changes {
            let at = at % (bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
        }
        do_no_harm(&bytes);
    }

    #[test]
    fn any_changed_byte_does_no_harm(at in 0usize..400, byte in any::<u8>()) {
        let mut bytes = sample();
        let at = at % bytes.len();
        bytes[at] = byte;
        do_no_harm(&bytes);
    }
}
