//! Datagrams in pieces: whole or not at all, in any order, of either family, through NAT.

use std::time::Duration;

use gabion_engine::{Checksum, Offload, build};
use smoltcp::wire::Ipv4Packet;

use super::POLICY;
use super::dialogue::Dialogue;

fn ping(from: &str, to: &str) -> Vec<u8> {
    build::icmp_echo().from(from).to(to).id(5).payload(&[7; 3_000]).dont_fragment(false).frame()
}

/// Covers: 4787-14, F-9
#[test]
fn fragments_wait_for_each_other_in_any_order() {
    for (client, server, kind) in
        [("198.51.100.9", "10.1.0.10", "icmp"), ("2600:9::9", "2600:2::10", "icmpv6")]
    {
        for reversed in [false, true] {
            let mut dialogue = Dialogue::new(POLICY);
            let mut pieces = build::fragmented(&ping(client, server), 1_500, 42);
            assert_eq!(pieces.len(), 3);
            if reversed {
                pieces.reverse();
            }
            dialogue.step("ext", &pieces[0], &[], &["held"]);
            dialogue.step("ext", &pieces[1], &[], &["held"]);
            let step = if kind == "icmp" { 1_480 } else { 1_448 };
            dialogue.step(
                "ext",
                &pieces[2],
                &[
                    &format!("int: echo 5 {client} > {server} ttl 63 frag 0+"),
                    &format!("int: ip {client} > {server} ttl 63 frag {step}+"),
                    &format!("int: ip {client} > {server} ttl 63 frag {}", 2 * step),
                ],
                &["forwarded=3", "held=-2"],
            );
        }
    }
}

/// Covers: F-9, 3.5
#[test]
fn a_rule_on_ports_is_not_avoided_by_cutting() {
    let mut dialogue = Dialogue::new(POLICY);
    let whole = build::udp().from("198.51.100.9:40000").to("10.1.0.10:99").payload(&[1; 2_000]);
    let pieces = build::fragmented(&whole.dont_fragment(false).frame(), 1_500, 1);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
    dialogue.step("ext", &pieces[0], &[], &["drop:rule-drop=2", "held=-1"]);
}

/// Covers: CC-1.6b
#[test]
fn an_incomplete_datagram_never_passes() {
    let mut dialogue = Dialogue::new(POLICY);
    let pieces = build::fragmented(&ping("198.51.100.9", "10.1.0.10"), 1_500, 42);
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[2], &[], &["held"]);
    dialogue.wait(Duration::from_secs(6), &[], &["drop:fragment-timeout=2", "held=-2"]);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
}

/// Covers: F-4, CC-1.6a
#[test]
fn overlapping_fragments_take_the_datagram_with_them() {
    let mut dialogue = Dialogue::new(POLICY);
    let whole = ping("198.51.100.9", "10.1.0.10");
    dialogue.step("ext", &build::piece(&whole, 0..1_480, true, 9), &[], &["held"]);
    let overlap = build::piece(&whole, 1_472..3_008, false, 9);
    dialogue.step("ext", &overlap, &[], &["drop:fragment-overlap=2", "held=-1"]);
    let rest = build::piece(&whole, 1_480..3_008, false, 9);
    dialogue.step("ext", &rest, &[], &["drop:fragment-overlap"]);
}

#[test]
fn fragments_are_translated() {
    let mut dialogue = Dialogue::new(POLICY);
    let whole = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&[3; 2_000]);
    let pieces = build::fragmented(&whole.dont_fragment(false).frame(), 1_500, 3);
    dialogue.step("int", &pieces[0], &[], &["held"]);
    dialogue.send("int", &pieces[1]);
    let flow = dialogue.engine.flows(0, 1).0[0];
    let port = flow.reply.destination.port;
    assert_eq!(
        dialogue.left(),
        [
            format!("ext: udp 203.0.113.4:{port} > 198.51.100.9:53 ttl 63 frag 0+"),
            "ext: ip 203.0.113.4 > 198.51.100.9 ttl 63 frag 1480".to_owned(),
        ]
    );
}

/// The late rest of a datagram whose time is up meets nothing, whenever it was last looked for.
///
/// Covers: CC-1.6b
#[test]
fn late_fragments_do_not_join_what_is_overdue() {
    let mut dialogue = Dialogue::new(POLICY);
    let pieces = build::fragmented(&ping("198.51.100.9", "10.1.0.10"), 1_500, 42);
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
    // Nobody has called `handle_timeout` in between.
    dialogue.now = dialogue.now + Duration::from_secs(5);
    dialogue.step("ext", &pieces[2], &[], &["drop:fragment-timeout=2", "held=-1"]);
}

/// Pieces leave as they came, whatever larger ones the next link could take.
///
/// Covers: F-12
#[test]
fn no_fragment_leaves_larger_than_it_came() {
    for (client, server) in [("198.51.100.9", "10.1.0.10"), ("2600:9::9", "2600:2::10")] {
        let mut dialogue = Dialogue::new(POLICY);
        let pieces = build::fragmented(&ping(client, server), 600, 42);
        for piece in &pieces {
            dialogue.send("ext", piece);
        }
        let lengths = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
        let left: Vec<_> = dialogue.sent.iter().map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(lengths(&left), lengths(&pieces));
    }
}

/// Of a datagram whose pieces do not fit, none passes: its sender is told the next link's MTU.
///
/// Covers: F-12, F-13
#[test]
fn ipv6_is_never_fragmented_for_its_sender() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.change_network(|network| network.interfaces[1].mtu = 1_400);
    let pieces = build::fragmented(&ping("2600:9::9", "2600:2::10"), 1_500, 42);
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
    dialogue.step(
        "ext",
        &pieces[2],
        &["ext: icmpv6 2600:1::1 > 2600:9::9 error 2/0 mtu 1400 about \
           [echo 5 2600:9::9 > 2600:2::10] ttl 64"],
        &["reject:too-big", "drop:too-big=2", "held=-2"],
    );
}

/// Covers: F-12, 4787-13a
#[test]
fn ipv4_fragments_are_cut_again_where_their_sender_lets_us() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.change_network(|network| network.interfaces[1].mtu = 1_300);
    let pieces = build::fragmented(&ping("198.51.100.9", "10.1.0.10"), 1_500, 42);
    for piece in &pieces {
        dialogue.send("ext", piece);
    }
    let offsets: Vec<String> =
        dialogue.left().iter().map(|line| line.split("frag ").nth(1).unwrap().to_owned()).collect();
    assert_eq!(offsets, ["0+", "1280+", "1480+", "2760+", "2960"]);
    assert!(dialogue.sent.iter().all(|(_, bytes)| bytes.len() <= 14 + 1_300));
}

/// A lower hop limit in one of the pieces holds up all of them.
///
/// Covers: CC-1.6b
#[test]
fn pieces_pass_all_or_none() {
    let mut dialogue = Dialogue::new(POLICY);
    let mut pieces = build::fragmented(&ping("198.51.100.9", "10.1.0.10"), 1_500, 42);
    let expiring = build::icmp_echo().from("198.51.100.9").to("10.1.0.10").id(5);
    let expiring = expiring.payload(&[7; 3_000]).dont_fragment(false).hop_limit(1).frame();
    pieces[1] = build::fragmented(&expiring, 1_500, 42).remove(1);
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
    dialogue.step(
        "ext",
        &pieces[2],
        &["ext: icmp 203.0.113.1 > 198.51.100.9 error 11/0 about \
           [echo 5 198.51.100.9 > 10.1.0.10] ttl 64"],
        &["reject:ttl-expired", "drop:ttl-expired=2", "held=-2"],
    );
}

/// What is too big after NAT is told with the next link's MTU, and quotes what its sender sent.
///
/// Covers: F-13, 4787-13
#[test]
fn too_big_quotes_the_packet_as_it_was_sent() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.change_network(|network| network.interfaces[0].mtu = 1_300);
    let big = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&[1; 1_400]);
    dialogue.step(
        "int",
        &big.frame(),
        &["int: icmp 10.1.0.1 > 10.1.0.10 error 3/4 mtu 1300 about \
           [udp 10.1.0.10:5000 > 198.51.100.9:53] ttl 64"],
        &["reject:too-big"],
    );
}

/// A question in three pieces, of which one is changed; an IPv4 header's checksum is made right again.
fn question(is_v4: bool, changed: usize, change: impl Fn(&mut [u8])) -> Vec<Vec<u8>> {
    let (client, server) = if is_v4 {
        ("198.51.100.9:2000", "10.1.0.10:53")
    } else {
        ("[2600:9::9]:2000", "[2600:2::10]:53")
    };
    let whole = build::udp().from(client).to(server).payload(&[7; 3_000]).dont_fragment(false);
    let mut pieces = build::fragmented(&whole.frame(), 1_500, 42);
    change(&mut pieces[changed]);
    if is_v4 {
        Ipv4Packet::new_unchecked(&mut pieces[changed][14..]).fill_checksum();
    }
    pieces
}

/// Covers: F-3, F-9, 3.5
#[test]
fn the_checksum_of_a_datagram_in_pieces_is_verified() {
    for is_v4 in [true, false] {
        let mut dialogue = Dialogue::new(POLICY);
        let pieces = question(is_v4, 2, |last| *last.last_mut().unwrap() ^= 1);
        dialogue.step("ext", &pieces[0], &[], &["held"]);
        dialogue.step("ext", &pieces[1], &[], &["held"]);
        dialogue.step("ext", &pieces[2], &[], &["drop:transport-checksum=3", "held=-2"]);
    }
}

/// What has the least hops left of all decides, not what has the ports.
#[test]
fn a_later_fragment_without_hops_left_keeps_its_datagram_back() {
    for is_v4 in [true, false] {
        let mut dialogue = Dialogue::new(POLICY);
        let hop_limit = 14 + if is_v4 { 8 } else { 7 };
        for piece in question(is_v4, 1, |second| second[hop_limit] = 1) {
            dialogue.send("ext", &piece);
        }
        let left = dialogue.left();
        assert!(left.len() == 1 && left[0].starts_with("ext: icmp"), "{left:?}");
    }
}

/// IPv4's protocol is a part of what a datagram is known by; of IPv6's only the first counts
/// (RFC 8200 section 4.5).
///
/// Covers: F-9, 4787-14
#[test]
fn a_later_fragment_may_name_another_protocol_in_ipv6_alone() {
    for (is_v4, protocol, passed) in [(true, 14 + 9, 0), (false, 14 + 40, 3)] {
        let mut dialogue = Dialogue::new(POLICY);
        for piece in question(is_v4, 1, |second| second[protocol] = 47) {
            dialogue.send("ext", &piece);
        }
        assert_eq!(dialogue.sent.len(), passed, "{:?}", dialogue.left());
    }
}

/// Covers: F-8, 3.5
#[test]
fn the_header_counts_in_what_a_datagram_may_have() {
    // 48 octets behind 65,480 are 65,528, and 65,548 with the header.
    let pieces = question(true, 2, |last| last[14 + 6..14 + 8].copy_from_slice(&[0x1f, 0xf9]));
    Dialogue::new(POLICY).step("ext", &pieces[2], &[], &["drop:fragment-invalid"]);
}

#[test]
fn what_is_cut_has_no_checksum_left_to_others() {
    for is_v4 in [true, false] {
        let first = &question(is_v4, 0, |_| {})[0];
        let checksum = Checksum::Partial { start: 34, offset: 6 };
        let offload = Offload { checksum, segments: None };
        let mut dialogue = Dialogue::new(POLICY);
        dialogue.step_offloaded("ext", first, offload, &[], &["drop:fragment-invalid"]);
    }
}
