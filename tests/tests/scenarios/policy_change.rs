//! Another policy while flows live: those that it permits go on, the others end.

use std::time::Duration;

use gabion_engine::{CloseReason, Event, build};

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
