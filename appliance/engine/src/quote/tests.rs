#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::build::{self, FrameBuilder};
use crate::frame::Offload;
use crate::packet::Parsed;

fn parse_with(bytes: &[u8], offload: Offload) -> Result<Quote, DropReason> {
    let mut bytes = bytes.to_vec();
    let frame = Frame { bytes: &mut bytes, offload };
    match Packet::parse(&frame).unwrap() {
        Parsed::Ip(packet) => Quote::parse(&frame, &packet),
        Parsed::Arp(_) => unreachable!("the builder builds IP"),
    }
}

fn parse(builder: &FrameBuilder) -> Result<Quote, DropReason> {
    parse_with(&builder.frame(), Offload::default())
}

fn key(bytes: &[u8]) -> FlowKey {
    let mut bytes = bytes.to_vec();
    match Packet::parse(&Frame { bytes: &mut bytes, offload: Offload::default() }).unwrap() {
        Parsed::Ip(packet) => packet.key().unwrap(),
        Parsed::Arp(_) => unreachable!("the builder builds IP"),
    }
}

fn restored(error: &FrameBuilder, original: &FlowKey, reporter: &str) -> Vec<u8> {
    let mut bytes = error.frame();
    let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
    let Parsed::Ip(packet) = Packet::parse(&frame).unwrap() else { unreachable!() };
    Quote::parse(&frame, &packet).unwrap();
    let reporter: std::net::IpAddr = reporter.parse().unwrap();
    restore(&mut frame, &packet, original, reporter.into());
    bytes
}

/// The quoted packet in a kind, seen by the host (`inside`) and by the world (`outside`).
fn both_sides(
    kind: u8,
    is_v4: bool,
    identifier: u16,
    payload: &[u8],
) -> (FrameBuilder, FrameBuilder) {
    let packet = |id: u16| {
        match kind {
            0 => build::tcp().seq(0xdead_beef).ack(7),
            1 => build::udp(),
            2 => build::icmp_echo().id(id),
            _ => build::udp().without_checksum(),
        }
        .payload(payload)
    };
    let (host, world, remote) = if is_v4 {
        ("10.0.0.5:4000", "203.0.113.9:61000", "198.51.100.1:80")
    } else {
        ("[2600::5]:4000", "[2600:a::9]:61000", "[2600:b::1]:80")
    };
    (packet(identifier).from(host).to(remote), packet(!identifier).from(world).to(remote))
}

proptest! {
    /// What the host gets is the error that its own packet would have caused, byte for byte,
    /// wherever the quote ends, half a checksum apart.
    ///
    /// Covers: 5508-4, 5508-3d
    #[test]
    fn restoring_equals_building_anew(
        kind in 0..4_u8,
        is_v4 in any::<bool>(),
        identifier in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 0..700),
        code in 0..5_u8,
        quoted in (14..100_usize).prop_map(|words| 2 * words),
    ) {
        let is_v4 = is_v4 || kind == 3;
        let (inside, outside) = both_sides(kind, is_v4, identifier, &payload);
        let (router, node, unreachable) =
            if is_v4 { ("192.0.2.77", "10.0.0.1", 3) } else { ("2600:f::77", "2600::ffff", 1) };
        let cut = |frame: Vec<u8>| {
            let end = frame.len().min(14 + if is_v4 { quoted } else { quoted + 20 });
            frame[..end].to_vec()
        };
        let error = build::icmp_error_about(&cut(outside.frame()), unreachable, code, [0; 4]);
        let expected = build::icmp_error_about(&cut(inside.frame()), unreachable, code, [0; 4]);

        let quote = parse(&error.clone().from(router)).unwrap();
        prop_assert_eq!(quote.key, key(&outside.frame()));
        prop_assert_eq!(quote.claimed_length as usize, outside.frame().len() - 14);
        prop_assert_eq!(quote.sequence, (kind == 0).then_some(0xdead_beef));
        let original = key(&inside.frame());
        let restored = restored(&error.from(router), &original, node);
        prop_assert_eq!(restored, expected.from(node).frame());
    }
}

/// Found by the property above: of a checksum of which one byte is quoted nothing can be mended.
#[test]
fn half_a_checksum_is_left_alone() {
    let (inside, outside) = both_sides(0, true, 0, &[]);
    let error = build::icmp_error_about(&outside.frame()[..14 + 20 + 17], 3, 1, [0; 4]);
    let restored = restored(&error, &key(&inside.frame()), "198.51.100.1");
    assert_eq!(restored.last(), error.frame().last());
}

#[test]
fn mtu() {
    let about = |builder: FrameBuilder, kind, code, rest| {
        let quote = parse(&build::icmp_error_about(&builder.frame(), kind, code, rest)).unwrap();
        assert_eq!(quote.reporter, key(&builder.frame()).destination.address);
        quote.mtu
    };
    let v6 = || build::udp().from("[2600::1]:1").to("[2600::2]:2");
    assert_eq!(about(build::udp(), 3, 4, [0, 0, 5, 0xdc]), Some(1_500));
    assert_eq!(about(build::udp(), 3, 4, [0; 4]), Some(0));
    assert_eq!(about(build::udp(), 3, 1, [0, 0, 5, 0xdc]), None);
    assert_eq!(about(v6(), 2, 0, [0, 1, 0, 0]), Some(65_536));
    assert_eq!(about(v6(), 1, 4, [0; 4]), None);
}

fn forged(error: &FrameBuilder) {
    assert_eq!(parse(error), Err(DropReason::IcmpErrorForged), "{error:?}");
}

fn about(quoted: &FrameBuilder) -> FrameBuilder {
    build::icmp_error_about(&quoted.frame(), 3, 3, [0; 4])
}

/// Requirements 3.1 and 5508-3a.
///
/// Covers: 3.1, 5508-3a
#[test]
fn quotes_that_lie_are_refused() {
    let udp = build::udp().from("203.0.113.9:1").to("198.51.100.1:2").payload(&[0; 40]);
    assert!(parse(&about(&udp)).is_ok());
    forged(&about(&udp).to("203.0.113.10")); // CVE-2019-5598
    forged(&about(&udp.clone().bad_ip_checksum()));
    forged(&about(&udp.clone().lie_ip(0, &[0x44])));
    forged(&about(&udp.clone().lie_ip(0, &[0x65])));
    forged(&about(&udp.clone().lie_ip(0, &[0x4f])).lie_transport(0, &[3]).payload(&[0x4f; 30]));
    forged(&about(&udp.clone().lie_ip(2, &[0, 19])));
    for ports in [0, 7, 19, 20, 27] {
        let frame = udp.frame();
        forged(
            &build::icmp_error_about(&frame[..14 + ports.max(20)], 3, 3, [0; 4])
                .payload(&frame[14..14 + ports]),
        );
    }
    let later = build::piece(&udp.frame(), 8..24, true, 7);
    forged(&build::icmp_error_about(&later, 11, 0, [0; 4]));
    let first = build::piece(&udp.frame(), 0..24, true, 7);
    assert!(parse(&build::icmp_error_about(&first, 11, 0, [0; 4])).is_ok());

    let inner = build::icmp(3, 1, [0; 4]).from("203.0.113.9").to("198.51.100.1").payload(&[0; 28]);
    forged(&about(&inner));
    for kind in [3, 5, 11, 12, 13, 17, 128] {
        forged(&about(&build::icmp(kind, 0, [0; 4]).from("203.0.113.9").to("198.51.100.1")));
    }
    forged(&about(&build::protocol(58).payload(&[128; 8])));
}

/// Covers: 3.1
#[test]
fn quotes_that_lie_are_refused_v6() {
    let about = |quoted: &FrameBuilder| build::icmp_error_about(&quoted.frame(), 1, 4, [0; 4]);
    let udp = build::udp().from("[2600::9]:1").to("[2600::1]:2").payload(&[0; 40]);
    assert!(parse(&about(&udp)).is_ok());
    forged(&about(&udp).to("2600::a"));
    forged(&about(&udp.clone().lie_ip(0, &[0x45])));
    forged(&about(&udp.clone().lie_ip(6, &[43])));
    forged(&about(&udp.clone().lie_ip(6, &[0])));
    for length in [0, 39, 40, 47] {
        forged(&about(&udp).payload(&udp.frame()[14..14 + length]));
    }
    let later = build::piece(&udp.frame(), 8..24, true, 7);
    forged(&build::icmp_error_about(&later, 3, 0, [0; 4]));
    let inner = build::icmp(1, 4, [0; 4]).from("2600::9").to("2600::1").payload(&[0; 48]);
    forged(&about(&inner));
    forged(&about(&build::icmp(135, 0, [0; 4]).from("2600::9").to("2600::1")));
    forged(&about(&build::protocol(1).from("2600::9").to("2600::1").payload(&[8; 8])));

    let padded = udp.extension_header(60, &[0, 1, 4, 0, 0, 0, 0]);
    assert_eq!(parse(&about(&padded)).unwrap().key.destination.port, 2);
}

/// The other family's packet in a quote (CVE-2009-0687).
///
/// Covers: 3.1
#[test]
fn a_quote_of_the_other_family_is_refused() {
    let v6 = build::udp().from("[2600::9]:1").to("[2600::1]:2").frame();
    forged(&build::icmp(3, 3, [0; 4]).payload(&v6[14..]));
    let v4 = build::udp().payload(&[0; 40]).frame();
    forged(&build::icmp(1, 4, [0; 4]).from("2600::1").to("2600::9").payload(&v4[14..]));
}

/// 5508-3b.
///
/// Covers: 5508-3b
#[test]
fn options_of_the_quoted_packet_are_skipped() {
    let udp = build::udp().from("203.0.113.9:11").to("198.51.100.1:22");
    let routed = udp.options(&[7, 7, 4, 0, 0, 0, 0, 0]);
    let quote = parse(&about(&routed)).unwrap();
    assert_eq!((quote.key.source.port, quote.key.destination.port), (11, 22));
}

/// 5508-3d: RFC 4884 extensions stand behind the datagram and stay as they are, also where the
/// datagram's length hides a part of its own header from us.
///
/// Covers: 5508-3d
#[test]
fn extensions_are_left_alone() {
    let (inside, outside) = both_sides(0, true, 0, &[1; 200]);
    let with_extension = |side: &FrameBuilder| {
        let mut quote = side.frame()[14..14 + 128].to_vec();
        quote.extend_from_slice(&[0x20, 0, 1, 2, 0, 8, 1, 1, 3, 4, 5, 6]);
        build::icmp_error_about(&side.frame(), 11, 0, [0, 32, 0, 0]).payload(&quote)
    };
    let restored = restored(&with_extension(&outside), &key(&inside.frame()), "198.51.100.1");
    assert_eq!(restored, with_extension(&inside).frame());

    // A length of 28 ends the quote before TCP's checksum: what stands there is no checksum.
    let short = |side: &FrameBuilder| {
        let mut quote = side.frame()[14..14 + 28].to_vec();
        quote.extend_from_slice(&[0x5a; 40]);
        build::icmp_error_about(&side.frame(), 11, 0, [0, 7, 0, 0]).payload(&quote)
    };
    let restored = self::restored(&short(&outside), &key(&inside.frame()), "198.51.100.1");
    assert_eq!(restored, short(&inside).frame());
    // A length beyond the message is a lie.
    forged(&build::icmp_error_about(&outside.frame(), 11, 0, [0, 255, 0, 0]));
}

#[test]
fn a_partial_icmp_checksum_is_made_whole() {
    let (inside, outside) = both_sides(1, false, 0, &[1; 20]);
    let error = build::icmp_error_about(&outside.frame(), 1, 0, [0; 4]).partial_checksum();
    let mut bytes = error.frame();
    let mut frame = Frame { bytes: &mut bytes, offload: error.offload() };
    let Parsed::Ip(packet) = Packet::parse(&frame).unwrap() else { unreachable!() };
    restore(&mut frame, &packet, &key(&inside.frame()), packet.source);
    assert_eq!(frame.offload.checksum, Checksum::Unverified);
    assert_eq!(bytes, build::icmp_error_about(&inside.frame(), 1, 0, [0; 4]).frame());
}
