//! A small generator of random numbers, so that prompts and intervals can be
//! repeated from one seed without a crate for it.

/// A splitmix64 generator. Good enough to make prompts differ and to resample;
/// not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Every seed gives another sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The upper half of a product: no division, and a bias far below what
        // anything here could notice.
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_the_end_and_reach_all_of_it() {
        let mut random = Random::new(7);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[random.below(10)] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn a_seed_repeats_and_another_one_does_not() {
        let of = |seed| Random::new(seed).bits();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
