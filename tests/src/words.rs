//! Frames in words, read by another parser than the engine's; every checksum is computed anew.

use std::net::IpAddr;

use etherparse::err::Layer;
use etherparse::err::packet::SliceError;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use gabion_engine::{Checksum, Offload};

/// What a frame says, as `tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63`.
///
/// # Panics
/// When the frame does not parse, is padded with anything, or has a wrong checksum.
#[track_caller]
pub fn describe(frame: &[u8], offload: Offload) -> String {
    if is_ipv4_authentication(frame) {
        return describe_authentication(&frame[14..]);
    }
    let packet = match SlicedPacket::from_ethernet(frame) {
        Err(SliceError::Len(error)) if error.layer == Layer::Igmp => return describe_igmp(frame),
        read => read.expect("a sound frame leaves"),
    };
    let Some(net) = &packet.net else { return "not ip".to_owned() };
    let (source, destination, hop_limit, fragment): (IpAddr, IpAddr, u8, Option<String>) = match net
    {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            check_ipv4_header(header.slice());
            let cut = header.is_fragmenting_payload();
            let place = format!(
                " frag {}{}",
                header.fragments_offset().byte_offset(),
                if header.more_fragments() { "+" } else { "" }
            );
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
                cut.then_some(place),
            )
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            let cut = v6.extensions().clone().into_iter().find_map(|extension| match extension {
                etherparse::Ipv6ExtensionSlice::Fragment(fragment) => {
                    let header = fragment.to_header();
                    header.is_fragmenting_payload().then(|| {
                        let more = if header.more_fragments { "+" } else { "" };
                        format!(" frag {}{more}", header.fragment_offset.byte_offset())
                    })
                }
                _ => None,
            });
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit(), cut)
        }
        NetSlice::Arp(arp) => return describe_arp(arp),
    };
    let partial = matches!(offload.checksum, Checksum::Partial { .. });
    let whole = fragment.is_none() && !partial;
    let first = fragment.as_deref().is_some_and(|place| place.starts_with(" frag 0"));
    let transport = if first {
        describe_quote(&frame[14..])
    } else {
        transport(&packet, source, destination, whole)
    };
    let fragment = fragment.unwrap_or_default();
    let partial = if partial { " partial" } else { "" };
    let gso = offload.segments.map(|gso| format!(" gso {}", gso.size)).unwrap_or_default();
    format!("{transport} ttl {hop_limit}{fragment}{partial}{gso}")
}

/// Not etherparse's sum of its own view of the header, which forgets the reserved flag.
#[track_caller]
fn check_ipv4_header(header: &[u8]) {
    assert_eq!(sum_of(header), 0, "the sum of an IPv4 header");
}

/// Zero where the sum is right.
fn sum_of(bytes: &[u8]) -> u16 {
    etherparse::checksum::Sum16BitWords::new().add_slice(bytes).ones_complement()
}

/// etherparse follows the authentication header of IPv4 as if it were an extension header; to a router
/// it is one more protocol, whatever is in it.
fn is_ipv4_authentication(frame: &[u8]) -> bool {
    frame.get(12..15).is_some_and(|start| start[..2] == [8, 0] && start[2] >> 4 == 4)
        && frame.get(23) == Some(&51)
}

/// etherparse wants eight bytes of IGMP; to a router it is one more protocol, and in IPv6 no known one.
fn describe_igmp(frame: &[u8]) -> String {
    match frame.get(12..14) {
        Some([8, 0]) => describe_authentication(&frame[14..]),
        _ => "ip, protocol 2, cut short".to_owned(),
    }
}

fn describe_authentication(packet: &[u8]) -> String {
    let header = etherparse::Ipv4HeaderSlice::from_slice(packet).expect("a sound packet leaves");
    check_ipv4_header(header.slice());
    format!("ip {} > {} ttl {}", header.source_addr(), header.destination_addr(), header.ttl())
}

fn transport(
    packet: &SlicedPacket<'_>,
    source: IpAddr,
    destination: IpAddr,
    whole: bool,
) -> String {
    let pair = |from: u16, to: u16| {
        use std::net::SocketAddr;
        format!("{} > {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            if whole {
                assert_eq!(sum(tcp, source, destination), header.checksum, "TCP");
            }
            let flags = [
                (header.syn, 'S'),
                (header.fin, 'F'),
                (header.rst, 'R'),
                (header.psh, 'P'),
                (header.ack, '.'),
            ];
            let flags: String =
                flags.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
            let payload = tcp.payload().len();
            let payload = if payload > 0 { format!(" +{payload}") } else { String::new() };
            format!("tcp {} {flags}{payload}", pair(header.source_port, header.destination_port))
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            if whole && header.checksum != 0 {
                let computed = match (source, destination) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload())
                    }
                    (IpAddr::V6(s), IpAddr::V6(d)) => {
                        header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload())
                    }
                    _ => unreachable!("one family"),
                };
                assert_eq!(computed.unwrap(), header.checksum, "UDP");
            }
            let length = udp.payload().len();
            format!("udp {} +{length}", pair(header.source_port, header.destination_port))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            if whole {
                // Not etherparse's sum of its own view: that takes fields that are unused for zero.
                assert_eq!(sum_of(icmp.slice()), 0, "ICMP");
            }
            format!(
                "icmp {source} > {destination} {}",
                icmp_words(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload(), false)
            )
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            if whole {
                let (IpAddr::V6(s), IpAddr::V6(d)) = (source, destination) else { unreachable!() };
                let valid = icmp.is_checksum_valid(s.octets(), d.octets());
                assert!(valid, "ICMPv6");
            }
            format!(
                "icmpv6 {source} > {destination} {}",
                icmp_words(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload(), true)
            )
        }
        Some(TransportSlice::Igmp(_)) | None => format!("ip {source} > {destination}"),
    }
}

fn icmp_words(kind: u8, code: u8, rest: [u8; 4], payload: &[u8], v6: bool) -> String {
    let identifier = u16::from_be_bytes([rest[0], rest[1]]);
    match (v6, kind) {
        (false, 8) | (true, 128) => format!("echo {identifier}"),
        (false, 0) | (true, 129) => format!("reply {identifier}"),
        (false, 3 | 11 | 12) | (true, 1..=4) => {
            let mtu = match (v6, kind, code) {
                (false, 3, 4) => format!(" mtu {}", u16::from_be_bytes([rest[2], rest[3]])),
                (true, 2, _) => format!(" mtu {}", u32::from_be_bytes(rest)),
                _ => String::new(),
            };
            format!("error {kind}/{code}{mtu} about [{}]", describe_quote(payload))
        }
        _ => format!("type {kind}/{code}"),
    }
}

/// The quoted packet: addresses and ports, whatever is there of it; its IP header's checksum is
/// checked, its length is not, as quotes are cut.
fn describe_quote(quote: &[u8]) -> String {
    let packet = etherparse::LaxSlicedPacket::from_ip(quote).expect("a quote is an IP packet");
    let (source, destination): (IpAddr, IpAddr) = match &packet.net {
        Some(etherparse::LaxNetSlice::Ipv4(v4)) => {
            let header = v4.header();
            check_ipv4_header(header.slice());
            (header.source_addr().into(), header.destination_addr().into())
        }
        Some(etherparse::LaxNetSlice::Ipv6(v6)) => {
            (v6.header().source_addr().into(), v6.header().destination_addr().into())
        }
        _ => return "?".to_owned(),
    };
    let header = match source {
        IpAddr::V4(_) => usize::from(quote[0] & 0x0f) * 4,
        IpAddr::V6(_) => 40,
    };
    let fragment_header = source.is_ipv6() && quote[6] == 44;
    let header = if fragment_header { header + 8 } else { header };
    let port = |at: usize| u16::from_be_bytes([quote[header + at], quote[header + at + 1]]);
    let protocol = match source {
        IpAddr::V4(_) => quote[9],
        IpAddr::V6(_) if fragment_header => quote[40],
        IpAddr::V6(_) => quote[6],
    };
    match protocol {
        6 => format!("tcp {source}:{} > {destination}:{}", port(0), port(2)),
        17 => format!("udp {source}:{} > {destination}:{}", port(0), port(2)),
        1 | 58 => format!("echo {} {source} > {destination}", port(4)),
        other => format!("proto {other} {source} > {destination}"),
    }
}

fn describe_arp(arp: &etherparse::ArpPacketSlice<'_>) -> String {
    let octets =
        |bytes: &[u8]| -> String { bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(".") };
    let operation = if arp.operation().0 == 2 { "reply" } else { "request" };
    format!(
        "arp {operation} {} is-at {:02x?}",
        octets(arp.sender_protocol_addr()),
        arp.sender_hw_addr()
    )
}

/// Over the bytes that are there, reserved bits and all.
fn sum(segment: &etherparse::TcpSlice<'_>, source: IpAddr, destination: IpAddr) -> u16 {
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => segment.calc_checksum_ipv4(s.octets(), d.octets()),
        (IpAddr::V6(s), IpAddr::V6(d)) => segment.calc_checksum_ipv6(s.octets(), d.octets()),
        _ => unreachable!("one family"),
    }
    .unwrap()
}

/// The link address that the dialogue gives a neighbour.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    [2, 0, 0, 0, 1, last]
}
