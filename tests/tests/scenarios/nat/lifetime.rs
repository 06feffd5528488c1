//! How long a mapping lives, and what keeps it alive (RFC 4787 section 4.3).

use gabion_engine::build;

use super::probe::{Probe, Protocol, out};

const HOST: &str = "10.1.0.10:5000";
const SERVER: &str = "198.51.100.9:53";

fn probe() -> Probe {
    Probe::new(&out("address: 203.0.113.16"))
}

/// Covers: 4787-5
#[test]
fn a_udp_mapping_lives_for_two_minutes_without_a_reply() {
    let mut probe = probe();
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    probe.wait(119);
    assert_eq!(probe.inward(Protocol::Udp, SERVER, &external).as_deref(), Some(HOST));
}

/// Covers: 4787-5c
#[test]
fn a_udp_mapping_that_was_answered_lives_for_five_minutes() {
    let mut probe = probe();
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    probe.inward(Protocol::Udp, SERVER, &external).unwrap();
    probe.wait(299);
    assert_eq!(probe.inward(Protocol::Udp, SERVER, &external).as_deref(), Some(HOST));
    probe.wait(301);
    assert_eq!(probe.inward(Protocol::Udp, SERVER, &external), None);
}

/// Covers: 4787-5b, 5508-2a
#[test]
fn timers_are_what_the_policy_says() {
    let timeouts = "settings:\n  timeouts: { udp: 7s, udp-unreplied: 3s, icmp: 2s }";
    let policy = super::probe::policy(&out("address: 203.0.113.16")).replace("settings:", timeouts);
    let mut probe = Probe { dialogue: crate::scenarios::dialogue::Dialogue::new(&policy) };
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    probe.wait(2);
    assert!(probe.inward(Protocol::Udp, SERVER, &external).is_some());
    probe.wait(6);
    assert!(probe.inward(Protocol::Udp, SERVER, &external).is_some());
    probe.wait(8);
    assert_eq!(probe.dialogue.flows(), [""; 0]);
    probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    probe.wait(4);
    assert_eq!(probe.dialogue.flows(), [""; 0]);
    let ping = build::icmp_echo().from("10.1.0.10").to("198.51.100.9").id(7).frame();
    probe.pass("int", &ping, "ext").unwrap();
    probe.wait(1);
    assert_eq!(probe.dialogue.flows().len(), 1);
    probe.wait(2);
    assert_eq!(probe.dialogue.flows(), [""; 0]);
}

/// Covers: 4787-6
#[test]
fn what_goes_out_keeps_the_mapping() {
    let mut probe = probe();
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    for server in [SERVER, "198.51.100.77:9", SERVER, "198.51.100.200:9", SERVER, SERVER] {
        probe.wait(110);
        assert_eq!(probe.outward(Protocol::Udp, HOST, server).as_ref(), Some(&external));
    }
}

/// Covers: 4787-6a
#[test]
fn what_the_partner_sends_keeps_the_mapping() {
    let mut probe = probe();
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    for _ in 0..4 {
        probe.wait(110);
        assert!(probe.inward(Protocol::Udp, SERVER, &external).is_some());
    }
    assert_eq!(probe.outward(Protocol::Udp, HOST, "198.51.100.77:9"), Some(external));
}

/// Covers: 7857-7
#[test]
fn what_strangers_send_does_not_keep_the_mapping_open() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, filtering: endpoint-independent"));
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    for _ in 0..3 {
        probe.wait(39);
        assert!(probe.inward(Protocol::Udp, "198.51.100.77:9", &external).is_some());
    }
    probe.wait(4);
    assert_eq!(probe.inward(Protocol::Udp, "198.51.100.78:9", &external), None);
}

/// Covers: 7857-7.1
#[test]
fn errors_that_answer_do_not_keep_the_mapping() {
    let mut probe = probe();
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    probe.wait(60);
    probe.dialogue.send("ext", &Protocol::Udp.frame(SERVER, &external));
    let (_, as_received) = probe.dialogue.sent[0].clone();
    for _ in 0..4 {
        probe.wait(60);
        let error = build::icmp_error_about(&as_received, 3, 3, [0; 4]).from("10.1.0.10");
        assert_eq!(probe.dialogue.flows().len(), 1);
        probe.dialogue.send("int", &error.frame());
        assert_eq!(probe.dialogue.left().len(), 1, "the error passes");
    }
    probe.wait(59);
    assert_eq!(probe.dialogue.flows().len(), 1);
    probe.wait(1);
    assert_eq!(probe.dialogue.flows(), [""; 0]);
}

/// Covers: 4787-12, 4787-12a, 4787-12b, 5382-9, 5382-10
#[test]
fn no_error_ends_a_mapping_whoever_sends_it() {
    for protocol in super::probe::BOTH {
        let mut probe = probe();
        let external = probe.outward(protocol, HOST, SERVER).unwrap();
        let (_, as_sent) = probe.dialogue.sent[0].clone();
        // "Fragmentation needed" has an MTU to be believed, which these packets are too small for.
        for code in (0..16).filter(|code| *code != 4) {
            for from in ["198.51.100.9", "192.0.2.77"] {
                let error = build::icmp_error_about(&as_sent, 3, code, [0; 4]).from(from).frame();
                probe.dialogue.send("ext", &error);
                let left = probe.dialogue.left();
                let about = format!("> 10.1.0.10 error 3/{code}");
                assert!(left[0].contains(&about), "{protocol:?} {from} {code}: {left:?}");
            }
        }
        assert_eq!(probe.dialogue.flows().len(), 1);
        assert_eq!(probe.outward(protocol, HOST, "198.51.100.77:9"), Some(external.clone()));
        assert_eq!(probe.inward(protocol, SERVER, &external).as_deref(), Some(HOST));
    }
}
