//! Makes LoRA adapters for the test model, byte by byte.
//!
//! The engine's own tests use this file as well. It depends on nothing, so that a
//! mistake in the program's reader cannot cancel itself out.

/// An adapter with what a test may want to spoil.
#[derive(Debug, Clone)]
pub struct LoraFile {
    pub general_type: &'static str,
    pub adapter_type: &'static str,
    pub architecture: &'static str,
    pub alpha: f32,
    pub tensors: Vec<Tensor>,
}

/// A tensor of 32-bit floats; its first size changes fastest.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub size: [usize; 2],
    pub values: Vec<f32>,
}

const RANK: usize = 2;
/// Sizes of SmolLM2-135M: of its layers' input and output, and between the two
/// halves of a feed-forward block.
const WIDTH: usize = 576;
const INNER: usize = 1536;
const ALIGNMENT: usize = 32;

impl LoraFile {
    /// One that changes what the model says, and another for each seed. The first
    /// layer's queries bend what is looked at; the second pair goes straight into
    /// what all further layers read.
    pub fn new(seed: u32) -> Self {
        let pairs =
            [("blk.0.attn_q.weight", WIDTH, WIDTH), ("blk.15.ffn_down.weight", INNER, WIDTH)];
        let tensors = pairs.iter().zip(1..).flat_map(|((weight, from, to), n)| {
            [
                Tensor::new(format!("{weight}.lora_a"), [*from, RANK], 0.5, seed * 8 + n * 2),
                Tensor::new(format!("{weight}.lora_b"), [RANK, *to], 1.0, seed * 8 + n * 2 + 1),
            ]
        });
        Self {
            general_type: "adapter",
            adapter_type: "lora",
            architecture: "llama",
            alpha: RANK as f32,
            tensors: tensors.collect(),
        }
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(4u64.to_le_bytes());
        for (key, value) in [
            ("general.architecture", self.architecture),
            ("general.type", self.general_type),
            ("adapter.type", self.adapter_type),
        ] {
            text(&mut bytes, key);
            bytes.extend(8u32.to_le_bytes());
            text(&mut bytes, value);
        }
        text(&mut bytes, "adapter.lora.alpha");
        bytes.extend(6u32.to_le_bytes());
        bytes.extend(self.alpha.to_le_bytes());
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut bytes, &tensor.name);
            bytes.extend(2u32.to_le_bytes());
            tensor.size.iter().for_each(|n| bytes.extend((*n as u64).to_le_bytes()));
            bytes.extend(0u32.to_le_bytes());
            bytes.extend((offset as u64).to_le_bytes());
            offset += (tensor.values.len() * 4).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            tensor.values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }
}

impl Tensor {
    /// Values of this size with signs that follow no pattern.
    pub fn new(name: String, size: [usize; 2], value: f32, seed: u32) -> Self {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            if state & 1 == 0 { value } else { -value }
        };
        Self { name, size, values: (0..size[0] * size[1]).map(|_| next()).collect() }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
