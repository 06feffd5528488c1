//! Addresses of both families as small numbers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::ranks::{Lines, Ranks};
use super::{AddressMatch, Conditions};
use crate::address::AddressSet;

/// Numbers the stretches of addresses between any two ends of ranges that rules name, in order: two
/// addresses of one class meet the same rules. IPv4 comes first.
#[derive(Debug)]
pub(super) struct Classes {
    v4: Lines<u32, 16>,
    v4_ranks: Ranks,
    /// The upper halves at which classes begin.
    tops: Lines<u64, 8>,
    tops_ranks: Ranks,
    top_keys: Vec<u64>,
    /// For each upper half, where the lower halves that belong to it begin; one more behind.
    starts: Vec<u32>,
    lows: Vec<u64>,
    /// Of IPv4 alone: the number of the first class of IPv6.
    v4_count: u32,
}

/// Classes from the first to the last, both included.
pub(super) type ClassRange = (u32, u32);

pub(super) const ALL: ClassRange = (0, u32::MAX);

impl Classes {
    pub(super) fn new<'c>(conditions: impl Iterator<Item = &'c Conditions>) -> Self {
        let (mut v4, mut v6) = (vec![0_u32], vec![0_u128]);
        let mut seen = HashSet::new();
        for address in conditions.flat_map(|rule| [&rule.source, &rule.destination]) {
            match address {
                AddressMatch::Any => {}
                AddressMatch::Ipv4Range(first, last) => {
                    v4.extend([Some(*first), last.checked_add(1)].into_iter().flatten());
                }
                AddressMatch::Set(set) => {
                    if seen.insert(Arc::as_ptr(set)) {
                        let ends = |&(first, last): &(u32, u32)| [Some(first), last.checked_add(1)];
                        v4.extend(set.v4_ranges().iter().flat_map(ends).flatten());
                        let ends =
                            |&(first, last): &(u128, u128)| [Some(first), last.checked_add(1)];
                        v6.extend(set.v6_ranges().iter().flat_map(ends).flatten());
                    }
                }
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self::of_starts(&v4, &v6)
    }

    /// `v4` and `v6` are where classes begin, sorted; the first is 0.
    fn of_starts(v4: &[u32], v6: &[u128]) -> Self {
        let small = |n: usize| u32::try_from(n).expect("limits keep ranges far below");
        let (mut top_keys, mut starts) = (Vec::new(), Vec::new());
        let halves =
            v6.iter().map(|start| ((start >> 64) as u64, (start & u128::from(u64::MAX)) as u64));
        for (at, (top, _)) in halves.clone().enumerate() {
            if top_keys.last() != Some(&top) {
                top_keys.push(top);
                starts.push(small(at));
            }
        }
        starts.push(small(v6.len()));
        let (mut v4_lines, mut tops) = (Lines::default(), Lines::default());
        Self {
            v4_ranks: v4_lines.add(v4),
            v4: v4_lines,
            tops_ranks: tops.add(&top_keys),
            tops,
            top_keys,
            starts,
            lows: halves.map(|(_, low)| low).collect(),
            v4_count: small(v4.len()),
        }
    }

    #[inline]
    pub(super) fn of(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(address) => self.of_v4(address.to_bits()),
            IpAddr::V6(address) => self.of_v6(address.to_bits()),
        }
    }

    /// Sorted, not touching where the addresses do not.
    pub(super) fn of_match(&self, wanted: &AddressMatch) -> Vec<ClassRange> {
        match wanted {
            AddressMatch::Any => vec![ALL],
            AddressMatch::Ipv4Range(first, last) => vec![(self.of_v4(*first), self.of_v4(*last))],
            AddressMatch::Set(set) => self.of_set(set),
        }
    }

    fn of_set(&self, set: &AddressSet) -> Vec<ClassRange> {
        let v4 = set.v4_ranges().iter().map(|&(a, b)| (self.of_v4(a), self.of_v4(b)));
        let v6 = set.v6_ranges().iter().map(|&(a, b)| (self.of_v6(a), self.of_v6(b)));
        v4.chain(v6).collect()
    }

    #[inline]
    fn of_v4(&self, address: u32) -> u32 {
        self.v4.rank(&self.v4_ranks, address) as u32
    }

    #[inline]
    fn of_v6(&self, address: u128) -> u32 {
        let (top, low) = ((address >> 64) as u64, (address & u128::from(u64::MAX)) as u64);
        let at = self.tops.rank(&self.tops_ranks, top);
        let (start, end) = (self.starts[at] as usize, self.starts[at + 1] as usize);
        let below = if self.top_keys[at] == top {
            self.lows[start..end].partition_point(|start| *start <= low)
        } else {
            end - start
        };
        // The first class begins at 0: at least one lies below.
        self.v4_count + (start + below).saturating_sub(1) as u32
    }

    pub(super) fn bytes(&self) -> usize {
        let words = self.top_keys.len() + self.lows.len();
        self.v4.bytes()
            + self.tops.bytes()
            + words * size_of::<u64>()
            + self.starts.len() * size_of::<u32>()
    }
}
