//! Another policy while flows live: those that it permits go on, the others end.

use std::time::Duration;

use gabion_engine::{CloseReason, Event, Neighbour, Probe, build};
use gabion_rules::Transport;

use super::POLICY;
use super::dialogue::Dialogue;

fn syn() -> Vec<u8> {
    build::tcp().from("198.51.100.9:40000").to("203.0.113.7:443").syn().seq(1).frame()
}

const FORWARDED: &str = "int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63";

#[test]
fn a_flow_that_is_still_permitted_goes_on() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    let id = dialogue.engine.flows(0, 1).0[0].id;
    dialogue.commit(&POLICY.replace("name: web-in", "name: web-renamed"));
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    assert_eq!(dialogue.engine.flows(0, 1).0[0].id, id);
}

#[test]
fn a_flow_that_is_no_longer_permitted_ends_at_its_next_packet() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    dialogue.commit(&POLICY.replace("service: [https, tcp/22]", "service: tcp/22"));
    let reply = build::tcp().from("10.1.0.10:443").to("198.51.100.9:40000").syn().seq(5).ack(2);
    dialogue.step("int", &reply.frame(), &[], &["drop:tcp-not-syn"]);
    let closed = dialogue
        .events
        .iter()
        .any(|event| matches!(event, Event::FlowClosed { why: CloseReason::Revoked, .. }));
    assert!(closed, "{:?}", dialogue.events);
}

#[test]
fn a_silent_flow_that_is_no_longer_permitted_ends_soon() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    dialogue.commit(&POLICY.replace("service: [https, tcp/22]", "service: tcp/22"));
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
}

#[test]
fn a_flow_whose_translation_is_no_longer_the_policys_ends() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    dialogue.commit(&POLICY.replace(
        "to: 203.0.113.7, service: https, target: 10.1.0.10",
        "to: 203.0.113.7, service: https, target: 10.1.0.12",
    ));
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);

    let out = || build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame();
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.send("int", &out());
    dialogue.commit(&POLICY.replace("address: 203.0.113.4", "address: 203.0.113.5"));
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
    dialogue.send("int", &out());
    assert_eq!(
        dialogue.engine.flows(0, 1).0[0].reply.destination.address.to_string(),
        "203.0.113.5"
    );
}

#[test]
fn counters_of_rules_that_keep_their_name_go_on() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    let hits = |dialogue: &Dialogue, policy: &str| {
        let loaded = gabion_rules::load("scenario.yaml", policy, None).unwrap();
        let rules = loaded.rule_set.rules();
        let place = rules.iter().position(|rule| rule.name == "web-in").unwrap();
        dialogue.engine.rule_counters()[place].hits
    };
    assert_eq!(hits(&dialogue, POLICY), 1);
    let first =
        "  - { name: new-first, from: internet, to: spokes, service: tcp/9, action: drop }\n";
    let changed = POLICY.replacen("rules:\n", &format!("rules:\n{first}"), 1);
    dialogue.commit(&changed);
    assert_eq!(hits(&dialogue, &changed), 1);
}

#[test]
fn what_waits_for_a_neighbour_does_not_outlive_its_permission() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &syn(), &[], &["held"]);
    dialogue.commit(&POLICY.replace("service: [https, tcp/22]", "service: tcp/22"));
    let known = Neighbour::Reachable { mac: [2, 0, 0, 0, 9, 9] };
    dialogue.neighbour("int", "10.1.0.10", known, &[], &["drop:flow-ended", "held=-1"]);

    let mut dialogue = Dialogue::new(POLICY);
    dialogue.resolve = false;
    dialogue.step("ext", &syn(), &[], &["held"]);
    dialogue.commit(&POLICY.replace("name: web-in", "name: web-renamed"));
    dialogue.neighbour("int", "10.1.0.10", known, &[FORWARDED], &["forwarded", "held=-1"]);
}

#[test]
fn a_commit_while_a_route_is_away_ends_no_flow() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    let mut routes = Vec::new();
    dialogue.change_network(|network| routes = std::mem::take(&mut network.routes));
    dialogue.commit(&POLICY.replace("name: web-in", "name: web-renamed"));
    dialogue.wait(Duration::ZERO, &[], &[]);
    dialogue.step(
        "ext",
        &syn(),
        &["ext: icmp 203.0.113.1 > 198.51.100.9 error 3/0 about \
           [tcp 198.51.100.9:40000 > 203.0.113.7:443] ttl 64"],
        &["reject:no-route"],
    );
    dialogue.change_network(|network| network.routes = routes);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    assert_eq!(dialogue.flows().len(), 1);
}

#[test]
fn a_flow_ends_when_the_node_loses_the_address_that_stands_for_its_source() {
    let policy = POLICY.replace("address: 203.0.113.4, ports: 1024-65000", "address: self");
    let out = || build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame();
    let external = |dialogue: &Dialogue| {
        dialogue.engine.flows(0, 1).0[0].reply.destination.address.to_string()
    };
    let mut dialogue = Dialogue::new(&policy);
    dialogue.send("int", &out());
    assert_eq!(external(&dialogue), "203.0.113.1");
    // Before the sweep, and by it.
    dialogue.change_network(|network| {
        network.interfaces[0].addresses[0] = "203.0.113.2/24".parse().unwrap();
    });
    dialogue.send("int", &out());
    assert_eq!(external(&dialogue), "203.0.113.2");
    dialogue.change_network(|network| {
        network.interfaces[0].addresses[0] = "203.0.113.3/24".parse().unwrap();
    });
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
}

#[test]
fn a_shorter_timeout_holds_from_the_next_packet_on() {
    let timeouts = |udp: &str| {
        POLICY.replace(
            "  default: { action: drop, log: sampled }",
            &format!("  default: {{ action: drop, log: sampled }}\n  timeouts: {{ udp-unreplied: {udp} }}"),
        )
    };
    let out = || build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame();
    let mut dialogue = Dialogue::new(&timeouts("1h"));
    dialogue.send("int", &out());
    dialogue.commit(&timeouts("10s"));
    dialogue.send("int", &out());
    dialogue.wait(Duration::from_secs(11), &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
}

#[test]
fn a_live_flow_is_explained_by_the_policy_in_force() {
    let mut dialogue = Dialogue::new(POLICY);
    dialogue.step("ext", &syn(), &[FORWARDED], &["forwarded"]);
    let denied = POLICY.replace("service: [https, tcp/22]", "service: tcp/22");
    dialogue.commit(&denied);
    let probe = Probe {
        from: gabion_engine::InterfaceId(0),
        source: "198.51.100.9".parse().unwrap(),
        destination: "203.0.113.7".parse().unwrap(),
        transport: Transport::Tcp { source_port: 40_000, destination_port: 443 },
    };
    let explained = dialogue.engine.explain(&probe);
    let loaded = gabion_rules::load("scenario.yaml", &denied, None).unwrap();
    let rule = &loaded.rule_set.rules()[explained.rule.unwrap().0 as usize];
    assert_eq!(rule.name, "default:internet->spokes");
}

#[test]
fn a_mapping_is_no_more_open_than_its_rule_says_now() {
    let open = POLICY
        .replace("ports: 1024-65000 }", "ports: 1024-65000, filtering: endpoint-independent }");
    let open = open.replace("service: udp/53, action: allow", "service: udp, action: allow");
    let mut dialogue = Dialogue::new(&open);
    dialogue.send("int", &build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame());
    let external = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
    let stranger =
        |port: u16| build::udp().from(&format!("198.51.100.77:{port}")).to(&external).frame();
    let admitted = "int: udp 198.51.100.77:1025 > 10.1.0.10:5000 +0 ttl 63";
    dialogue.step("ext", &stranger(1_025), &[admitted], &["forwarded"]);
    dialogue.commit(&open.replace(", filtering: endpoint-independent", ""));
    dialogue.step("ext", &stranger(1_026), &[], &["drop:nat-filtered"]);
}
