//! Keys of packets, read by another parser than the engine's.

use std::net::IpAddr;

use etherparse::{Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use gabion_engine::{Address, Endpoint, FlowKey};

const IPV6_HEADER: usize = 40;

/// What an IP packet says of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub key: FlowKey,
    /// Of a later fragment, addresses are all that is known.
    pub later: bool,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp {
        sequence: u32,
        acknowledgement: u32,
        syn: bool,
        length: u32,
    },
    Query,
    /// An ICMP error; where its quote begins, from the IP header on.
    Error {
        quote: usize,
    },
    Plain,
}

/// Reads an IP packet; `None` for anything else.
pub fn packet(bytes: &[u8]) -> Option<Seen> {
    let packet = LaxSlicedPacket::from_ip(bytes).ok()?;
    let (source, destination, protocol, later, at): (IpAddr, IpAddr, u8, bool, usize) =
        match packet.net? {
            LaxNetSlice::Ipv4(v4) => {
                let header = v4.header();
                let later = header.fragments_offset().value() > 0;
                let number = header.protocol().0;
                let at = header.slice().len();
                (header.source_addr().into(), header.destination_addr().into(), number, later, at)
            }
            LaxNetSlice::Ipv6(v6) => {
                let header = v6.header();
                let payload = v6.payload();
                let later = v6.extensions().clone().into_iter().any(|extension| {
                    matches!(extension, Ipv6ExtensionSlice::Fragment(fragment)
                    if fragment.to_header().fragment_offset.value() > 0)
                });
                let end = bytes.len().min(IPV6_HEADER + usize::from(header.payload_length()));
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    payload.ip_number.0,
                    later,
                    end.checked_sub(payload.payload.len())?,
                )
            }
            LaxNetSlice::Arp(_) => return None,
        };
    // Of a fragment that has one, the transport header is read all the same.
    let word = |place: usize| {
        Some(u16::from_be_bytes([*bytes.get(at + place)?, *bytes.get(at + place + 1)?]))
    };
    let (ports, kind) = match (protocol, later) {
        (_, true) => ((0, 0), Kind::Plain),
        (6, false) => ((word(0)?, word(2)?), tcp(bytes, at).unwrap_or(Kind::Plain)),
        (17 | 33 | 132 | 136, false) => ((word(0)?, word(2)?), Kind::Plain),
        (1 | 58, false)
            if matches!(bytes.get(at)?, 8 | 0 | 128 | 129)
                && protocol_fits(protocol, bytes[at]) =>
        {
            ((word(4)?, word(4)?), Kind::Query)
        }
        (1 | 58, false) => ((0, 0), Kind::Error { quote: at + 8 }),
        _ => ((0, 0), Kind::Plain),
    };
    let endpoint = |ip: IpAddr, port| Endpoint { address: Address::from(ip), port };
    let _: Option<TransportSlice<'_>> = packet.transport;
    Some(Seen {
        key: FlowKey {
            source: endpoint(source, ports.0),
            destination: endpoint(destination, ports.1),
            protocol,
        },
        later,
        kind,
    })
}

const fn protocol_fits(protocol: u8, kind: u8) -> bool {
    (protocol == 1 && kind < 128) || (protocol == 58 && kind >= 128)
}

fn tcp(bytes: &[u8], at: usize) -> Option<Kind> {
    let long = |place: usize| {
        bytes.get(at + place..at + place + 4).map(|b| u32::from_be_bytes(b.try_into().unwrap()))
    };
    let header = usize::from(bytes.get(at + 12)? >> 4) * 4;
    let flags = bytes.get(at + 13)?;
    let length = bytes.len().saturating_sub(at + header) as u32;
    Some(Kind::Tcp {
        sequence: long(4)?,
        acknowledgement: long(8)?,
        syn: flags & 2 != 0,
        length: length + u32::from(flags & 3 != 0),
    })
}

/// Whether the sum over a TCP segment or UDP datagram is right, if the frame is one.
pub(super) fn checksum_is_sound(frame: &[u8]) -> bool {
    let Ok(packet) = etherparse::SlicedPacket::from_ethernet(frame) else { return true };
    let Some(ip) = packet.net.as_ref().and_then(|net| net.ip_payload_ref()) else { return true };
    let number = ip.ip_number.0;
    if !matches!(number, 6 | 17) || ip.fragmented {
        return true;
    }
    let addresses = if frame[14] >> 4 == 4 { &frame[26..34] } else { &frame[22..54] };
    let length = ip.payload.len() as u64;
    let words = |bytes: &[u8]| -> u64 {
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        bytes.chunks(2).map(word).sum()
    };
    let mut sum = words(addresses) + words(ip.payload) + length + u64::from(number);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum == 0xffff
}
