//! Translated packets that are too large for the next link.

use gabion_engine::build;

use super::probe::{Probe, out};

fn probe() -> Probe {
    let mut probe = Probe::new(&out("address: 203.0.113.16, ports: 2000-2000"));
    probe.dialogue.change_network(|network| network.interfaces[0].mtu = 1_000);
    probe
}

/// Covers: 4787-13, F-13
#[test]
fn who_forbids_cutting_is_told_the_mtu_about_what_he_sent() {
    let large = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&[7; 1_200]);
    let told = "int: icmp 10.1.0.1 > 10.1.0.10 error 3/4 mtu 1000 about \
                [udp 10.1.0.10:5000 > 198.51.100.9:53] ttl 64";
    probe().dialogue.step("int", &large.frame(), &[told], &["reject:too-big"]);
}

/// Covers: 4787-13a
#[test]
fn what_may_be_cut_is_cut_and_leaves_in_order() {
    let large = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&[7; 1_200]);
    let mut probe = probe();
    probe.dialogue.step(
        "int",
        &large.dont_fragment(false).frame(),
        &[
            "ext: udp 203.0.113.16:2000 > 198.51.100.9:53 ttl 63 frag 0+",
            "ext: ip 203.0.113.16 > 198.51.100.9 ttl 63 frag 976",
        ],
        &["forwarded"],
    );
    let sent = &probe.dialogue.sent;
    assert!(sent.iter().all(|(_, frame)| frame.len() <= 1_014));
    assert_eq!(sent[0].1[18..20], sent[1].1[18..20], "one identification");
}
