//! Ports of external addresses: allocated at random in constant time, also when nearly all are used.

use std::ops::RangeInclusive;

use crate::address::Address;

/// The free ports of every external address in use, per protocol.
///
/// A permuted free list per (address, protocol, range): taking and giving back is O(1) whatever the
/// fill. Ports are hard to guess (RFC 7857 section 9, RFC 6056), freed ones go to the back.
#[derive(Debug)]
pub struct PortAllocator {}

impl PortAllocator {
    /// `seed` keys the permutation; the same seed and calls give the same ports.
    pub fn new(_seed: [u8; 32]) -> Self {
        unimplemented!()
    }

    /// Takes a free port out of `range`, in the class of `wanted` where that is possible (RFC 4787
    /// REQ-3a: 0-1023 or above); `None` when all are taken.
    pub fn allocate(
        &mut self,
        _address: Address,
        _protocol: u8,
        _range: &RangeInclusive<u16>,
        _wanted: u16,
    ) -> Option<u16> {
        unimplemented!()
    }

    pub fn reserve(&mut self, _address: Address, _protocol: u8, _port: u16) {
        unimplemented!()
    }

    pub fn is_used(&self, _address: Address, _protocol: u8, _port: u16) -> bool {
        unimplemented!()
    }

    /// Gives a port back.
    pub fn release(&mut self, _address: Address, _protocol: u8, _port: u16) {
        unimplemented!()
    }

    /// How many ports are taken, for pool reports.
    pub fn used(&self, _address: Address, _protocol: u8) -> u32 {
        unimplemented!()
    }
}
