//! ARP and ND: who is asked for, who waits, and for whom the node answers.

use std::time::Duration;

use gabion_engine::{DropReason, Event, Limits, Neighbour, build};

use super::POLICY;
use super::dialogue::{Dialogue, NODE_MAC};

const SYN: fn() -> Vec<u8> =
    || build::tcp().from("198.51.100.9:40000").to("10.1.0.10:443").syn().seq(1).frame();

#[test]
fn a_packet_waits_for_its_neighbour() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &SYN(), &[], &["held"]);
    dialogue.neighbour(
        "int",
        "10.1.0.10",
        Neighbour::Reachable { mac: [2, 0, 0, 0, 9, 9] },
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63"],
        &["forwarded", "held=-1"],
    );
    assert_eq!(dialogue.sent[0].1[..6], [2, 0, 0, 0, 9, 9]);
    assert_eq!(dialogue.sent[0].1[6..12], NODE_MAC);
}

#[test]
fn a_neighbour_that_does_not_answer_is_told_to_the_sender() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &SYN(), &[], &["held"]);
    dialogue.neighbour(
        "int",
        "10.1.0.10",
        Neighbour::Failed,
        &[],
        &["drop:neighbour-unresolved", "held=-1"],
    );
    dialogue.step(
        "ext",
        &SYN(),
        &["ext: icmp 203.0.113.1 > 198.51.100.9 error 3/1 about \
           [tcp 198.51.100.9:40000 > 10.1.0.10:443] ttl 64"],
        &["reject:neighbour-unresolved"],
    );
}

#[test]
fn a_packet_does_not_wait_for_ever() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &SYN(), &[], &["held"]);
    dialogue.wait(Duration::from_secs(4), &[], &["drop:neighbour-unresolved", "held=-1"]);
}

#[test]
fn what_waits_does_not_leave_after_the_engine_has_closed() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &SYN(), &[], &["held"]);
    dialogue.engine.close();
    assert_eq!(dialogue.engine.counters().held, 0);
    let known = || Neighbour::Reachable { mac: [2, 0, 0, 0, 9, 9] };
    dialogue.neighbour("int", "10.1.0.10", known(), &[], &[]);
    dialogue.engine.open();
    dialogue.neighbour("int", "10.1.0.10", known(), &[], &[]);
}

/// RFC 1812 section 3.3.2: whoever tells such a link address is not believed, and what was known
/// before stays known.
#[test]
fn a_group_is_nobodys_link_address() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &SYN(), &[], &["held"]);
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 9], [0x33, 0x33, 0, 0, 0, 1]] {
        dialogue.neighbour("int", "10.1.0.10", Neighbour::Reachable { mac }, &[], &[]);
    }
    let waited = "int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63";
    let mac = [2, 0, 0, 0, 9, 9];
    let known = Neighbour::Reachable { mac };
    dialogue.neighbour("int", "10.1.0.10", known, &[waited], &["forwarded", "held=-1"]);
    let lie = Neighbour::Reachable { mac: [0xff; 6] };
    dialogue.neighbour("int", "10.1.0.10", lie, &[], &[]);
    dialogue.send("ext", &SYN());
    assert_eq!(dialogue.sent[0].1[..6], mac);
}

/// A policy that lets anybody reach any host of the inside network, and the `n`th of them.
const SCANNED: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8] }
rules:
  - { name: all-in, from: internet, to: spokes, action: allow }
";

fn probe(n: u16) -> Vec<u8> {
    probe_of(n, &format!("198.51.{}.{}", n / 250 + 1, n % 250 + 1))
}

fn probe_of(n: u16, source: &str) -> Vec<u8> {
    let to = format!("10.1.{}.{}:443", n / 250 + 1, n % 250 + 1);
    build::udp().from(&format!("{source}:2000")).to(&to).frame()
}

/// Covers: 3.9
#[test]
fn a_scan_of_a_network_does_not_keep_others_from_being_found() {
    let mut dialogue = Dialogue::new(SCANNED);
    dialogue.resolve = false;
    // Somebody who is there and has answered once, and is asked for again.
    let known = || Neighbour::Reachable { mac: [2, 0, 0, 0, 9, 9] };
    dialogue.neighbour("int", "10.1.0.10", known(), &[], &[]);
    dialogue.neighbour("int", "10.1.0.10", Neighbour::Gone, &[], &[]);
    let asked = |dialogue: &Dialogue| {
        let is_question = |event: &&Event| matches!(event, Event::NeighbourWanted { .. });
        dialogue.events.iter().filter(is_question).count()
    };
    for n in 0..1_000 {
        dialogue.send("ext", &probe(n));
    }
    // The kernel's table has room for the questions of three seconds.
    assert_eq!(asked(&dialogue), 256);
    assert_eq!(dialogue.engine.counters().dropped(DropReason::NeighbourQueueFull), 744);
    dialogue.step("ext", &SYN(), &[], &["held"]);
    assert_eq!(asked(&dialogue), 257);
    let waited = "int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63";
    dialogue.neighbour("int", "10.1.0.10", known(), &[waited], &["forwarded", "held=-1"]);
}

/// Covers: 3.9
#[test]
fn packets_that_have_waited_longest_make_room() {
    let limits = Limits { parked: 8, flows: 1_024, mappings: 1_024, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(SCANNED, limits);
    dialogue.resolve = false;
    for n in 0..8 {
        dialogue.step("ext", &probe(n), &[], &["held"]);
    }
    // The newcomer waits and the first one does not any more.
    dialogue.step("ext", &SYN(), &[], &["drop:neighbour-queue-full"]);
    assert_eq!(dialogue.engine.counters().held, 8);
    let known = Neighbour::Reachable { mac: [2, 0, 0, 0, 9, 9] };
    let waited = "int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63";
    dialogue.neighbour("int", "10.1.0.10", known, &[waited], &["forwarded", "held=-1"]);
    // All others are given up in time.
    dialogue.wait(Duration::from_secs(4), &[], &["drop:neighbour-unresolved=7", "held=-7"]);
}

/// Nor does it take all the questions that may be asked.
///
/// Covers: 3.9
#[test]
fn one_source_that_scans_leaves_the_queue_to_others() {
    let mut dialogue = Dialogue::new(SCANNED);
    dialogue.resolve = false;
    dialogue.step("ext", &SYN(), &[], &["held"]);
    for n in 0..600 {
        dialogue.send("ext", &probe_of(n, "198.51.100.66"));
    }
    // An eighth of 1,024, and the one that was there before.
    assert_eq!(dialogue.engine.counters().held, 129);
    assert_eq!(dialogue.engine.counters().dropped(DropReason::NeighbourQueueFull), 472);
    for n in 0..100 {
        dialogue.step("ext", &probe(n + 1_000), &[], &["held"]);
    }
    // What it asked for is given up in time, and then it may ask for others.
    dialogue.now = dialogue.now + Duration::from_secs(4);
    dialogue.engine.handle_timeout(dialogue.now);
    assert_eq!(dialogue.engine.counters().held, 0);
    dialogue.step("ext", &probe_of(2_000, "198.51.100.66"), &[], &["held"]);
}

#[test]
fn few_packets_wait_for_one_neighbour() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    for _ in 0..16 {
        dialogue.step("ext", &SYN(), &[], &["held"]);
    }
    dialogue.step("ext", &SYN(), &[], &["drop:neighbour-queue-full"]);
}

#[test]
fn the_node_answers_for_addresses_that_it_translates() {
    let mut dialogue = Dialogue::new(POLICY);
    for translated in ["203.0.113.7", "203.0.113.4"] {
        let request = build::arp_request([2, 0, 0, 0, 0, 1], "203.0.113.254", translated);
        let reply = format!("ext: arp reply {translated} is-at [02, 00, 00, 00, 00, 02]");
        dialogue.step("ext", &request, &[&reply], &["answered"]);
    }
    // Its own address is the host's business, and others' are nobody's.
    for other in ["203.0.113.1", "203.0.113.99"] {
        let request = build::arp_request([2, 0, 0, 0, 0, 1], "203.0.113.254", other);
        dialogue.step("ext", &request, &[], &["local"]);
    }
    // Nor are answers questions, and on other links those addresses are nobody's.
    let reply = build::arp_reply([2, 0, 0, 0, 0, 1], "203.0.113.254", [2; 6], "203.0.113.4");
    dialogue.step("ext", &reply, &[], &["local"]);
    let request = build::arp_request([2, 0, 0, 0, 0, 1], "10.1.0.9", "203.0.113.4");
    dialogue.step("int", &request, &[], &["local"]);
    let solicitation = build::neighbour_solicitation([2, 0, 0, 0, 0, 1], "2600:2::9", "2600:1::7");
    dialogue.step("int", &solicitation, &[], &["local"]);
    let solicitation = build::neighbour_solicitation([2, 0, 0, 0, 0, 1], "2600:1::fe", "2600:1::7");
    dialogue.step(
        "ext",
        &solicitation,
        &["ext: icmpv6 2600:1::7 > 2600:1::fe type 136/0 ttl 255"],
        &["answered"],
    );
}
