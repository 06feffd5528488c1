//! What nodes of a cluster let the kernel move.

use std::time::Duration;

use gabion_engine::{DropReason, InterfaceId, NodeId, Verdict, WRAPPED_FRAME};
use gabion_tests::fast_path::{ModelTable, Moved};

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

/// A connection whose answers come by the other node, and the tables of both.
fn relayed() -> (Wall, [ModelTable; 2]) {
    let (mut wall, table) = opened();
    let other = ModelTable::default();
    wall.engine(2).use_fast_path(Box::new(other.clone()));
    wall.wait(Duration::from_millis(50));
    assert_eq!(wall.send(1, "ext", &ask()).len(), 1);
    // The owner says who he is, the next one is wrapped by the engine, and from then on the datapath does.
    for _ in 0..2 {
        assert_eq!(wall.send(2, "int", &answer()).len(), 1);
    }
    (wall, [table, other])
}

/// What a table makes of a packet for the owner, as a UDP payload.
fn wrapped(wall: &Wall, table: &ModelTable, frame: &[u8]) -> Option<Vec<u8>> {
    match table.pass(wall.now, INT, frame)? {
        Moved::ToPeer(NodeId(1), bytes) => Some(bytes),
        moved => panic!("{moved:?}"),
    }
}

#[test]
fn a_connection_is_moved_whichever_node_its_packets_come_by() {
    let (mut wall, [table, other]) = relayed();
    // What comes in here is another's way now, and the engine's.
    assert_eq!(moves(&wall, &table), [true, false]);
    assert_eq!(moves(&wall, &other), [false, true]);
    let datagram = wrapped(&wall, &other, &answer()).unwrap();
    let moved = table.unwrap(wall.now, NodeId(2), &datagram);
    let Some(Moved::Out(EXT, moved)) = moved else { panic!("{moved:?}") };
    // The owner's engine makes the same of it, and follows it.
    let now = wall.now;
    let mut decided = datagram.clone();
    let verdict = wall.engine(1).handle_wrapped(now, NodeId(2), &mut decided);
    assert_eq!(verdict, Verdict::Forward { out: EXT });
    assert_eq!(decided[WRAPPED_FRAME..], moved);
    // Back again, by both engines.
    assert_eq!(wall.send(1, "int", &answer()).len(), 1);
    assert_eq!(moves(&wall, &table), [true; 2]);
    assert_eq!(table.unwrap(wall.now, NodeId(2), &datagram), None);
}

#[test]
fn what_is_changed_on_its_way_or_is_of_another_flow_is_nobodys() {
    let (mut wall, [table, other]) = relayed();
    let datagram = wrapped(&wall, &other, &answer()).unwrap();
    const ADDRESSES: usize = 32 + 12;
    for at in (0..32).chain(ADDRESSES..ADDRESSES + 12) {
        let mut changed = datagram.clone();
        changed[at] ^= 1;
        assert_eq!(table.unwrap(wall.now, NodeId(2), &changed), None, "byte {at}");
        let now = wall.now;
        let verdict = wall.engine(1).handle_wrapped(now, NodeId(2), &mut changed);
        assert!(matches!(verdict, Verdict::Drop(_)), "byte {at}: {verdict:?}");
    }
    // What opens or ends a connection is never wrapped so, and taken from nobody.
    for flags in [0b1, 0b10, 0b100, 0] {
        let mut changed = datagram.clone();
        changed[32 + 20 + 13] = flags;
        let now = wall.now;
        let verdict = wall.engine(1).handle_wrapped(now, NodeId(2), &mut changed);
        assert_eq!(verdict, Verdict::Drop(DropReason::PeerMalformed), "{flags:b}");
    }
    assert_eq!(table.unwrap(wall.now, NodeId(3), &datagram), None);
    assert!(table.unwrap(wall.now, NodeId(2), &datagram).is_some());
}

/// A member of before, or one without programs: its sockets would get superframes whose checksums nobody makes.
#[test]
fn whoever_does_not_unwrap_gets_what_the_engine_wraps() {
    let mut wall = warm(2);
    wall.unwraps = false;
    wall.meet(2);
    let other = ModelTable::default();
    wall.engine(2).use_fast_path(Box::new(other.clone()));
    open(&mut wall, PORT, 1, 1);
    assert_eq!(wall.send(1, "ext", &ask()).len(), 1);
    for _ in 0..3 {
        assert_eq!(wall.send(2, "int", &answer()).len(), 1);
    }
    assert_eq!(wrapped(&wall, &other, &answer()), None);
    wall.unwraps = true;
    wall.meet(2);
    assert_eq!(wall.send(2, "int", &answer()).len(), 1);
    assert!(wrapped(&wall, &other, &answer()).is_some());
}

#[test]
fn who_is_not_heard_is_handed_nothing_without_a_look() {
    let (mut wall, [_, other]) = relayed();
    assert!(wrapped(&wall, &other, &answer()).is_some());
    wall.cut.insert((1, 2));
    wall.wait(Duration::from_millis(300));
    assert_eq!(wrapped(&wall, &other, &answer()), None);
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
    assert_eq!(wall.send(1, "ext", &ask()).len(), 1);
    assert_eq!(moves(&wall, &table), [false; 2]);
    wall.engine(1).set_draining(now, false);
    assert_eq!(wall.send(1, "int", &answer()).len(), 1);
    assert_eq!(moves(&wall, &table), [true; 2]);
}

/// One whose next packet came when the process had ended already was lost until another had joined.
#[test]
fn what_was_handed_over_last_goes_on_while_its_old_owner_restarts() {
    let (mut wall, [table, other]) = relayed();
    // Old enough for a copy.
    wall.wait(Duration::from_millis(1_500));
    let now = wall.now;
    wall.engine(1).set_draining(now, true);
    wall.wait(Duration::from_secs(1));
    assert_eq!(wall.status(1).owned, 0);
    let moved = table.pass(wall.now, EXT, &ask());
    let Some(Moved::ToPeer(NodeId(2), mut datagram)) = moved else { panic!("{moved:?}") };
    wall.kill(1);
    assert!(table.pass(wall.now, EXT, &ask()).is_some());
    let now = wall.now;
    let verdict = wall.engine(2).handle_wrapped(now, NodeId(1), &mut datagram);
    assert_eq!(verdict, Verdict::Forward { out: INT });
    // And what comes by its new owner needs nobody.
    assert_eq!(wall.send(2, "int", &answer()).len(), 1);
    assert_eq!(wrapped(&wall, &other, &answer()), None);
}

/// A planned restart lost all packets of such connections until the next process had joined.
#[test]
fn a_connection_of_which_packets_come_by_a_node_goes_on_while_that_is_drained_and_restarts() {
    let (mut wall, [_, other]) = relayed();
    let now = wall.now;
    wall.engine(2).set_draining(now, true);
    assert_eq!(wall.send(2, "int", &answer()).len(), 1);
    wall.kill(2);
    let goes_on = |wall: &mut Wall| {
        let (now, mut datagram) = (wall.now, wrapped(wall, &other, &answer()).unwrap());
        let verdict = wall.engine(1).handle_wrapped(now, NodeId(2), &mut datagram);
        assert_eq!(verdict, Verdict::Forward { out: EXT });
    };
    goes_on(&mut wall);
    wall.wait(Duration::from_secs(2));
    goes_on(&mut wall);
    // The next process is there, and has not joined yet.
    wall.start(2);
    goes_on(&mut wall);
    wall.wait(Duration::from_secs(1));
    assert_eq!(wall.send(2, "int", &answer()).len(), 1);
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
