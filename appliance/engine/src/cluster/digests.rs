//! Whether a holder keeps what an owner has registered there: sums over both, by bucket, which the owner
//! sends and the holder compares (docs/cluster.md section 4).
//!
//! A registration is named by its term, which no other flow has. What is on its way makes sums differ for a
//! moment, so a bucket is pulled that differs twice while the owner's sum is the same; or for long, where
//! flows come and go all the time.

use super::message::Term;

/// As many as a `u64` has bits.
pub(super) const BUCKETS: usize = 64;
/// Of one message: half of all.
pub(super) const PART: usize = BUCKETS / 2;

/// Digests of a quiet bucket that differ before it is pulled, and of any.
const QUIET: i8 = 2;
const BUSY: i8 = 16;
/// Digests that are not looked at after a bucket was pulled, as what is told anew takes its time; twice as
/// many each time that it has not helped. Two flows of one owner that share a key have one entry.
const PATIENCE: i8 = 2;
const DOUBLED_MOST: u8 = 5;

/// Sums of the registrations of each bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums([u32; BUCKETS]);

impl Sums {
    pub(crate) fn add(&mut self, term: Term, is_second: bool) {
        let sum = &mut self.0[bucket(term)];
        *sum = sum.wrapping_add(item(term, is_second));
    }

    pub(crate) fn take(&mut self, term: Term, is_second: bool) {
        let sum = &mut self.0[bucket(term)];
        *sum = sum.wrapping_sub(item(term, is_second));
    }

    /// The first or the second half.
    pub(crate) fn part(&self, part: u8) -> [u32; PART] {
        let mut sums = [0; PART];
        let begin = usize::from(part & 1) * PART;
        sums.copy_from_slice(&self.0[begin..begin + PART]);
        sums
    }
}

impl Default for Sums {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

/// What a holder remembers of an owner's digests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    last: [u32; BUCKETS],
    /// How often a bucket has differed; below zero where it was pulled not long ago.
    differed: [i8; BUCKETS],
    /// How often it was pulled since it was equal.
    pulled: [u8; BUCKETS],
}

impl Default for Watch {
    fn default() -> Self {
        Self { last: [0; BUCKETS], differed: [0; BUCKETS], pulled: [0; BUCKETS] }
    }
}

impl Watch {
    /// Compares a half of the owner's sums with those kept here; one bit for each bucket to be pulled.
    pub(crate) fn compare(&mut self, part: u8, theirs: &[u32; PART], ours: &Sums) -> u64 {
        let begin = usize::from(part & 1) * PART;
        let mut pulled = 0;
        for (bucket, sum) in (begin..).zip(*theirs) {
            let is_quiet = std::mem::replace(&mut self.last[bucket], sum) == sum;
            let (differed, tries) = (&mut self.differed[bucket], &mut self.pulled[bucket]);
            if ours.0[bucket] == sum {
                (*differed, *tries) = (0, 0);
                continue;
            }
            *differed += 1;
            if *differed >= BUSY || *differed >= QUIET && is_quiet {
                *differed = -(PATIENCE << *tries);
                *tries = (*tries + 1).min(DOUBLED_MOST);
                pulled |= 1 << bucket;
            }
        }
        pulled
    }
}

/// The bit of a flow's bucket.
pub(super) fn bit(term: Term) -> u64 {
    1 << bucket(term)
}

fn bucket(term: Term) -> usize {
    mix(term.0) as usize % BUCKETS
}

fn item(term: Term, is_second: bool) -> u32 {
    (mix(term.0 << 1 | u64::from(is_second)) >> 32) as u32
}

/// Every bit of the result hangs on all bits of the value (S. Vigna's SplitMix64).
const fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sums(of: &BTreeSet<(u64, bool)>) -> Sums {
        of.iter().fold(Sums::default(), |mut sums, (term, is_second)| {
            sums.add(Term(*term), *is_second);
            sums
        })
    }

    fn pulled(watch: &mut Watch, theirs: &Sums, ours: &Sums) -> u64 {
        [0, 1].iter().fold(0, |all, part| all | watch.compare(*part, &theirs.part(*part), ours))
    }

    proptest! {
        /// Sums follow from what is there and not from how it came; buckets that differ are pulled, and
        /// no others.
        #[test]
        fn what_differs_is_pulled(
            ours in prop::collection::btree_set((0..2_000_u64, any::<bool>()), 0..200),
            theirs in prop::collection::btree_set((0..2_000_u64, any::<bool>()), 0..200),
            shared in prop::collection::btree_set((0..2_000_u64, any::<bool>()), 0..200),
        ) {
            let ours: BTreeSet<_> = ours.union(&shared).copied().collect();
            let theirs: BTreeSet<_> = theirs.union(&shared).copied().collect();
            let mut changed = sums(&ours);
            for (term, is_second) in ours.difference(&theirs) {
                changed.take(Term(*term), *is_second);
            }
            for (term, is_second) in theirs.difference(&ours) {
                changed.add(Term(*term), *is_second);
            }
            prop_assert_eq!(changed, sums(&theirs));
            let expected = ours
                .symmetric_difference(&theirs)
                .fold(0, |buckets, (term, _)| buckets | bit(Term(*term)));
            let (ours, theirs, mut watch) = (sums(&ours), sums(&theirs), Watch::default());
            prop_assert_eq!(pulled(&mut watch, &theirs, &ours), 0, "it may be on its way");
            prop_assert_eq!(pulled(&mut watch, &theirs, &ours), expected);
            prop_assert_eq!(pulled(&mut watch, &theirs, &ours), 0, "it may be on its way");
            prop_assert_eq!(pulled(&mut watch, &theirs, &theirs), 0);
        }
    }

    #[test]
    fn what_does_not_help_is_done_seldom() {
        let (ours, mut theirs, mut watch) = (Sums::default(), Sums::default(), Watch::default());
        theirs.add(Term(1), false);
        let at: Vec<u32> = (0..300).filter(|_| pulled(&mut watch, &theirs, &ours) != 0).collect();
        assert_eq!(at, [1, 5, 11, 21, 39, 73, 139, 205, 271]);
        assert_eq!(pulled(&mut watch, &ours, &ours), 0);
        let again = (0..10).find(|_| pulled(&mut watch, &theirs, &ours) != 0);
        assert_eq!(again, Some(1));
    }

    /// Where flows come and go all the time no digest is like another.
    #[test]
    fn a_busy_bucket_is_pulled_late() {
        let (ours, mut watch) = (Sums::default(), Watch::default());
        let mut theirs = Sums::default();
        let term =
            |number: u64| (0..).map(Term).filter(|term| bit(*term) == 1).nth(number as usize);
        let first = (1..100).find(|number| {
            theirs.add(term(*number).expect("there are many"), false);
            pulled(&mut watch, &theirs, &ours) != 0
        });
        assert_eq!(first, Some(BUSY as u64));
    }
}
