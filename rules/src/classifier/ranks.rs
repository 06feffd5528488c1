//! Sorted numbers, searched a cache line at a time.

/// A number that is searched; `LINE` of them fill a cache line of 64 bytes.
pub(super) trait Key: Copy + Ord {
    const MAX: Self;
}

impl Key for u32 {
    const MAX: Self = Self::MAX;
}

impl Key for u64 {
    const MAX: Self = Self::MAX;
}

/// Where one list of rising numbers stands in a [`Lines`]: a search tree of as many children as a
/// line has numbers, level by level, its root first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranks {
    /// The root's line.
    first: u32,
    /// Of all numbers, less one.
    last: u32,
    depth: u8,
}

/// The lines of many lists.
#[derive(Debug)]
pub(super) struct Lines<K, const LINE: usize>(Vec<Line<K, LINE>>);

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line<K, const LINE: usize>([K; LINE]);

impl<K, const LINE: usize> Default for Lines<K, LINE> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Key, const LINE: usize> Lines<K, LINE> {
    /// Takes a list of rising numbers, at least one.
    pub(super) fn add(&mut self, keys: &[K]) -> Ranks {
        assert!(!keys.is_empty(), "a list of no numbers has no ranks");
        let mut levels = vec![keys.to_vec()];
        while let Some(below) = levels.last()
            && below.len() > LINE
        {
            levels.push(below.chunks(LINE).map(|line| line[0]).collect());
        }
        let small = |n: usize| u32::try_from(n).expect("limits keep lines far below");
        let depth = u8::try_from(levels.len()).expect("there are few levels");
        let ranks = Ranks { first: small(self.0.len()), last: small(keys.len() - 1), depth };
        for chunk in levels.iter().rev().flat_map(|level| level.chunks(LINE)) {
            let mut line = [K::MAX; LINE];
            line[..chunk.len()].copy_from_slice(chunk);
            self.0.push(Line(line));
        }
        ranks
    }

    /// The index of the last number that is not above `wanted`. The list's first number is not
    /// above it.
    #[inline]
    pub(super) fn rank(&self, ranks: &Ranks, wanted: K) -> usize {
        let [rank] = self.ranks(ranks, [wanted]);
        rank
    }

    /// [`rank`](Self::rank) of several numbers: the memory is waited for at the same time.
    #[inline]
    pub(super) fn ranks<const N: usize>(&self, ranks: &Ranks, wanted: [K; N]) -> [usize; N] {
        let (mut level, mut found) = (ranks.first as usize, [0; N]);
        for below in (0..u32::from(ranks.depth)).rev() {
            let last = (ranks.last >> (LINE.ilog2() * below)) as usize;
            for (at, wanted) in found.iter_mut().zip(wanted) {
                let line = &self.0[level + *at];
                let count: u32 = line.0.iter().map(|key| u32::from(*key <= wanted)).sum();
                // What fills the last line is not above the greatest number.
                *at = (*at * LINE + (count as usize).saturating_sub(1)).min(last);
            }
            level += last / LINE + 1;
        }
        found
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Line<K, LINE>>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rank_is_what_counting_says(
            first in 0_u32..3, steps in prop::collection::vec(1_u32..4, 0..700), top in any::<bool>(),
        ) {
            let mut keys = vec![first];
            for step in steps {
                keys.push(keys[keys.len() - 1] + step);
            }
            // At the upper end of the numbers the filling must not count.
            let shift = if top { u32::MAX - keys[keys.len() - 1] } else { 0 };
            keys.iter_mut().for_each(|key| *key += shift);
            let mut lines = Lines::<u32, 16>::default();
            lines.add(&[7]);
            let ranks = lines.add(&keys);
            let wide: Vec<u64> = keys.iter().map(|key| u64::from(*key) << 32).collect();
            let mut wide_lines = Lines::<u64, 8>::default();
            let wide_ranks = wide_lines.add(&wide);
            for wanted in keys[0]..=keys[keys.len() - 1].saturating_add(2) {
                let counted = keys.iter().filter(|key| **key <= wanted).count() - 1;
                prop_assert_eq!(lines.rank(&ranks, wanted), counted);
                let wanted = u64::from(wanted) << 32 | 5;
                prop_assert_eq!(wide_lines.rank(&wide_ranks, wanted), counted);
            }
        }
    }
}
