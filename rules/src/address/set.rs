//! A set of addresses in the form in which it is asked: sorted ranges that do not touch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::IpRange;

/// Addresses of both families. Equal sets have equal ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct AddressSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl AddressSet {
    pub(crate) fn new(ranges: impl IntoIterator<Item = IpRange>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match (range.first(), range.last()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.to_bits(), last.to_bits())),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((first.to_bits(), last.to_bits())),
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                    unreachable!("a range has one family")
                }
            }
        }
        Self { v4: merge(v4, |n| n.checked_add(1)), v6: merge(v6, |n| n.checked_add(1)) }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = IpRange> + '_ {
        let v4 = self.v4.iter().map(|&(first, last)| IpRange {
            first: Ipv4Addr::from_bits(first).into(),
            last: Ipv4Addr::from_bits(last).into(),
        });
        let v6 = self.v6.iter().map(|&(first, last)| IpRange {
            first: Ipv6Addr::from_bits(first).into(),
            last: Ipv6Addr::from_bits(last).into(),
        });
        v4.chain(v6)
    }

    /// Sorted, not touching.
    pub(crate) fn v4_ranges(&self) -> &[(u32, u32)] {
        &self.v4
    }

    /// Sorted, not touching.
    pub(crate) fn v6_ranges(&self) -> &[(u128, u128)] {
        &self.v6
    }

    /// The ranges of one family as numbers.
    pub(crate) fn spans<C: FromIterator<(u128, u128)>>(&self, ipv4: bool) -> C {
        if ipv4 {
            self.v4.iter().map(|&(first, last)| (first.into(), last.into())).collect()
        } else {
            self.v6.iter().copied().collect()
        }
    }

    /// Every address, one by one: for sets that are known to be small.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.v4.iter().flat_map(|&(first, last)| first..=last);
        let v6 = self.v6.iter().flat_map(|&(first, last)| first..=last);
        v4.map(|n| Ipv4Addr::from_bits(n).into()).chain(v6.map(|n| Ipv6Addr::from_bits(n).into()))
    }

    /// Those of one whole family, which `family` is.
    pub(crate) fn within(&self, family: IpRange) -> Self {
        Self::new(self.ranges().filter(|range| range.first().is_ipv4() == family.first().is_ipv4()))
    }

    pub(crate) fn range_count(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// How many addresses, at most `u128::MAX`.
    pub(crate) fn address_count(&self) -> u128 {
        let v4: u128 = self.v4.iter().map(|&(a, b)| u128::from(b - a) + 1).sum();
        let v6 = self.v6.iter().map(|&(a, b)| (b - a).saturating_add(1));
        v6.fold(v4, u128::saturating_add)
    }

    pub(crate) fn has_ipv4(&self) -> bool {
        !self.v4.is_empty()
    }

    pub(crate) fn has_ipv6(&self) -> bool {
        !self.v6.is_empty()
    }

    /// The only IPv4 range, where the set is nothing else.
    pub(crate) fn only_ipv4_range(&self) -> Option<(u32, u32)> {
        match (&*self.v4, &*self.v6) {
            ([range], []) => Some(*range),
            _ => None,
        }
    }
}

fn holds<N: Ord + Copy>(ranges: &[(N, N)], wanted: N) -> bool {
    let behind = ranges.partition_point(|&(first, _)| first <= wanted);
    behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|&(_, last)| wanted <= last)
}

/// Sorts, and joins ranges that overlap or touch.
fn merge<N: Ord + Copy>(mut ranges: Vec<(N, N)>, next: impl Fn(N) -> Option<N>) -> Box<[(N, N)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(open) if next(open.1).is_none_or(|after| first <= after) => {
                open.1 = open.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u32, last: u32) -> IpRange {
        let address = |n| IpAddr::V4(Ipv4Addr::from_bits(n));
        IpRange { first: address(first.min(last)), last: address(first.max(last)) }
    }

    proptest! {
        /// Few different numbers, at both ends of the family, so that ranges often touch.
        #[test]
        fn a_set_holds_what_its_ranges_hold(
            ends in prop::collection::vec((0_u32..40, 0_u32..40), 0..12), top in any::<bool>(),
        ) {
            let place = |n: u32| if top { u32::MAX - n } else { n };
            let ranges: Vec<_> = ends.iter().map(|&(a, b)| range(place(a), place(b))).collect();
            let set = AddressSet::new(ranges.iter().copied());
            let mut count = 0;
            for n in 0..45 {
                let address = IpAddr::V4(Ipv4Addr::from_bits(place(n)));
                let held = ranges.iter().any(|r| r.first <= address && address <= r.last);
                prop_assert_eq!(set.contains(address), held);
                count += u128::from(held);
            }
            prop_assert_eq!(set.address_count(), count);
            prop_assert_eq!(set.addresses().count() as u128, count);
            prop_assert!(set.v4.windows(2).all(|w| u64::from(w[0].1) + 1 < u64::from(w[1].0)));
        }
    }
}
