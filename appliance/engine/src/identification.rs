//! What tells the datagrams of one pair of hosts apart while they are in pieces.
//!
//! Hosts behind one address choose identifications without knowing of each other, so a translator
//! chooses for them (RFC 6864 section 5.3.1): all fragments of a datagram get the same new one. A
//! datagram that is whole and may not be fragmented needs none, and gets zero: it would tell hosts
//! apart (S. Bellovin, "A Technique for Counting NATted Hosts", 2002).

use crate::hash::KeyedHash;
use crate::packet::Packet;
use crate::rewrite::Rewrite;
use crate::{Address, Engine, Family, FlowKey};

/// Counters, shared by the pairs of hosts that hash to the same one. IPv4 has 65,536 identifications
/// before one comes back.
const COUNTERS: usize = 4_096;

/// Rounds that make a permutation of pseudo-random functions (M. Luby and C. Rackoff, 1988).
const ROUNDS: u64 = 4;

#[derive(Debug)]
pub(crate) struct Identifications {
    counters: Box<[u32]>,
    hash: KeyedHash,
}

impl Identifications {
    /// `key` keeps others from foretelling what comes next, and from counting what others send.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { counters: vec![0; COUNTERS].into(), hash: KeyedHash::new(key) }
    }

    /// The next one for datagrams of a protocol between two hosts: 16 bits for IPv4, 32 for IPv6.
    pub(crate) fn next(&mut self, source: Address, destination: Address, protocol: u8) -> u32 {
        let [a, b] = source.words();
        let [c, d] = destination.words();
        let secret = self.hash.words([a, b, c, d], u64::from(protocol));
        let counter = &mut self.counters[secret as usize % COUNTERS];
        *counter = counter.wrapping_add(1);
        let half_bits = match source.family() {
            Family::Ipv4 => 8,
            Family::Ipv6 => 16,
        };
        permute(secret, *counter, half_bits)
    }
}

impl Engine {
    /// What to write into a translated packet that leaves as `sent`; `None` for any other.
    pub(crate) fn identify(
        &mut self,
        rewrite: &Rewrite,
        sent: &FlowKey,
        packet: &Packet,
    ) -> Option<u32> {
        let has_field = packet.source.family() == Family::Ipv4 || packet.fragment.is_some();
        if rewrite.is_identity() || !has_field {
            None
        } else if packet.dont_fragment && packet.fragment.is_none() {
            Some(0)
        } else {
            let (source, destination) = (sent.source.address, sent.destination.address);
            Some(self.identifications.next(source, destination, sent.protocol))
        }
    }
}

/// A Feistel network under `secret` over twice `half_bits` bits: within as many steps of `value` as it
/// has results, none comes twice.
fn permute(secret: u64, value: u32, half_bits: u32) -> u32 {
    let mask = (1 << half_bits) - 1;
    let (mut left, mut right) = (value >> half_bits & mask, value & mask);
    for round in 0..ROUNDS {
        let mixed = mix(secret ^ (round << 32 | u64::from(right)));
        (left, right) = (right, left ^ (mixed as u32 & mask));
    }
    left << half_bits | right
}

/// Every bit of the result hangs on all bits of the value (the finalizer of MurmurHash3 by A. Appleby).
const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SERVER: [u8; 4] = [198, 51, 100, 9];

    fn take(identifications: &mut Identifications, count: usize) -> Vec<u32> {
        let (source, destination) = (Address::from([203, 0, 113, 4]), Address::from(SERVER));
        (0..count).map(|_| identifications.next(source, destination, 17)).collect()
    }

    #[test]
    fn all_are_used_before_one_comes_back() {
        for key in [[0; 16], [7; 16], [255; 16]] {
            let mut identifications = Identifications::new(key);
            for _ in 0..2 {
                let seen: BTreeSet<u32> = take(&mut identifications, 65_536).into_iter().collect();
                assert_eq!(seen, (0..65_536).collect());
            }
        }
    }

    /// Neither the next one follows from the last, nor one pair's from another's.
    #[test]
    fn they_are_hard_to_guess() {
        let mut identifications = Identifications::new([7; 16]);
        let series = take(&mut identifications, 10_000);
        let steps: BTreeSet<u32> =
            series.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) & 0xffff).collect();
        // Of 9,999 steps drawn out of 65,536, some 9,280 differ.
        assert!(steps.len() > 9_000, "{}", steps.len());
        let other = take(&mut Identifications::new([8; 16]), 10_000);
        let same = series.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(same < 10, "{same}");
    }

    #[test]
    fn ipv6_has_32_bits() {
        let mut identifications = Identifications::new([7; 16]);
        let (source, destination) = (Address::from([0x26; 16]), Address::from([0x27; 16]));
        let seen: BTreeSet<u32> =
            (0..100_000).map(|_| identifications.next(source, destination, 17)).collect();
        assert_eq!(seen.len(), 100_000);
        assert!(seen.iter().any(|identification| identification >> 16 != 0));
    }
}
