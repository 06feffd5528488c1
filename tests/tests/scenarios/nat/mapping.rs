//! Which external endpoint stands for an inside socket (RFC 4787 section 4).

use std::collections::{BTreeMap, BTreeSet};

use super::probe::{BOTH, Probe, Protocol, address, out, policy, port};

const POOL: &str = "address: 203.0.113.16-203.0.113.19, ports: 1024-65535";

/// Covers: 4787-1, 5382-1
#[test]
fn one_inside_socket_has_one_endpoint_for_all_servers() {
    for protocol in BOTH {
        let mut probe = Probe::new(&out(POOL));
        let seen: BTreeSet<Option<String>> =
            ["198.51.100.9:53", "198.51.100.9:54", "198.51.100.77:53", "198.51.100.200:9"]
                .map(|server| probe.outward(protocol, "10.1.0.10:5000", server))
                .into();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let other = probe.outward(protocol, "10.1.0.10:5001", "198.51.100.9:53");
        assert!(other.is_some() && !seen.contains(&other));
    }
}

/// Covers: 4787-2, 6888-2, 7857-4
#[test]
fn one_inside_host_has_one_external_address_as_long_as_it_has_ports() {
    for mapping in ["endpoint-independent", "symmetric"] {
        let mut probe = Probe::new(&out(&format!("{POOL}, mapping: {mapping}")));
        let mut used = BTreeSet::new();
        for host in 10..40 {
            let addresses: BTreeSet<String> = (5_000..5_020)
                .map(|port| {
                    let from = format!("10.1.0.{host}:{port}");
                    let seen = probe.outward(Protocol::Udp, &from, "198.51.100.9:53").unwrap();
                    address(&seen).to_owned()
                })
                .collect();
            assert_eq!(addresses.len(), 1, "{mapping}, host {host}: {addresses:?}");
            used.extend(addresses);
        }
        assert!(used.len() > 1, "hosts are spread over the pool");
    }
    // RFC 7857 section 4: a full address does not stop the host, it gets ports of another.
    let mut probe = Probe::new(&out("address: 203.0.113.16-203.0.113.17, ports: 2000-2003"));
    let mut addresses = BTreeMap::new();
    for port in 5_000..5_008 {
        let from = format!("10.1.0.10:{port}");
        let seen = probe.outward(Protocol::Udp, &from, "198.51.100.9:53").unwrap();
        *addresses.entry(address(&seen).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(Vec::from_iter(addresses.into_values()), [4, 4]);
}

/// Covers: 4787-3, 5382-7
#[test]
fn no_two_inside_sockets_share_an_endpoint() {
    for protocol in BOTH {
        let mut probe = Probe::new(&out("address: 203.0.113.16, ports: 2000-2255"));
        let mut taken = BTreeSet::new();
        for number in 0..256_u16 {
            let from = format!("10.1.{}.10:{}", number % 8, 5_000 + number / 8);
            let seen = probe.outward(protocol, &from, "198.51.100.9:53").unwrap();
            assert!(taken.insert(seen.clone()), "{seen} twice");
        }
    }
}

/// Covers: 7857-3
#[test]
fn symmetric_mappings_share_a_port_where_the_remote_endpoints_differ() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, ports: 2000-2000, mapping: symmetric"));
    for server in ["198.51.100.9:53", "198.51.100.9:54", "198.51.100.77:53"] {
        for (host, served) in [("10.1.0.10:5000", true), ("10.1.0.11:5000", false)] {
            let seen = probe.outward(Protocol::Udp, host, server);
            assert_eq!(seen.as_deref(), served.then_some("203.0.113.16:2000"));
        }
        let back = probe.inward(Protocol::Udp, server, "203.0.113.16:2000");
        assert_eq!(back.as_deref(), Some("10.1.0.10:5000"));
    }
}

/// Covers: 7857-5, 7857-6
#[test]
fn udp_and_tcp_have_mappings_of_their_own() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, filtering: endpoint-independent"));
    let from = "10.1.0.10:5000";
    let tcp = probe.outward(Protocol::Tcp, from, "198.51.100.9:53").unwrap();
    let udp = probe.outward(Protocol::Udp, from, "198.51.100.9:53").unwrap();
    assert_ne!(tcp, udp, "chosen apart");
    assert_eq!(probe.inward(Protocol::Udp, "198.51.100.77:9", &udp).as_deref(), Some(from));
    assert_eq!(probe.inward(Protocol::Udp, "198.51.100.77:9", &tcp), None);
    assert_eq!(probe.inward(Protocol::Tcp, "198.51.100.77:9", &udp), None);
    // The UDP mapping ends; TCP's stays.
    probe.dialogue.send("int", &Protocol::Tcp.frame(from, "198.51.100.9:53"));
    probe.wait(20);
    probe.dialogue.send("int", &Protocol::Tcp.frame(from, "198.51.100.9:53"));
    assert_eq!(probe.outward(Protocol::Tcp, from, "198.51.100.77:53"), Some(tcp));
}

/// Covers: 4787-11
#[test]
fn a_nat_behaves_the_same_empty_nearly_full_and_full() {
    // 100 ports for the hosts under test and those that fill it.
    let behaviour = |fill: u16| {
        let mut probe = Probe::new(&out(
            "address: 203.0.113.16, ports: 2000-2099, filtering: address-dependent",
        ));
        let host = "10.1.0.10:5000";
        let server = "198.51.100.9:53";
        let first = probe.outward(Protocol::Udp, host, server).unwrap();
        for number in 1..fill {
            let from = format!("10.1.0.20:{}", 6_000 + number);
            assert!(probe.outward(Protocol::Udp, &from, server).is_some(), "{number}");
        }
        [
            probe.outward(Protocol::Udp, host, server).as_ref() == Some(&first),
            probe.outward(Protocol::Udp, host, "198.51.100.77:53").as_ref() == Some(&first),
            probe.inward(Protocol::Udp, server, &first).as_deref() == Some(host),
            probe.inward(Protocol::Udp, "198.51.100.9:99", &first).as_deref() == Some(host),
            probe.inward(Protocol::Udp, "198.51.100.200:99", &first).is_none(),
        ]
    };
    for fill in [1, 90, 100] {
        assert_eq!(behaviour(fill), [true; 5], "{fill} of 100 ports");
    }
}

/// Covers: 6888-6
#[test]
fn translation_ends_where_the_rule_ends() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, destination: 198.51.100.9"));
    let seen = probe.outward(Protocol::Udp, "10.1.0.10:5000", "198.51.100.9:53").unwrap();
    assert_eq!(address(&seen), "203.0.113.16");
    let seen = probe.outward(Protocol::Udp, "10.1.0.10:5000", "198.51.100.200:53").unwrap();
    assert_eq!((address(&seen), port(&seen)), ("10.1.0.10", 5_000));
}

/// The commit has not come round to the flows yet: a new one takes no endpoint that the rule no
/// longer has.
///
/// Covers: 4787-1
#[test]
fn a_mapping_outside_the_pool_in_force_is_not_used_again() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    let before = probe.outward(Protocol::Udp, "10.1.0.10:5000", "198.51.100.9:53").unwrap();
    assert_eq!(address(&before), "203.0.113.16");
    probe.dialogue.commit(&policy(&out("address: 203.0.113.17")));
    let after = probe.outward(Protocol::Udp, "10.1.0.10:5000", "198.51.100.200:53").unwrap();
    assert_eq!(address(&after), "203.0.113.17");
    let again = probe.outward(Protocol::Udp, "10.1.0.10:5000", "198.51.100.9:53");
    assert_eq!(again, Some(after), "one endpoint for both");
}
