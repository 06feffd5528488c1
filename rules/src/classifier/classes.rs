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
    /// The same with what lies below; one more behind.
    halves: Vec<Half>,
    lows: Vec<u64>,
    /// Of IPv4 alone: the number of the first class of IPv6.
    v4_count: u32,
}

/// IPv6 addresses with one upper half.
#[derive(Debug, Clone, Copy)]
struct Half {
    top: u64,
    /// Where the lower halves that belong to it begin.
    start: u32,
    /// Whether it is one class, or the end of one: rules seldom name parts of a network of 64 bits.
    is_whole: bool,
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
        let mut halves: Vec<Half> = Vec::new();
        for (at, start) in v6.iter().enumerate() {
            let (top, low) = split(*start);
            match halves.last_mut() {
                Some(half) if half.top == top => half.is_whole = false,
                Some(_) | None => halves.push(Half { top, start: small(at), is_whole: low == 0 }),
            }
        }
        let top_keys: Vec<u64> = halves.iter().map(|half| half.top).collect();
        halves.push(Half { top: u64::MAX, start: small(v6.len()), is_whole: false });
        let (mut v4_lines, mut tops) = (Lines::default(), Lines::default());
        Self {
            v4_ranks: v4_lines.add(v4),
            v4: v4_lines,
            tops_ranks: tops.add(&top_keys),
            tops,
            halves,
            lows: v6.iter().map(|start| split(*start).1).collect(),
            v4_count: small(v4.len()),
        }
    }

    /// How many classes there are.
    pub(super) fn count(&self) -> u32 {
        self.v4_count + u32::try_from(self.lows.len()).expect("limits keep ranges far below")
    }

    /// The classes of a packet's source and destination.
    #[inline]
    pub(super) fn of_pair(&self, source: IpAddr, destination: IpAddr) -> [u32; 2] {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let both = [source.to_bits(), destination.to_bits()];
                self.v4.ranks(&self.v4_ranks, both).map(|rank| rank as u32)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.of_v6([source.to_bits(), destination.to_bits()])
            }
            // No packet is like this, but questions may be.
            (IpAddr::V4(source), IpAddr::V6(destination)) => {
                [self.of_v4(source.to_bits()), self.of_one_v6(destination.to_bits())]
            }
            (IpAddr::V6(source), IpAddr::V4(destination)) => {
                [self.of_one_v6(source.to_bits()), self.of_v4(destination.to_bits())]
            }
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
        let v6 = set.v6_ranges().iter().map(|&(a, b)| (self.of_one_v6(a), self.of_one_v6(b)));
        v4.chain(v6).collect()
    }

    #[inline]
    fn of_v4(&self, address: u32) -> u32 {
        self.v4.rank(&self.v4_ranks, address) as u32
    }

    fn of_one_v6(&self, address: u128) -> u32 {
        let [class] = self.of_v6([address]);
        class
    }

    #[inline]
    fn of_v6<const N: usize>(&self, addresses: [u128; N]) -> [u32; N] {
        let mut tops = self.tops.ranks(&self.tops_ranks, addresses.map(|a| split(a).0)).into_iter();
        addresses.map(|address| self.below(tops.next().unwrap_or(0), address))
    }

    /// The class of an address by the place of its upper half.
    #[inline]
    fn below(&self, at: usize, address: u128) -> u32 {
        let (top, low) = split(address);
        let half = self.halves[at];
        if half.is_whole && half.top == top {
            return self.v4_count + half.start;
        }
        let (start, end) = (half.start as usize, self.halves[at + 1].start as usize);
        let below = if half.top == top {
            self.lows[start..end].partition_point(|start| *start <= low)
        } else {
            end - start
        };
        // The first class begins at 0: at least one lies below.
        self.v4_count + (start + below).saturating_sub(1) as u32
    }

    pub(super) fn bytes(&self) -> usize {
        self.v4.bytes() + self.tops.bytes() + size_of_val(&*self.lows) + size_of_val(&*self.halves)
    }
}

fn split(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, (address & u128::from(u64::MAX)) as u64)
}
