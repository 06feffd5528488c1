#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::tuple::{Phase, Seen, Transport, Tuple};
use super::{Admin, IDLE, Mode, Table};

const PHASES: [Phase; 2] = [Phase::Opening, Phase::Established];

fn tuple(transport: Transport, port: u16) -> Tuple {
    let source = SocketAddr::from(([198, 51, 100, 9], port));
    Tuple::new(transport, source, SocketAddr::from(([203, 0, 113, 7], 443)))
}

fn tcp(port: u16, phase: Phase) -> Seen {
    Seen { tuple: tuple(Transport::Tcp, port), phase }
}

fn udp(port: u16) -> Seen {
    Seen { tuple: tuple(Transport::Udp, port), phase: Phase::Stateless }
}

fn all_up(key: u64, mode: Mode, nodes: usize) -> Table {
    let mut table = Table::new([key, 1], mode, nodes);
    (0..nodes).for_each(|node| table.set_up(node, true));
    table
}

fn establish(table: &mut Table, now: Instant, port: u16) {
    for phase in PHASES {
        assert!(table.choose(now, &tcp(port, phase)).is_some());
    }
}

#[test]
fn every_node_gets_its_share_and_two_balancers_hash_independently() {
    let now = Instant::now();
    for nodes in 2..=4 {
        let [mut external, mut internal] = [1, 2].map(|key| all_up(key, Mode::Pin, nodes));
        let choices: Vec<_> = (0..4_000)
            .map(|port| {
                let seen = tcp(port, Phase::Opening);
                [&mut external, &mut internal].map(|table| table.choose(now, &seen).unwrap())
            })
            .collect();
        for node in 0..nodes {
            let share = choices.iter().filter(|choice| choice[0] == node).count();
            assert!((3_000 / nodes..5_000 / nodes).contains(&share), "{share} of node {node}");
        }
        let apart = choices.iter().filter(|[a, b]| a != b).count();
        let expected = 4_000 * (nodes - 1) / nodes;
        assert!(apart.abs_diff(expected) < 300, "{apart} of {expected}");
    }
}

#[test]
fn established_tcp_stays_at_a_node_that_fails_when_pinned_and_moves_when_steered() {
    let now = Instant::now();
    for (mode, moves) in [(Mode::Pin, false), (Mode::Steer, true)] {
        let mut table = all_up(7, mode, 3);
        for port in 0..100 {
            let before = PHASES.map(|phase| table.choose(now, &tcp(port, phase)).unwrap());
            assert_eq!(before[0], before[1]);
            table.set_up(before[0], false);
            let after = table.choose(now, &tcp(port, Phase::Established)).unwrap();
            assert_eq!(after != before[0], moves);
            table.set_up(before[0], true);
            let later = table.choose(now, &tcp(port, Phase::Established)).unwrap();
            assert_eq!(later, after, "it does not move back");
        }
        assert_eq!(table.moved(), if moves { 100 } else { 0 });
    }
}

#[test]
fn new_tcp_and_udp_leave_a_failed_node_in_either_mode() {
    let now = Instant::now();
    for mode in [Mode::Pin, Mode::Steer] {
        let mut table = all_up(7, mode, 3);
        let flows = |port| [udp(port), tcp(port, Phase::Opening)];
        (0..100).flat_map(flows).for_each(|seen| assert!(table.choose(now, &seen).is_some()));
        table.set_up(1, false);
        assert!((0..200).flat_map(flows).all(|seen| table.choose(now, &seen) != Some(1)));
    }
}

#[test]
fn a_node_that_an_operator_takes_down_keeps_established_tcp_in_either_mode() {
    let now = Instant::now();
    for mode in [Mode::Pin, Mode::Steer] {
        let mut table = all_up(3, mode, 2);
        for port in 0..100 {
            establish(&mut table, now, port);
        }
        let before = (0..100).map(|port| table.node_of(&tuple(Transport::Tcp, port)));
        let before: Vec<_> = before.collect();
        table.set_admin(0, Some(Admin::Down));
        for (port, before) in (0..100).zip(before) {
            assert_eq!(table.choose(now, &tcp(port, Phase::Established)), before);
            assert_eq!(table.choose(now, &udp(port)), Some(1));
            assert_eq!(table.choose(now, &tcp(port + 100, Phase::Opening)), Some(1));
        }
    }
}

#[test]
fn with_all_nodes_down_there_are_no_new_flows_and_established_tcp_stays() {
    let now = Instant::now();
    for mode in [Mode::Pin, Mode::Steer] {
        let mut table = all_up(3, mode, 2);
        establish(&mut table, now, 1);
        let before = table.choose(now, &udp(1)).and(table.node_of(&tuple(Transport::Tcp, 1)));
        (0..2).for_each(|node| table.set_up(node, false));
        assert_eq!(table.choose(now, &tcp(1, Phase::Established)), before);
        assert_eq!(table.choose(now, &tcp(2, Phase::Opening)), None);
        assert_eq!(table.choose(now, &udp(1)), None);
    }
}

#[test]
fn an_idle_flow_is_forgotten_and_a_syn_begins_anew() {
    let now = Instant::now();
    let mut table = all_up(3, Mode::Pin, 2);
    establish(&mut table, now, 1);
    let node = table.node_of(&tuple(Transport::Tcp, 1)).unwrap();
    table.set_up(node, false);
    let before_idle = now + IDLE - Duration::from_nanos(1);
    assert_eq!(table.choose(before_idle, &tcp(1, Phase::Established)), Some(node));
    assert_eq!(table.choose(before_idle, &tcp(1, Phase::Opening)), Some(1 - node));
    establish(&mut table, now, 1);
    table.set_up(node, true);
    table.set_up(1 - node, false);
    assert_eq!(table.choose(now + IDLE * 2, &tcp(1, Phase::Established)), Some(node));
}
