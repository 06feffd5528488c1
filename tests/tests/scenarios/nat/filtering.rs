//! Who may send to an external endpoint (RFC 4787 section 5), asked as RFC 5780 section 4.4 does.

use super::probe::{BOTH, Probe, Protocol, out, policy};

const HOST: &str = "10.1.0.10:5000";
const SERVER: &str = "198.51.100.9:53";

/// Who gets in: whom the socket has sent to, its other ports, anybody.
const TABLE: [(&str, [bool; 3]); 4] = [
    ("", [true, false, false]),
    (", filtering: address-and-port-dependent", [true, false, false]),
    (", filtering: address-dependent", [true, true, false]),
    (", filtering: endpoint-independent", [true, true, true]),
];

/// Covers: 4787-8a, 5382-3a
#[test]
fn each_filtering_lets_in_whom_it_says() {
    for protocol in BOTH {
        for (filtering, expected) in TABLE {
            // Each probe meets a mapping that nobody else has probed.
            let admitted = [SERVER, "198.51.100.9:99", "198.51.100.77:99"].map(|from| {
                let mut probe = Probe::new(&out(&format!("address: 203.0.113.16{filtering}")));
                let external = probe.outward(protocol, HOST, SERVER).unwrap();
                probe.inward(protocol, from, &external).as_deref() == Some(HOST)
            });
            assert_eq!(admitted, expected, "{protocol:?}{filtering}");
        }
    }
}

/// Whom a mapping has sent to is read from its flows when a policy first asks for it, and again when
/// one asks that comes after one that did not.
///
/// Covers: 4787-8a
#[test]
fn a_policy_that_asks_whom_a_mapping_has_sent_to_is_told_of_those_before_it() {
    let strict = out("address: 203.0.113.16");
    let by_address = policy(&out("address: 203.0.113.16, filtering: address-dependent"));
    for protocol in BOTH {
        let mut probe = Probe::new(&strict);
        let external = probe.outward(protocol, HOST, SERVER).unwrap();
        assert_eq!(probe.inward(protocol, "198.51.100.9:90", &external), None);
        probe.dialogue.commit(&by_address);
        let known = probe.inward(protocol, "198.51.100.9:91", &external);
        assert_eq!(known.as_deref(), Some(HOST), "{protocol:?}");
        assert_eq!(probe.inward(protocol, "198.51.100.77:91", &external), None);

        probe.dialogue.commit(&policy(&strict));
        assert_eq!(probe.outward(protocol, HOST, "198.51.100.44:53"), Some(external.clone()));
        assert_eq!(probe.inward(protocol, "198.51.100.44:92", &external), None);
        probe.dialogue.commit(&by_address);
        for known in ["198.51.100.9:93", "198.51.100.44:93"] {
            let inside = probe.inward(protocol, known, &external);
            assert_eq!(inside.as_deref(), Some(HOST), "{protocol:?} {known}");
        }
        assert_eq!(probe.inward(protocol, "198.51.100.77:93", &external), None);
    }
}

/// Covers: 5382-3b
#[test]
fn filtering_may_differ_between_tcp_and_udp() {
    let rule = |name: &str, service: &str, filtering: &str| {
        format!(
            "  - {{ name: {name}, kind: snat, from: spokes, out: internet, service: {service}, \
             address: 203.0.113.16, filtering: {filtering} }}\n"
        )
    };
    let nat = rule("udp", "udp", "endpoint-independent")
        + &rule("tcp", "tcp", "address-and-port-dependent");
    let mut probe = Probe::new(&nat);
    let udp = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    let tcp = probe.outward(Protocol::Tcp, HOST, SERVER).unwrap();
    assert!(probe.inward(Protocol::Udp, "198.51.100.77:99", &udp).is_some());
    assert!(probe.inward(Protocol::Tcp, "198.51.100.77:99", &tcp).is_none());
}

#[test]
fn rules_still_decide_about_strangers_that_a_mapping_admits() {
    let nat = out("address: 203.0.113.16, filtering: endpoint-independent");
    let policy = policy(&nat).replace(
        "rules: []",
        "rules: [{ name: no-strangers, from: internet, to: spokes, action: drop }]",
    );
    let mut probe = Probe { dialogue: crate::scenarios::dialogue::Dialogue::new(&policy) };
    let external = probe.outward(Protocol::Udp, HOST, SERVER).unwrap();
    assert_eq!(probe.inward(Protocol::Udp, SERVER, &external).as_deref(), Some(HOST));
    let stranger = Protocol::Udp.frame("198.51.100.77:9", &external);
    probe.dialogue.step("ext", &stranger, &[], &["drop:rule-drop"]);
}
