//! Seeded numbers: the same seed offers the same traffic, delays and losses again.

use std::ops::RangeInclusive;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, good enough for content and dice.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number of the range, each as likely as the others but for one in 2^32.
    pub(crate) fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    pub(crate) fn is_below(&mut self, per_cent: f64) -> bool {
        (self.next() as f64 / u64::MAX as f64) * 100.0 < per_cent
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_be_bytes()[..word.len()]);
        }
    }
}
