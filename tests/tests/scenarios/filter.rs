//! What rules decide, and what is dropped before they are asked.

use gabion_engine::{DropReason, Event, Network, build};
use gabion_tests::network::network;

use super::POLICY;
use super::dialogue::Dialogue;

#[test]
fn the_default_drops_and_is_named() {
    let mut dialogue = Dialogue::new(POLICY);
    let frame = build::tcp().from("198.51.100.9:1025").to("10.1.0.10:8080").syn().frame();
    dialogue.step("ext", &frame, &[], &["drop:rule-drop"]);
    let Some(Event::Denied(denial)) = dialogue.events.pop() else { panic!("not logged") };
    assert_eq!(denial.reason, DropReason::RuleDrop);
    let rule = denial.decided.expect("a rule was asked").rule;
    let loaded = gabion_rules::load("scenario.yaml", POLICY, None).unwrap();
    assert_eq!(loaded.rule_set.rules()[rule.0 as usize].name, "default:internet->spokes");
    assert_eq!(dialogue.engine.rule_counters()[rule.0 as usize].hits, 1);
}

/// Two zones may both be where an address comes from, but a flow is of one: whoever sits behind the
/// other and knows its numbers can not take part in it.
///
/// Covers: CC-1.4, CC-1.5a, CC-1.5d
#[test]
fn a_flow_is_of_the_zones_that_it_began_between() {
    let policy = POLICY.replace(
        "  internet: { interfaces: [ext] }",
        "  internet: { interfaces: [ext] }\n  partner: { interfaces: [spare] }",
    );
    let mut dialogue = Dialogue::new(&policy);
    let query = build::udp().from("198.51.100.9:4000").to("10.1.0.10:53").frame();
    let onwards = "int: udp 198.51.100.9:4000 > 10.1.0.10:53 +0 ttl 63";
    dialogue.step("ext", &query, &[onwards], &["forwarded"]);
    dialogue.step("spare", &query, &[], &["drop:wrong-zone"]);
    let syn = build::tcp().from("198.51.100.9:4000").to("10.1.0.10:443").seq(1);
    dialogue.send("ext", &syn.clone().syn().frame());
    dialogue.step("spare", &syn.clone().syn().frame(), &[], &["drop:wrong-zone"]);
    dialogue.step("spare", &syn.seq(2).rst().frame(), &[], &["drop:wrong-zone"]);
    assert!(dialogue.flows().iter().any(|flow| flow.starts_with("syn-sent")));
}

#[test]
fn reject_answers_and_drop_is_silent() {
    let mut dialogue = Dialogue::new(POLICY);
    let tcp = |port: u16| build::tcp().from("198.51.100.9:1025").to(&format!("10.1.0.10:{port}"));
    dialogue.step(
        "ext",
        &tcp(23).syn().seq(7).frame(),
        &["ext: tcp 10.1.0.10:23 > 198.51.100.9:1025 R. ttl 64"],
        &["reject:rule-reject"],
    );
    let udp = build::udp().from("198.51.100.9:1025").to("10.1.0.10:514").payload(b"x").frame();
    dialogue.step(
        "ext",
        &udp,
        &["ext: icmp 203.0.113.1 > 198.51.100.9 error 3/13 about \
           [udp 198.51.100.9:1025 > 10.1.0.10:514] ttl 64"],
        &["reject:rule-reject"],
    );
    let udp = build::udp().from("[2600:9::9]:1025").to("[2600:2::10]:514").payload(b"x").frame();
    dialogue.step(
        "ext",
        &udp,
        &["ext: icmpv6 2600:1::1 > 2600:9::9 error 1/1 about \
           [udp 2600:9::9:1025 > 2600:2::10:514] ttl 64"],
        &["reject:rule-reject"],
    );
    dialogue.step("ext", &tcp(25).syn().frame(), &[], &["drop:rule-drop"]);
}

#[test]
fn a_monitor_rule_counts_and_never_decides() {
    let mut dialogue = Dialogue::new(POLICY);
    let frame = build::tcp().from("10.1.0.10:1025").to("198.51.100.9:80").syn().frame();
    let before = dialogue.engine.rule_counters().to_vec();
    dialogue.engine.handle_frame(
        dialogue.now,
        gabion_engine::InterfaceId(1),
        &mut gabion_engine::Frame {
            bytes: &mut frame.clone(),
            offload: gabion_engine::Offload::default(),
        },
    );
    let loaded = gabion_rules::load("scenario.yaml", POLICY, None).unwrap();
    let hit: Vec<&str> = loaded
        .rule_set
        .rules()
        .iter()
        .zip(dialogue.engine.rule_counters().iter().zip(&before))
        .filter(|(_, (after, before))| after.hits > before.hits)
        .map(|(rule, _)| rule.name.as_str())
        .collect();
    assert_eq!(hit, ["watch-out", "out"]);
}

#[test]
fn malformed_packets_are_dropped_before_rules() {
    let good = || build::tcp().from("198.51.100.9:1025").to("10.1.0.10:443").syn();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("bad IP checksum", good().bad_ip_checksum().frame(), "drop:ip-checksum"),
        ("source route", good().options(&[131, 3, 4]).frame(), "drop:ip-option"),
        ("version 7", good().lie_ip(0, &[0x75]).frame(), "drop:ip-header"),
        ("SYN with FIN", good().fin().frame(), "drop:tcp-flags"),
        ("short TCP header", good().lie_transport(12, &[0x10]).frame(), "drop:transport-truncated"),
        ("cut off", good().frame()[..40].to_vec(), "drop:ip-header"),
        ("multicast source", good().from("224.0.0.1:1025").frame(), "drop:martian-source"),
        ("loopback source", good().from("127.0.0.1:1025").frame(), "drop:martian-source"),
        ("class E", good().to("240.0.0.1:443").frame(), "drop:martian-destination"),
        ("inside source", good().from("10.1.0.77:1025").frame(), "drop:spoofed-source"),
        ("the node's source", good().from("203.0.113.1:1025").frame(), "drop:spoofed-source"),
        ("to itself", good().from("198.51.100.9:1").to("198.51.100.9:2").frame(), "drop:land"),
        ("other host", good().macs([2; 6], [4; 6]).frame(), "drop:other-host"),
        ("ICMP redirect", build::icmp(5, 0, [0; 4]).frame(), "drop:icmp-type"),
        ("runt", vec![0; 10], "drop:frame-truncated"),
    ];
    let mut dialogue = Dialogue::new(POLICY);
    for (name, frame, counter) in cases {
        println!("{name}");
        dialogue.step("ext", frame, &[], &[counter]);
    }
    assert_eq!(dialogue.flows(), [""; 0]);
}

/// Covers: CC-1.1a, CC-1.1c, 3.20
#[test]
fn nothing_passes_before_policy_guard_and_network_are_there() {
    let frame = build::tcp().from("198.51.100.9:1025").to("10.1.0.10:443").syn().frame();
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.engine.close();
    dialogue.step("ext", &frame, &[], &["drop:not-ready"]);
    dialogue.engine.open();
    dialogue.step(
        "ext",
        &frame,
        &["int: tcp 198.51.100.9:1025 > 10.1.0.10:443 S ttl 63"],
        &["forwarded"],
    );
    dialogue.step("spare", &frame, &[], &["drop:no-zone"]);
}

/// Covers: 6092-8, 6092-9, 6092-50, 3.20
#[test]
fn health_probes_and_dhcp_are_the_hosts() {
    let mut dialogue = Dialogue::new(POLICY);
    let probe = build::tcp().from("168.63.129.16:50000").to("203.0.113.1:4480").syn().frame();
    dialogue.step("ext", &probe, &[], &["local"]);
    let other = build::tcp().from("198.51.100.9:50000").to("203.0.113.1:22").syn().frame();
    dialogue.step("ext", &other, &[], &["drop:to-node"]);
    // Neither names nor addresses nor management are served to anybody.
    for address in ["203.0.113.1", "[2600:1::1]"] {
        let from =
            if address.starts_with('[') { "[2600:9::9]:50000" } else { "198.51.100.9:50000" };
        let query = build::udp().from(from).to(&format!("{address}:53")).frame();
        dialogue.step("ext", &query, &[], &["drop:to-node"]);
        for port in [53, 4_443, 9_090, 50_051] {
            let syn = build::tcp().from(from).to(&format!("{address}:{port}")).syn().frame();
            dialogue.step("ext", &syn, &[], &["drop:to-node"]);
        }
    }
    let solicit = build::udp().from("[fe80::9]:546").to("[ff02::1:2]:547").frame();
    dialogue.step("ext", &solicit, &[], &["drop:martian-source"]);
    let offer = build::udp().from("203.0.113.254:67").to("203.0.113.1:68").frame();
    dialogue.step("ext", &offer, &[], &["local"]);
}

/// On Azure: what its services answer to the node's own addresses is the host's, whatever the policy says; what goes by the node
/// is not.
#[test]
fn answers_of_the_platforms_services_are_the_hosts() {
    let drop_all = POLICY.replace("action: allow", "action: drop");
    let mut dialogue = Dialogue::new(&drop_all);
    let name = build::udp().from("168.63.129.16:53").to("203.0.113.1:40000").frame();
    let wire = build::tcp().from("168.63.129.16:80").to("203.0.113.1:40000").syn().ack(1).frame();
    let probe = build::tcp().from("168.63.129.16:50000").to("10.1.0.1:4480").syn().frame();
    for frame in [&name, &wire] {
        dialogue.step("ext", frame, &[], &["drop:martian-source"]);
    }
    let services = vec!["168.63.129.16".parse().unwrap()];
    dialogue.engine.set_network(Network { host_services: services, ..network() });
    for frame in [&name, &wire] {
        dialogue.step("ext", frame, &[], &["local"]);
    }
    dialogue.step("int", &probe, &[], &["local"]);
    let through = build::udp().from("168.63.129.16:53").to("10.1.0.10:40000").frame();
    dialogue.step("ext", &through, &[], &["drop:martian-source"]);
}

/// The node's own host answers whatever comes to it by these addresses, as if the node had asked: with the wire server and the metadata
/// service goes the VM's identity. Nobody reaches them through the node, and nobody sends in their name, whatever the rules say.
#[test]
fn nobody_reaches_the_platforms_services_through_the_node() {
    let mut dialogue = Dialogue::new(super::ALLOW_ALL);
    let services: Vec<std::net::IpAddr> =
        ["168.63.129.16", "169.254.169.254"].map(|address| address.parse().unwrap()).into();
    for host_services in [Vec::new(), services.clone()] {
        dialogue.engine.set_network(Network { host_services, ..network() });
        for service in &services {
            for (side, other) in [("int", "10.1.0.10"), ("ext", "198.51.100.9")] {
                for port in [53, 80, 443, 32_526] {
                    let (us, them) = (format!("{other}:40000"), format!("{service}:{port}"));
                    let ask = build::tcp().from(&us).to(&them).syn().frame();
                    dialogue.step(side, &ask, &[], &["drop:martian-destination"]);
                    let ask = build::udp().from(&us).to(&them).frame();
                    dialogue.step(side, &ask, &[], &["drop:martian-destination"]);
                }
            }
            // In their name, to whom rules would let pass.
            for port in [4_480, 443] {
                let from = format!("{service}:50000");
                let claim = build::tcp().from(&from).to(&format!("10.1.0.10:{port}")).syn();
                dialogue.step("ext", &claim.frame(), &[], &["drop:martian-source"]);
            }
        }
    }
}

#[test]
fn unique_local_addresses_stay_inside() {
    // RFC 6092 REC-7, whatever the rules permit.
    let policy = POLICY.replace("'2600:2::/32'", "'2600:2::/32', 'fd00:2::/32'");
    let mut dialogue = Dialogue::new(&policy);
    let dns = |from: &str, to: &str| build::udp().from(from).to(to).payload(b"?").frame();
    let from_outside = dns("[fd00:9::9]:1025", "[2600:2::10]:53");
    dialogue.step("ext", &from_outside, &[], &["drop:martian-source"]);
    let to_inside = dns("[2600:9::9]:1025", "[fd00:2::10]:53");
    dialogue.change_network(|network| {
        let mut route = network.routes[3].clone();
        route.prefix = "fd00:2::/32".parse().unwrap();
        network.routes.push(route);
    });
    dialogue.step("ext", &to_inside, &[], &["drop:martian-destination"]);
    let to_outside = dns("[fd00:2::10]:1025", "[2600:9::9]:53");
    dialogue.step("int", &to_outside, &[], &["drop:martian-source"]);
}

/// The guard lets probes through to the node's own addresses; the same port of others is the rules'.
#[test]
fn the_ports_of_the_host_are_others_too() {
    let mut dialogue = Dialogue::new(super::ALLOW_ALL);
    let syn = build::tcp().syn().seq(1).from("198.51.100.9:40000").to("10.1.0.10:4480").frame();
    dialogue.step(
        "ext",
        &syn,
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:4480 S ttl 63"],
        &["forwarded"],
    );
}

/// An answer would go to all of it.
#[test]
fn who_has_a_groups_link_address_is_not_answered() {
    let mut dialogue = Dialogue::new(POLICY);
    let mut syn = build::tcp().syn().seq(1).from("198.51.100.9:40000").to("10.1.0.10:23").frame();
    syn[6] |= 1;
    dialogue.step("ext", &syn, &[], &["drop:rule-reject"]);
}

/// RFC 1812 section 5.3.1: a packet that has one hop left has reached its last, here as anywhere.
///
/// Covers: 5508-10a
#[test]
fn nobody_takes_a_packets_last_hop() {
    for (from, to, told) in [
        ("198.51.100.9:2000", "10.1.0.10:53", "ext: icmp 203.0.113.1 > 198.51.100.9 error 11/0"),
        ("[2600:9::9]:2000", "[2600:2::10]:53", "ext: icmpv6 2600:1::1 > 2600:9::9 error 3/0"),
    ] {
        let mut dialogue = Dialogue::new(POLICY);
        for (hops, begins) in [(0, told), (1, told), (2, "int: udp")] {
            dialogue.send("ext", &build::udp().from(from).to(to).hop_limit(hops).frame());
            let left = dialogue.left();
            assert!(left.len() == 1 && left[0].starts_with(begins), "{hops}: {left:?}");
        }
    }
}
