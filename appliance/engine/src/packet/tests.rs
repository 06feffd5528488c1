#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::sample::select;

use gabion_rules::Profile;

use super::*;
use crate::build::{self, FrameBuilder};
use crate::frame::{Checksum, Offload, SegmentKind, Segments};
use crate::quote::{self, Quote};
use crate::reply::{self, IcmpError};
use crate::rewrite::{self, Rewrite};
use crate::sanity;

fn parse(bytes: &[u8]) -> Result<Parsed, DropReason> {
    let mut bytes = bytes.to_vec();
    Packet::parse(&Frame { bytes: &mut bytes, offload: Offload::default() })
}

fn packet(bytes: &[u8]) -> Packet {
    match parse(bytes) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn check(builder: &FrameBuilder, expected: DropReason) {
    assert_eq!(parse(&builder.frame()), Err(expected), "{builder:?}");
}

fn passes(builder: &FrameBuilder) -> Packet {
    packet(&builder.frame())
}

/// Sound frames of every kind, for mutation.
fn samples() -> Vec<Vec<u8>> {
    let v6 = |builder: FrameBuilder| builder.from("[2600::1]:1234").to("[2600:1::2]:80");
    let udp = build::udp().payload(&[7; 64]);
    let syn = build::tcp().syn().mss(1_460).wscale(7).sack_permitted().timestamp(1, 0);
    let padded = [0, 1, 4, 0, 0, 0, 0];
    let mut samples = vec![
        syn.frame(),
        v6(syn.clone()).frame(),
        build::tcp().ack(9).psh().payload(b"GET / HTTP/1.1").frame(),
        udp.frame(),
        v6(udp.clone()).frame(),
        build::udp().options(&[1, 1, 0]).frame(),
        build::icmp_echo().payload(b"ping").frame(),
        v6(build::icmp_echo_reply()).frame(),
        build::icmp_error_about(&syn.frame(), 3, 1, [0; 4]).frame(),
        build::icmp_error_about(&v6(udp.clone()).frame(), 2, 0, [0, 0, 5, 0]).frame(),
        v6(build::tcp().syn()).extension_header(60, &padded).frame(),
        v6(build::udp()).extension_header(51, &[4; 23]).frame(),
        build::protocol(47).payload(&[1; 20]).frame(),
        build::arp_request([2; 6], "10.0.0.1", "10.0.0.2"),
        build::arp_reply([2; 6], "10.0.0.1", [4; 6], "10.0.0.2"),
        build::neighbour_solicitation([2; 6], "::", "2600::5"),
        build::neighbour_advertisement([2; 6], "2600::5", [4; 6], "2600::6"),
    ];
    samples.extend(build::fragmented(&udp.frame(), 44, 5));
    samples.extend(build::fragmented(&v6(udp).frame(), 80, 5));
    samples
}

/// Every stage that takes a parsed packet, on frames that may lie wherever the parser lets them; a
/// checksum that somebody has vouched for hides nothing.
fn exercise(bytes: &[u8]) {
    for checksum in [Checksum::Unverified, Checksum::Verified] {
        exercise_with(bytes, Offload { checksum, segments: None });
    }
}

fn exercise_with(bytes: &[u8], offload: Offload) {
    let mut copy = bytes.to_vec();
    let mut frame = Frame { bytes: &mut copy, offload };
    match Packet::parse(&frame) {
        Ok(Parsed::Ip(packet)) => {
            assert!(packet.network <= packet.transport && packet.transport <= packet.end);
            assert!(packet.end <= bytes.len());
            let _ = sanity::check(packet.source, packet.destination, Profile::StrictCc);
            let _ = reply::icmp_error(bytes, &packet, IcmpError::Prohibited, packet.destination);
            let _ = reply::tcp_reset(bytes, &packet);
            if let Some(target) = reply::solicited_target(bytes, &packet) {
                let _ = reply::neighbour_advertisement(bytes, &packet, target, [2; 6]);
            }
            if let Ok(quote) = Quote::parse(&frame, &packet) {
                quote::restore(&mut frame, &packet, &quote.key, packet.source);
            }
            if let Some(key) = packet.key() {
                Rewrite::between(&key, &key.reversed()).apply(&mut frame, &packet);
            }
            if packet.hop_limit > 1 {
                rewrite::decrement_hop_limit(frame.bytes, &packet);
            }
        }
        Ok(Parsed::Arp(arp)) => {
            let _ = reply::arp_reply(&arp, [2; 6]);
        }
        Err(_) => {}
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(
        ethertype in select(vec![0x0800_u16, 0x86dd, 0x0806, 0x1234]),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        }
        exercise(&bytes);
    }

    /// Mutations of sound frames reach deep; the IPv4 checksum is mended so that it does not stop them.
    #[test]
    fn mutated_frames_do_not_panic(
        mut bytes in select(samples()),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        for (index, byte) in changes {
            let length = bytes.len();
            bytes[index.index(length)] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if bytes.len() >= 34 && bytes[12..14] == [8, 0] {
            build::fill_ipv4_checksum(&mut bytes[14..]);
        }
        exercise(&bytes);
    }

    /// What is cut short is dropped, whatever it is and wherever the cut.
    #[test]
    fn truncated_frames_are_dropped(frame in select(samples()), cut in any::<prop::sample::Index>()) {
        let kept = &frame[..cut.index(frame.len())];
        prop_assert!(parse(kept).is_err());
    }

    /// Padding of the link is no part of the packet.
    #[test]
    fn padding_changes_nothing(frame in select(samples()), padding in 0..64_usize) {
        let mut padded = frame.clone();
        padded.resize(frame.len() + padding, 0xaa);
        prop_assert_eq!(parse(&frame), parse(&padded));
    }

    #[test]
    fn agrees_with_etherparse(
        is_v4 in any::<bool>(),
        kind in 0..3_u8,
        (hosts, ports) in (any::<[u8; 2]>(), (1..=u16::MAX, 1..=u16::MAX)),
        (sequence, acknowledgement, window) in (any::<u32>(), any::<u32>(), any::<u16>()),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        hop_limit in 1..=u8::MAX,
    ) {
        let v6 = |host: u8| [0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, host];
        let ethernet = PacketBuilder::ethernet2([1; 6], [2; 6]);
        let ip = if is_v4 {
            ethernet.ipv4([10, 0, 1, hosts[0]], [10, 0, 2, hosts[1]], hop_limit)
        } else {
            ethernet.ipv6(v6(hosts[0]), v6(hosts[1]), hop_limit)
        };
        let mut bytes = Vec::new();
        match kind {
            0 => ip.tcp(ports.0, ports.1, sequence, window).ack(acknowledgement).psh()
                .write(&mut bytes, &payload),
            1 => ip.udp(ports.0, ports.1).write(&mut bytes, &payload),
            _ if is_v4 => ip.icmpv4_echo_request(ports.0, 1).write(&mut bytes, &payload),
            _ => ip.icmpv6_echo_request(ports.0, 1).write(&mut bytes, &payload),
        }.unwrap();
        let packet = packet(&bytes);
        prop_assert_eq!(packet.hop_limit, hop_limit);
        prop_assert_eq!(packet.end, bytes.len());
        prop_assert_eq!(packet.fragment, None);

        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        match (packet.segment, sliced.transport.unwrap()) {
            (Segment::Tcp(ours), TransportSlice::Tcp(theirs)) => {
                prop_assert_eq!(ours.source_port, theirs.source_port());
                prop_assert_eq!(ours.destination_port, theirs.destination_port());
                prop_assert_eq!(ours.sequence, theirs.sequence_number());
                prop_assert_eq!(ours.acknowledgement, theirs.acknowledgment_number());
                prop_assert_eq!(ours.window, theirs.window_size());
                prop_assert_eq!(ours.payload as usize, theirs.payload().len());
            }
            (Segment::Udp { source_port, destination_port }, TransportSlice::Udp(theirs)) => {
                prop_assert_eq!(source_port, theirs.source_port());
                prop_assert_eq!(destination_port, theirs.destination_port());
            }
            (
                Segment::IcmpQuery { identifier, request: true, .. },
                TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_),
            ) => prop_assert_eq!(identifier, ports.0),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// A datagram in pieces: the pieces cover it, in order, without gap.
    #[test]
    fn fragments_add_up(length in 100..3_000_usize, mtu in 88..1_500_usize, is_v4 in any::<bool>()) {
        let whole = build::udp().payload(&vec![1; length]);
        let whole = if is_v4 { whole } else { whole.from("[2600::1]:5").to("[2600::2]:6") }.frame();
        let mut next = 0;
        let pieces = build::fragmented(&whole, mtu, 77);
        for (index, piece) in pieces.iter().enumerate() {
            let packet = packet(piece);
            let Some(fragment) = packet.fragment else {
                prop_assert_eq!(pieces.len(), 1);
                return Ok(());
            };
            prop_assert_eq!(fragment.identification, 77);
            prop_assert_eq!(fragment.offset, next);
            prop_assert_eq!(fragment.more, index + 1 < pieces.len());
            prop_assert_eq!(packet.segment == Segment::Later, index > 0);
            next += (packet.end - packet.transport) as u32;
        }
        prop_assert_eq!(next as usize, length + 8);
    }
}

#[test]
fn every_sample_passes() {
    for sample in samples() {
        assert!(parse(&sample).is_ok(), "{:?}: {sample:02x?}", parse(&sample));
    }
}

#[test]
fn link() {
    assert_eq!(parse(&[0; 13]), Err(DropReason::FrameTruncated));
    assert_eq!(parse(&[0; 60]), Err(DropReason::NotIp));
    let request = build::arp_request([3; 6], "10.0.0.1", "10.0.0.2");
    let Ok(Parsed::Arp(arp)) = parse(&request) else { panic!("{request:?}") };
    assert!(arp.request && arp.sender_mac == [3; 6] && arp.target == [10, 0, 0, 2].into());
    let mut reverse_arp = request;
    reverse_arp[21] = 3;
    assert_eq!(parse(&reverse_arp), Err(DropReason::NotIp));
}

#[test]
fn ipv4_header() {
    let udp = build::udp().payload(&[0; 8]);
    for (at, lie) in [(0, 0x55), (0, 0x44), (0, 0x4f), (3, 19), (3, 200), (9, 0)] {
        check(&udp.clone().lie_ip(at, &[lie]), DropReason::IpHeader);
    }
    check(&udp.clone().bad_ip_checksum(), DropReason::IpChecksum);
    // A total length below the frame's: the rest is padding.
    let short = passes(&udp.clone().lie_ip(3, &[20 + 8]).lie_transport(5, &[8]));
    assert_eq!(short.end, 14 + 28);
    check(&udp.lie_ip(3, &[20 + 8]), DropReason::TransportTruncated);
}

/// Covers: CC-1.6h, 7126-pass, 7126-malformed
#[test]
fn ipv4_options() {
    let with = |options: &[u8]| build::udp().options(options);
    assert_eq!(passes(&with(&[1, 1, 1, 0])).transport, 14 + 24);
    for option in [7, 11, 25, 30, 68, 82, 130, 131, 136, 137, 142, 147, 148, 205, 222] {
        check(&with(&[option, 3, 4, 0]), DropReason::IpOption);
    }
    for malformed in [[131, 0, 0, 0], [131, 1, 0, 0], [131, 200, 0, 0], [1, 1, 1, 131]] {
        check(&with(&malformed), DropReason::IpOption);
    }
}

/// A header past the end is dropped, never overlooked.
///
/// Covers, F-7, 3.6
#[test]
fn ipv6_extension_headers() {
    let tcp = build::tcp().syn().from("[2600::1]:1").to("[2600::2]:2");
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let chain = |headers: &[(u8, &[u8])]| {
        headers
            .iter()
            .fold(tcp.clone(), |tcp, (number, bytes)| tcp.extension_header(*number, bytes))
    };
    let ah: &[u8] = &[4; 23];
    let whole = passes(&chain(&[(60, pad), (51, ah), (60, pad)]));
    assert_eq!((whole.protocol, whole.transport), (6, 14 + 40 + 40));

    let refused: &[&[(u8, &[u8])]] = &[
        &[(60, pad), (0, pad)],             // hop-by-hop not first
        &[(0, pad), (0, pad)],              // twice
        &[(60, pad), (60, pad), (60, pad)], // three times
        &[(51, ah), (51, ah)],              // authenticated twice
        &[(51, &[3; 19])],                  // not aligned
        &[(43, &[0; 7])],                   // routing, type 0
        &[(43, &[0, 4, 0, 0, 0, 0, 0])],    // segment routing
        &[(0, &[0, 1, 4, 0, 0, 0, 0])],     // hop-by-hop padding
        &[(0, &[0, 5, 2, 0, 1, 0, 0])],     // router alert, RSVP
        &[(0, &[0, 5, 2, 0, 0, 0, 0])],     // router alert for MLD on TCP
        &[(0, &[0, 0xc2, 4, 0, 1, 0, 0])],  // jumbo payload
        &[(60, &[0, 0xc9, 4, 0, 0, 0, 0])], // home address
        &[(60, &[0, 1, 200, 0, 0, 0, 0])],  // option past its header
        &[(60, &[200, 1, 4, 0, 0, 0, 0])],  // header past the packet
        &[(60, &[2; 23])],                  // options out of joint
        &[(60, &{
            let mut pads = [0; 23];
            pads[0] = 2;
            pads
        })], // 22 options
        &[(253, pad)],
        &[(44, &[0; 7]), (44, &[0; 7])], // CVE-2023-4809
    ];
    for headers in refused {
        check(&chain(headers), DropReason::ExtensionHeader);
    }
    // An option that hosts skip may pass; no next header may not.
    passes(&chain(&[(60, &[0, 4, 1, 4, 1, 1, 0])]));
    check(&build::protocol(59).from("2600::1").to("2600::2"), DropReason::ExtensionHeader);
    check(&tcp.clone().lie_ip(0, &[0x40]), DropReason::IpHeader);
    check(&tcp.lie_ip(4, &[0xff, 0xff]), DropReason::IpHeader);
}

/// Covers: 6092-3
#[test]
fn ipv4_mapped_addresses_do_not_become_ipv4() {
    let udp = build::udp();
    check(&udp.clone().from("[::ffff:10.0.0.1]:1").to("[2600::2]:2"), DropReason::MartianSource);
    check(&udp.from("[2600::2]:1").to("[::ffff:10.0.0.1]:2"), DropReason::MartianDestination);
}

/// Covers: F-1, F-2, F-6, F-8, CC-1.6a
#[test]
fn fragments_that_can_not_be() {
    for (from, to) in [("10.0.0.1:1", "10.0.0.2:2"), ("[2600::1]:1", "[2600::2]:2")] {
        let tcp = build::tcp().ack(1).mss(1_460).payload(&[5; 100]).from(from).to(to).frame();
        let reason = |range, more| parse(&build::piece(&tcp, range, more, 9)).unwrap_err();
        assert_eq!(reason(0..8, true), DropReason::FragmentTiny);
        // All of the fixed header, not all of the options.
        assert_eq!(reason(0..16, true), DropReason::FragmentTiny);
        assert_eq!(reason(8..32, true), DropReason::FragmentTiny);
        assert_eq!(reason(0..27, true), DropReason::FragmentInvalid);
        assert_eq!(reason(16..16, false), DropReason::FragmentInvalid);
        let first = packet(&build::piece(&tcp, 0..24, true, 9));
        assert!(matches!(first.segment, Segment::Tcp(_)), "{first:?}");

        let udp = build::udp().payload(&[0; 2_000]).from(from).to(to).frame();
        let mut far = build::piece(&udp, 0..2_000, false, 9);
        let field = if from.contains('[') { 14 + 42 } else { 14 + 6 };
        // The last offset there is: 65,528.
        far[field] |= 0x1f << if from.contains('[') { 3 } else { 0 };
        far[field + 1] |= if from.contains('[') { 0xf8 } else { 0xff };
        if from.contains('[') {
            far[field] = 0xff;
        } else {
            build::fill_ipv4_checksum(&mut far[14..]);
        }
        assert_eq!(parse(&far), Err(DropReason::FragmentInvalid));
    }
}

/// RFC 6946, RFC 7112.
///
/// Covers: F-5, F-6
#[test]
fn ipv6_fragment_headers() {
    let udp = build::udp().from("[2600::1]:1").to("[2600::2]:2").payload(&[0; 32]);
    let atomic = packet(&build::piece(&udp.frame(), 0..40, false, 3));
    assert_eq!((atomic.fragment, atomic.transport), (None, 14 + 40 + 8));
    assert!(matches!(atomic.segment, Segment::Udp { .. }));

    let chained = udp.extension_header(60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).frame();
    let cut_in_chain = build::piece(&chained, 0..8, true, 3);
    assert_eq!(parse(&cut_in_chain), Err(DropReason::FragmentTiny));
    let cut_before_udp = build::piece(&chained, 0..16, true, 3);
    assert_eq!(parse(&cut_before_udp), Err(DropReason::FragmentTiny));
    assert_eq!(packet(&build::piece(&chained, 0..24, true, 3)).protocol, 17);
}

#[test]
fn tcp_flags() {
    let flags = |bits: u8| parse(&build::tcp().lie_transport(13, &[bits]).frame());
    let (fin, syn, rst, psh, ack, urg, ece, cwr) = (1, 2, 4, 8, 16, 32, 64, 128);
    let good = [
        syn,
        syn | psh,
        syn | urg,
        syn | ece | cwr,
        syn | ack,
        syn | ack | ece,
        ack,
        ack | psh,
        ack | urg,
        ack | fin,
        ack | fin | psh | urg,
        ack | cwr,
        rst,
        rst | ack,
        rst | psh | ack,
    ];
    for bits in 0..=u8::MAX {
        // ECN bits change nothing (RFC 3360); PSH neither.
        let bare = bits & !(ece | cwr | psh);
        if good.iter().any(|good| good & !(ece | cwr | psh) == bare) {
            assert!(flags(bits).is_ok(), "{bits:#010b}");
        } else {
            assert_eq!(flags(bits), Err(DropReason::TcpFlags), "{bits:#010b}");
        }
    }
    // The bit that was NS and is AE.
    assert!(parse(&build::tcp().syn().lie_transport(12, &[0x51]).frame()).is_ok());
}

#[test]
fn tcp_options() {
    let scale = |builder: &FrameBuilder| match passes(builder).segment {
        Segment::Tcp(segment) => segment.window_scale,
        other => panic!("{other:?}"),
    };
    assert_eq!(scale(&build::tcp().syn()), None);
    assert_eq!(scale(&build::tcp().syn().mss(1_460).wscale(7).timestamp(1, 2)), Some(7));
    assert_eq!(scale(&build::tcp().syn().wscale(200)), Some(14));
    assert_eq!(scale(&build::tcp().ack(1).wscale(7)), None);
    for malformed in [&[3, 0][..], &[3, 1], &[3, 40], &[2, 3, 1], &[254, 9, 1, 1], &[1, 1, 1, 8]] {
        check(&build::tcp().syn().tcp_options(malformed), DropReason::TransportTruncated);
    }
    // Unknown but well-formed, and anything behind the end of the list.
    passes(&build::tcp().syn().tcp_options(&[254, 4, 1, 1]));
    passes(&build::tcp().syn().tcp_options(&[0, 3, 0, 9]));
    for offset in [0x00, 0x40, 0xf0] {
        check(&build::tcp().syn().lie_transport(12, &[offset]), DropReason::TransportTruncated);
    }
}

#[test]
fn udp() {
    let v6 = |builder: FrameBuilder| builder.from("[2600::1]:1").to("[2600::2]:2");
    let udp = build::udp().payload(&[1; 10]);
    for length in [0, 7, 19] {
        check(&udp.clone().lie_transport(5, &[length]), DropReason::TransportTruncated);
        check(&v6(udp.clone()).lie_transport(5, &[length]), DropReason::TransportTruncated);
    }
    // Room for UDP options (RFC 9868).
    passes(&udp.clone().lie_transport(5, &[12]));
    passes(&udp.clone().without_checksum());
    check(&v6(udp.without_checksum()), DropReason::TransportChecksum);
    check(&build::udp().from("10.0.0.1:0"), DropReason::PortZero);
    check(&build::tcp().syn().to("10.0.0.1:0"), DropReason::PortZero);
}

/// A FIN, RST or SYN that its receiver drops must not move the state of the connection.
#[test]
fn wrong_transport_checksums() {
    let v6 = |builder: FrameBuilder| builder.from("[2600::1]:1").to("[2600::2]:2");
    let tcp = || build::tcp().payload(&[7; 33]);
    for builder in [
        tcp().syn(),
        tcp().ack(1).fin(),
        tcp().rst(),
        tcp().ack(1),
        build::udp().payload(&[7; 33]),
        build::icmp_echo().payload(&[7; 33]),
    ] {
        for builder in [builder.clone(), v6(builder)] {
            passes(&builder);
            let wrong = builder.bad_transport_checksum();
            check(&wrong, DropReason::TransportChecksum);
            let mut bytes = wrong.frame();
            for (checksum, segments) in [
                (Checksum::Verified, None),
                (Checksum::Partial { start: 34, offset: 16 }, None),
                (
                    Checksum::Unverified,
                    Some(Segments { kind: SegmentKind::Udp, size: 9, header: 0 }),
                ),
            ] {
                let frame = Frame { bytes: &mut bytes, offload: Offload { checksum, segments } };
                assert!(Packet::parse(&frame).is_ok(), "{:?} is not ours to judge", frame.offload);
            }
        }
    }
}

/// Covers: 4890-never, 4890-unless, 4890-policy
#[test]
fn icmp_types() {
    for kind in 0..=u8::MAX {
        let result = parse(&build::icmp(kind, 0, [0; 4]).frame());
        match kind {
            0 | 3 | 8 | 11 | 12 => assert!(result.is_ok(), "{kind}"),
            _ => assert_eq!(result, Err(DropReason::IcmpType), "{kind}"),
        }
        for hop_limit in [1, 64, 255] {
            let v6 = build::icmp(kind, 0, [0; 4]).from("2600::1").to("2600::2");
            let result = parse(&v6.hop_limit(hop_limit).frame());
            match (kind, hop_limit) {
                (1..=4 | 128 | 129, _) | (133..=137, 255) | (130..=132 | 143, 1) => {
                    assert!(result.is_ok(), "{kind} with hop limit {hop_limit}");
                }
                _ => assert_eq!(result, Err(DropReason::IcmpType), "{kind}"),
            }
        }
    }
    check(&build::icmp(8, 1, [0; 4]), DropReason::IcmpType);
    check(&build::icmp_echo().bad_transport_checksum(), DropReason::TransportChecksum);
    let v6 = build::icmp_echo().from("2600::1").to("2600::2");
    check(&v6.bad_transport_checksum(), DropReason::TransportChecksum);
    // CVE-2009-0687: the other family's.
    check(&build::protocol(58).payload(&[128, 0, 0, 0, 0, 0, 0, 0]), DropReason::IcmpType);
    let v6 = build::protocol(1).payload(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    check(&v6.from("2600::1").to("2600::2"), DropReason::IcmpType);
}

#[test]
fn multicast_listener_reports_carry_a_router_alert() {
    let report = build::icmp(143, 0, [0; 4]).from("fe80::1").to("ff02::16").hop_limit(1);
    let packet = passes(&report.extension_header(0, &[0, 5, 2, 0, 0, 1, 0]));
    assert_eq!(packet.segment, Segment::LinkLocal { kind: 143 });
}

/// RFC 6980, and no way around the checksum of an ICMP error.
#[test]
fn icmp_in_pieces() {
    let solicitation = build::neighbour_solicitation([2; 6], "fe80::1", "2600::2");
    let atomic = build::piece(&solicitation, 0..32, false, 1);
    assert_eq!(parse(&atomic), Err(DropReason::IcmpType));
    let error = build::icmp_error_about(&build::udp().payload(&[0; 99]).frame(), 3, 3, [0; 4]);
    let first = build::piece(&error.frame(), 0..64, true, 1);
    assert_eq!(parse(&first), Err(DropReason::IcmpType));
    // Large pings may be fragmented.
    let ping = build::icmp_echo().payload(&[0; 3_000]).frame();
    assert!(build::fragmented(&ping, 1_500, 1).iter().all(|piece| parse(piece).is_ok()));
}

#[test]
fn a_superframe_parses_whole() {
    let builder = build::tcp().ack(1).payload(&vec![3; 65_000]).segment_size(1_448);
    let mut bytes = builder.frame();
    let frame = Frame { bytes: &mut bytes, offload: builder.offload() };
    let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) else { panic!("{:?}", frame.offload) };
    let Segment::Tcp(segment) = packet.segment else { panic!("{packet:?}") };
    assert_eq!(segment.payload, 65_000);
    assert_eq!(frame.offload.segments.unwrap().header, 54);
}

#[test]
fn keys() {
    let endpoint = |text: &str| {
        let socket: std::net::SocketAddr = text.parse().unwrap();
        Endpoint { address: socket.ip().into(), port: socket.port() }
    };
    let key = |builder: &FrameBuilder| passes(builder).key();
    let (from, to) = ("10.0.0.1:1", "10.0.0.2:2");
    let flow = |source, destination, protocol| {
        Some(FlowKey { source: endpoint(source), destination: endpoint(destination), protocol })
    };
    assert_eq!(key(&build::tcp().syn().from(from).to(to)), flow(from, to, 6));
    assert_eq!(key(&build::udp().from(from).to(to)), flow(from, to, 17));
    let ping = flow("10.0.0.1:7", "10.0.0.2:7", 1);
    assert_eq!(key(&build::icmp_echo().from(from).to(to).id(7)), ping);
    assert_eq!(key(&build::protocol(99).from(from).to(to)), flow("10.0.0.1:0", "10.0.0.2:0", 99));
    for protocol in [33, 132, 136] {
        let header = [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        let builder = build::protocol(protocol).payload(&header).from(from).to(to);
        assert_eq!(key(&builder), flow(from, to, protocol));
    }
    assert_eq!(key(&build::icmp(3, 0, [0; 4])), None);
}
