//! Packets for the drop reasons that no other scenario is about. Every reason is reached by one: the
//! tidy test looks.

use gabion_engine::{Limits, build};

use super::dialogue::Dialogue;
use super::{ALLOW_ALL, OUTBOUND};

fn udp() -> build::FrameBuilder {
    build::udp().from("198.51.100.9:1025").to("10.1.0.10:53").payload(&[1; 200])
}

#[test]
fn neither_ip_nor_arp() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let mut frame = udp().frame();
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    dialogue.step("ext", &frame, &[], &["drop:not-ip"]);
}

/// Covers: CC-1.6a, F-1, F-2, F-8, F-10
#[test]
fn fragments_that_can_not_be_right() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let tcp = build::tcp().syn().from("198.51.100.9:1025").to("10.1.0.10:53").payload(&[1; 200]);
    let tcp = tcp.dont_fragment(false).frame();
    for (range, more, reason) in [
        (0..8, true, "fragment-tiny"),
        (8..32, true, "fragment-tiny"),
        (0..27, true, "fragment-invalid"),
        (32..32, false, "fragment-invalid"),
    ] {
        let piece = build::piece(&tcp, range, more, 1);
        dialogue.step("ext", &piece, &[], &[&format!("drop:{reason}")]);
    }
    let whole = udp().dont_fragment(false).frame();
    let first = build::piece(&whole, 0..64, true, 2);
    dialogue.step("ext", &first, &[], &["held"]);
    dialogue.step("ext", &first, &[], &["drop:fragment-duplicate"]);
}

/// Covers: F-11
#[test]
fn one_source_has_a_part_of_the_fragment_table() {
    let limits = Limits { fragmented_datagrams: 8, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(ALLOW_ALL, limits);
    let whole = udp().dont_fragment(false).frame();
    for identification in [1, 2] {
        let piece = build::piece(&whole, 0..64, true, identification);
        dialogue.step("ext", &piece, &[], &["held"]);
    }
    let piece = build::piece(&whole, 0..64, true, 3);
    dialogue.step("ext", &piece, &[], &["drop:fragment-table-full"]);
}

#[test]
fn no_address_to_translate_to() {
    let nat =
        "nat:\n  - { name: hide, kind: snat, from: spokes, out: internet, address: self }\nrules:";
    let mut dialogue = Dialogue::new(&OUTBOUND.replace("rules:", nat));
    dialogue.change_network(|network| network.interfaces[0].addresses.truncate(1));
    let v6 = build::udp().from("[2600:2::10]:1025").to("[2600:9::9]:53").frame();
    dialogue.step("int", &v6, &[], &["drop:nat-no-address"]);
}

#[test]
fn out_of_an_interface_that_no_zone_lists() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let frame = build::udp().from("198.51.100.9:1025").to("192.0.2.9:53").frame();
    dialogue.step("ext", &frame, &[], &["drop:no-zone-out"]);
}

/// Covers: CC-FAIL
#[test]
fn no_room_to_send() {
    let limits = Limits { transmit_queue: 1, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(ALLOW_ALL, limits);
    let pieces = build::fragmented(&udp().dont_fragment(false).frame(), 100, 1);
    assert_eq!(pieces.len(), 3);
    dialogue.send("ext", &udp().frame());
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[1], &[], &["held"]);
    dialogue.step(
        "ext",
        &pieces[2],
        &["int: udp 198.51.100.9:1025 > 10.1.0.10:53 ttl 63 frag 0+"],
        &["forwarded", "drop:transmit-queue-full=2", "held=-2"],
    );
}
