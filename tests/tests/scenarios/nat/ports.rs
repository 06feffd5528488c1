//! Which ports source NAT gives out, to whom, and what happens when there are none left.

use gabion_engine::build;

use super::probe::{BOTH, Probe, Protocol, out, policy, port};
use crate::scenarios::dialogue::Dialogue;

const SERVER: &str = "198.51.100.9:53";

/// Covers: 4787-3a
#[test]
fn the_class_of_a_port_is_kept() {
    for mapping in ["endpoint-independent", "symmetric"] {
        for protocol in BOTH {
            let how = format!("address: 203.0.113.16, ports: 1-65535, mapping: {mapping}");
            let mut probe = Probe::new(&out(&how));
            for inside in [1, 500, 1_023, 1_024, 5_000, 65_535] {
                let from = format!("10.1.0.10:{inside}");
                let seen = port(&probe.outward(protocol, &from, SERVER).unwrap());
                assert_eq!(seen < 1_024, inside < 1_024, "{inside} became {seen}");
            }
        }
    }
}

/// Azure's hosts drop what comes from it.
#[test]
fn udp_port_65330_is_given_to_nobody() {
    for mapping in ["endpoint-independent", "symmetric"] {
        let how = format!("address: 203.0.113.16, ports: 65326-65333, mapping: {mapping}");
        let mut probe = Probe::new(&out(&how));
        let mut given = |protocol| {
            let asked = (0..8).filter_map(|number| {
                let from = format!("10.1.0.{}:65330", 10 + number);
                probe.outward(protocol, &from, SERVER).map(|seen| port(&seen))
            });
            let mut given: Vec<u16> = asked.collect();
            given.sort_unstable();
            given
        };
        assert_eq!(given(Protocol::Udp), [65_326, 65_327, 65_328, 65_329, 65_331, 65_332, 65_333]);
        assert_eq!(given(Protocol::Tcp), (65_326..=65_333).collect::<Vec<_>>());
    }
}

/// The pool of one host is not another's: who opens a thousand sockets does not take the others'.
///
/// Covers: 6888-4
#[test]
fn a_host_holds_as_many_ports_as_its_rule_says() {
    for mapping in ["endpoint-independent", "symmetric"] {
        let how = format!(
            "address: 203.0.113.16-203.0.113.17, ports: 2000-2999, mapping: {mapping}, \
             ports-per-source: 3"
        );
        let mut probe = Probe::new(&out(&how));
        for host in ["10.1.0.10", "10.1.0.11"] {
            // Of all protocols together.
            assert!(probe.outward(Protocol::Udp, &format!("{host}:5000"), SERVER).is_some());
            assert!(probe.outward(Protocol::Tcp, &format!("{host}:5000"), SERVER).is_some());
            assert!(probe.outward(Protocol::Udp, &format!("{host}:5001"), SERVER).is_some());
            let fourth = Protocol::Udp.frame(&format!("{host}:5002"), SERVER);
            let told = format!(
                "int: icmp 10.1.0.1 > {host} error 3/13 about [udp {host}:5002 > {SERVER}] ttl 64"
            );
            probe.dialogue.step("int", &fourth, &[&told], &["reject:nat-port-quota"]);
            // What it has goes on.
            assert!(probe.outward(Protocol::Udp, &format!("{host}:5000"), SERVER).is_some());
        }
        // What ends is had again.
        probe.wait(121);
        assert!(probe.outward(Protocol::Udp, "10.1.0.10:5002", SERVER).is_some());
    }
}

/// Covers: 3.11, 5508-8, 6888-11
#[test]
fn an_exhausted_pool_answers_within_the_budget_and_recovers() {
    let policy = policy(&out("address: 203.0.113.16, ports: 2000-2009"))
        .replace("settings:", "settings:\n  flood: { answers-per-second: 5 }");
    let mut probe = Probe { dialogue: Dialogue::new(&policy) };
    for round in 0..3 {
        for number in 0..10 {
            let from = format!("10.1.0.10:{}", 5_000 + number);
            assert!(probe.outward(Protocol::Udp, &from, SERVER).is_some(), "round {round}");
        }
        let mut told = 0;
        for number in 10..1_000 {
            let from = format!("10.1.{}.{}:5000", number / 200, 10 + number % 200);
            probe.dialogue.send("int", &Protocol::Udp.frame(&from, SERVER));
            told += probe.dialogue.left().iter().filter(|left| left.contains("error 3/13")).count();
        }
        assert!((1..=5).contains(&told), "{told} answers in one second");
        // Those that have a port are not disturbed, and new ones find one when they are gone.
        assert!(probe.outward(Protocol::Udp, "10.1.0.10:5000", SERVER).is_some());
        assert_eq!(probe.dialogue.flows().len(), 10);
        probe.wait(121);
        assert_eq!(probe.dialogue.flows(), [""; 0]);
    }
}

/// RFC 6888 REQ-8: only where whoever had the port before could have let strangers in.
#[test]
fn a_port_that_strangers_could_use_rests_before_it_is_anothers() {
    for (filtering, protocol, rests) in [
        ("endpoint-independent", Protocol::Udp, true),
        ("address-dependent", Protocol::Udp, false),
        ("endpoint-independent", Protocol::Tcp, false),
    ] {
        let how = format!("address: 203.0.113.16, ports: 2000-2000, filtering: {filtering}");
        let mut probe = Probe::new(&out(&how));
        assert!(probe.outward(protocol, "10.1.0.10:5000", SERVER).is_some());
        probe.wait(121);
        let next = probe.outward(protocol, "10.1.0.11:5000", SERVER);
        assert_eq!(next.is_none(), rests, "{filtering} {protocol:?}");
        probe.wait(120);
        assert!(probe.outward(protocol, "10.1.0.12:5000", SERVER).is_some());
    }
}

/// CVE-2021-3773: with the port of a service of the node or of a published server, an inside host would
/// get what that service's client sends.
///
/// Covers: 3.3
#[test]
fn ports_of_services_are_nobody_elses() {
    let publish = "  - { name: publish, kind: dnat, from: internet, to: 203.0.113.16, \
                   service: [tcp/2000-2001, udp/2002], target: 10.1.0.20 }\n";
    for mapping in ["endpoint-independent", "symmetric"] {
        let how = format!("address: 203.0.113.16, ports: 2000-2003, mapping: {mapping}");
        let mut probe = Probe::new(&(publish.to_owned() + &out(&how)));
        for (protocol, free) in [(Protocol::Tcp, [2_002, 2_003]), (Protocol::Udp, [2_000, 2_001])] {
            let mut seen: Vec<u16> = (0..8)
                .filter_map(|number| {
                    let from = format!("10.1.0.10:{}", 2_000 + number);
                    probe.outward(protocol, &from, SERVER).map(|seen| port(&seen))
                })
                .collect();
            seen.sort_unstable();
            assert_eq!(seen[..2], free, "{mapping} {protocol:?}: {seen:?}");
        }
        // The server's client, from the very port that the hosts have talked to.
        let client = probe.inward(Protocol::Tcp, SERVER, "203.0.113.16:2000");
        assert_eq!(client.as_deref(), Some("10.1.0.20:2000"));
    }
    // The node's own service.
    let mut probe = Probe::new(&out("address: self, ports: 4480-4481"));
    let seen = probe.outward(Protocol::Tcp, "10.1.0.10:4480", SERVER);
    assert_eq!(seen.as_deref(), Some("203.0.113.1:4481"));
    assert_eq!(probe.outward(Protocol::Tcp, "10.1.0.11:4480", SERVER), None);
}

#[test]
fn an_address_that_is_published_whole_still_translates() {
    let publish = "  - { name: publish, kind: dnat, from: internet, to: 203.0.113.16, \
                   target: 10.1.0.20 }\n";
    let mut probe = Probe::new(&(publish.to_owned() + &out("address: 203.0.113.16")));
    let seen = probe.outward(Protocol::Udp, "10.1.0.10:5000", SERVER).unwrap();
    assert_eq!(probe.inward(Protocol::Udp, SERVER, &seen).as_deref(), Some("10.1.0.10:5000"));
    let stranger = probe.inward(Protocol::Udp, "198.51.100.77:9", &seen);
    assert_eq!(stranger, Some(format!("10.1.0.20:{}", port(&seen))));
}

/// Regression: a mapping beside connections that shared ports of its address met their remote
/// endpoints, and was refused as `nat-conflict` for as long as they lived.
#[test]
fn mappings_and_shared_ports_of_one_address_are_apart() {
    let rule = |name: &str, source: &str, mapping: &str| {
        format!(
            "  - {{ name: {name}, kind: snat, from: spokes, out: internet, source: {source}, \
             address: 203.0.113.16, ports: 2000-2031, mapping: {mapping} }}\n"
        )
    };
    let nat =
        rule("one", "10.1.0.10", "symmetric") + &rule("two", "10.1.0.11", "endpoint-independent");
    let mut probe = Probe::new(&nat);
    let mut shared = Vec::new();
    for number in 0..12 {
        let from = format!("10.1.0.10:{}", 5_000 + number);
        shared.push(probe.outward(Protocol::Udp, &from, SERVER).unwrap());
        let from = format!("10.1.0.11:{}", 5_000 + number);
        let mapped = probe.outward(Protocol::Udp, &from, "198.51.100.77:9").unwrap();
        assert!(!shared.contains(&mapped));
        assert_eq!(probe.outward(Protocol::Udp, &from, SERVER), Some(mapped));
    }
    // When the connections are over, mappings get their ports.
    probe.wait(121);
    for number in 0..32 {
        let from = format!("10.1.0.11:{}", 5_000 + number);
        assert!(probe.outward(Protocol::Udp, &from, SERVER).is_some(), "{number}");
    }
}

/// Regression: a pool that no link of the node has was forwarded back to where it is routed from.
#[test]
fn a_routed_pool_is_the_nodes_even_without_a_mapping() {
    let mut probe = Probe::new(&out("address: 192.88.99.0/28"));
    let external = probe.outward(Protocol::Udp, "10.1.0.10:5000", SERVER).unwrap();
    assert_eq!(probe.inward(Protocol::Udp, SERVER, &external).as_deref(), Some("10.1.0.10:5000"));
    for to in ["192.88.99.3:9", "192.88.99.15:2000"] {
        let stranger = Protocol::Udp.frame("198.51.100.77:9", to);
        probe.dialogue.step("ext", &stranger, &[], &["drop:nat-filtered"]);
    }
    let ping = build::icmp_echo().from("198.51.100.77").to("192.88.99.3").id(7).frame();
    probe.dialogue.step("ext", &ping, &[], &["drop:nat-filtered"]);
}

/// A port that connections share is theirs until the last of them has ended.
///
/// Covers: 4787-3, 7857-3
#[test]
fn a_shared_port_is_nobodys_else_while_one_connection_has_it() {
    let mut probe = Probe::new(
        "  - { name: shared, kind: snat, from: spokes, out: internet, service: udp/53,
      address: 203.0.113.16, ports: 2000, mapping: symmetric }
  - { name: mapped, kind: snat, from: spokes, out: internet, address: 203.0.113.16, ports: 2000 }
",
    );
    let external = Some("203.0.113.16:2000".to_owned());
    let (inside, later) = ("10.1.0.10:5000", "198.51.100.77:53");
    assert_eq!(probe.outward(Protocol::Udp, inside, "198.51.100.9:53"), external);
    assert_eq!(probe.outward(Protocol::Udp, inside, later), external);
    probe.wait(119);
    assert_eq!(probe.outward(Protocol::Udp, inside, later), external);
    probe.wait(2);
    assert_eq!(probe.dialogue.flows().len(), 1, "the first has ended");
    assert_eq!(probe.outward(Protocol::Udp, "10.1.0.11:7000", "198.51.100.9:99"), None);
    probe.wait(120);
    assert_eq!(probe.outward(Protocol::Udp, "10.1.0.11:7000", "198.51.100.9:99"), external);
}
