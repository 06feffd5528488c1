//! Echo, and errors about flows' packets: matched, doubted, rewritten inside and out.

use gabion_engine::build;

use super::POLICY;
use super::dialogue::Dialogue;

#[test]
fn ping_passes_and_an_unasked_reply_does_not() {
    let mut dialogue = Dialogue::new(POLICY);
    for (client, server, kind) in
        [("198.51.100.9", "10.1.0.10", "icmp"), ("2600:9::9", "2600:2::10", "icmpv6")]
    {
        dialogue.step(
            "ext",
            &build::icmp_echo().from(client).to(server).id(5).frame(),
            &[&format!("int: {kind} {client} > {server} echo 5 ttl 63")],
            &["forwarded"],
        );
        dialogue.step(
            "int",
            &build::icmp_echo_reply().from(server).to(client).id(5).frame(),
            &[&format!("ext: {kind} {server} > {client} reply 5 ttl 63")],
            &["forwarded"],
        );
        dialogue.step(
            "int",
            &build::icmp_echo_reply().from(server).to(client).id(6).frame(),
            &[],
            &["drop:icmp-unsolicited"],
        );
    }
}

/// Covers: 5508-4, 5508-10a
#[test]
fn an_error_about_a_translated_flow_is_restored_inside_and_out() {
    let mut dialogue = Dialogue::new(POLICY);
    let out = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(b"query").frame();
    dialogue.send("int", &out);
    let (_, as_sent) = dialogue.sent[0].clone();
    let error = build::icmp_error_about(&as_sent, 3, 3, [0; 4]).from("198.51.100.9").frame();
    dialogue.step(
        "ext",
        &error,
        &["int: icmp 198.51.100.9 > 10.1.0.10 error 3/3 about \
           [udp 10.1.0.10:5000 > 198.51.100.9:53] ttl 63"],
        &["forwarded"],
    );
    // From a router on the way, and about the path's MTU.
    let large = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&[0; 1_400]);
    dialogue.send("int", &large.frame());
    let (_, as_sent) = dialogue.sent[0].clone();
    let error = build::icmp_error_about(&as_sent, 3, 4, [0, 0, 0x05, 0x14]).from("192.0.2.77");
    dialogue.step(
        "ext",
        &error.frame(),
        &["int: icmp 192.0.2.77 > 10.1.0.10 error 3/4 mtu 1300 about \
           [udp 10.1.0.10:5000 > 198.51.100.9:53] ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn an_error_from_inside_does_not_show_inside_addresses() {
    let mut dialogue = Dialogue::new(POLICY);
    let syn = build::tcp().from("198.51.100.9:40000").to("203.0.113.7:443").syn().seq(1).frame();
    dialogue.send("ext", &syn);
    let (_, as_sent) = dialogue.sent[0].clone();
    let error = build::icmp_error_about(&as_sent, 3, 1, [0; 4]).from("10.1.0.99").frame();
    dialogue.step(
        "int",
        &error,
        &["ext: icmp 203.0.113.7 > 198.51.100.9 error 3/1 about \
           [tcp 198.51.100.9:40000 > 203.0.113.7:443] ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn errors_that_lie_are_dropped() {
    let mut dialogue = Dialogue::new(POLICY);
    let syn = build::tcp().from("198.51.100.9:40000").to("10.1.0.10:443").syn().seq(1_000);
    dialogue.send("ext", &syn.frame());
    let sent = dialogue.sent[0].1.clone();
    let about = |quoted: &[u8]| build::icmp_error_about(quoted, 3, 1, [0; 4]).from("10.1.0.10");
    let other_port = build::tcp().from("198.51.100.9:40001").to("10.1.0.10:443").syn().frame();
    dialogue.step("int", &about(&other_port).frame(), &[], &["drop:icmp-error-unmatched"]);
    let off_flight =
        build::tcp().from("198.51.100.9:40000").to("10.1.0.10:443").syn().seq(77_000).frame();
    dialogue.step("int", &about(&off_flight).frame(), &[], &["drop:icmp-error-forged"]);
    dialogue.step(
        "int",
        &about(&sent).bad_transport_checksum().frame(),
        &[],
        &["drop:transport-checksum"],
    );
    let absurd = build::icmp_error_about(&sent, 3, 4, [0, 0, 0, 40]).from("10.1.0.10").frame();
    dialogue.step("int", &absurd, &[], &["drop:icmp-error-forged"]);
    let not_less = build::icmp_error_about(&sent, 3, 4, [0, 0, 5, 220]).from("10.1.0.10").frame();
    dialogue.step("int", &not_less, &[], &["drop:icmp-error-forged"]);
    // From the wrong side.
    dialogue.step("ext", &about(&sent).from("192.0.2.9").frame(), &[], &["drop:wrong-zone"]);
    assert_eq!(dialogue.flows().len(), 1);
}

#[test]
fn a_hop_limit_that_runs_out_is_told_and_leaves_no_flow() {
    let mut dialogue = Dialogue::new(POLICY);
    let probe = build::udp().from("198.51.100.9:40000").to("10.1.0.10:53").hop_limit(1).frame();
    dialogue.step(
        "ext",
        &probe,
        &["ext: icmp 203.0.113.1 > 198.51.100.9 error 11/0 about \
           [udp 198.51.100.9:40000 > 10.1.0.10:53] ttl 64"],
        &["reject:ttl-expired"],
    );
    assert_eq!(dialogue.flows(), [""; 0]);
    // What the rules do not permit learns nothing of the path.
    let denied = build::udp().from("198.51.100.9:40000").to("10.1.0.10:99").hop_limit(1).frame();
    dialogue.step("ext", &denied, &[], &["drop:rule-drop"]);
}

#[test]
fn a_packet_too_big_for_the_next_link_is_told_its_mtu() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.change_network(|network| network.interfaces[1].mtu = 1_300);
    let big = || build::udp().from("198.51.100.9:40000").to("10.1.0.10:53").payload(&[1; 1_400]);
    dialogue.step(
        "ext",
        &big().frame(),
        &["ext: icmp 203.0.113.1 > 198.51.100.9 error 3/4 mtu 1300 about \
           [udp 198.51.100.9:40000 > 10.1.0.10:53] ttl 64"],
        &["reject:too-big"],
    );
    // RFC 4787 REQ-13a: without DF it is cut, in order.
    dialogue.step(
        "ext",
        &big().dont_fragment(false).frame(),
        &[
            "int: udp 198.51.100.9:40000 > 10.1.0.10:53 ttl 63 frag 0+",
            "int: ip 198.51.100.9 > 10.1.0.10 ttl 63 frag 1280",
        ],
        &["forwarded"],
    );
    let v6 = build::udp().from("[2600:9::9]:1025").to("[2600:2::10]:53").payload(&[1; 1_400]);
    dialogue.step(
        "ext",
        &v6.frame(),
        &["ext: icmpv6 2600:1::1 > 2600:9::9 error 2/0 mtu 1300 about \
           [udp 2600:9::9:1025 > 2600:2::10:53] ttl 64"],
        &["reject:too-big"],
    );
}
