//! Fresh frames: headers around a payload, everything in them said here.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, ArpRepr, ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, NdiscRepr,
};

use crate::packet::protocol;

/// The hop limit of what the node sends (RFC 1700, "IP time to live").
pub(super) const HOP_LIMIT: u8 = 64;
/// That of neighbour discovery (RFC 4861 section 7.1).
const HOP_LIMIT_ON_LINK: u8 = 255;

/// Neighbour discovery, ready to be sent.
pub(crate) fn ndisc_frame(
    mac: [u8; 6],
    to: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    repr: NdiscRepr<'_>,
) -> Vec<u8> {
    let repr = Icmpv6Repr::Ndisc(repr);
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(
        &source,
        &destination,
        &mut Icmpv6Packet::new_unchecked(&mut message[..]),
        &ChecksumCapabilities::default(),
    );
    let network = ipv6_packet(source, destination, protocol::ICMPV6, HOP_LIMIT_ON_LINK, &message);
    ethernet_frame(mac, to, EthernetProtocol::Ipv6, &network)
}

/// ARP, ready to be sent.
pub(crate) fn arp_frame(mac: [u8; 6], to: [u8; 6], repr: &ArpRepr) -> Vec<u8> {
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
    ethernet_frame(mac, to, EthernetProtocol::Arp, &bytes)
}

pub(crate) fn ethernet_frame(
    source: [u8; 6],
    destination: [u8; 6],
    ethertype: EthernetProtocol,
    payload: &[u8],
) -> Vec<u8> {
    let repr = EthernetRepr {
        src_addr: EthernetAddress(source),
        dst_addr: EthernetAddress(destination),
        ethertype,
    };
    let mut bytes = vec![0; ETHERNET_HEADER_LEN];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn answer_frame(asked: &[u8], ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let asked = EthernetFrame::new_unchecked(asked);
    ethernet_frame(asked.dst_addr().0, asked.src_addr().0, ethertype, payload)
}

pub(super) fn ipv4_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol.into(),
        payload_len: payload.len(),
        hop_limit: HOP_LIMIT,
    };
    let mut bytes = vec![0; IPV4_HEADER_LEN];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn ipv6_packet(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let repr = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol.into(),
        payload_len: payload.len(),
        hop_limit,
    };
    let mut bytes = vec![0; IPV6_HEADER_LEN];
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
    bytes.extend_from_slice(payload);
    bytes
}
