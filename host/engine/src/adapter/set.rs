//! The adapters of one job, and how sets of them are told apart.
//!
//! llama.cpp applies adapters to a whole context, so a step is for jobs of one
//! set, and what was computed with one set is worth nothing to another.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::Adapter;

/// What two equal sets have in common: the ids of their adapters with the bits of
/// their scales, in order. Empty for the model as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AdapterKey(Arc<[(u64, u32)]>);

impl AdapterKey {
    /// The salt under which jobs of this set share what they compute. No two sets
    /// have one in common: a line break cannot be part of a key.
    pub(crate) fn salt(&self, salt: &str) -> String {
        let mut text = String::new();
        for (id, scale) in self.0.iter() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{id:x}*{scale:x},");
        }
        text.push('\n');
        text + salt
    }

    #[cfg(test)]
    pub(crate) fn fake(n: u64) -> Self {
        if n == 0 { Self::default() } else { Self(Arc::new([(n, 1f32.to_bits())])) }
    }

    #[cfg(test)]
    pub(crate) fn number(&self) -> u64 {
        self.0.first().map_or(0, |(id, _)| *id)
    }
}

/// The adapters of a job, with their scales.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdapterSet {
    key: AdapterKey,
    adapters: Vec<(Adapter, f32)>,
}

impl AdapterSet {
    /// Those with a scale of 0 do nothing and are left out; one that is named
    /// twice counts as often.
    pub(crate) fn new(adapters: Vec<(Adapter, f32)>) -> Self {
        let mut sums: BTreeMap<u64, (Adapter, f32)> = BTreeMap::new();
        for (adapter, scale) in adapters {
            let sum = sums.entry(adapter.id()).or_insert((adapter, 0.0));
            sum.1 += scale;
        }
        let adapters: Vec<_> = sums.into_values().filter(|(_, scale)| *scale != 0.0).collect();
        let key = adapters.iter().map(|(adapter, scale)| (adapter.id(), scale.to_bits()));
        Self { key: AdapterKey(key.collect()), adapters }
    }

    pub(crate) fn key(&self) -> &AdapterKey {
        &self.key
    }

    pub(crate) fn adapters(&self) -> &[(Adapter, f32)] {
        &self.adapters
    }

    /// A set that only has its key.
    #[cfg(test)]
    pub(crate) fn fake(n: u64) -> Self {
        Self { key: AdapterKey::fake(n), adapters: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salts_of_different_sets_differ() {
        let sets = [
            AdapterKey::default(),
            AdapterKey::fake(1),
            AdapterKey::fake(2),
            AdapterKey(Arc::new([(1, 0.5f32.to_bits())])),
            AdapterKey(Arc::new([(1, 1f32.to_bits()), (2, 1f32.to_bits())])),
        ];
        // A salt may look like a key.
        let salts: Vec<String> = sets
            .iter()
            .flat_map(|set| ["", "a", "1*3f800000,\n", "\n"].map(|salt| set.salt(salt)))
            .collect();
        let mut distinct = salts.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), salts.len(), "{salts:?}");
    }
}
