//! What does not pass between nodes, each with its reason.

use std::time::Duration;

use super::wall::Wall;
use super::{CLIENT, HOST, POLICY, SERVER, client, server};

#[test]
fn a_packet_of_nobodys_flow_is_dropped_when_nobody_has_claimed_it() {
    let mut wall = Wall::new(3, POLICY);
    for port in 40_000..40_020 {
        let left = wall.send(1, "ext", &client(port).seq(CLIENT + 1).ack(HOST + 1).frame());
        assert_eq!(left, [""; 0]);
    }
    let left = wall.wait(Duration::from_secs(2));
    assert_eq!(left, [""; 0]);
    let held: Vec<u64> = (1..=3).map(|node| wall.engine(node).counters().held).collect();
    assert_eq!(held, [0; 3]);
    assert!(wall.drops().iter().all(|drop| drop.ends_with(":no-owner")), "{:?}", wall.drops());
}

#[test]
fn what_waits_for_other_nodes_is_bounded() {
    let mut wall = Wall::new(2, POLICY);
    wall.cut.extend([(1, 2), (2, 1)]);
    for port in 1_024..30_000 {
        wall.send(1, "ext", &client(port).seq(CLIENT + 1).ack(HOST + 1).frame());
    }
    assert_eq!(wall.drops(), ["1 drop:peer-queue-full".to_owned()].into());
}

#[test]
fn a_wrapped_packet_that_is_changed_cut_or_repeated_changes_nothing() {
    let mut wall = Wall::new(2, POLICY);
    let port = 40_000;
    super::open(&mut wall, port, 1, 2);
    let flows = wall.engine(1).flows(0, 10);
    wall.tamper = |datagram| datagram[40] ^= 1;
    assert_eq!(
        wall.send(2, "int", &server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).frame()),
        [""; 0]
    );
    assert_eq!(wall.drops(), ["1 drop:peer-forged".to_owned()].into());
    wall.tamper = |datagram| datagram.truncate(20);
    assert_eq!(
        wall.send(2, "int", &server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).frame()),
        [""; 0]
    );
    assert_eq!(
        wall.drops(),
        ["1 drop:peer-forged".to_owned(), "1 drop:peer-malformed".to_owned()].into()
    );
    assert_eq!(wall.engine(1).flows(0, 10), flows);
    wall.tamper = |_| ();
    wall.copies = 2;
    let left = wall.send(2, "int", &server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).frame());
    assert_eq!(left, [format!("1 ext: tcp {SERVER} > 198.51.100.9:{port} . ttl 63")]);
    assert!(wall.drops().contains("1 drop:peer-replayed"));
}
