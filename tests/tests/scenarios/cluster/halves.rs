//! Connections that two nodes have had for a while, each a half of it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::POLICY;
use super::wall::Wall;
use super::{CLIENT, HOST};

use gabion_engine::build;

const SERVICE: &str = "203.0.113.7:443";
const SERVER: &str = "10.1.0.10:443";

fn client(port: u16, server: &str) -> build::FrameBuilder {
    build::tcp().from(&format!("198.51.100.9:{port}")).to(server).window(64_000)
}

fn server(port: u16) -> build::FrameBuilder {
    build::tcp().from(SERVER).to(&format!("198.51.100.9:{port}")).window(64_000)
}

/// Each node sees one half of a translated connection; when they hear each other again all is one. A node that had been
/// told of an owner by a hint sent him packets for minutes after he had given the flow up, and he held and dropped them.
#[test]
fn translated_connections_go_on_when_their_halves_meet() {
    let ways = [(1, 2), (1, 3), (2, 1), (3, 1), (2, 3), (3, 2)];
    let mut wall = Wall::new(3, POLICY);
    let ports = 40_000..40_060u16;
    let way = |port: u16| ways[usize::from(port) % ways.len()];
    for port in ports.clone() {
        let (inward, outward) = way(port);
        wall.send(inward, "ext", &client(port, SERVICE).syn().seq(CLIENT + 1_000).frame());
        wall.send(
            outward,
            "int",
            &server(port).syn().seq(HOST + 5_000).ack(CLIENT + 1_001).frame(),
        );
        wall.send(
            inward,
            "ext",
            &client(port, SERVICE).seq(CLIENT + 1_001).ack(HOST + 5_001).frame(),
        );
    }
    wall.wait(Duration::from_millis(1_500));
    wall.delay = Duration::from_micros(300);
    let mut said: Vec<(u32, u32)> = vec![(CLIENT + 1_001, HOST + 5_001); ports.len()];
    let mut lost = BTreeSet::new();
    let one_way = [(1, 2), (1, 3)];
    let both = [(1, 2), (2, 1), (1, 3), (3, 1)];
    let mut talk = |wall: &mut Wall, rounds: u32, healed: bool| {
        for round in 0..rounds {
            for port in ports.clone() {
                let (inward, outward) = way(port);
                let (sent, told) = &mut said[usize::from(port - 40_000)];
                let ask = client(port, SERVICE).seq(*sent).ack(*told).payload(b"hello").frame();
                let mut left = wall.send(inward, "ext", &ask);
                left.extend(wall.wait(Duration::from_millis(1)));
                if left.is_empty() {
                    lost.extend(healed.then_some((port, "there", round)));
                    continue;
                }
                *sent += 5;
                let tell = server(port).seq(*told).ack(*sent).payload(b"hi").frame();
                let mut left = wall.send(outward, "int", &tell);
                left.extend(wall.wait(Duration::from_millis(1)));
                if left.is_empty() {
                    lost.extend(healed.then_some((port, "back", round)));
                    *sent -= 5;
                    continue;
                }
                *told += 2;
            }
        }
    };
    talk(&mut wall, 3, false);
    wall.cut.extend(one_way);
    talk(&mut wall, 15, false);
    wall.cut.clear();
    talk(&mut wall, 30, false);
    wall.cut.extend(both);
    talk(&mut wall, 15, false);
    wall.cut.clear();
    talk(&mut wall, 10, false);
    talk(&mut wall, 5, true);
    assert_eq!(lost, BTreeSet::new(), "{:?}", wall.drops());
}
