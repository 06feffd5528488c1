//! Protocols beside TCP, UDP and ICMP: followed by addresses, protocol and, where they have some,
//! ports (RFC 6092 sections 3.2 and 3.3). The inside asks; strangers get nothing in.

use std::time::Duration;

use gabion_engine::build::{self, FrameBuilder};

use super::dialogue::Dialogue;
use super::{OUTBOUND, POLICY};

const INSIDE: [&str; 2] = ["10.1.0.10", "2600:2::10"];
const OUTSIDE: [&str; 2] = ["198.51.100.9", "2600:9::9"];

/// A header that begins with two ports.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 12]].concat()
}

/// An ESP packet (RFC 4303): the index and a number.
fn esp(index: u32) -> Vec<u8> {
    [&index.to_be_bytes()[..], &[0, 0, 0, 1], &[7; 16]].concat()
}

fn sent(protocol: u8, header: &[u8], from: &str, to: &str) -> Vec<u8> {
    build::protocol(protocol).from(from).to(to).payload(header).frame()
}

/// Sends from inside and expects the packet outside.
#[track_caller]
fn goes_out(dialogue: &mut Dialogue, frame: &[u8]) {
    dialogue.send("int", frame);
    assert_eq!(dialogue.sent.len(), 1);
    assert_eq!(dialogue.sent[0].0, "ext");
}

#[track_caller]
fn comes_in(dialogue: &mut Dialogue, frame: &[u8]) {
    dialogue.send("ext", frame);
    assert_eq!(dialogue.sent.len(), 1);
    assert_eq!(dialogue.sent[0].0, "int");
}

/// A protocol, its headers out and in, and the idle seconds that a flow outlives before and after an
/// answer.
type Row = (&'static str, u8, Vec<u8>, Vec<u8>, u64, u64);

/// Covers: 6092-11, 6092-12, 6092-20, 6092-22, 6092-26, 6092-28, 6092-38, 6092-43, 6092-47, 9288-pass
#[test]
fn every_protocol_goes_out_is_answered_and_ends_in_time() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("GRE",      47,  vec![0; 8],        vec![0; 8],        300, 300),
        ("ESP",      50,  esp(7),            esp(8),            300, 300),
        ("mobility", 135, vec![0; 16],       vec![0; 16],       300, 300),
        ("HIP",      139, vec![0; 40],       vec![0; 40],       300, 300),
        ("shim6",    140, vec![0; 16],       vec![0; 16],       300, 300),
        ("unknown",  99,  vec![],            vec![],            300, 300),
        ("UDP-Lite", 136, ports(5_000, 80),  ports(80, 5_000),  120, 300),
        ("SCTP",     132, ports(5_000, 80),  ports(80, 5_000),  480, 7_440),
        ("DCCP",     33,  ports(5_000, 80),  ports(80, 5_000),  480, 7_440),
    ];
    for (name, protocol, query, answer, unanswered, answered) in rows {
        for (inside, outside) in INSIDE.into_iter().zip(OUTSIDE) {
            println!("{name} to {outside}");
            let query = sent(*protocol, query, inside, outside);
            let answer = sent(*protocol, answer, outside, inside);
            let mut dialogue = Dialogue::new(OUTBOUND);
            dialogue.step("ext", &answer, &[], &["drop:rule-drop"]);
            goes_out(&mut dialogue, &query);
            let other = sent(98, &[0; 16], outside, inside);
            dialogue.step("ext", &other, &[], &["drop:rule-drop"]);
            dialogue.wait(Duration::from_secs(unanswered - 1), &[], &[]);
            comes_in(&mut dialogue, &answer);
            dialogue.wait(Duration::from_secs(answered - 1), &[], &[]);
            goes_out(&mut dialogue, &query);
            dialogue.wait(Duration::from_secs(answered - 1), &[], &[]);
            comes_in(&mut dialogue, &answer);
            dialogue.wait(Duration::from_secs(answered + 1), &[], &[]);
            dialogue.step("ext", &answer, &[], &["drop:rule-drop"]);
            goes_out(&mut dialogue, &query);
            dialogue.wait(Duration::from_secs(unanswered + 1), &[], &[]);
            dialogue.step("ext", &answer, &[], &["drop:rule-drop"]);
        }
    }
}

/// Covers: 6092-25
#[test]
fn esp_is_followed_by_addresses_and_not_by_index() {
    let mut dialogue = Dialogue::new(OUTBOUND);
    goes_out(&mut dialogue, &sent(50, &esp(0x1111), INSIDE[1], OUTSIDE[1]));
    for index in [0x1111, 0x2222, 0x3333] {
        comes_in(&mut dialogue, &sent(50, &esp(index), OUTSIDE[1], INSIDE[1]));
    }
    let stranger = sent(50, &esp(0x1111), "2600:9::8", INSIDE[1]);
    dialogue.step("ext", &stranger, &[], &["drop:rule-drop"]);
}

/// Covers: 6092-21, 9288-pass
#[test]
fn authenticated_packets_are_followed_by_what_they_carry() {
    let authenticated = |builder: FrameBuilder| builder.extension_header(51, &[4; 23]).frame();
    let mut dialogue = Dialogue::new(OUTBOUND);
    let query = build::udp().from("[2600:2::10]:5000").to("[2600:9::9]:53");
    goes_out(&mut dialogue, &authenticated(query));
    let answer = build::udp().from("[2600:9::9]:53").to("[2600:2::10]:5000");
    comes_in(&mut dialogue, &authenticated(answer));
    let other = build::udp().from("[2600:9::9]:54").to("[2600:2::10]:5000");
    dialogue.step("ext", &authenticated(other), &[], &["drop:rule-drop"]);
    // In IPv4 it is a protocol by itself.
    goes_out(&mut dialogue, &sent(51, &[4; 24], INSIDE[0], OUTSIDE[0]));
    comes_in(&mut dialogue, &sent(51, &[4; 24], OUTSIDE[0], INSIDE[0]));
}

/// Covers: 6092-24, 6092-16
#[test]
fn key_exchange_passes_and_keeps_its_state() {
    let mut dialogue = Dialogue::new(OUTBOUND);
    let ike = |from: &str, to: &str| build::udp().from(from).to(to).payload(&[1; 100]).frame();
    goes_out(&mut dialogue, &ike("[2600:2::10]:500", "[2600:9::9]:500"));
    comes_in(&mut dialogue, &ike("[2600:9::9]:500", "[2600:2::10]:500"));
    dialogue.wait(Duration::from_secs(299), &[], &[]);
    goes_out(&mut dialogue, &ike("[2600:2::10]:500", "[2600:9::9]:500"));
    dialogue.wait(Duration::from_secs(299), &[], &[]);
    comes_in(&mut dialogue, &ike("[2600:9::9]:500", "[2600:2::10]:500"));
}

/// Covers: 6092-23, 6092-28, 6092-36, 6092-37, 6092-38, 6092-43, 2979-P
#[test]
fn icmpv6_about_any_protocol_reaches_its_sender_and_ends_nothing() {
    let tcp = build::tcp().syn().from("[2600:2::10]:5000").to("[2600:9::9]:80").seq(9).frame();
    let frames = [
        ("ESP", sent(50, &esp(7), INSIDE[1], OUTSIDE[1])),
        ("mobility", sent(135, &[0; 16], INSIDE[1], OUTSIDE[1])),
        ("SCTP", sent(132, &ports(5_000, 80), INSIDE[1], OUTSIDE[1])),
        ("DCCP", sent(33, &ports(5_000, 80), INSIDE[1], OUTSIDE[1])),
        ("UDP-Lite", sent(136, &ports(5_000, 80), INSIDE[1], OUTSIDE[1])),
        ("TCP", tcp),
    ];
    for (name, frame) in frames {
        let mut dialogue = Dialogue::new(OUTBOUND);
        goes_out(&mut dialogue, &frame);
        let flows = dialogue.flows();
        let quoted = dialogue.sent[0].1.clone();
        for kind in [1, 3] {
            let error = build::icmp_error_about(&quoted, kind, 0, [0; 4]).from("2600:9::fe");
            println!("{name}, type {kind}");
            comes_in(&mut dialogue, &error.frame());
            assert_eq!(dialogue.flows(), flows);
        }
        let stranger = build::icmp_error_about(&quoted, 1, 0, [0; 4]).to("2600:2::11");
        dialogue.step("ext", &stranger.frame(), &[], &["drop:icmp-error-forged"]);
    }
}

/// Covers: 6092-20, 6092-38, 6092-43
#[test]
fn protocols_with_ports_share_nothing_with_each_other_or_other_ports() {
    for protocol in [136, 132, 33] {
        let mut dialogue = Dialogue::new(OUTBOUND);
        goes_out(&mut dialogue, &sent(protocol, &ports(5_000, 80), INSIDE[1], OUTSIDE[1]));
        for (from, to) in [(81, 5_000), (80, 5_001)] {
            let other = sent(protocol, &ports(from, to), OUTSIDE[1], INSIDE[1]);
            dialogue.step("ext", &other, &[], &["drop:rule-drop"]);
        }
        let udp = build::udp().from("[2600:9::9]:80").to("[2600:2::10]:5000").frame();
        dialogue.step("ext", &udp, &[], &["drop:rule-drop"]);
        // Two associations between the same hosts are two flows.
        goes_out(&mut dialogue, &sent(protocol, &ports(5_001, 80), INSIDE[1], OUTSIDE[1]));
        assert_eq!(dialogue.flows().len(), 2);
    }
}

/// What NAT does to a protocol that it cannot give ports: the address changes, the ports stay, and the
/// checksum is right where it covers the address (2979-F: it works, or it fails cleanly).
///
/// Covers: 2979-F
#[test]
fn checksums_over_addresses_are_mended() {
    for protocol in [136_u8, 33] {
        let mut header = ports(5_000, 80);
        let sum = checksum("10.1.0.10", protocol, &header);
        header[6..8].copy_from_slice(&sum.to_be_bytes());
        let mut dialogue = Dialogue::new(POLICY);
        goes_out(&mut dialogue, &sent(protocol, &header, "10.1.0.10", "198.51.100.9"));
        let left = &dialogue.sent[0].1;
        assert_eq!(left[26..30], [203, 0, 113, 4]);
        let mut header = left[34..50].to_vec();
        assert_eq!(header[..4], ports(5_000, 80)[..4]);
        let mended = u16::from_be_bytes([header[6], header[7]]);
        header[6..8].fill(0);
        assert_eq!(mended, checksum("203.0.113.4", protocol, &header), "protocol {protocol}");
        // The other host may not have the same ports towards the same server at the same time.
        let other = sent(protocol, &ports(5_000, 80), "10.1.0.11", "198.51.100.9");
        dialogue.step("int", &other, &[], &["drop:nat-conflict"]);
        comes_in(&mut dialogue, &sent(protocol, &ports(80, 5_000), "198.51.100.9", "203.0.113.4"));
    }
}

/// The sum over pseudo-header and message to 198.51.100.9 (RFC 768).
fn checksum(source: &str, protocol: u8, message: &[u8]) -> u16 {
    let source: std::net::Ipv4Addr = source.parse().unwrap();
    let header =
        [&source.octets()[..], &[198, 51, 100, 9, 0, protocol, 0, message.len() as u8]].concat();
    let words = header.chunks(2).chain(message.chunks(2));
    let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// The transparent mode is one rule.
///
/// Covers: 6092-49
#[test]
fn one_rule_lets_every_protocol_in() {
    let mut dialogue = Dialogue::new(super::ALLOW_ALL);
    for protocol in [33, 47, 50, 99, 132, 135, 136, 139, 140] {
        comes_in(&mut dialogue, &sent(protocol, &ports(5_000, 80), OUTSIDE[1], INSIDE[1]));
    }
    comes_in(&mut dialogue, &build::tcp().syn().from("[2600:9::9]:5").to("[2600:2::10]:6").frame());
    comes_in(&mut dialogue, &build::udp().from("[2600:9::9]:5").to("[2600:2::10]:6").frame());
    comes_in(&mut dialogue, &build::icmp_echo().from(OUTSIDE[1]).to(INSIDE[1]).frame());
}

/// CVE-2026-7164: chunks and parameters, nested as deep as a packet allows, are no work for us and
/// change nothing.
///
/// Covers: 3.7
#[test]
fn nested_sctp_parameters_are_never_read() {
    let mut dialogue = Dialogue::new(OUTBOUND);
    // An INIT chunk whose parameters each contain the next, down to the last four bytes.
    let mut nested = Vec::new();
    for left in (4..=1_400_u16).rev().step_by(4) {
        nested.extend_from_slice(&[0xc0, 0x05]);
        nested.extend_from_slice(&left.to_be_bytes());
    }
    let packet = [&ports(5_000, 80)[..12], &nested].concat();
    goes_out(&mut dialogue, &sent(132, &packet, INSIDE[0], OUTSIDE[0]));
    assert_eq!(dialogue.sent[0].1[34..], packet, "as it came");
}

/// Truncated forms of what a rule names are dropped, by the rule or before it, and never let through.
///
/// Covers: 3.6
#[test]
fn truncated_headers_do_not_escape() {
    let rows =
        [(47, 4), (50, 8), (51, 12), (132, 12), (33, 12), (136, 8), (135, 8), (139, 8), (140, 8)];
    for (protocol, least) in rows {
        let mut dialogue = Dialogue::new(super::ALLOW_ALL);
        let whole = [1; 16];
        for length in 0..least {
            let frame = sent(protocol, &whole[..length], OUTSIDE[0], INSIDE[0]);
            dialogue.step("ext", &frame, &[], &["drop:transport-truncated"]);
        }
    }
    for zero in [ports(0, 80), ports(80, 0)] {
        let frame = sent(132, &zero, OUTSIDE[0], INSIDE[0]);
        Dialogue::new(super::ALLOW_ALL).step("ext", &frame, &[], &["drop:port-zero"]);
    }
}
