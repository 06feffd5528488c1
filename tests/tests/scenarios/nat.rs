//! Destination NAT, outbound and inbound source NAT, hairpin.

use gabion_engine::build;

use super::POLICY;
use super::dialogue::Dialogue;

mod filtering;
mod hairpin;
mod identification;
mod leaks;
mod lifetime;
mod mapping;
mod model;
mod mtu;
mod portless;
mod ports;
mod probe;
mod queries;

#[test]
fn destination_nat_translates_there_and_back() {
    let mut dialogue = Dialogue::new(POLICY);
    let client = || build::tcp().from("198.51.100.9:40000").to("203.0.113.7:443").window(64_000);
    let server = || build::tcp().from("10.1.0.10:443").to("198.51.100.9:40000").window(64_000);
    dialogue.step(
        "ext",
        &client().syn().seq(1).frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "int",
        &server().syn().seq(9).ack(2).frame(),
        &["ext: tcp 203.0.113.7:443 > 198.51.100.9:40000 S. ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn destination_nat_changes_the_port() {
    let mut dialogue = Dialogue::new(POLICY);
    let frame = build::tcp().from("198.51.100.9:40000").to("203.0.113.7:2222").syn().frame();
    dialogue.step(
        "ext",
        &frame,
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:22 S ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn a_published_address_has_nothing_on_other_ports() {
    let mut dialogue = Dialogue::new(POLICY);
    let frame = build::tcp().from("198.51.100.9:40000").to("203.0.113.7:8080").syn().frame();
    dialogue.step("ext", &frame, &[], &["drop:nat-filtered"]);
}

#[test]
fn one_address_is_published_for_several_servers() {
    let mut dialogue = Dialogue::new(POLICY);
    let mut targets = std::collections::BTreeSet::new();
    for port in 40_000..40_064 {
        let from = format!("198.51.100.9:{port}");
        let frame = build::tcp().from(&from).to("203.0.113.8:443").syn().frame();
        let flows = dialogue.engine.flows(0, u32::MAX).0.len();
        let before = dialogue.engine.counters().forwarded;
        dialogue.send("ext", &frame);
        assert_eq!(dialogue.engine.counters().forwarded, before + 1);
        let flow = dialogue.engine.flows(0, u32::MAX).0[flows];
        targets.insert(flow.reply.source.to_string());
        // A retransmission goes to the same server.
        dialogue.send("ext", &frame);
        assert_eq!(dialogue.engine.flows(0, u32::MAX).0.len(), flows + 1);
    }
    assert_eq!(Vec::from_iter(targets), ["10.1.0.10:443", "10.1.0.11:443"]);
}

#[test]
fn inbound_snat_gives_the_server_the_nodes_own_address() {
    let mut dialogue = Dialogue::new(POLICY);
    let frame = build::tcp().from("198.51.100.9:40000").to("10.1.0.11:443").syn().seq(1).frame();
    dialogue.send("ext", &frame);
    let flow = dialogue.engine.flows(0, 1).0[0];
    let own = flow.reply.destination;
    assert_eq!(own.address.to_string(), "10.1.0.1");
    assert!((1_024..=65_000).contains(&own.port), "{own}");
    let reply = build::tcp().from("10.1.0.11:443").to(&own.to_string()).syn().seq(9).ack(2);
    dialogue.step(
        "int",
        &reply.window(64_000).frame(),
        &["ext: tcp 10.1.0.11:443 > 198.51.100.9:40000 S. ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn outbound_snat_maps_one_socket_to_one_endpoint() {
    // RFC 4787 REQ-1: the same external endpoint for every destination.
    let mut dialogue = Dialogue::new(POLICY);
    for destination in ["198.51.100.9:53", "198.51.100.9:54", "198.51.100.77:53"] {
        let frame = build::udp().from("10.1.0.10:5000").to(destination).payload(b"?").frame();
        dialogue.send("int", &frame);
    }
    let flows = dialogue.engine.flows(0, 10).0;
    let external = flows[0].reply.destination;
    assert_eq!(external.address.to_string(), "203.0.113.4");
    assert!(flows.iter().all(|flow| flow.reply.destination == external));
    let answer = build::udp().from("198.51.100.77:53").to(&external.to_string()).payload(b"!");
    dialogue.step(
        "ext",
        &answer.frame(),
        &["int: udp 198.51.100.77:53 > 10.1.0.10:5000 +1 ttl 63"],
        &["forwarded"],
    );
    // Address and port dependent filtering: a stranger is not let in.
    let stranger = build::udp().from("198.51.100.77:99").to(&external.to_string()).payload(b"!");
    dialogue.step("ext", &stranger.frame(), &[], &["drop:nat-filtered"]);
}

#[test]
fn queries_are_translated_by_their_identifier() {
    let mut dialogue = Dialogue::new(POLICY);
    let ping = build::icmp_echo().from("10.1.0.10").to("198.51.100.9").id(77).frame();
    dialogue.send("int", &ping);
    let flow = dialogue.engine.flows(0, 1).0[0];
    let external = flow.reply.destination;
    let reply = build::icmp_echo_reply().from("198.51.100.9").to("203.0.113.4").id(external.port);
    dialogue.step(
        "ext",
        &reply.frame(),
        &["int: icmp 198.51.100.9 > 10.1.0.10 reply 77 ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn a_published_server_is_reached_from_inside_by_its_outside_address() {
    // RFC 4787 REQ-9: with its own address as source the reply would go past the node.
    let mut dialogue = Dialogue::new(POLICY);
    let frame = build::tcp().from("10.1.0.20:40000").to("203.0.113.7:443").syn().seq(1).frame();
    dialogue.send("int", &frame);
    let flow = dialogue.engine.flows(0, 1).0[0];
    let external = flow.reply.destination;
    assert_eq!(external.address.to_string(), "203.0.113.4");
    let reply = build::tcp().from("10.1.0.10:443").to(&external.to_string()).syn().seq(9).ack(2);
    dialogue.step(
        "int",
        &reply.window(64_000).frame(),
        &["int: tcp 203.0.113.7:443 > 10.1.0.20:40000 S. ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn a_full_pool_refuses_with_code_13_and_recovers() {
    let policy = POLICY.replace("ports: 1024-65000", "ports: 2000-2001");
    let mut dialogue = Dialogue::new(&policy);
    for port in [5_000, 5_001] {
        let from = format!("10.1.0.10:{port}");
        dialogue.send("int", &build::udp().from(&from).to("198.51.100.9:53").frame());
    }
    let third = build::udp().from("10.1.0.10:5002").to("198.51.100.9:53").frame();
    dialogue.step(
        "int",
        &third,
        &["int: icmp 10.1.0.1 > 10.1.0.10 error 3/13 about \
           [udp 10.1.0.10:5002 > 198.51.100.9:53] ttl 64"],
        &["reject:nat-ports-exhausted"],
    );
    dialogue.wait(std::time::Duration::from_secs(121), &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
    dialogue.send("int", &third);
    assert_eq!(dialogue.flows().len(), 1);
}

#[test]
fn nobody_is_his_own_peer_by_hairpin() {
    let policy = POLICY
        .replace("ports: 1024-65000 }", "ports: 1024-65000, filtering: endpoint-independent }");
    let policy = policy.replace(
        "name: inside, from: spokes, to: spokes, service: https,",
        "name: inside, from: spokes, to: spokes,",
    );
    let mut dialogue = Dialogue::new(&policy);
    let out = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame();
    dialogue.send("int", &out);
    let external = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
    let to_itself = build::udp().from("10.1.0.10:5000").to(&external).frame();
    dialogue.step("int", &to_itself, &[], &["drop:nat-conflict"]);
}

#[test]
fn every_port_of_a_shared_pool_is_found_and_found_again() {
    let policy = POLICY.replace("ports: 1024-65000 }", "ports: 2000-2199, mapping: symmetric }");
    let mut dialogue = Dialogue::new(&policy);
    let ask =
        |port: u16| build::udp().from(&format!("10.1.0.10:{port}")).to("198.51.100.9:53").frame();
    for _ in 0..2 {
        for port in 5_000..5_200 {
            dialogue.send("int", &ask(port));
        }
        let flows = dialogue.engine.flows(0, u32::MAX).0;
        let ports: std::collections::BTreeSet<u16> =
            flows.iter().map(|flow| flow.reply.destination.port).collect();
        assert_eq!(ports, (2_000..2_200).collect());
        let refused = "int: icmp 10.1.0.1 > 10.1.0.10 error 3/13 about \
                       [udp 10.1.0.10:5200 > 198.51.100.9:53] ttl 64";
        dialogue.step("int", &ask(5_200), &[refused], &["reject:nat-ports-exhausted"]);
        // Towards another the same ports are free.
        let other = build::udp().from("10.1.0.10:5200").to("198.51.100.9:54").frame();
        let before = dialogue.engine.counters().forwarded;
        dialogue.send("int", &other);
        assert_eq!(dialogue.engine.counters().forwarded, before + 1);
        dialogue.now = dialogue.now + std::time::Duration::from_secs(200);
        dialogue.engine.handle_timeout(dialogue.now);
        assert_eq!(dialogue.flows(), [""; 0]);
    }
}

#[test]
fn ports_of_the_host_are_given_out_again_when_it_moves_away() {
    let policy = POLICY
        .replace("address: 203.0.113.4, ports: 1024-65000", "address: self, ports: 4480-4481");
    let open = |dialogue: &mut Dialogue, port: u16| {
        let syn = build::tcp().from(&format!("10.1.0.10:{port}")).to("198.51.100.9:80").syn();
        dialogue.send("int", &syn.seq(1).frame());
        dialogue.engine.flows(0, u32::MAX).0.len()
    };
    let mut dialogue = Dialogue::new(&policy);
    assert_eq!([open(&mut dialogue, 5_000), open(&mut dialogue, 5_001)], [1, 1]);
    dialogue.change_network(|network| network.host_ports = vec![4_490]);
    assert_eq!(open(&mut dialogue, 5_001), 2);
    // What a mapping has stays its own until it ends, and is the host's then.
    dialogue.change_network(|network| network.host_ports = vec![4_480, 4_481]);
    dialogue.now = dialogue.now + std::time::Duration::from_secs(60);
    dialogue.engine.handle_timeout(dialogue.now);
    assert_eq!(open(&mut dialogue, 5_002), 0);
}

#[test]
fn an_external_endpoint_that_a_stranger_came_in_by_is_nobody_elses() {
    let policy = POLICY
        .replace("ports: 1024-65000 }", "ports: 2000-2000, filtering: endpoint-independent }");
    let policy = policy.replace("service: udp/53, action: allow", "service: udp, action: allow");
    let mut dialogue = Dialogue::new(&policy);
    let ask = |host: &str| build::udp().from(host).to("198.51.100.9:53").frame();
    let stranger = |port: u16| {
        build::udp().from(&format!("198.51.100.77:{port}")).to("203.0.113.4:2000").frame()
    };
    let admitted = "int: udp 198.51.100.77:7 > 10.1.0.10:5000 +0 ttl 63";
    let wait = |dialogue: &mut Dialogue, seconds: u64| {
        dialogue.now = dialogue.now + std::time::Duration::from_secs(seconds);
        dialogue.engine.handle_timeout(dialogue.now);
    };
    dialogue.send("int", &ask("10.1.0.10:5000"));
    wait(&mut dialogue, 60);
    dialogue.step("ext", &stranger(7), &[admitted], &["forwarded"]);
    wait(&mut dialogue, 70);
    // The flow from inside is over: the guest stays, others are not let in, the port is not free.
    dialogue.step("ext", &stranger(7), &[admitted], &["forwarded"]);
    dialogue.step("ext", &stranger(8), &[], &["drop:nat-filtered"]);
    dialogue.send("int", &ask("10.1.0.12:5000"));
    assert_eq!(dialogue.flows().len(), 1);
    wait(&mut dialogue, 130);
    dialogue.send("int", &ask("10.1.0.12:5000"));
    assert_eq!(dialogue.flows(), [""; 0], "the port rests (RFC 6888 REQ-8)");
    wait(&mut dialogue, 120);
    dialogue.send("int", &ask("10.1.0.12:5000"));
    let next = "unreplied 10.1.0.12:5000 > 198.51.100.9:53 | 198.51.100.9:53 > 203.0.113.4:2000";
    assert_eq!(dialogue.flows(), [next]);
}

/// The published server has itself begun to speak with the client from the published port: to the
/// server a second connection would look like the first.
///
/// Covers: 3.3, 4787-3
#[test]
fn two_flows_never_look_alike_to_the_server() {
    let mut dialogue = Dialogue::new(POLICY);
    let (client, server) = ("198.51.100.9:40000", "10.1.0.10:443");
    dialogue.send("int", &build::tcp().from(server).to(client).syn().seq(1).frame());
    assert_eq!(dialogue.sent.len(), 1);
    let flows = dialogue.flows();
    let alike = build::tcp().from(client).to("203.0.113.7:443").syn().seq(1).frame();
    dialogue.step("ext", &alike, &[], &["drop:nat-conflict"]);
    assert_eq!(dialogue.flows(), flows);
    let other = build::tcp().from("198.51.100.9:40001").to("203.0.113.7:443").syn().seq(1).frame();
    dialogue.send("ext", &other);
    assert_eq!(dialogue.sent.len(), 1);
}
