//! What a file must be like to be loaded as an adapter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::AdapterError;
use crate::gguf::{self, Entries, Header, HeaderError, Tensor, Value};

/// Most bytes in front of an adapter's tensors.
const MAX_HEADER: u64 = 16 << 20;
/// How far a file is read to find out what it is: writers put `general.*` first.
const MAX_GLANCE: u64 = 64 << 10;
/// Entries that are looked at.
const TYPE: &str = "general.type";
const ARCHITECTURE: &str = "general.architecture";
const ADAPTER_TYPE: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
const INVOCATION: &str = "adapter.alora.invocation_tokens";

/// ggml's numbers of the types that adapters are made in.
const F32: u32 = 0;
const F16: u32 = 1;
const Q8_0: u32 = 8;
const BF16: u32 = 30;
/// What a 16-bit float holds. Larger ones have no use, and what becomes infinite in
/// one sequence can spoil those that are computed beside it.
const MAX_VALUE: f32 = 65_504.0;
/// Alphas are about as large as ranks.
const MAX_ALPHA: f32 = 10_000.0;
/// The longest name ggml keeps, its NUL included, is 64.
const MAX_NAME: usize = 63;
/// Of what a file says, so much is repeated.
const MAX_WORD: usize = 40;

/// Looks at a file, and tells the bytes of its tensors. That they fit the model's,
/// llama.cpp checks.
pub(super) fn file(path: &Path, architecture: &str, n_expert: u64) -> Result<u64, AdapterError> {
    let wanted = |key: &str| [TYPE, ARCHITECTURE, ADAPTER_TYPE, ALPHA, INVOCATION].contains(&key);
    let header = gguf::header(path, MAX_HEADER, wanted).map_err(|error| match error {
        HeaderError::Io(source) => AdapterError::Io(source),
        other => AdapterError::Invalid { reason: other.to_string() },
    })?;
    keys(&header.entries, architecture)?;
    tensors(&header.tensors, n_expert).map_err(|reason| AdapterError::Invalid { reason })?;
    values(path, &header)
}

/// Whether a file says of itself that it is an adapter and no model. False for
/// all that cannot be read: what is wrong with it is told when it is used.
pub(super) fn is_adapter(path: &Path) -> bool {
    let value = gguf::glance(path, MAX_GLANCE, TYPE);
    matches!(value, Ok(Some(Value::Text(text))) if text == "adapter")
}

/// Looks at the values of all tensors, and tells their bytes. It also brings the file
/// into memory: the load that follows can keep a step waiting.
fn values(path: &Path, header: &Header) -> Result<u64, AdapterError> {
    let invalid = |reason: &str| AdapterError::Invalid { reason: reason.to_string() };
    let mut file = File::open(path).map_err(AdapterError::Io)?;
    let mut all = 0u64;
    for tensor in &header.tensors {
        // The others are passed over.
        let Some((values, bytes)) = block(tensor.kind) else { continue };
        let elements = tensor.size.iter().try_fold(1u64, |n, size| n.checked_mul(*size));
        let blocks = elements.filter(|n| n.is_multiple_of(values)).map(|n| n / values);
        let length = blocks.and_then(|n| n.checked_mul(bytes as u64));
        let mut left = length.ok_or_else(|| invalid("a tensor has an impossible size"))?;
        all = all.saturating_add(left);
        let start = header.data.saturating_add(tensor.offset);
        file.seek(SeekFrom::Start(start)).map_err(AdapterError::Io)?;
        let mut buffer = vec![0; bytes * 4096];
        while left > 0 {
            let n = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let part = &mut buffer[..n];
            file.read_exact(part).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => invalid("its data is cut off"),
                _ => AdapterError::Io(error),
            })?;
            if !part.chunks_exact(bytes).all(|block| is_sound(tensor.kind, block)) {
                return Err(invalid("a tensor holds what is no number, or too large"));
            }
            left -= n as u64;
        }
    }
    Ok(all)
}

/// How many values a block of a type has, and how many bytes.
fn block(kind: u32) -> Option<(u64, usize)> {
    match kind {
        F32 => Some((1, 4)),
        F16 | BF16 => Some((1, 2)),
        // A scale, then as many bytes as values.
        Q8_0 => Some((32, 34)),
        _ => None,
    }
}

fn is_sound(kind: u32, block: &[u8]) -> bool {
    match (kind, block) {
        (F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]).abs() <= MAX_VALUE,
        (BF16, [a, b]) => f32::from_le_bytes([0, 0, *a, *b]).abs() <= MAX_VALUE,
        // Five bits of exponent, all set for what is no number.
        (F16 | Q8_0, [_, high, ..]) => high & 0x7C != 0x7C,
        _ => false,
    }
}

fn keys(entries: &Entries, model: &str) -> Result<(), AdapterError> {
    let invalid = |reason: &str| Err(AdapterError::Invalid { reason: reason.to_string() });
    let text = |key| match entries.get(key) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    if text(TYPE) != Some("adapter") {
        return Err(AdapterError::NotAnAdapter);
    }
    if text(ADAPTER_TYPE) != Some("lora") {
        return invalid("it is no LoRA adapter");
    }
    match text(ARCHITECTURE) {
        Some(adapter) if adapter == model => {}
        Some(adapter) => {
            let word = |text: &str| text.chars().take(MAX_WORD).collect::<String>();
            return Err(AdapterError::Architecture { adapter: word(adapter), model: word(model) });
        }
        None => return invalid("it names no architecture"),
    }
    match entries.get(ALPHA) {
        Some(Value::F32(alpha)) if alpha.abs() <= MAX_ALPHA => {}
        None => {}
        Some(_) => return invalid("its alpha is not a number, or too large"),
    }
    // Such an adapter takes effect from certain tokens of the prompt on, which
    // nobody here would look for.
    if entries.contains_key(INVOCATION) {
        return invalid("activated LoRA is not supported");
    }
    Ok(())
}

fn tensors(tensors: &[Tensor], n_expert: u64) -> Result<(), String> {
    let mut pairs: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    for tensor in tensors {
        let name = tensor.name.as_str();
        if name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a tensor has a name that no model has".to_string());
        }
        let (weight, half) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(weight), _) => (weight, 0),
            (_, Some(weight)) => (weight, 1),
            // llama.cpp passes over these.
            _ if name.ends_with("_norm.weight") => continue,
            _ => return Err(format!("the tensor {name} is no part of a LoRA adapter")),
        };
        if pairs.entry(weight).or_default()[half].replace(tensor).is_some() {
            return Err(format!("the tensor {name} is there twice"));
        }
    }
    if pairs.is_empty() {
        return Err("it has no tensors".to_string());
    }
    for (weight, pair) in pairs {
        let [Some(a), Some(b)] = pair else {
            return Err(format!("one of the two tensors for {weight} is missing"));
        };
        check_pair(weight, a, b, n_expert)?;
    }
    Ok(())
}

fn check_pair(weight: &str, a: &Tensor, b: &Tensor, n_expert: u64) -> Result<(), String> {
    // Where the output uses the embedding's weights, llama.cpp multiplies with
    // these as if they were those of the output, which have other sizes.
    if weight.ends_with("token_embd.weight") {
        return Err("an adapter of the token embedding is not supported".to_string());
    }
    if [a, b].iter().any(|tensor| block(tensor.kind).is_none()) {
        return Err(format!("the tensors for {weight} are of a type that is not supported"));
    }
    if a.size.contains(&0) || b.size.contains(&0) || a.size[1] != b.size[0] {
        return Err(format!("the tensors for {weight} do not fit together"));
    }
    // Each expert has its own; all others have one.
    let copies = if weight.ends_with("exps.weight") { n_expert } else { 1 };
    if [a, b].iter().any(|tensor| tensor.size[2..] != [copies, 1]) {
        return Err(format!("the tensors for {weight} have too many dimensions"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;
    use crate::gguf::tests::{Written, file as gguf_file};

    #[test]
    fn what_is_an_adapter() {
        let says = |value: Written| gguf_file(&[(TYPE, value)], &[]);
        let is = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            is_adapter(file.path())
        };
        assert!(is(&says(Written::Text("adapter"))));
        let model = says(Written::Text("model"));
        for bytes in [b"".to_vec(), b"GGUF".to_vec(), vec![7; 4096], model, says(Written::F32(0.0))]
        {
            assert!(!is(&bytes));
        }
        assert!(!is_adapter(Path::new("/nowhere.gguf")));
        assert!(!is_adapter(&std::env::temp_dir()));
        // Too far from the beginning for a glance.
        let long = "y".repeat(MAX_GLANCE as usize);
        let far = [("x", Written::Text(long.as_str())), (TYPE, Written::Text("adapter"))];
        assert!(!is(&gguf_file(&far, &[])));
    }

    fn tensor(name: &str, size: [u64; 4]) -> Tensor {
        Tensor { name: name.to_string(), size, kind: F32, offset: 0 }
    }

    fn pair() -> Vec<Tensor> {
        vec![
            tensor("blk.0.attn_q.weight.lora_a", [8, 2, 1, 1]),
            tensor("blk.0.attn_q.weight.lora_b", [2, 8, 1, 1]),
        ]
    }

    fn refusal(change: impl FnOnce(&mut Vec<Tensor>)) -> String {
        let mut all = pair();
        change(&mut all);
        tensors(&all, 4).err().unwrap_or_default()
    }

    #[test]
    fn tensors_that_llama_cpp_would_not_survive() {
        assert_eq!(tensors(&pair(), 0), Ok(()));
        let refused = |text: &str, change: fn(&mut Vec<Tensor>)| {
            let reason = refusal(change);
            assert!(reason.contains(text), "{text:?} is not in {reason:?}");
        };
        refused("no tensors", Vec::clear);
        refused("missing", |all| drop(all.pop()));
        refused("twice", |all| all.push(all[0].clone()));
        refused("no part of", |all| all.push(tensor("blk.0.attn_q.weight", [8, 8, 1, 1])));
        refused("no model has", |all| all[0].name.insert(0, '\n'));
        refused("no model has", |all| all[0].name.insert_str(0, &"x".repeat(50)));
        refused("type", |all| all[1].kind = 26);
        refused("fit together", |all| all[0].size[1] = 3);
        refused("fit together", |all| all[0].size[0] = 0);
        refused("too many dimensions", |all| all[0].size[2] = 2);
        refused("too many dimensions", |all| all[1].size[3] = 2);
        refused("token embedding", |all| {
            all[0].name = "token_embd.weight.lora_a".to_string();
            all[1].name = "token_embd.weight.lora_b".to_string();
        });
    }

    #[test]
    fn values_that_are_no_numbers() {
        for (kind, sound, unsound) in [
            (F32, 1.5f32.to_le_bytes().to_vec(), f32::NAN.to_le_bytes().to_vec()),
            (F32, (-65_504f32).to_le_bytes().to_vec(), 1e9f32.to_le_bytes().to_vec()),
            (F16, vec![0xFF, 0x7B], vec![0x00, 0x7C]),
            (F16, vec![0xFF, 0xFB], vec![0x01, 0xFE]),
            (BF16, vec![0x80, 0x3F], vec![0x80, 0x7F]),
            (Q8_0, [[0, 0x3C]; 17].concat(), [[0, 0x7C]; 17].concat()),
        ] {
            let n = block(kind).map(|(_, bytes)| bytes);
            assert_eq!((Some(sound.len()), Some(unsound.len())), (n, n));
            assert!(is_sound(kind, &sound) && !is_sound(kind, &unsound), "{kind}");
        }
    }

    #[test]
    fn experts_have_their_own() {
        let experts = |n| {
            vec![
                tensor("blk.0.ffn_up_exps.weight.lora_a", [8, 2, n, 1]),
                tensor("blk.0.ffn_up_exps.weight.lora_b", [2, 8, n, 1]),
            ]
        };
        assert_eq!(tensors(&experts(4), 4), Ok(()));
        assert!(tensors(&experts(1), 4).is_err());
        assert!(tensors(&experts(1), 0).is_err());
        assert_eq!(tensors(&[pair(), experts(4)].concat(), 4), Ok(()));
        let norm = vec![tensor("blk.0.attn_norm.weight", [8, 1, 1, 1])];
        assert_eq!(tensors(&[pair(), norm].concat(), 4), Ok(()));
    }
}
