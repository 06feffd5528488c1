//! What was lost for good between nodes, although it was acknowledged or never sent: sums that differ bring
//! it back, or take it out.

use std::time::Duration;

use super::super::POLICY;
use super::wall::Wall;
use super::{SERVER, open};

/// Messages by hand: nobody sends these.
const REGISTER: u8 = 128;
const ELSEWHERE: u8 = 139;

fn message(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// The key of a connection of these tests.
fn key(port: u16) -> Vec<u8> {
    let [a, b] = port.to_be_bytes();
    let (_, to) = SERVER.split_once(':').unwrap();
    let [c, d] = to.parse::<u16>().unwrap().to_be_bytes();
    [&[6, 4][..], &[198, 51, 100, 9, a, b], &[10, 1, 0, 10, c, d]].concat()
}

/// What nodes know of each other's flows, by node.
fn directed(wall: &mut Wall, nodes: u8) -> Vec<u64> {
    (1..=nodes).map(|node| wall.status(node).directed).collect()
}

#[test]
fn what_a_holder_has_forgotten_it_is_told_again() {
    for nodes in 2..=3 {
        let mut wall = Wall::new(nodes, POLICY);
        for port in 40_000..40_040 {
            open(&mut wall, port, 1, 1);
        }
        wall.wait(Duration::from_secs(5));
        let before = directed(&mut wall, nodes);
        assert_eq!(before.iter().sum::<u64>(), 40);
        for port in 40_000..40_020 {
            let value = [&u64::from(u32::MAX).to_be_bytes()[..], &key(port)].concat();
            for node in 2..=nodes {
                wall.hear(node, 1, &message(ELSEWHERE, &value));
            }
        }
        assert_eq!(directed(&mut wall, nodes).iter().sum::<u64>(), 20);
        wall.wait(Duration::from_secs(5));
        assert_eq!(directed(&mut wall, nodes), before);
    }
}

#[test]
fn what_a_holder_knows_of_nobodys_flows_it_forgets() {
    let mut wall = Wall::new(2, POLICY);
    for port in 40_000..40_040 {
        open(&mut wall, port, 1, 1);
    }
    wall.wait(Duration::from_secs(5));
    let before = directed(&mut wall, 2);
    for port in 41_000..41_020_u16 {
        // Open, owned by node 1, at a term of its own, told in its first round.
        let term = u64::from(port) + (1 << 32);
        let value = [&[2, 1][..], &term.to_be_bytes(), &[0; 4], &key(port)].concat();
        wall.hear(2, 1, &message(REGISTER, &value));
    }
    assert_eq!(directed(&mut wall, 2)[1], before[1] + 20);
    wall.wait(Duration::from_secs(5));
    assert_eq!(directed(&mut wall, 2), before);
}
