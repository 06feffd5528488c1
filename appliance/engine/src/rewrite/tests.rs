#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::build::{self, FrameBuilder};
use crate::packet::Parsed;

fn parse(bytes: &mut [u8], offload: Offload) -> Packet {
    match Packet::parse(&Frame { bytes, offload }).unwrap() {
        Parsed::Ip(packet) => packet,
        Parsed::Arp(_) => unreachable!("the builder builds IP"),
    }
}

fn apply(bytes: &[u8], offload: Offload, from: &FlowKey, to: &FlowKey) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let packet = parse(&mut bytes, offload);
    Rewrite::between(from, to).apply(&mut Frame { bytes: &mut bytes, offload }, &packet);
    bytes
}

/// What a frame is made of, but for its endpoints.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Tcp,
    TcpPartial,
    Udp,
    UdpPartial,
    UdpWithoutChecksum,
    EchoRequest,
    EchoReply,
    Other,
}

/// Two ends as the builder writes them; of an echo only the identifier differs from case to case.
#[derive(Debug, Clone)]
struct Ends {
    source: String,
    destination: String,
    identifier: u16,
}

fn ends(is_v4: bool) -> impl Strategy<Value = Ends> {
    (any::<u16>(), any::<u16>(), 1..=u16::MAX, 1..=u16::MAX, any::<u16>()).prop_map(
        move |(a, b, source, destination, identifier)| {
            let host = |n: u16, port: u16| {
                if is_v4 {
                    format!("10.{}.{}.1:{port}", n >> 8, n & 0xff)
                } else {
                    format!("[2600:{n:x}::{:x}]:{port}", !n)
                }
            };
            Ends { source: host(a, source), destination: host(b, destination), identifier }
        },
    )
}

fn cases() -> impl Strategy<Value = (Kind, Ends, Ends, Vec<u8>)> {
    let kind = prop::sample::select(vec![
        Kind::Tcp,
        Kind::TcpPartial,
        Kind::Udp,
        Kind::UdpPartial,
        Kind::UdpWithoutChecksum,
        Kind::EchoRequest,
        Kind::EchoReply,
        Kind::Other,
    ]);
    (kind, any::<bool>()).prop_flat_map(|(kind, is_v4)| {
        // IPv6 has no datagrams without checksum.
        let is_v4 = is_v4 || matches!(kind, Kind::UdpWithoutChecksum);
        let payload = proptest::collection::vec(any::<u8>(), 0..40);
        (Just(kind), ends(is_v4), ends(is_v4), payload)
    })
}

fn builder(kind: Kind, ends: &Ends, payload: &[u8]) -> FrameBuilder {
    let builder = match kind {
        Kind::Tcp => build::tcp().ack(5),
        Kind::TcpPartial => build::tcp().ack(5).partial_checksum(),
        Kind::Udp => build::udp(),
        Kind::UdpPartial => build::udp().partial_checksum(),
        Kind::UdpWithoutChecksum => build::udp().without_checksum(),
        Kind::EchoRequest => build::icmp_echo().id(ends.identifier),
        Kind::EchoReply => build::icmp_echo_reply().id(ends.identifier),
        Kind::Other => build::protocol(99),
    };
    builder.from(&ends.source).to(&ends.destination).payload(payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A rewritten frame is the frame that the other endpoints would have sent, to the last byte; and
    /// the inverse brings back the first.
    #[test]
    fn rewriting_equals_building_anew((kind, from, to, payload) in cases()) {
        let (from, to) = (builder(kind, &from, &payload), builder(kind, &to, &payload));
        let (mut before, mut after) = (from.frame(), to.frame());
        let from_key = parse(&mut before, from.offload()).key().unwrap();
        let to_key = parse(&mut after, to.offload()).key().unwrap();
        let rewritten = apply(&before, from.offload(), &from_key, &to_key);
        prop_assert_eq!(&rewritten, &after);
        prop_assert_eq!(apply(&rewritten, to.offload(), &to_key, &from_key), before);
    }

    /// Fragments: rewritten one by one they are the fragments of the rewritten datagram.
    #[test]
    fn rewriting_pieces_equals_cutting_the_rewritten(
        (from, to) in any::<bool>().prop_flat_map(|is_v4| (ends(is_v4), ends(is_v4))),
        payload in proptest::collection::vec(any::<u8>(), 100..300),
    ) {
        let (from, to) = (builder(Kind::Udp, &from, &payload), builder(Kind::Udp, &to, &payload));
        let (mut before, mut after) = (from.frame(), to.frame());
        let from_key = parse(&mut before, Offload::default()).key().unwrap();
        let to_key = parse(&mut after, Offload::default()).key().unwrap();
        let before = build::fragmented(&before, 96, 3);
        let after = build::fragmented(&after, 96, 3);
        for (before, after) in before.iter().zip(after) {
            let rewritten = apply(before, Offload::default(), &from_key, &to_key);
            prop_assert_eq!(rewritten, after);
        }
    }

    #[test]
    fn hop_limit(hop_limit in 2..=u8::MAX, is_v4 in any::<bool>(), identification in any::<u16>()) {
        let udp = build::udp().identification(identification);
        let udp = if is_v4 { udp } else { udp.from("[2600::1]:1").to("[2600::2]:2") };
        let mut bytes = udp.clone().hop_limit(hop_limit).frame();
        let packet = parse(&mut bytes, Offload::default());
        decrement_hop_limit(&mut bytes, &packet);
        prop_assert_eq!(bytes, udp.hop_limit(hop_limit - 1).frame());
    }
}

/// A UDP checksum that comes out as zero is written as 0xffff, and comes back from it.
#[test]
fn a_udp_checksum_of_zero_is_not_written() {
    let from = build::udp().from("10.0.0.1:1").to("10.0.0.2:2");
    let mut before = from.frame();
    let from_key = parse(&mut before, Offload::default()).key().unwrap();
    let mut seen = 0;
    for port in 1..=u16::MAX {
        let mut to_key = from_key;
        to_key.source.port = port;
        let after = apply(&before, Offload::default(), &from_key, &to_key);
        assert_ne!(after[40..42], [0, 0]);
        if after[40..42] == [0xff, 0xff] {
            seen += 1;
            assert_eq!(after, from.clone().from(&format!("10.0.0.1:{port}")).frame());
            assert_eq!(apply(&after, Offload::default(), &to_key, &from_key), before);
        }
    }
    assert_eq!(seen, 1, "one port in 65,535 makes the sum zero");
}

/// A partial checksum of something inside the packet, such as a tunnel's, is not this header's.
#[test]
fn a_partial_checksum_elsewhere_is_left_alone() {
    let mut bytes = build::udp().payload(&[9; 40]).frame();
    let offload =
        Offload { checksum: Checksum::Partial { start: 50, offset: 6 }, ..Offload::default() };
    let key = parse(&mut bytes, offload).key().unwrap();
    let mut to = key;
    to.source.port = 7;
    assert_eq!(apply(&bytes, offload, &key, &to), apply(&bytes, Offload::default(), &key, &to));
}

#[test]
fn identity_changes_nothing() {
    let mut bytes = build::tcp().syn().frame();
    let key = parse(&mut bytes, Offload::default()).key().unwrap();
    assert!(Rewrite::between(&key, &key).is_identity());
    assert!(Rewrite::default().is_identity());
    assert_eq!(apply(&bytes, Offload::default(), &key, &key), bytes);
}

#[test]
fn link_addresses() {
    let mut bytes = build::udp().frame();
    set_link_addresses(&mut bytes, [1; 6], [3; 6]);
    assert_eq!(bytes, build::udp().macs([1; 6], [3; 6]).frame());
}
