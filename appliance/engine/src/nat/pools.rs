//! The external addresses of a NAT rule.

use std::ops::RangeInclusive;

use gabion_rules::SourceAddress;

use crate::{Address, DropReason, Endpoint, Family};

/// Pool addresses that are tried for one flow before it is refused.
const ADDRESSES_TRIED: u128 = 16;

/// The addresses to try, first the paired one (RFC 4787 REQ-2), then from one that `pick` names.
///
/// # Errors
/// `NatNoAddress`.
pub(crate) fn candidates(
    address: &SourceAddress,
    family: Family,
    own: Option<Address>,
    paired: Option<Address>,
    pick: u64,
) -> Result<impl Iterator<Item = Address>, DropReason> {
    let pool = ranges(address, family, own);
    let size: u128 = pool.clone().map(|range| length(&range)).sum();
    if size == 0 {
        return Err(DropReason::NatNoAddress);
    }
    let start = u128::from(pick) % size;
    let paired = paired.filter(|paired| is_member(address, *paired, own));
    let rest = (0..size.min(ADDRESSES_TRIED))
        .filter_map(move |step| nth_address(pool.clone(), (start + step) % size))
        .filter(move |address| Some(*address) != paired);
    Ok(paired.into_iter().chain(rest))
}

/// Whether a NAT rule could have chosen this external endpoint.
pub(crate) fn permits(
    address: &SourceAddress,
    ports: &RangeInclusive<u16>,
    external: Endpoint,
    own: Option<Address>,
) -> bool {
    is_member(address, external.address, own)
        && (external.port == 0 || ports.contains(&external.port))
}

fn is_member(pool: &SourceAddress, address: Address, own: Option<Address>) -> bool {
    match pool {
        SourceAddress::OwnAddress => own == Some(address),
        SourceAddress::Pool(ranges) => ranges.iter().any(|range| range.contains(&address.to_ip())),
    }
}

/// The pool's addresses of a family, as numbers.
fn ranges(
    address: &SourceAddress,
    family: Family,
    own: Option<Address>,
) -> impl Iterator<Item = RangeInclusive<u128>> + Clone {
    let (own, pool) = match address {
        SourceAddress::OwnAddress => (own, [].as_slice()),
        SourceAddress::Pool(ranges) => (None, ranges.as_slice()),
    };
    let pool = pool
        .iter()
        .map(|range| Address::from(*range.start())..=Address::from(*range.end()))
        .filter(move |range| range.start().family() == family)
        .map(|range| range.start().bits()..=range.end().bits());
    own.map(|own| own.bits()..=own.bits()).into_iter().chain(pool)
}

fn nth_address(pool: impl Iterator<Item = RangeInclusive<u128>>, mut n: u128) -> Option<Address> {
    for range in pool {
        if n < length(&range) {
            return Some(Address::from_bits(range.start() + n));
        }
        n -= length(&range);
    }
    None
}

fn length(range: &RangeInclusive<u128>) -> u128 {
    range.end().saturating_sub(*range.start()).saturating_add(1)
}
