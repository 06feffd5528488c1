//! Datagrams in pieces: whole or not at all, in any order, of either family, through NAT.

use std::time::Duration;

use gabion_engine::build;

use super::POLICY;
use super::dialogue::Dialogue;

fn ping(from: &str, to: &str) -> Vec<u8> {
    build::icmp_echo().from(from).to(to).id(5).payload(&[7; 3_000]).dont_fragment(false).frame()
}

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

#[test]
fn a_rule_on_ports_is_not_avoided_by_cutting() {
    let mut dialogue = Dialogue::new(POLICY);
    let whole = build::udp().from("198.51.100.9:40000").to("10.1.0.10:99").payload(&[1; 2_000]);
    let pieces = build::fragmented(&whole.dont_fragment(false).frame(), 1_500, 1);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
    dialogue.step("ext", &pieces[0], &[], &["drop:rule-drop=2", "held=-1"]);
}

#[test]
fn an_incomplete_datagram_never_passes() {
    // CC-1.6b.
    let mut dialogue = Dialogue::new(POLICY);
    let pieces = build::fragmented(&ping("198.51.100.9", "10.1.0.10"), 1_500, 42);
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[2], &[], &["held"]);
    dialogue.wait(Duration::from_secs(6), &[], &["drop:fragment-timeout=2", "held=-2"]);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
}

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
