//! What leaves a NAT says nothing of the network behind it (RFC 5508 section 4, Etherleak, S. Bellovin).

use gabion_engine::build::{self, FrameBuilder};

use super::probe::{Probe, Protocol, out};

const HOST: &str = "10.1.0.10";
const SERVER: &str = "198.51.100.9";

/// Frames that went outside say nothing of 10.1.0.0/16, wherever in the frame.
#[track_caller]
fn assert_discreet(probe: &Probe, count: usize) {
    let left = probe.dialogue.left();
    let outside = left.iter().filter(|words| words.starts_with("ext: ")).count();
    assert_eq!(outside, count, "{left:?}");
    for (_, frame) in probe.dialogue.sent.iter().filter(|(name, _)| name == "ext") {
        let shows = frame[14..].windows(2).any(|bytes| bytes == [10, 1]);
        assert!(!shows, "{left:?}: {frame:02x?}");
    }
}

fn probe() -> Probe {
    let publish = "  - { name: publish, kind: dnat, from: internet, to: 203.0.113.7, \
                   target: 10.1.0.20 }\n";
    Probe::new(&(publish.to_owned() + &out("address: 203.0.113.16")))
}

/// Covers: 3.18, 4787-12b
#[test]
fn no_inside_address_is_in_what_goes_out() {
    let mut probe = probe();
    let tcp = || build::tcp().from("10.1.0.10:5000").to("198.51.100.9:80").window(64_000);
    let packets: [FrameBuilder; 5] = [
        build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(b"?"),
        tcp().syn().seq(1),
        build::icmp_echo().from(HOST).to(SERVER).id(7),
        build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&[7; 1_400]),
        build::protocol(47).from(HOST).to(SERVER).payload(&[0, 0, 0x88, 0x0b, 7, 7, 7, 7]),
    ];
    for packet in &packets {
        probe.dialogue.send("int", &packet.frame());
        assert_discreet(&probe, 1);
    }
    for piece in build::fragmented(&packets[3].clone().dont_fragment(false).frame(), 576, 77) {
        probe.dialogue.send("int", &piece);
    }
    assert_discreet(&probe, 3);
}

/// Errors that hosts and routers inside send: neither they nor whom they are about is shown.
///
/// Covers: 3.18, 5508-5
#[test]
fn no_inside_address_is_in_errors_that_go_out() {
    for (from, to) in [("198.51.100.9:5000", "203.0.113.7:53"), ("198.51.100.9:53", "")] {
        for reporter in ["10.1.0.20", "10.1.0.99", "10.1.77.1"] {
            for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)] {
                let mut probe = probe();
                let out =
                    probe.outward(Protocol::Udp, "10.1.0.10:5000", "198.51.100.9:53").unwrap();
                let to = if to.is_empty() { &*out } else { to };
                let large = build::udp().from(from).to(to).payload(&[7; 1_000]).frame();
                probe.dialogue.send("ext", &large);
                let (_, as_received) = probe.dialogue.sent[0].clone();
                let rest = if code == 4 { [0, 0, 2, 88] } else { [0; 4] };
                let error = build::icmp_error_about(&as_received, kind, code, rest).from(reporter);
                probe.dialogue.send("int", &error.frame());
                assert_discreet(&probe, 1);
                assert_ne!(probe.dialogue.flows(), [""; 0], "the flow lives on");
            }
        }
    }
}

/// What the node itself says about a packet to a published server quotes what its sender sent.
///
/// Covers: F-13
#[test]
fn no_inside_address_is_in_what_the_node_says() {
    let mut probe = probe();
    probe.dialogue.change_network(|network| network.interfaces[1].mtu = 1_000);
    let packet = || build::udp().from("198.51.100.9:5000").to("203.0.113.7:53");
    for (frame, told) in [
        (packet().payload(&[7; 1_200]), "3/4 mtu 1000"),
        (packet().hop_limit(1).payload(b"?"), "11/0"),
    ] {
        probe.dialogue.send("ext", &frame.frame());
        assert_discreet(&probe, 1);
        let about = "about [udp 198.51.100.9:5000 > 203.0.113.7:53]";
        let words = probe.dialogue.left()[0].clone();
        assert!(words.contains(told) && words.contains(about), "{words}");
    }
}

/// FTP, SIP and IRC write addresses into what they say: a NAT that reads it can be told to open ports
/// (NAT slipstreaming, CVE-2022-2663). Here it is text.
///
/// Covers: 4787-10, 5382-6, 3.4
#[test]
fn nothing_that_is_said_opens_a_port() {
    let texts = [
        (21, "PORT 10,1,0,10,200,1\r\n"),
        (5_060, "REGISTER sip:a SIP/2.0\r\nContact: <sip:a@10.1.0.10:51201>\r\n\r\n"),
        (6_667, "PRIVMSG a :\u{1}DCC SEND f 167837706 51201\u{1}\r\n"),
        (1_720, "\u{3}\0\0\u{4}"),
    ];
    for (port, text) in texts {
        let mut probe = probe();
        let server = format!("198.51.100.9:{port}");
        let say = |to: &str| build::udp().from("10.1.0.10:5000").to(to).payload(text.as_bytes());
        let external = probe.pass("int", &say(&server).frame(), "ext").unwrap().0;
        let (_, frame) = probe.dialogue.sent[0].clone();
        assert!(frame.ends_with(text.as_bytes()), "the text is left alone");
        let tcp = || build::tcp().from("10.1.0.10:5000").to(&server).window(64_000);
        probe.dialogue.send("int", &tcp().syn().seq(1).frame());
        let flows = probe.dialogue.flows();
        for target in [51_201, 5_000, 20] {
            for protocol in super::probe::BOTH {
                let to = format!("{}:{target}", super::probe::address(&external));
                assert_eq!(probe.inward(protocol, "198.51.100.9:20", &to), None);
                assert_eq!(probe.inward(protocol, "198.51.100.77:9", &to), None);
            }
        }
        assert_eq!(probe.dialogue.flows(), flows);
    }
}
