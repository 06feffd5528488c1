//! The transport header of a packet that is whole, or of the first fragment of one that is not.

use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Packet, TcpPacket, UDP_HEADER_LEN, UdpPacket,
};

use super::{Network, Segment, TcpFlags, TcpSegment, other, protocol};
use crate::address::{Address, Family};
use crate::checksum::{pseudo_header, sum, total};
use crate::frame::{Checksum, Frame, Offload};
use crate::verdict::DropReason;

/// ICMP and ICMPv6: type, code, checksum, and four octets whose meaning the type settles.
pub(crate) const ICMP_HEADER: usize = 8;

pub(super) fn parse(frame: &Frame<'_>, network: &Network) -> Result<Segment, DropReason> {
    let bytes = &frame.bytes[network.transport..network.end];
    let segment = match (network.protocol, network.source.family()) {
        (protocol::TCP, _) => parse_tcp(bytes, network).map(Segment::Tcp),
        (protocol::UDP, family) => parse_udp(bytes, network, family),
        (protocol::ICMP, Family::Ipv4) => parse_icmpv4(bytes, network),
        (protocol::ICMPV6, Family::Ipv6) => parse_icmpv6(bytes, network),
        // ICMP of the other family (compare CVE-2009-0687).
        (protocol::ICMP | protocol::ICMPV6, _) => Err(DropReason::IcmpType),
        _ => other::parse(bytes, network),
    }?;
    let source = network.homes.source.unwrap_or(network.source);
    let destination = network.homes.destination.unwrap_or(network.destination);
    if is_verifiable(network, &frame.offload)
        && !has_right_checksum(source, destination, network.protocol, &[bytes])
    {
        return Err(DropReason::TransportChecksum);
    }
    Ok(segment)
}

/// Whether the transport checksum is right over a whole datagram in `pieces`, of which each but the
/// last has an even length. True for a protocol that has none or whose is not known.
pub(crate) fn has_right_checksum(
    source: Address,
    destination: Address,
    protocol: u8,
    pieces: &[&[u8]],
) -> bool {
    let length = pieces.iter().map(|piece| piece.len()).sum();
    let first = pieces.first().copied().unwrap_or_default();
    let Some(summed) = summed_length(protocol, first, length) else { return true };
    let header = match protocol {
        protocol::ICMP => 0,
        _ => pseudo_header(source, destination, protocol, summed),
    };
    let mut left = summed;
    let sums = pieces.iter().map(|piece| {
        let here = piece.len().min(left);
        left -= here;
        sum(&piece[..here])
    });
    total(sums.chain([header])) == u16::MAX
}

/// How much of a segment its checksum covers; `None` where it has none.
fn summed_length(protocol: u8, first: &[u8], length: usize) -> Option<usize> {
    match protocol {
        protocol::TCP | protocol::ICMP | protocol::ICMPV6 => Some(length),
        // What lies behind a datagram's own length has a sum of its own (RFC 9868).
        protocol::UDP if first.len() >= UDP_HEADER_LEN => {
            let header = UdpPacket::new_unchecked(first);
            (header.checksum() != 0).then(|| usize::from(header.len()).min(length))
        }
        _ => None,
    }
}

impl Network {
    /// The reason for a transport header that is not all there.
    pub(super) fn truncated(&self) -> DropReason {
        match self.fragment {
            Some(_) => DropReason::FragmentTiny,
            None => DropReason::TransportTruncated,
        }
    }
}

fn parse_tcp(bytes: &[u8], network: &Network) -> Result<TcpSegment, DropReason> {
    let header = TcpPacket::new_checked(bytes).map_err(|_| network.truncated())?;
    other::check_ports(header.src_port(), header.dst_port())?;
    let flags = TcpFlags {
        syn: header.syn(),
        ack: header.ack(),
        fin: header.fin(),
        rst: header.rst(),
        psh: header.psh(),
        urg: header.urg(),
    };
    if !flags.are_possible() {
        return Err(DropReason::TcpFlags);
    }
    let options = header.options_summary().map_err(|_| DropReason::TransportTruncated)?;
    // RFC 7323 section 2.3: what is larger counts as 14.
    const MAX_WINDOW_SCALE: u8 = 14;
    Ok(TcpSegment {
        source_port: header.src_port(),
        destination_port: header.dst_port(),
        sequence: header.seq_number().0.cast_unsigned(),
        acknowledgement: header.ack_number().0.cast_unsigned(),
        flags,
        window: header.window_len(),
        payload: header.payload().len() as u32,
        window_scale: options
            .window_scale
            .filter(|_| flags.syn)
            .map(|scale| scale.min(MAX_WINDOW_SCALE)),
    })
}

impl TcpFlags {
    /// Whether a correct host sends these together. PSH goes with anything, and the bits of RFC 3168
    /// and later are not looked at (RFC 3360).
    fn are_possible(self) -> bool {
        match (self.syn, self.ack, self.fin, self.rst, self.urg) {
            // The first segment of a connection; urgent data may be on it.
            (true, false, false, false, _) => true,
            (true, true, false, false, false) => true,
            // Data, acknowledgements, the end of data: always with ACK (RFC 9293 section 3.10.7.4).
            (false, true, _, false, _) => true,
            // A reset carries nothing that could be urgent.
            (false, _, false, true, false) => true,
            _ => false,
        }
    }
}

fn parse_udp(bytes: &[u8], network: &Network, family: Family) -> Result<Segment, DropReason> {
    if bytes.len() < UDP_HEADER_LEN {
        return Err(network.truncated());
    }
    let header = UdpPacket::new_unchecked(bytes);
    // A first fragment has less than the length says. A length below the packet's leaves room for
    // UDP options (RFC 9868); one of zero is for jumbograms, which do not get here.
    if network.fragment.is_none() {
        header.check_len().map_err(|_| DropReason::TransportTruncated)?;
    } else if usize::from(header.len()) < UDP_HEADER_LEN {
        return Err(DropReason::TransportTruncated);
    }
    // RFC 8200 section 8.1.
    if family == Family::Ipv6 && header.checksum() == 0 {
        return Err(DropReason::TransportChecksum);
    }
    other::check_ports(header.src_port(), header.dst_port())?;
    Ok(Segment::Udp { source_port: header.src_port(), destination_port: header.dst_port() })
}

fn parse_icmpv4(bytes: &[u8], network: &Network) -> Result<Segment, DropReason> {
    let header = Icmpv4Packet::new_checked(bytes).map_err(|_| network.truncated())?;
    let (kind, code) = (header.msg_type().into(), header.msg_code());
    match header.msg_type() {
        Icmpv4Message::EchoRequest | Icmpv4Message::EchoReply if code == 0 => {
            Ok(Segment::IcmpQuery {
                kind,
                code,
                identifier: header.echo_ident(),
                request: header.msg_type() == Icmpv4Message::EchoRequest,
            })
        }
        Icmpv4Message::DstUnreachable
        | Icmpv4Message::TimeExceeded
        | Icmpv4Message::ParamProblem => icmp_error(kind, code, network),
        Icmpv4Message::EchoRequest
        | Icmpv4Message::EchoReply
        | Icmpv4Message::Redirect
        | Icmpv4Message::RouterAdvert
        | Icmpv4Message::RouterSolicit
        | Icmpv4Message::Timestamp
        | Icmpv4Message::TimestampReply
        | Icmpv4Message::Unknown(_) => Err(DropReason::IcmpType),
    }
}

fn parse_icmpv6(bytes: &[u8], network: &Network) -> Result<Segment, DropReason> {
    if bytes.len() < ICMP_HEADER {
        return Err(network.truncated());
    }
    let header = Icmpv6Packet::new_unchecked(bytes);
    let (kind, code) = (u8::from(header.msg_type()), header.msg_code());
    match kind {
        1..=4 => icmp_error(kind, code, network),
        128 | 129 if code == 0 => Ok(Segment::IcmpQuery {
            kind,
            code,
            identifier: header.echo_ident(),
            request: kind == 128,
        }),
        // Multicast listener discovery (RFC 2710, RFC 3810): hop limit 1.
        130..=132 | 143 if network.hop_limit == 1 && network.fragment.is_none() => {
            Ok(Segment::LinkLocal { kind })
        }
        // Neighbour discovery (RFC 4861): nobody from beyond the link can send hop limit 255.
        133..=137 if network.hop_limit == 255 && code == 0 && network.fragment.is_none() => {
            Ok(Segment::LinkLocal { kind })
        }
        _ => Err(DropReason::IcmpType),
    }
}

/// An error is short enough to come in one piece (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c);
/// of one in pieces the checksum could not be verified.
fn icmp_error(kind: u8, code: u8, network: &Network) -> Result<Segment, DropReason> {
    match network.fragment {
        Some(_) => Err(DropReason::IcmpType),
        None => Ok(Segment::IcmpError { kind, code }),
    }
}

/// Of a fragment and of a superframe, no one sum is over the bytes that are here.
fn is_verifiable(network: &Network, offload: &Offload) -> bool {
    let is_whole = network.fragment.is_none() && offload.segments.is_none();
    match offload.checksum {
        Checksum::Unverified => is_whole,
        Checksum::Verified | Checksum::Partial { .. } => false,
    }
}
