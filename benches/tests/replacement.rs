//! Rule sets that are replaced between the packets of a running engine: each packet is judged by the
//! set that is in force, whole, and by no other.
#![allow(clippy::unwrap_used)]

use gabion_benches::rulesets::{Addresses, Dice, Family, Rule, Service, first_match, policy_text};
use gabion_benches::{EXTERNAL, Subject};
use gabion_engine::{Generation, Verdict, build};
use gabion_rules::{Query, Transport, ZoneId};

/// Rules for a few servers and many ranges of ports, so that two sets seldom agree.
fn rules(count: usize, dice: &mut Dice) -> Vec<Rule> {
    let rule = |_| {
        let server = u128::from(0x0a01_0a00 + dice.below(8) as u32);
        let first = dice.below(60_000) as u16;
        let ports = (first, first + dice.below(4_000) as u16);
        let client = u128::from(0xc633_6400 + dice.below(256) as u32);
        Rule {
            source: vec![Addresses::prefix(Family::V4, client, 24 + dice.below(9) as u32)],
            destination: vec![Addresses::prefix(Family::V4, server, 28 + dice.below(5) as u32)],
            service: Service::udp((0, u16::MAX), ports),
            is_allow: dice.below(2) == 0,
        }
    };
    (0..count).map(rule).collect()
}

/// Covers: 3.8
#[test]
fn every_packet_is_judged_by_the_set_in_force() {
    let mut dice = Dice::new(1);
    let sets: Vec<Vec<Rule>> = [1, 10, 50, 300, 800, 2_000].map(|n| rules(n, &mut dice)).into();
    let loaded: Vec<_> = sets
        .iter()
        .map(|rules| gabion_rules::load("set.yaml", &policy_text(rules), None).unwrap().rule_set)
        .collect();
    let mut subject = Subject::new(&policy_text(&sets[0]), 65_536);
    let (mut in_force, mut generation, mut forwarded, mut kept) = (0, 1, 0, 0);
    for step in 0..30_000_u32 {
        if dice.below(40) == 0 {
            in_force = dice.below(sets.len() as u64) as usize;
            generation += 1;
            let rule_set = std::sync::Arc::clone(&loaded[in_force]);
            subject.engine.set_rules(Generation(generation), rule_set);
        }
        // Few clients and ports: many packets belong to flows that an earlier set admitted.
        let client = format!("198.51.100.{}:{}", 1 + dice.below(250), 4_000 + dice.below(3));
        let server = format!("10.1.10.{}:{}", dice.below(8), 500 * dice.below(130));
        let before = subject.engine.flows(0, 1).0.len();
        let mut frame = build::udp().from(&client).to(&server).payload(&[1; 8]).frame();
        let fresh = frame.clone();
        let mut verdict = subject.handle(EXTERNAL, &mut frame);
        subject.drain();
        if verdict == Verdict::Held {
            frame.copy_from_slice(&fresh);
            verdict = subject.handle(EXTERNAL, &mut frame);
            subject.drain();
        }
        let query = query(&client, &server);
        let allowed =
            first_match(&sets[in_force], &query).is_some_and(|at| sets[in_force][at].is_allow);
        let is_forwarded = matches!(verdict, Verdict::Forward { .. });
        assert_eq!(
            is_forwarded, allowed,
            "packet {step}, set {in_force}: {client} > {server}: {verdict:?}"
        );
        forwarded += u32::from(is_forwarded);
        kept += before;
    }
    assert!(forwarded > 5_000 && kept > 0, "{forwarded} packets of 30000 passed");
}

fn query(client: &str, server: &str) -> Query {
    let [client, server] =
        [client, server].map(|text| text.parse::<std::net::SocketAddr>().unwrap());
    let transport = Transport::Udp { source_port: client.port(), destination_port: server.port() };
    let (source, destination) = (client.ip(), server.ip());
    Query { from: ZoneId(0), to: ZoneId(1), source, destination, transport }
}

/// Covers: 3.8
#[test]
fn counters_follow_their_rules_through_every_move() {
    let mut dice = Dice::new(2);
    let base = rules(60, &mut dice);
    let text = |order: &[usize]| {
        let text = policy_text(&base);
        let (head, tail) = text.split_once("rules:\n").unwrap();
        let lines: Vec<&str> = tail.lines().collect();
        let tail: String = order.iter().map(|at| format!("{}\n", lines[*at])).collect();
        format!("{head}rules:\n{tail}")
    };
    let mut order: Vec<usize> = (0..base.len()).collect();
    let mut subject = Subject::new(&text(&order), 4_096);
    for _ in 0..2_000 {
        let client = format!("198.51.100.{}:{}", 1 + dice.below(250), 4_000 + dice.below(60));
        let server = format!("10.1.10.{}:{}", dice.below(8), dice.below(60_000));
        let mut frame = build::udp().from(&client).to(&server).payload(&[1; 8]).frame();
        subject.handle(EXTERNAL, &mut frame);
        subject.drain();
    }
    let hits = |subject: &Subject, order: &[usize]| {
        let counters = subject.engine.rule_counters();
        let mut hits: Vec<_> = order.iter().zip(counters).map(|(at, c)| (*at, c.hits)).collect();
        hits.sort_unstable();
        hits
    };
    let before = hits(&subject, &order);
    assert!(before.iter().filter(|(_, hits)| *hits > 0).count() > 20);
    for generation in 2..40 {
        // One rule moves, or two parts change places.
        if dice.below(2) == 0 {
            let moved = order.remove(dice.below(60) as usize);
            order.insert(dice.below(60) as usize, moved);
        } else {
            order.rotate_left(dice.below(60) as usize);
        }
        let loaded = gabion_rules::load("moved.yaml", &text(&order), None).unwrap();
        subject.engine.set_rules(Generation(generation), loaded.rule_set);
        assert_eq!(hits(&subject, &order), before, "generation {generation}: {order:?}");
    }
}
