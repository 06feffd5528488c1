//! Packets of the node's own making: ICMP errors, RSTs, answers to ARP and neighbour solicitations.
//!
//! Each is built into a fresh frame; nothing of an earlier packet is in it but what RFC 792,
//! 1812 and 4443 want quoted. When one may be sent at all is decided here too (RFC 1812 section
//! 4.3.2.7, RFC 4443 section 2.4): never about an ICMP error, a later fragment, a multicast or
//! broadcast, or from an unspecified source.

use crate::address::Address;
use crate::packet::{Arp, Packet};

/// Which error to send; the codes of either family follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// RFC 1812: 3/13; RFC 4443: 1/1.
    Prohibited,
    /// 3/0; 1/0.
    NoRoute,
    /// 3/1; 1/3.
    HostUnreachable,
    /// 11/0; 3/0.
    TimeExceeded,
    /// 3/4; 2/0. `mtu` is that of the next link.
    TooBig { mtu: u32 },
}

/// An ICMP error about the packet in `bytes`, which came in as it is there, from `source`; `None`
/// where the RFCs forbid one. The frame goes back where the packet came from: link addresses are
/// those of `bytes`, swapped.
pub fn icmp_error(
    _bytes: &[u8],
    _packet: &Packet,
    _error: IcmpError,
    _source: Address,
) -> Option<Vec<u8>> {
    unimplemented!()
}

/// A RST that refuses a TCP segment (RFC 9293 section 3.5.2); `None` for a RST.
pub fn tcp_reset(_bytes: &[u8], _packet: &Packet) -> Option<Vec<u8>> {
    unimplemented!()
}

/// The answer to an ARP request for an address that the node translates.
pub fn arp_reply(_request: &Arp, _mac: [u8; 6]) -> Vec<u8> {
    unimplemented!()
}

/// The target of a neighbour solicitation, if the packet is a sound one (RFC 4861 section 7.1.1).
pub fn solicited_target(_bytes: &[u8], _packet: &Packet) -> Option<Address> {
    unimplemented!()
}

/// The neighbour advertisement that answers a solicitation for `target` (RFC 4861 section 7.2.4).
pub fn neighbour_advertisement(
    _bytes: &[u8],
    _solicitation: &Packet,
    _target: Address,
    _mac: [u8; 6],
) -> Vec<u8> {
    unimplemented!()
}
