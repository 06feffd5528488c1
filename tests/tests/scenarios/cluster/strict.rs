//! Strict rules: a flow's first packet leaves when other nodes know of the flow, or not at all.

use std::time::Duration;

use gabion_engine::build;

use super::super::POLICY;
use super::wall::Wall;
use super::{CLIENT, HOST, SERVER, client, server};

fn strict() -> String {
    let strict = POLICY
        .replace("action: allow, log: all }", "action: allow, log: all, strict: true }")
        .replace(
            "service: udp/53, action: allow }",
            "service: udp/53, action: allow, strict: true }",
        );
    assert_eq!(strict.matches("strict").count(), 2);
    strict
}

fn wait(wall: &mut Wall, milliseconds: u64) -> Vec<String> {
    wall.wait(Duration::from_millis(milliseconds))
}

/// Nothing leaves twice, and its answer finds its way whichever node it comes to.
#[test]
fn a_strict_flow_begins_when_it_is_known() {
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, &strict());
        for port in 40_000..40_020 {
            let mut left = wall.send(1, "ext", &client(port).syn().seq(CLIENT).frame());
            left.extend(wait(&mut wall, 150));
            assert_eq!(left, [format!("1 int: tcp 198.51.100.9:{port} > {SERVER} S ttl 63")]);
            let answer = server(port).syn().seq(HOST).ack(CLIENT + 1).frame();
            let left = wall.send(2, "int", &answer);
            assert_eq!(left, [format!("1 ext: tcp {SERVER} > 198.51.100.9:{port} S. ttl 63")]);
            let query = build::udp().from(&format!("198.51.100.9:{port}")).to("10.1.0.10:53");
            let mut left = wall.send(1, "ext", &query.payload(b"ask").frame());
            left.extend(wait(&mut wall, 150));
            assert_eq!(left, [format!("1 int: udp 198.51.100.9:{port} > 10.1.0.10:53 +3 ttl 63")]);
        }
        assert_eq!(wall.drops(), [].into());
    }
}

/// While its peer is silent and not yet taken for dead, nobody may know; then there is nobody to ask.
#[test]
fn a_strict_flow_of_which_nobody_knows_does_not_begin() {
    let mut wall = Wall::new(2, &strict());
    let syn = client(40_000).syn().seq(CLIENT).frame();
    wall.cut = [(1, 2), (2, 1)].into();
    let mut left = wall.send(1, "ext", &syn);
    left.extend(wait(&mut wall, 195));
    assert_eq!((left, wall.drops()), (vec![], [].into()));
    assert_eq!(wait(&mut wall, 20), [""; 0]);
    assert_eq!(wall.drops(), ["1 drop:not-registered".to_owned()].into());
    wait(&mut wall, 600);
    let left = wall.send(1, "ext", &syn);
    assert_eq!(left, [format!("1 int: tcp 198.51.100.9:40000 > {SERVER} S ttl 63")]);
}

/// The same packet sent again passes once the first could, and a node alone makes nobody wait.
#[test]
fn a_strict_flow_begins_late_when_its_registration_is_late() {
    let mut wall = Wall::new(2, &strict());
    let syn = client(40_000).syn().seq(CLIENT).frame();
    wall.cut = [(1, 2), (2, 1)].into();
    let mut left = wall.send(1, "ext", &syn);
    left.extend(wait(&mut wall, 100));
    assert_eq!(left, [""; 0]);
    wall.cut.clear();
    assert_eq!(wait(&mut wall, 95), [format!("1 int: tcp 198.51.100.9:40000 > {SERVER} S ttl 63")]);
    assert_eq!(wall.drops(), [].into());
    wall.kill(2);
    let left = wall.send(1, "ext", &client(40_001).syn().seq(CLIENT).frame());
    assert_eq!(left, [format!("1 int: tcp 198.51.100.9:40001 > {SERVER} S ttl 63")]);
}
