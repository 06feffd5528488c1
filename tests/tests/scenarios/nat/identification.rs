//! Datagrams of several hosts behind one address stay apart when they are in pieces (RFC 6864).

use std::collections::BTreeSet;

use gabion_engine::build::{self, FrameBuilder};

use super::probe::{Probe, out};

const SERVER: &str = "198.51.100.9:53";

/// Identification of an IPv4 frame.
fn identification(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

/// The identifications under which the fragments of a datagram leave.
fn cut(probe: &mut Probe, by: &str, datagram: &FrameBuilder, sent_as: u16) -> BTreeSet<u16> {
    let mut left = Vec::new();
    for piece in
        build::fragmented(&datagram.clone().dont_fragment(false).frame(), 576, u32::from(sent_as))
    {
        probe.dialogue.send(by, &piece);
        left.extend(probe.dialogue.left());
        left.retain(|words| words.contains("frag"));
        if !probe.dialogue.sent.is_empty() {
            assert_eq!(left.len(), 3, "all fragments leave: {left:?}");
            return probe.dialogue.sent.iter().map(|(_, bytes)| identification(bytes)).collect();
        }
    }
    panic!("the datagram was not whole");
}

/// Covers: 7857-10, F-14
#[test]
fn two_hosts_that_choose_one_identification_stay_apart() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    let mut seen = BTreeSet::new();
    for round in 0..40 {
        for host in ["10.1.0.10:5000", "10.1.0.11:5000"] {
            let datagram = build::udp().from(host).to(SERVER).payload(&[round; 1_400]);
            let identifications = cut(&mut probe, "int", &datagram, 77);
            assert_eq!(identifications.len(), 1, "one for all fragments of a datagram");
            let fresh = identifications.into_iter().all(|one| seen.insert(one));
            assert!(fresh, "round {round}, {host}: used before");
        }
    }
}

#[test]
fn servers_behind_one_address_are_sent_datagrams_that_stay_apart() {
    // One server is published at two addresses: its client counts for each of them.
    let rule = |name: &str, to: &str| {
        format!("  - {{ name: {name}, kind: dnat, from: internet, to: {to}, target: 10.1.0.10 }}\n")
    };
    let mut probe = Probe::new(&(rule("one", "203.0.113.16") + &rule("two", "203.0.113.17")));
    let mut seen = BTreeSet::new();
    for (from, to) in
        [("198.51.100.9:5000", "203.0.113.16:53"), ("198.51.100.9:5001", "203.0.113.17:53")]
    {
        let datagram = build::udp().from(from).to(to).payload(&[7; 1_400]);
        seen.extend(cut(&mut probe, "ext", &datagram, 77));
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn datagrams_that_others_may_cut_are_told_apart_too() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    let mut seen = BTreeSet::new();
    for number in 0..200 {
        let from = format!("10.1.0.{}:5000", 10 + number % 20);
        let datagram = build::udp().from(&from).to(SERVER).identification(77);
        probe.pass("int", &datagram.dont_fragment(false).frame(), "ext").unwrap();
        assert!(seen.insert(identification(&probe.dialogue.sent[0].1)));
    }
}

/// Covers: 3.18
#[test]
fn whole_datagrams_do_not_tell_hosts_apart() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    for number in [1, 77, 0xffff] {
        let syn = build::tcp().from("10.1.0.10:5000").to(SERVER).syn().identification(number);
        probe.pass("int", &syn.frame(), "ext").unwrap();
        assert_eq!(identification(&probe.dialogue.sent[0].1), 0);
    }
}

#[test]
fn what_is_not_translated_keeps_its_identification() {
    let mut probe = Probe::new("  []\n");
    let datagram = build::udp().from("10.1.0.10:5000").to(SERVER).identification(77);
    probe.pass("int", &datagram.dont_fragment(false).frame(), "ext").unwrap();
    assert_eq!(identification(&probe.dialogue.sent[0].1), 77);
    let long = build::udp().from("10.1.0.10:5000").to(SERVER).payload(&[7; 1_400]);
    assert_eq!(cut(&mut probe, "int", &long, 78), [78].into());
}

#[test]
fn fragments_of_ipv6_are_told_apart_too() {
    let mut probe = Probe::new(&out("address: '2600:1::16'"));
    let identification = |frame: &[u8]| u32::from_be_bytes(*frame[58..].first_chunk().unwrap());
    let mut seen = BTreeSet::new();
    for host in ["[2600:2::10]:5000", "[2600:2::11]:5000"] {
        let datagram = build::udp().from(host).to("[2600:9::9]:53").payload(&[7; 2_000]).frame();
        for piece in build::fragmented(&datagram, 1_280, 77) {
            probe.dialogue.send("int", &piece);
        }
        let sent = &probe.dialogue.sent;
        assert_eq!(sent.len(), 2, "{:?}", probe.dialogue.left());
        let both: BTreeSet<u32> = sent.iter().map(|(_, bytes)| identification(bytes)).collect();
        assert_eq!(both.len(), 1);
        assert!(!both.contains(&77));
        seen.extend(both);
    }
    assert_eq!(seen.len(), 2);
}
