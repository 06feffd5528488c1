//! Packets of the node's own making: ICMP errors, RSTs, answers to ARP and neighbour solicitations.
//!
//! Each is built into a fresh frame; nothing of an earlier packet is in it but what RFC 792,
//! 1812 and 4443 want quoted. When one may be sent at all is decided here too (RFC 1812 section
//! 4.3.2.7, RFC 4443 section 2.4): never about an ICMP error, a later fragment, a multicast or
//! broadcast, or from an unspecified source.

mod emit;

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpRepr, ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol,
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, IPV6_LINK_LOCAL_ALL_NODES, Icmpv4DstUnreachable,
    Icmpv4Message, Icmpv4Packet, Icmpv4TimeExceeded, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet, Icmpv6TimeExceeded, IpAddress, Ipv4Packet, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
};

use crate::address::{Address, FlowKey};
use crate::packet::{Arp, ICMP_HEADER, Packet, Segment, protocol};
use emit::{HOP_LIMIT, answer_frame, ipv4_packet, ipv6_packet};
pub(crate) use emit::{arp_frame, ethernet_frame, ndisc_frame};

/// Which error to send; the codes of either family follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IcmpError {
    /// RFC 1812: 3/13; RFC 4443: 1/1.
    Prohibited,
    /// 3/0; 1/0.
    NoRoute,
    /// 3/1; 1/3.
    HostUnreachable,
    /// 3/3 (RFC 5382 REQ-4); 1/1 (RFC 6092 REC-34).
    PortUnreachable,
    /// 11/0; 3/0.
    TimeExceeded,
    /// 3/4; 2/0. `mtu` is that of the next link.
    TooBig { mtu: u32 },
}

/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const DSCP_ICMP_ERROR: u8 = 48;
/// How large an ICMP error may be: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1_280;

/// An ICMP error about the packet in `bytes`, which came in as it is there, from `source`; `None`
/// where the RFCs forbid one. The frame goes back where the packet came from: link addresses are
/// those of `bytes`, swapped.
///
/// A transport checksum that was left to hardware is completed in the quote. The identification is
/// zero and DF set: the error is atomic (RFC 6864 section 4.1).
pub(crate) fn icmp_error(
    bytes: &[u8],
    packet: &Packet,
    error: IcmpError,
    source: Address,
) -> Option<Vec<u8>> {
    if !may_be_answered(bytes, packet) || is_icmp_error_or_local(packet) {
        return None;
    }
    match (source.to_ip(), packet.source.to_ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let room = MAX_ERROR_V4 - IPV4_HEADER_LEN - ICMP_HEADER;
            let message = icmpv4_message(error, &quote(bytes, packet, room));
            let mut network = ipv4_packet(source, destination, protocol::ICMP, &message);
            let mut header = Ipv4Packet::new_unchecked(&mut network[..]);
            header.set_dscp(DSCP_ICMP_ERROR);
            header.fill_checksum();
            Some(answer_frame(bytes, EthernetProtocol::Ipv4, &network))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let room = MAX_ERROR_V6 - IPV6_HEADER_LEN - ICMP_HEADER;
            let message = icmpv6_message(error, &quote(bytes, packet, room), source, destination);
            let network = ipv6_packet(source, destination, protocol::ICMPV6, HOP_LIMIT, &message);
            Some(answer_frame(bytes, EthernetProtocol::Ipv6, &network))
        }
        // The node has no address of the packet's family on that link.
        _ => None,
    }
}

/// A RST that refuses a TCP segment (RFC 9293 section 3.5.2); `None` for a RST.
pub(crate) fn tcp_reset(bytes: &[u8], packet: &Packet) -> Option<Vec<u8>> {
    let Segment::Tcp(segment) = packet.segment else { return None };
    if segment.flags.rst || !may_be_answered(bytes, packet) {
        return None;
    }
    let (sequence, acknowledgement) = if segment.flags.ack {
        (segment.acknowledgement, None)
    } else {
        let length = segment.payload + u32::from(segment.flags.syn) + u32::from(segment.flags.fin);
        (0, Some(TcpSeqNumber(segment.sequence.wrapping_add(length).cast_signed())))
    };
    let (source, destination) = (packet.destination, packet.source);
    let ports = (segment.destination_port, segment.source_port);
    let control = TcpControl::Rst;
    let reset = bare_segment(control, source, destination, ports, sequence, acknowledgement);
    tcp_frame(bytes, source, destination, &reset)
}

/// An acknowledgement of something that the sender of a SYN has not sent.
pub(crate) fn tcp_challenge(
    bytes: &[u8],
    packet: &Packet,
    acknowledgement: u32,
) -> Option<Vec<u8>> {
    let Segment::Tcp(segment) = packet.segment else { return None };
    if !may_be_answered(bytes, packet) {
        return None;
    }
    let (source, destination) = (packet.destination, packet.source);
    let ports = (segment.destination_port, segment.source_port);
    let number = Some(TcpSeqNumber(acknowledgement.cast_signed()));
    let challenge = bare_segment(TcpControl::None, source, destination, ports, 0, number);
    tcp_frame(bytes, source, destination, &challenge)
}

/// A RST from one end of a connection to the other, that nobody has asked for.
pub(crate) fn tcp_reset_to(key: &FlowKey, sequence: u32, acknowledgement: u32) -> Option<Vec<u8>> {
    tcp_unasked(key, TcpControl::Rst, sequence, acknowledgement)
}

/// An empty segment from one end of a connection to the other.
pub(crate) fn tcp_empty_to(key: &FlowKey, sequence: u32, acknowledgement: u32) -> Option<Vec<u8>> {
    tcp_unasked(key, TcpControl::None, sequence, acknowledgement)
}

fn tcp_unasked(
    key: &FlowKey,
    control: TcpControl,
    sequence: u32,
    acknowledgement: u32,
) -> Option<Vec<u8>> {
    let FlowKey { source, destination, .. } = *key;
    let ports = (source.port, destination.port);
    let acknowledgement = Some(TcpSeqNumber(acknowledgement.cast_signed()));
    let (source, destination) = (source.address, destination.address);
    let segment = bare_segment(control, source, destination, ports, sequence, acknowledgement);
    // Whoever sends it fills in the link addresses.
    tcp_frame(&[0; ETHERNET_HEADER_LEN], source, destination, &segment)
}

fn bare_segment(
    control: TcpControl,
    source: Address,
    destination: Address,
    (src_port, dst_port): (u16, u16),
    sequence: u32,
    ack_number: Option<TcpSeqNumber>,
) -> Vec<u8> {
    let repr = TcpRepr {
        src_port,
        dst_port,
        control,
        seq_number: TcpSeqNumber(sequence.cast_signed()),
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let mut transport = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut transport[..]),
        &source.to_ip().into(),
        &destination.to_ip().into(),
        &ChecksumCapabilities::default(),
    );
    transport
}

fn tcp_frame(
    asked: &[u8],
    source: Address,
    destination: Address,
    transport: &[u8],
) -> Option<Vec<u8>> {
    match (source.to_ip(), destination.to_ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let network = ipv4_packet(source, destination, protocol::TCP, transport);
            Some(answer_frame(asked, EthernetProtocol::Ipv4, &network))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let network = ipv6_packet(source, destination, protocol::TCP, HOP_LIMIT, transport);
            Some(answer_frame(asked, EthernetProtocol::Ipv6, &network))
        }
        _ => None,
    }
}

/// The answer to an ARP request for an address that the node translates.
pub(crate) fn arp_reply(request: &Arp, mac: [u8; 6]) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (request.sender.to_ip(), request.target.to_ip())
    else {
        unreachable!("ARP is parsed for IPv4 alone");
    };
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: target,
        target_hardware_addr: EthernetAddress(request.sender_mac),
        target_protocol_addr: sender,
    };
    arp_frame(mac, request.sender_mac, &repr)
}

/// The target of a neighbour solicitation, if the packet is a sound one (RFC 4861 section 7.1.1).
/// Hop limit, code and checksum are [`Packet::parse`]'s.
pub(crate) fn solicited_target(bytes: &[u8], packet: &Packet) -> Option<Address> {
    let message = Icmpv6Packet::new_checked(bytes.get(packet.transport..packet.end)?).ok()?;
    let Segment::LinkLocal { .. } = packet.segment else { return None };
    if message.msg_type() != Icmpv6Message::NeighborSolicit {
        return None;
    }
    let Ok(NdiscRepr::NeighborSolicit { target_addr, lladdr }) = NdiscRepr::parse(&message) else {
        return None;
    };
    let (IpAddr::V6(source), IpAddr::V6(destination)) =
        (packet.source.to_ip(), packet.destination.to_ip())
    else {
        return None;
    };
    let is_probe = source.is_unspecified();
    if target_addr.is_multicast()
        || source.is_multicast()
        || is_probe && (lladdr.is_some() || !is_solicited_node(&destination))
    {
        return None;
    }
    Some(target_addr.octets().into())
}

/// The neighbour advertisement that answers a solicitation for `target` (RFC 4861 section 7.2.4).
/// To a host that looks for duplicates of its address, and has none yet, it goes by all nodes.
pub(crate) fn neighbour_advertisement(
    bytes: &[u8],
    solicitation: &Packet,
    target: Address,
    mac: [u8; 6],
) -> Vec<u8> {
    let (IpAddr::V6(asker), IpAddr::V6(target)) = (solicitation.source.to_ip(), target.to_ip())
    else {
        unreachable!("a solicitation has IPv6 addresses");
    };
    let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    let (link, destination, flags) = if asker.is_unspecified() {
        // RFC 2464 section 7.
        ([0x33, 0x33, 0, 0, 0, 1], IPV6_LINK_LOCAL_ALL_NODES, flags)
    } else {
        let asked_by = EthernetFrame::new_unchecked(bytes).src_addr().0;
        (asked_by, asker, flags | NdiscNeighborFlags::SOLICITED)
    };
    let repr = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac)),
    };
    ndisc_frame(mac, link, target, destination, repr)
}

/// Whether anything at all may be sent back: not to a group or from one, by either layer's address,
/// and not about a later fragment.
fn may_be_answered(bytes: &[u8], packet: &Packet) -> bool {
    let link = EthernetFrame::new_unchecked(bytes);
    let is_one_host = |ip: IpAddr| match ip {
        // Above 224.0.0.0 lie groups, reserved addresses and the limited broadcast.
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_loopback() && ip.octets()[0] < 224,
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast(),
    };
    link.dst_addr().is_unicast()
        && link.src_addr().is_unicast()
        && is_one_host(packet.source.to_ip())
        && is_one_host(packet.destination.to_ip())
        && packet.segment != Segment::Later
}

fn is_icmp_error_or_local(packet: &Packet) -> bool {
    matches!(packet.segment, Segment::IcmpError { .. } | Segment::LinkLocal { .. })
}

/// The packet, cut to `room`, its transport checksum as it would be on a wire.
fn quote(bytes: &[u8], packet: &Packet, room: usize) -> Vec<u8> {
    let length = (packet.end - packet.network).min(room);
    let mut quote = bytes[packet.network..packet.network + length].to_vec();
    let transport = &bytes[packet.transport..packet.end];
    let (source, destination) = (packet.source.to_ip().into(), packet.destination.to_ip().into());
    if let Some((at, sum)) = completed_checksum(packet, transport, &source, &destination)
        && let Some(field) = quote.get_mut(packet.transport - packet.network + at..)
        && let Some(field) = field.first_chunk_mut()
    {
        *field = sum.to_be_bytes();
    }
    quote
}

/// Offset and value of a checksum that still is the pseudo-header's sum. A whole checksum of the same
/// value by chance comes out as it was, if it was right.
fn completed_checksum(
    packet: &Packet,
    transport: &[u8],
    source: &IpAddress,
    destination: &IpAddress,
) -> Option<(usize, u16)> {
    if packet.fragment.is_some() {
        return None;
    }
    match packet.segment {
        Segment::Tcp(_) => {
            let segment = TcpPacket::new_unchecked(transport);
            segment.verify_partial_checksum(source, destination).then(|| {
                let mut copy = TcpPacket::new_unchecked(transport.to_vec());
                copy.fill_checksum(source, destination);
                (16, copy.checksum())
            })
        }
        Segment::Udp { .. } => {
            let datagram = UdpPacket::new_unchecked(transport);
            datagram.verify_partial_checksum(source, destination).then(|| {
                let mut copy = UdpPacket::new_unchecked(transport.to_vec());
                copy.fill_checksum(source, destination);
                (6, copy.checksum())
            })
        }
        Segment::IcmpQuery { .. }
        | Segment::IcmpError { .. }
        | Segment::LinkLocal { .. }
        | Segment::Other { .. }
        | Segment::Later => None,
    }
}

fn icmpv4_message(error: IcmpError, quote: &[u8]) -> Vec<u8> {
    use Icmpv4DstUnreachable as Unreachable;
    let (kind, code, mtu) = match error {
        IcmpError::Prohibited => {
            (Icmpv4Message::DstUnreachable, Unreachable::CommProhibited.into(), 0)
        }
        IcmpError::NoRoute => {
            (Icmpv4Message::DstUnreachable, Unreachable::NetUnreachable.into(), 0)
        }
        IcmpError::HostUnreachable => {
            (Icmpv4Message::DstUnreachable, Unreachable::HostUnreachable.into(), 0)
        }
        IcmpError::PortUnreachable => {
            (Icmpv4Message::DstUnreachable, Unreachable::PortUnreachable.into(), 0)
        }
        IcmpError::TimeExceeded => {
            (Icmpv4Message::TimeExceeded, Icmpv4TimeExceeded::TtlExpired.into(), 0)
        }
        // RFC 1191 section 4: sixteen bits.
        IcmpError::TooBig { mtu } => (
            Icmpv4Message::DstUnreachable,
            Unreachable::FragRequired.into(),
            u16::try_from(mtu).unwrap_or(u16::MAX),
        ),
    };
    let mut bytes = vec![0; ICMP_HEADER];
    bytes[6..].copy_from_slice(&mtu.to_be_bytes());
    bytes.extend_from_slice(quote);
    let mut message = Icmpv4Packet::new_unchecked(&mut bytes[..]);
    message.set_msg_type(kind);
    message.set_msg_code(code);
    message.fill_checksum();
    bytes
}

fn icmpv6_message(
    error: IcmpError,
    quote: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Vec<u8> {
    use Icmpv6DstUnreachable as Unreachable;
    let (kind, code, mtu) = match error {
        IcmpError::Prohibited | IcmpError::PortUnreachable => {
            (Icmpv6Message::DstUnreachable, Unreachable::AdminProhibit.into(), 0)
        }
        IcmpError::NoRoute => (Icmpv6Message::DstUnreachable, Unreachable::NoRoute.into(), 0),
        IcmpError::HostUnreachable => {
            (Icmpv6Message::DstUnreachable, Unreachable::AddrUnreachable.into(), 0)
        }
        IcmpError::TimeExceeded => {
            (Icmpv6Message::TimeExceeded, Icmpv6TimeExceeded::HopLimitExceeded.into(), 0)
        }
        IcmpError::TooBig { mtu } => (Icmpv6Message::PktTooBig, 0, mtu),
    };
    let mut bytes = vec![0; ICMP_HEADER];
    bytes[4..].copy_from_slice(&mtu.to_be_bytes());
    bytes.extend_from_slice(quote);
    let mut message = Icmpv6Packet::new_unchecked(&mut bytes[..]);
    message.set_msg_type(kind);
    message.set_msg_code(code);
    message.fill_checksum(&source, &destination);
    bytes
}

fn is_solicited_node(ip: &Ipv6Addr) -> bool {
    // RFC 4291 section 2.7.1.
    ip.segments().starts_with(&[0xff02, 0, 0, 0, 0, 1]) && ip.octets()[12] == 0xff
}

#[cfg(test)]
mod tests;
