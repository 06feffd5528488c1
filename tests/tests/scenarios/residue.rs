//! What leaves says nothing that its sender did not say: no padding, no bytes of earlier packets, no
//! inside address in what is quoted.

use gabion_engine::build;

use super::ALLOW_ALL;
use super::dialogue::Dialogue;

const SECRET: u8 = 0xa5;

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), SECRET);
    frame
}

fn leaks(frame: &[u8]) -> bool {
    frame.windows(4).any(|bytes| bytes == [SECRET; 4])
}

/// Etherleak, CVE-2003-0001: what another host's driver left in a short frame.
///
/// Covers: CC-RIP, 3.18
#[test]
fn padding_does_not_cross() {
    for resolve in [true, false] {
        let mut dialogue = Dialogue::new(ALLOW_ALL);
        dialogue.resolve = resolve;
        let short = padded(build::udp().from("198.51.100.9:1025").to("10.1.0.10:53").frame());
        assert!(leaks(&short));
        dialogue.send("ext", &short);
        if !resolve {
            let mac = [2, 0, 0, 0, 1, 10];
            let known = gabion_engine::Neighbour::Reachable { mac };
            let leaving = ["int: udp 198.51.100.9:1025 > 10.1.0.10:53 +0 ttl 63"];
            dialogue.neighbour("int", "10.1.0.10", known, &leaving, &["forwarded", "held=-1"]);
        }
        assert_eq!(dialogue.left().len(), 1);
        assert!(!leaks(&dialogue.sent[0].1), "{:02x?}", dialogue.sent[0].1);
    }
}

/// Covers: CC-RIP
#[test]
fn padding_of_fragments_does_not_cross() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let whole = build::udp().from("198.51.100.9:1025").to("10.1.0.10:53").payload(&[1; 30]);
    for piece in build::fragmented(&whole.dont_fragment(false).frame(), 36, 7) {
        dialogue.send("ext", &padded(piece));
    }
    assert_eq!(dialogue.left().len(), 3);
    assert!(dialogue.sent.iter().all(|(_, bytes)| !leaks(bytes)));
}

/// Covers: CC-RIP, 3.18
#[test]
fn nothing_but_the_packet_is_quoted() {
    let policy = ALLOW_ALL.replace("action: allow", "action: reject");
    let mut dialogue = Dialogue::new(&policy);
    for frame in [
        build::udp().from("198.51.100.9:1025").to("10.1.0.10:53").frame(),
        build::tcp().syn().from("198.51.100.9:1025").to("10.1.0.10:53").frame(),
        build::udp().from("[2600:9::9]:1025").to("[2600:2::10]:53").frame(),
    ] {
        dialogue.send("ext", &padded(frame));
        assert_eq!(dialogue.left().len(), 1);
        assert!(!leaks(&dialogue.sent[0].1), "{:02x?}", dialogue.sent[0].1);
    }
}

/// A fresh frame is built over nothing: with other packets in between, the same question gets the
/// same answer, bit by bit.
///
/// Covers: CC-RIP
#[test]
fn an_answer_does_not_depend_on_earlier_packets() {
    let policy = ALLOW_ALL.replace("action: allow", "action: reject");
    let mut dialogue = Dialogue::new(&policy);
    let question = build::udp().from("198.51.100.9:1025").to("10.1.0.10:53").frame();
    dialogue.send("ext", &question);
    let answer = dialogue.sent[0].1.clone();
    let long = build::udp().from("198.51.100.8:1025").to("10.1.0.10:53").payload(&[SECRET; 1_400]);
    dialogue.send("ext", &long.frame());
    dialogue.send("ext", &question);
    assert_eq!(dialogue.sent[0].1, answer);
}
