//! Machines that have gone while load balancers go on to send them one side's packets, or both sides'.

use std::time::Duration;

use gabion_engine::DropReason;

use super::super::POLICY;
use super::wall::Wall;
use super::{CLIENT, HOST, SERVER, client, open, server};

pub(super) const PORT: u16 = 40_000;

/// The flags and numbers of the segments that left towards the client or the server.
fn segments(wall: &Wall, to_port: u16) -> Vec<(u8, u32, u32)> {
    let word = |tcp: &[u8], at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    let frames = wall.frames.iter().map(|frame| &frame[14 + 20..]);
    let towards = frames.filter(|tcp| tcp[2..4] == to_port.to_be_bytes());
    towards.map(|tcp| (tcp[13], word(tcp, 4), word(tcp, 8))).collect()
}

const RST: u8 = 4;

/// Where resets of either side are.
pub(super) fn resets(wall: &Wall, to_port: u16) -> Vec<u32> {
    let segments = segments(wall, to_port).into_iter();
    segments.filter(|(flags, ..)| flags & RST != 0).map(|(_, sequence, _)| sequence).collect()
}

/// Nodes of which all but the first know where clients and servers are.
pub(super) fn warm(nodes: u8) -> Wall {
    let mut wall = Wall::new(nodes, POLICY);
    for node in 2..=nodes {
        open(&mut wall, PORT + u16::from(node), node, node);
    }
    wall
}

/// The machine goes, which the others find out.
pub(super) fn go(wall: &mut Wall, node: u8) {
    wall.power_off(node);
    wall.wait(Duration::from_millis(500));
    wall.find_gone(node);
    wall.wait(Duration::from_millis(10));
}

/// Question and answer by the same nodes as the connection was opened by.
fn talk(wall: &mut Wall, inward: u8, outward: u8) {
    let ask = client(PORT).seq(CLIENT + 1_001).ack(HOST + 5_001).payload(b"hello").frame();
    assert_eq!(wall.send(inward, "ext", &ask).len(), 1);
    let tell = server(PORT).seq(HOST + 5_001).ack(CLIENT + 1_006).payload(b"hi").frame();
    assert_eq!(wall.send(outward, "int", &tell).len(), 1);
    let heard = client(PORT).seq(CLIENT + 1_006).ack(HOST + 5_003).frame();
    assert_eq!(wall.send(inward, "ext", &heard).len(), 1);
}

/// Nobody says anything, and nobody would be heard: the copy is as far as the connection was.
#[test]
fn a_connection_both_sides_of_which_are_cut_off_is_reset_where_its_sides_are() {
    for nodes in 2..=4 {
        let mut wall = warm(nodes);
        open(&mut wall, PORT, 1, 1);
        wall.wait(Duration::from_millis(50));
        talk(&mut wall, 1, 1);
        wall.wait(Duration::from_millis(20));
        go(&mut wall, 1);
        let found = [resets(&wall, PORT), resets(&wall, 443)];
        assert_eq!(found, [[HOST + 5_003], [CLIENT + 1_006]], "{nodes} nodes");
    }
}

/// The side that is heard still is idle; asked where it stands, it says so.
#[test]
fn a_connection_one_side_of_which_is_cut_off_is_reset_where_the_other_says() {
    for owner in [1, 2] {
        let (inward, outward) = (owner, 3 - owner);
        let mut wall = warm(2);
        open(&mut wall, PORT, inward, outward);
        wall.wait(Duration::from_millis(50));
        talk(&mut wall, inward, outward);
        wall.wait(Duration::from_millis(20));
        go(&mut wall, 1);
        let (told, frame, interface) = if owner == 1 {
            (443, server(PORT).seq(HOST + 5_903).ack(CLIENT + 1_706), "int")
        } else {
            (PORT, client(PORT).seq(CLIENT + 1_706).ack(HOST + 5_903), "ext")
        };
        let asked = segments(&wall, told);
        assert_eq!(asked.len(), 1, "one question: {asked:?}");
        assert_eq!(asked[0].0 & RST, 0);
        // More has been said than this node knows of.
        wall.send(2, interface, &frame.frame());
        assert!(resets(&wall, PORT).contains(&(HOST + 5_903)), "{:?}", resets(&wall, PORT));
        assert!(resets(&wall, 443).contains(&(CLIENT + 1_706)), "{:?}", resets(&wall, 443));
        assert_eq!(wall.engine(2).counters().dropped(DropReason::LegLost), 1);
        assert_eq!(wall.status(2).owned, 1);
    }
}

#[test]
fn a_connection_that_nobody_answers_for_is_reset_at_last() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, PORT, 2, 1);
    wall.wait(Duration::from_millis(50));
    go(&mut wall, 1);
    assert_eq!(resets(&wall, PORT), [0_u32; 0]);
    wall.wait(Duration::from_secs(2));
    let found = [resets(&wall, PORT), resets(&wall, 443)];
    assert_eq!(found, [[HOST + 5_001], [CLIENT + 1_001]]);
}

#[test]
fn a_connection_that_avoids_the_machine_that_went_is_left_alone() {
    let mut wall = Wall::new(3, POLICY);
    // The owner has gone, and nothing comes by it any more.
    open(&mut wall, PORT, 1, 2);
    wall.wait(Duration::from_millis(50));
    for (seq, ack) in [(1_001, 5_001), (1_006, 5_003)] {
        let ask = client(PORT).seq(CLIENT + seq).ack(HOST + ack).payload(b"hello").frame();
        assert_eq!(wall.send(3, "ext", &ask).len(), 1);
        let tell = server(PORT).seq(HOST + ack).ack(CLIENT + seq + 5).payload(b"hi").frame();
        assert_eq!(wall.send(2, "int", &tell).len(), 1);
    }
    wall.wait(Duration::from_millis(20));
    go(&mut wall, 1);
    wall.wait(Duration::from_secs(2));
    let ask = client(PORT).seq(CLIENT + 1_011).ack(HOST + 5_005).payload(b"hello").frame();
    let left = wall.send(3, "ext", &ask);
    assert_eq!(left.len(), 1, "{:?}", wall.drops());
    assert!(left[0].ends_with(&format!("> {SERVER} . +5 ttl 63")), "{left:?}");
}

/// In a partition, and while a process starts again, the machine is there.
#[test]
fn a_connection_of_a_peer_that_is_only_silent_is_not_reset() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, PORT, 1, 2);
    wall.wait(Duration::from_millis(50));
    wall.power_off(1);
    wall.wait(Duration::from_secs(3));
    let data = server(PORT).seq(HOST + 5_001).ack(CLIENT + 1_001).payload(b"hello").frame();
    for _ in 0..5 {
        assert_eq!(wall.send(2, "int", &data).len(), 1);
        wall.wait(Duration::from_millis(300));
    }
    assert_eq!(wall.drops(), [].into());
}
