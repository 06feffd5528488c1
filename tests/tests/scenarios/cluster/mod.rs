//! Several nodes: packets that come to another node than their flow's owner, and owners that go.

mod nat;
mod refused;
mod wall;

use std::time::Duration;

use gabion_engine::build;

use super::POLICY;
use wall::Wall;

const SERVER: &str = "10.1.0.10:443";

fn client(port: u16) -> build::FrameBuilder {
    build::tcp().from(&format!("198.51.100.9:{port}")).to(SERVER).window(64_000)
}

fn server(port: u16) -> build::FrameBuilder {
    build::tcp().from(SERVER).to(&format!("198.51.100.9:{port}")).window(64_000)
}

/// Opens a connection whose packets come in by one node and whose answers come to another.
fn open(wall: &mut Wall, port: u16, inward: u8, outward: u8) {
    let left = wall.send(inward, "ext", &client(port).syn().seq(1_000).frame());
    assert_eq!(left, [format!("{inward} int: tcp 198.51.100.9:{port} > {SERVER} S ttl 63")]);
    let left = wall.send(outward, "int", &server(port).syn().seq(5_000).ack(1_001).frame());
    assert_eq!(left, [format!("{inward} ext: tcp {SERVER} > 198.51.100.9:{port} S. ttl 63")]);
    let left = wall.send(inward, "ext", &client(port).seq(1_001).ack(5_001).frame());
    assert_eq!(left, [format!("{inward} int: tcp 198.51.100.9:{port} > {SERVER} . ttl 63")]);
}

#[test]
fn an_answer_that_comes_to_another_node_leaves_by_the_owner() {
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, POLICY);
        // Directors are chosen by the key: some are the owner, some the forwarder, some neither.
        for port in 40_000..40_040 {
            open(&mut wall, port, 1, 2);
            let data = server(port).seq(5_001).ack(1_001).psh().payload(b"hello").frame();
            let left = wall.send(2, "int", &data);
            assert_eq!(left, [format!("1 ext: tcp {SERVER} > 198.51.100.9:{port} P. +5 ttl 63")]);
        }
        assert_eq!(wall.drops(), [].into());
    }
}

#[test]
fn a_connection_goes_on_where_its_packets_come_to_when_its_owner_dies() {
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, POLICY);
        for port in 40_000..40_040 {
            open(&mut wall, port, 1, 2);
        }
        wall.wait(Duration::from_millis(50));
        wall.kill(1);
        for port in 40_000..40_040 {
            let data = client(port).seq(1_001).ack(5_001).psh().payload(b"hello").frame();
            let left = wall.send(2, "ext", &data);
            let ends: Vec<&str> = left.iter().map(|left| &left[2..]).collect();
            assert_eq!(ends, [format!("int: tcp 198.51.100.9:{port} > {SERVER} P. +5 ttl 63")]);
            let answer = server(port).seq(5_001).ack(1_006).psh().payload(b"hello").frame();
            let left = wall.send(2, "int", &answer);
            let ends: Vec<&str> = left.iter().map(|left| &left[2..]).collect();
            assert_eq!(ends, [format!("ext: tcp {SERVER} > 198.51.100.9:{port} P. +5 ttl 63")]);
        }
        assert_eq!(wall.drops(), [].into());
    }
}
