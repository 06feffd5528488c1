//! Numbers, addresses and keys as they stand in messages: big-endian, and nothing is read that is not
//! there.

use super::NodeId;
use super::rendezvous::Pair;
use crate::{Address, Endpoint, Family, FlowKey};

/// Appends.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

/// Takes from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Writer<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Protocol, length of the addresses, both endpoints: 14 bytes (IPv4) or 38.
    pub(crate) fn key(&mut self, key: &FlowKey) {
        let ends = [key.source, key.destination];
        let is_wide = ends.iter().any(|end| end.address.family() == Family::Ipv6);
        self.u8(key.protocol);
        self.u8(if is_wide { 16 } else { 4 });
        for Endpoint { address, port } in ends {
            let octets = address.octets();
            self.0.extend_from_slice(if is_wide { &octets } else { &octets[12..] });
            self.u16(port);
        }
    }

    pub(crate) fn pair(&mut self, pair: &Pair) {
        self.key(&pair.key());
    }
}

impl Reader<'_> {
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes().map(|[value]| value)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(crate) fn node(&mut self) -> Option<NodeId> {
        self.u8().filter(|node| (1..=NodeId::MAX).contains(node)).map(NodeId)
    }

    pub(crate) fn key(&mut self) -> Option<FlowKey> {
        let (protocol, length) = (self.u8()?, self.u8()?);
        let (source, destination) = (self.endpoint(length)?, self.endpoint(length)?);
        Some(FlowKey { source, destination, protocol })
    }

    pub(crate) fn pair(&mut self) -> Option<Pair> {
        self.key().map(Pair::from)
    }

    fn endpoint(&mut self, length: u8) -> Option<Endpoint> {
        let address = match length {
            4 => Address::from(self.bytes::<4>()?),
            16 => Address::from(self.bytes::<16>()?),
            _ => return None,
        };
        Some(Endpoint { address, port: self.u16()? })
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
}
