//! The packet quoted in an ICMP error: read with distrust, rewritten with care (RFC 5508 section 4).
//!
//! Whoever sends an error chooses every byte of the quote. What is believed of it is only what finds a
//! flow and fits that flow; all else about it is refused here.

use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Address,
    Ipv6Packet, TCP_HEADER_LEN,
};

use crate::address::{Address, Endpoint, Family, FlowKey};
use crate::frame::{Checksum, Frame};
use crate::packet::ipv6::Chain;
use crate::packet::{ICMP_HEADER, Packet, Segment, protocol};
use crate::rewrite::{Fields, Rewrite};
use crate::verdict::DropReason;

/// What an ICMP error says about the packet that it quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quote {
    /// The key of the quoted packet, as it was when the error's sender saw it.
    pub key: FlowKey,
    /// TCP: its sequence number.
    pub sequence: Option<u32>,
    /// ICMP: whether it is an echo request, and not a reply.
    pub request: Option<bool>,
    /// Length of the quoted packet as its IP header claims, headers included.
    pub claimed_length: u32,
    /// The MTU that the error announces, for "fragmentation needed" and "packet too big".
    pub mtu: Option<u32>,
    /// The address of the node that sent the error.
    pub reporter: Address,
}

impl Quote {
    /// Reads the quoted packet of an ICMP error (`Segment::IcmpError`).
    ///
    /// # Errors
    /// `IcmpErrorForged` where the quote is truncated, of the wrong family, a later fragment, itself
    /// an ICMP error, has a wrong header checksum, impossible options or an impossible length, or was
    /// not sent by the host that the error is for (compare CVE-2019-5598).
    pub(crate) fn parse(frame: &Frame<'_>, packet: &Packet) -> Result<Self, DropReason> {
        let inner = Inner::locate(frame.bytes, packet).ok_or(DropReason::IcmpErrorForged)?;
        if inner.key.source.address != packet.destination {
            return Err(DropReason::IcmpErrorForged);
        }
        Ok(Self {
            key: inner.key,
            sequence: inner.sequence,
            request: inner.request,
            claimed_length: inner.claimed_length,
            mtu: announced_mtu(&frame.bytes[packet.transport..packet.end], packet),
            reporter: packet.source,
        })
    }
}

/// Rewrites the error for the host that sent the quoted packet: the quote becomes what that host
/// sent (`original`, in the quote's direction), the outer destination its address, the outer source
/// `reporter`; all checksums are made right.
///
/// The quote's transport checksum is mended where it is quoted, so that a right one stays right; what
/// stands behind the quoted datagram (RFC 4884) is left alone.
///
/// # Panics
/// When [`Quote::parse`] refuses the packet.
pub(crate) fn restore(
    frame: &mut Frame<'_>,
    packet: &Packet,
    original: &FlowKey,
    reporter: Address,
) {
    let inner = Inner::locate(frame.bytes, packet).expect("Quote::parse has accepted the quote");
    Rewrite::between(&inner.key, original).apply_to(frame.bytes, &inner.fields);

    let outer = |source, destination| FlowKey {
        source: Endpoint { address: source, port: 0 },
        destination: Endpoint { address: destination, port: 0 },
        protocol: packet.protocol,
    };
    let from = outer(packet.source, packet.destination);
    let to = outer(reporter, original.source.address);
    // The ICMP checksum covers the quote: it is computed anew, not mended.
    let fields = Fields {
        network: packet.network,
        family: packet.source.family(),
        ports: None,
        checksum: None,
    };
    Rewrite::between(&from, &to).apply_to(frame.bytes, &fields);
    fill_checksum(&mut frame.bytes[packet.transport..packet.end], &to);
    if let Checksum::Partial { .. } = frame.offload.checksum {
        frame.offload.checksum = Checksum::Unverified;
    }
}

/// The quoted packet, found in the error.
struct Inner {
    key: FlowKey,
    sequence: Option<u32>,
    request: Option<bool>,
    claimed_length: u32,
    /// Where its fields stand in the frame; no checksum if the quote ends before it.
    fields: Fields,
}

/// RFC 792: at least this much of what follows the quoted IP header is quoted.
const MIN_QUOTED: usize = 8;

impl Inner {
    fn locate(frame: &[u8], packet: &Packet) -> Option<Self> {
        let Segment::IcmpError { kind, .. } = packet.segment else { return None };
        let start = packet.transport + ICMP_HEADER;
        let message = frame.get(packet.transport..packet.end)?;
        let quote = datagram(message, kind, packet.source.family())?;
        let header = match packet.source.family() {
            Family::Ipv4 => InnerHeader::ipv4(quote)?,
            Family::Ipv6 => InnerHeader::ipv6(quote)?,
        };
        let transport = quote.get(header.length..)?;
        let named = identify(packet.source.family(), header.protocol, transport)?;
        if (header.claimed_length as usize) < header.length + named.least {
            return None;
        }
        let mut fields =
            Fields { network: start, family: packet.source.family(), ports: None, checksum: None };
        fields.locate_transport(header.protocol, start + header.length);
        // Behind the datagram stands padding (RFC 4884 section 4), which is not to be touched.
        let end = start + quote.len().min(header.claimed_length as usize);
        fields.checksum = fields.checksum.filter(|&(at, _)| at + 2 <= end);
        Some(Self {
            key: FlowKey {
                source: Endpoint { address: header.source, port: named.ports.0 },
                destination: Endpoint { address: header.destination, port: named.ports.1 },
                protocol: header.protocol,
            },
            sequence: named.sequence,
            request: named.request,
            claimed_length: header.claimed_length,
            fields,
        })
    }
}

/// The quoted datagram in an ICMP message, without the extensions that may follow it: their length
/// field, where it is used, counts words of the family's size (RFC 4884 section 3).
fn datagram(message: &[u8], kind: u8, family: Family) -> Option<&[u8]> {
    let quote = message.get(ICMP_HEADER..)?;
    let length = match (family, kind) {
        (Family::Ipv4, 3 | 11 | 12) => usize::from(message[5]) * 4,
        (Family::Ipv6, 1 | 3) => usize::from(message[4]) * 8,
        _ => 0,
    };
    if length == 0 { Some(quote) } else { quote.get(..length) }
}

/// The header of the quoted packet.
struct InnerHeader {
    source: Address,
    destination: Address,
    protocol: u8,
    length: usize,
    claimed_length: u32,
}

impl InnerHeader {
    fn ipv4(quote: &[u8]) -> Option<Self> {
        if quote.len() < IPV4_HEADER_LEN {
            return None;
        }
        let header = Ipv4Packet::new_unchecked(quote);
        let length = usize::from(header.header_len());
        let sound = header.version() == 4
            && length >= IPV4_HEADER_LEN
            && length <= quote.len()
            && usize::from(header.total_len()) >= length
            && header.verify_checksum()
            && header.frag_offset() == 0
            && are_options(&quote[IPV4_HEADER_LEN..length]);
        sound.then(|| Self {
            source: header.src_addr().octets().into(),
            destination: header.dst_addr().octets().into(),
            protocol: header.next_header().into(),
            length,
            claimed_length: u32::from(header.total_len()),
        })
    }

    fn ipv6(quote: &[u8]) -> Option<Self> {
        if quote.len() < IPV6_HEADER_LEN {
            return None;
        }
        let header = Ipv6Packet::new_unchecked(quote);
        let mapped = |ip: Ipv6Address| ip.to_ipv4_mapped().is_some();
        if header.version() != 6 || mapped(header.src_addr()) || mapped(header.dst_addr()) {
            return None;
        }
        let chain = Chain::walk(header.next_header().into(), &quote[IPV6_HEADER_LEN..]).ok()?;
        if chain.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        Some(Self {
            source: header.src_addr().octets().into(),
            destination: header.dst_addr().octets().into(),
            protocol: chain.protocol,
            length: IPV6_HEADER_LEN + chain.length,
            claimed_length: (IPV6_HEADER_LEN + usize::from(header.payload_len())) as u32,
        })
    }
}

/// Whether a list of IPv4 options can be one (RFC 791 section 3.1): whatever they are, they are
/// skipped (RFC 5508 REQ-3b).
fn are_options(mut list: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    loop {
        list = match *list {
            [] | [END, ..] => return true,
            [NO_OPERATION, ref rest @ ..] => rest,
            [_, length, ..] if length >= 2 && usize::from(length) <= list.len() => {
                &list[usize::from(length)..]
            }
            [_, ..] => return false,
        };
    }
}

/// What the quoted transport header says of its flow.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    /// Ports, or the identifier twice.
    ports: (u16, u16),
    sequence: Option<u32>,
    request: Option<bool>,
    /// The shortest packet of the protocol, without its IP header.
    least: usize,
}

/// Reads the quoted transport header; `None` where it can be no packet of a flow.
fn identify(family: Family, protocol: u8, transport: &[u8]) -> Option<Named> {
    let word = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    let is_icmp = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    if !is_icmp && !protocol::has_ports(protocol) {
        return Some(Named::default());
    }
    if transport.len() < MIN_QUOTED {
        return None;
    }
    let named = Named { ports: (word(0), word(2)), least: MIN_QUOTED, ..Named::default() };
    match (family, protocol) {
        (_, protocol::TCP) => {
            let sequence = Some(u32::from(word(4)) << 16 | u32::from(word(6)));
            Some(Named { sequence, least: TCP_HEADER_LEN, ..named })
        }
        (_, with_ports) if !is_icmp && protocol::has_ports(with_ports) => Some(named),
        // Echo requests and replies: of an error nobody sends an error (RFC 1122 section 3.2.2).
        (Family::Ipv4, protocol::ICMP) if matches!(transport[0], 0 | 8) => {
            let request = Some(transport[0] == 8);
            Some(Named { ports: (word(4), word(4)), request, ..named })
        }
        (Family::Ipv6, protocol::ICMPV6) if matches!(transport[0], 128 | 129) => {
            let request = Some(transport[0] == 128);
            Some(Named { ports: (word(4), word(4)), request, ..named })
        }
        _ => None,
    }
}

/// RFC 1191 section 4, RFC 4443 section 3.2.
fn announced_mtu(message: &[u8], packet: &Packet) -> Option<u32> {
    const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
    const PACKET_TOO_BIG: u8 = 2;
    let Segment::IcmpError { kind, code } = packet.segment else { return None };
    match packet.source.family() {
        Family::Ipv4 if (kind, code) == FRAGMENTATION_NEEDED => {
            Some(u32::from(u16::from_be_bytes([message[6], message[7]])))
        }
        Family::Ipv6 if kind == PACKET_TOO_BIG => {
            Some(Icmpv6Packet::new_unchecked(message).pkt_too_big_mtu())
        }
        Family::Ipv4 | Family::Ipv6 => None,
    }
}

/// The checksum of a whole ICMP message between the addresses of `outer`.
fn fill_checksum(message: &mut [u8], outer: &FlowKey) {
    use std::net::IpAddr;
    match (outer.source.address.to_ip(), outer.destination.address.to_ip()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Icmpv6Packet::new_unchecked(message).fill_checksum(&source, &destination);
        }
        _ => Icmpv4Packet::new_unchecked(message).fill_checksum(),
    }
}

#[cfg(test)]
mod tests;
