#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::build::{self, FrameBuilder};
use crate::frame::{Checksum, Frame, Offload};
use crate::packet::Parsed;
use crate::quote::Quote;

const ALL: [IcmpError; 5] = [
    IcmpError::Prohibited,
    IcmpError::NoRoute,
    IcmpError::HostUnreachable,
    IcmpError::TimeExceeded,
    IcmpError::TooBig { mtu: 1_400 },
];

fn parse(bytes: &[u8]) -> Packet {
    let mut bytes = bytes.to_vec();
    // Some are handed over before hardware has put their checksum in.
    let offload = Offload { checksum: Checksum::Verified, segments: None };
    match Packet::parse(&Frame { bytes: &mut bytes, offload }).unwrap() {
        Parsed::Ip(packet) => packet,
        Parsed::Arp(arp) => panic!("{arp:?}"),
    }
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn error_about(bytes: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    let packet = parse(bytes);
    let source = match packet.source.to_ip() {
        IpAddr::V4(_) => "203.0.113.1",
        IpAddr::V6(_) => "2600:f::1",
    };
    icmp_error(bytes, &packet, error, address(source))
}

fn v6(builder: FrameBuilder) -> FrameBuilder {
    builder.from("[2600::5]:1000").to("[2600::6]:80")
}

proptest! {
    /// An error parses, its checksums are right, it fits the RFCs' sizes,
    /// and it quotes the packet as it was.
    #[test]
    fn errors_are_sound_and_quote_the_packet(
        is_v4 in any::<bool>(),
        error in prop::sample::select(ALL.to_vec()),
        payload in proptest::collection::vec(any::<u8>(), 0..2_000),
        padding in 0..20_usize,
    ) {
        let tcp = build::tcp().ack(1).seq(77).payload(&payload);
        let mut asked = if is_v4 { tcp } else { v6(tcp) }.frame();
        let end = asked.len();
        asked.resize(end + padding, 0xee);
        let mut bytes = error_about(&asked, error).unwrap();
        let (overhead, most) = if is_v4 { (28, 576) } else { (48, 1_280) };
        prop_assert_eq!(bytes.len() - 14, (end - 14 + overhead).min(most));
        prop_assert_eq!(&bytes[14 + overhead..], &asked[14..14 + bytes.len() - 14 - overhead]);
        prop_assert_eq!((&bytes[..6], &bytes[6..12]), (&asked[6..12], &asked[..6]));

        let unverified = Frame { bytes: &mut bytes, offload: Offload::default() };
        prop_assert!(Packet::parse(&unverified).is_ok());
        let packet = parse(&bytes);
        prop_assert_eq!(packet.hop_limit, 64);
        prop_assert_eq!(packet.destination, parse(&asked).source);
        let frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        let quote = Quote::parse(&frame, &packet).unwrap();
        prop_assert_eq!(Some(quote.key), parse(&asked).key());
        prop_assert_eq!(quote.sequence, Some(77));
        let mtu = matches!(error, IcmpError::TooBig { .. }).then_some(1_400);
        prop_assert_eq!(quote.mtu, mtu);
    }

    /// A quote of a frame whose checksum was left to hardware is that of the frame on the wire.
    #[test]
    fn partial_checksums_are_completed_in_the_quote(
        is_v4 in any::<bool>(),
        is_tcp in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 0..1_400),
    ) {
        let builder = if is_tcp { build::tcp().ack(1) } else { build::udp() }.payload(&payload);
        let builder = if is_v4 { builder } else { v6(builder) };
        let on_wire = error_about(&builder.frame(), IcmpError::NoRoute);
        let partial = error_about(&builder.partial_checksum().frame(), IcmpError::NoRoute);
        prop_assert_eq!(partial, on_wire);
    }
}

/// Types and codes, read by another parser.
#[test]
fn kinds() {
    let kind = |asked: &[u8], error| {
        let bytes = error_about(asked, error).unwrap();
        match SlicedPacket::from_ethernet(&bytes).unwrap().transport.unwrap() {
            TransportSlice::Icmpv4(icmp) => (icmp.type_u8(), icmp.code_u8()),
            TransportSlice::Icmpv6(icmp) => {
                assert!(!matches!(icmp.icmp_type(), Icmpv6Type::Unknown { .. }));
                (icmp.type_u8(), icmp.code_u8())
            }
            other => panic!("{other:?}"),
        }
    };
    let v4_kinds = [(3, 13), (3, 0), (3, 1), (11, 0), (3, 4)];
    let v6_kinds = [(1, 1), (1, 0), (1, 3), (3, 0), (2, 0)];
    for ((error, v4_kind), v6_kind) in ALL.into_iter().zip(v4_kinds).zip(v6_kinds) {
        assert_eq!(kind(&build::udp().frame(), error), v4_kind);
        assert_eq!(kind(&v6(build::udp()).frame(), error), v6_kind);
    }
    let bytes = error_about(&build::udp().frame(), IcmpError::TooBig { mtu: 100_000 }).unwrap();
    let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("{sliced:?}") };
    assert!(matches!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(_)));
    assert_eq!(icmp.bytes5to8(), [0, 0, 0xff, 0xff]);
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("{sliced:?}") };
    assert_eq!((ip.header().dcp().value(), ip.header().ttl()), (48, 64));
}

/// RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e), RFC 1122 section 3.2.2.
///
/// Covers: 5508-10d
#[test]
fn no_error_is_sent_about_these() {
    let none = |frame: &[u8]| {
        assert_eq!(error_about(frame, IcmpError::Prohibited), None, "{frame:02x?}");
    };
    none(&build::icmp(3, 1, [0; 4]).frame());
    none(&v6(build::icmp(1, 1, [0; 4])).frame());
    none(&build::neighbour_solicitation([2; 6], "2600::1", "2600::2"));
    none(&build::udp().macs([2; 6], [0xff; 6]).frame());
    none(&build::udp().macs([2; 6], [1, 0, 0x5e, 0, 0, 1]).frame());
    for destination in ["224.0.0.5:1", "255.255.255.255:1", "240.0.0.1:1", "127.0.0.1:1"] {
        none(&build::udp().to(destination).frame());
    }
    for source in ["0.0.0.0:1", "224.0.0.5:1", "255.255.255.255:1", "127.0.0.1:1"] {
        none(&build::udp().from(source).frame());
        none(&build::tcp().syn().from(source).frame());
        let frame = build::tcp().syn().from(source).frame();
        assert_eq!(tcp_reset(&frame, &parse(&frame)), None);
    }
    none(&v6(build::udp()).to("[ff02::1]:1").frame());
    none(&v6(build::udp()).from("[::]:1").frame());
    let pieces = build::fragmented(&build::udp().payload(&[0; 99]).frame(), 60, 1);
    none(&pieces[1]);
    assert!(error_about(&pieces[0], IcmpError::Prohibited).is_some());
    // The node has no address of that family.
    let frame = build::udp().frame();
    assert_eq!(icmp_error(&frame, &parse(&frame), IcmpError::NoRoute, address("2600::1")), None);
}

/// RFC 9293 section 3.5.2.
#[test]
fn resets() {
    let reset = |builder: FrameBuilder| {
        let frame = builder.frame();
        tcp_reset(&frame, &parse(&frame))
    };
    for to in [|builder: FrameBuilder| builder, v6] {
        let expected = |reset: FrameBuilder, to_whom: FrameBuilder| {
            let asked = to_whom.frame();
            let key = parse(&asked).key().unwrap();
            let text = |end: crate::Endpoint| {
                std::net::SocketAddr::new(end.address.to_ip(), end.port).to_string()
            };
            let reset = reset.rst().window(0).from(&text(key.destination)).to(&text(key.source));
            let (ours, theirs): ([u8; 6], [u8; 6]) =
                (asked[..6].try_into().unwrap(), asked[6..12].try_into().unwrap());
            Some(reset.macs(ours, theirs).frame())
        };
        let syn = to(build::tcp().syn().seq(u32::MAX).payload(b"early"));
        assert_eq!(reset(syn.clone()), expected(build::tcp().seq(0).ack(5), syn));
        let data = to(build::tcp().seq(5).ack(99).payload(b"data"));
        assert_eq!(reset(data.clone()), expected(build::tcp().seq(99), data));
        let fin = to(build::tcp().seq(5).ack(0).fin());
        assert_eq!(reset(fin.clone()), expected(build::tcp().seq(0), fin));
        assert_eq!(reset(to(build::tcp().rst())), None);
        assert_eq!(reset(to(build::tcp().rst().ack(5))), None);
    }
    assert_eq!(reset(build::udp()), None);
}

#[test]
fn arp() {
    let mut bytes = build::arp_request([7; 6], "10.0.0.1", "10.0.0.2");
    let frame = Frame { bytes: &mut bytes, offload: Offload::default() };
    let Parsed::Arp(request) = Packet::parse(&frame).unwrap() else { panic!("{frame:?}") };
    let reply = arp_reply(&request, [2; 6]);
    assert_eq!(reply, build::arp_reply([2; 6], "10.0.0.2", [7; 6], "10.0.0.1"));
}

#[test]
fn solicitations() {
    let target = |frame: &[u8]| solicited_target(frame, &parse(frame));
    let sound = build::neighbour_solicitation([7; 6], "fe80::7", "2600::9");
    assert_eq!(target(&sound), Some(address("2600::9")));
    let probe = build::neighbour_solicitation([7; 6], "::", "2600::9");
    assert_eq!(target(&probe), Some(address("2600::9")));
    assert_eq!(target(&build::neighbour_solicitation([7; 6], "fe80::7", "ff02::9")), None);
    assert_eq!(target(&build::neighbour_advertisement([7; 6], "2600::9", [2; 6], "::5")), None);
    assert_eq!(target(&v6(build::icmp_echo()).frame()), None);

    // A probe to another group, with an option, and messages with broken options.
    let raw = |from, to, option: &[u8]| {
        let body = [address("2600::9").wire_bytes(), option].concat();
        build::icmp(135, 0, [0; 4]).from(from).to(to).hop_limit(255).payload(&body).frame()
    };
    assert!(target(&raw("::", "ff02::1:ff00:9", &[])).is_some());
    assert_eq!(target(&raw("::", "ff02::1", &[])), None);
    assert_eq!(target(&raw("::", "ff02::1:ff00:9", &[1, 1, 2, 2, 2, 2, 2, 2])), None);
    assert_eq!(target(&raw("fe80::7", "2600::9", &[1, 0, 2, 2, 2, 2, 2, 2])), None);
    assert_eq!(target(&raw("fe80::7", "2600::9", &[1, 2, 2, 2, 2, 2, 2, 2])), None);
    assert_eq!(target(&raw("fe80::7", "2600::9", &[1, 1, 2])), None);
}

#[test]
fn advertisements() {
    let target = "2600::9";
    let answer = |asked: &[u8], expected: NdiscNeighborFlags| {
        let bytes = neighbour_advertisement(asked, &parse(asked), address(target), [2; 6]);
        let packet = parse(&bytes);
        let message = Icmpv6Packet::new_checked(&bytes[packet.transport..packet.end]).unwrap();
        let repr = NdiscRepr::NeighborAdvert {
            flags: expected,
            target_addr: target.parse().unwrap(),
            lladdr: Some(RawHardwareAddress::from_bytes(&[2; 6])),
        };
        assert_eq!(NdiscRepr::parse(&message), Ok(repr));
        (bytes, packet)
    };
    let usual = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    let asked = build::neighbour_solicitation([7; 6], "fe80::7", target);
    let (bytes, packet) = answer(&asked, usual | NdiscNeighborFlags::SOLICITED);
    assert_eq!((packet.destination, packet.hop_limit), (address("fe80::7"), 255));
    assert_eq!((&bytes[..6], &bytes[6..12]), (&[7; 6][..], &[2; 6][..]));

    let probe = build::neighbour_solicitation([7; 6], "::", target);
    let (bytes, packet) = answer(&probe, usual);
    assert_eq!(packet.destination, address("ff02::1"));
    assert_eq!(bytes[..6], [0x33, 0x33, 0, 0, 0, 1]);
}
