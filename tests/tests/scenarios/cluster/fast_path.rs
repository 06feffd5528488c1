//! What nodes of a cluster let the kernel move.

use std::time::Duration;

use gabion_engine::InterfaceId;
use gabion_tests::fast_path::ModelTable;

use super::lost::{PORT, go, resets, warm};
use super::wall::Wall;
use super::{CLIENT, HOST, client, open, server};

const EXT: InterfaceId = InterfaceId(0);
const INT: InterfaceId = InterfaceId(1);

/// A connection that the first node has, and its table.
fn opened() -> (Wall, ModelTable) {
    let mut wall = warm(2);
    let table = ModelTable::default();
    wall.engine(1).use_fast_path(Box::new(table.clone()));
    open(&mut wall, PORT, 1, 1);
    (wall, table)
}

fn ask() -> Vec<u8> {
    client(PORT).seq(CLIENT + 1_001).ack(HOST + 5_001).payload(b"hello").frame()
}

fn answer() -> Vec<u8> {
    server(PORT).seq(HOST + 5_001).ack(CLIENT + 1_006).payload(b"hi").frame()
}

/// Whether the kernel takes a packet of each direction now.
fn moves(wall: &Wall, table: &ModelTable) -> [bool; 2] {
    let (ask, answer) = (ask(), answer());
    let ways = [(EXT, &ask), (INT, &answer)];
    ways.map(|(from, frame)| table.pass(wall.now, from, frame).is_some())
}

#[test]
fn a_connection_is_moved_while_all_of_it_comes_by_its_owner() {
    let (mut wall, table) = opened();
    assert_eq!(moves(&wall, &table), [true; 2]);
    // One side's packets come to the other node, which hands them over.
    assert_eq!(wall.send(2, "int", &answer()).len(), 1);
    assert_eq!(moves(&wall, &table), [false; 2]);
    assert_eq!(wall.send(1, "int", &answer()).len(), 1);
    assert_eq!(moves(&wall, &table), [true; 2]);
}

#[test]
fn a_copy_knows_what_the_kernel_has_moved() {
    let (mut wall, table) = opened();
    wall.wait(Duration::from_millis(50));
    assert_eq!(moves(&wall, &table), [true; 2]);
    let heard = client(PORT).seq(CLIENT + 1_006).ack(HOST + 5_003).frame();
    assert!(table.pass(wall.now, EXT, &heard).is_some());
    wall.wait(Duration::from_millis(20));
    go(&mut wall, 1);
    assert_eq!([resets(&wall, PORT), resets(&wall, 443)], [[HOST + 5_003], [CLIENT + 1_006]]);
}

#[test]
fn who_leaves_hands_over_what_no_kernel_moves_meanwhile() {
    let (mut wall, table) = opened();
    let now = wall.now;
    wall.engine(1).set_draining(now, true);
    assert_eq!(moves(&wall, &table), [false; 2]);
    wall.engine(1).set_draining(now, false);
    assert_eq!(moves(&wall, &table), [true; 2]);
}

/// Another node may have the flow by then.
#[test]
fn after_a_pause_every_flow_is_looked_at_before_the_kernel_goes_on() {
    let (mut wall, table) = opened();
    wall.wait(Duration::from_millis(50));
    wall.pause(1);
    wall.wait(Duration::from_secs(1));
    wall.resume(1);
    wall.wait(Duration::from_millis(5));
    assert_eq!(moves(&wall, &table), [false; 2]);
    wall.wait(Duration::from_secs(1));
    assert_eq!(wall.send(1, "ext", &ask()).len(), 1);
    assert_eq!(wall.send(1, "int", &answer()).len(), 1);
    let heard = client(PORT).seq(CLIENT + 1_006).ack(HOST + 5_003).frame();
    wall.send(1, "ext", &heard);
    assert_eq!(moves(&wall, &table), [true; 2]);
}
