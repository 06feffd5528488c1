//! How the datapath is told of connections that begin and end, and what it tells.

use std::time::Duration;

use gabion_engine::{FastAnswer, FastWindow, Time, build};

use super::{ENDED, KEPT, POLICY, SERVER, Table, client, connected, resumed, server};
use crate::scenarios::dialogue::Dialogue;

fn fins(table: &Table) -> Option<[bool; 2]> {
    table.flow().map(|flow| flow.tcp.unwrap().map(|window| window.fin))
}

#[test]
fn a_half_closed_connection_is_moved_until_the_other_side_closes_too() {
    let (mut dialogue, table) = connected();
    dialogue.send("ext", &client().seq(1_001).ack(5_001).fin().frame());
    assert_eq!(fins(&table), Some([true, false]));
    assert_eq!(table.flow().unwrap().tcp.unwrap()[0].end, 1_002);
    // The server's data, and what acknowledges it, go by the table.
    for (_, usage) in table.0.lock().unwrap().flows.values_mut() {
        usage.tcp[0].ack = 9_001;
        usage.tcp[0].edge = 9_001 + 64_000;
        usage.tcp[1].end = 9_001;
        usage.tcp[1].ack = 1_002;
    }
    table.moved(2, 2, dialogue.now);
    dialogue.step(
        "ext",
        &client().seq(1_002).ack(9_001).payload(b"more").frame(),
        &[],
        &["drop:tcp-state"],
    );
    dialogue.send("int", &server().seq(9_001).ack(1_002).fin().frame());
    assert_eq!(fins(&table), Some([true, true]));
    assert_eq!(dialogue.engine.flows(0, 1).0[0].state.label(), "closing");
    dialogue.send("ext", &client().seq(1_002).ack(9_002).frame());
    assert_eq!(table.flow(), None, "both have acknowledged the other's FIN");
    assert_eq!(dialogue.engine.flows(0, 1).0[0].state.label(), "closed");
}

/// A client's SYN and what answers it.
fn opening() -> (Dialogue, Table) {
    let table = Table::default();
    let mut dialogue = Dialogue::offloading(POLICY, Box::new(table.clone()));
    dialogue.send("ext", &client().syn().seq(1_000).frame());
    dialogue.send("int", &server().syn().seq(5_000).ack(1_001).frame());
    (dialogue, table)
}

impl Table {
    /// What both sides have sent and granted by segments that the datapath moved, so many of each direction.
    fn follows(&self, now: Time, moved: [u64; 2], change: impl Fn(&mut [FastWindow; 2])) {
        for (_, usage) in self.0.lock().unwrap().flows.values_mut() {
            change(&mut usage.tcp);
        }
        self.moved(moved[0], moved[1], now);
    }
}

#[test]
fn a_handshake_is_handed_over_with_the_answer_to_its_syn() {
    let (mut dialogue, table) = opening();
    let [initiator, responder] = table.flow().unwrap().tcp.unwrap();
    assert_eq!((initiator.opening, responder.opening), (true, false));
    assert_eq!((initiator.end, initiator.ack, initiator.edge), (1_001, 5_001, 5_001 + 64_000));
    let row = |dialogue: &Dialogue| dialogue.engine.flows(0, 1).0[0].state.label();
    assert_eq!(row(&dialogue), "syn-received");
    table.follows(dialogue.now, [1, 0], |sides| sides[0].ack = 5_001);
    // Counted among the handshakes no longer than this, and the table told.
    dialogue.wait(Duration::from_millis(10), &[], &[]);
    assert_eq!(row(&dialogue), "established");
    assert!(!table.flow().unwrap().tcp.unwrap()[0].opening);
    assert_eq!(table.moves(), [true; 2]);
}

/// A client's SYN, with which a scale is offered or not.
fn asking(scale: Option<u8>) -> (Dialogue, Table) {
    let table = Table::default();
    let mut dialogue = Dialogue::new(POLICY);
    // Who is on the way back is known by another connection.
    let other = build::tcp().from("198.51.100.9:40001").to(SERVER).syn().seq(7_000).frame();
    dialogue.send("ext", &other);
    let other = build::tcp().from(SERVER).to("198.51.100.9:40001").syn().seq(8_000).ack(7_001);
    dialogue.send("int", &other.frame());
    dialogue.engine.use_fast_path(Box::new(table.clone()));
    let syn = client().syn().seq(1_000);
    let syn = if let Some(scale) = scale { syn.wscale(scale) } else { syn };
    dialogue.send("ext", &syn.frame());
    (dialogue, table)
}

#[test]
fn the_answer_to_a_syn_is_left_to_the_datapath() {
    for (offered, answered, window) in
        [(Some(7), Some(3), 100 << 7), (Some(7), None, 100), (None, Some(3), 100)]
    {
        let (mut dialogue, table) = asking(offered);
        assert_eq!(table.moves(), [true; 2]);
        let [initiator, responder] = table.flow().unwrap().tcp.unwrap();
        let expected = (1_001, offered.unwrap_or(0), true, offered.is_none());
        let FastWindow { end, shift, opening, unscaled, .. } = initiator;
        assert_eq!((end, shift, opening, unscaled), expected);
        assert_eq!(responder, FastWindow::default());
        for (_, usage) in table.0.lock().unwrap().flows.values_mut() {
            usage.answer = Some(FastAnswer { sequence: 5_000, shift: answered });
        }
        table.follows(dialogue.now, [0, 1], |sides| {
            sides[1] =
                FastWindow { end: 5_001, ack: 1_001, edge: 9_001, window: 8_000, ..sides[1] };
        });
        dialogue.wait(Duration::from_millis(10), &[], &[]);
        let state = |dialogue: &Dialogue| dialogue.engine.flows(1, 1).0[0].state.label();
        assert_eq!(state(&dialogue), "syn-received");
        // The SYN-ACK again is the same one, and the client's windows are scaled if both have offered it.
        let again = server().syn().seq(5_000).ack(1_001);
        let again = if let Some(scale) = answered { again.wscale(scale) } else { again };
        dialogue.send("int", &again.frame());
        dialogue.send("ext", &client().seq(1_001).ack(5_001).window(100).frame());
        assert_eq!(state(&dialogue), "established");
        let edge = table.flow().unwrap().tcp.unwrap()[0].edge;
        assert_eq!(edge, 5_001 + window.max(64_000));
    }
}

#[test]
fn a_syn_that_nobody_has_answered_is_not_taken_over() {
    let (dialogue, table) = asking(None);
    assert_eq!(resumed(POLICY, &table, dialogue.now).1, ENDED);
    assert_eq!(table.flow(), None);
}

#[test]
fn a_syn_with_data_is_left_to_the_engine() {
    let table = Table::default();
    let mut dialogue = Dialogue::offloading(POLICY, Box::new(table.clone()));
    dialogue.send("ext", &client().syn().seq(1_000).payload(b"early").frame());
    assert_eq!(table.flow(), None);
}

/// Else `gabion show flows` had a connection as it was a moment ago.
#[test]
fn flows_are_listed_as_they_are() {
    let (mut dialogue, table) = opening();
    table.follows(dialogue.now, [1, 0], |sides| sides[0].ack = 5_001);
    dialogue.engine.update_flows(dialogue.now, 0, 1);
    let report = dialogue.engine.flows(0, 1).0[0];
    assert_eq!((report.state.label(), report.original_usage.packets), ("established", 2));
}

#[test]
fn a_whole_connection_that_the_datapath_has_moved_is_closed() {
    let (mut dialogue, table) = opening();
    table.follows(dialogue.now, [3, 2], |sides| {
        (sides[0].end, sides[0].ack, sides[0].fin) = (1_012, 5_012, true);
        (sides[1].end, sides[1].ack, sides[1].fin) = (5_012, 1_012, true);
    });
    let now = dialogue.now;
    dialogue.wait(Duration::from_millis(10), &[], &[]);
    assert_eq!(table.flow(), None);
    let report = dialogue.engine.flows(0, 1).0[0];
    assert_eq!((report.state.label(), report.original_usage.packets), ("closed", 4));
    let closed = dialogue.engine.flows(0, 1).0[0].expires.since(now);
    // A SYN opens it anew, at once.
    dialogue.send("ext", &client().syn().seq(90_000).frame());
    assert_eq!(dialogue.engine.flows(0, 1).0[0].state.label(), "syn-sent");
    assert_eq!(closed, Duration::from_secs(10));
}

#[test]
fn a_handshake_that_a_later_process_takes_over_goes_on() {
    let (dialogue, table) = opening();
    let (mut later, resumed) = resumed(POLICY, &table, dialogue.now);
    assert_eq!(resumed, KEPT);
    assert_eq!(later.engine.flows(0, 1).0[0].state.label(), "syn-received");
    let row = |engine: &gabion_engine::Engine| {
        engine.table_use().iter().find(|row| row.name == "half-open").map(|row| row.used)
    };
    assert_eq!(row(&later.engine), Some(1));
    later.step("ext", &client().seq(1_001).ack(5_000).frame(), &[], &["drop:tcp-window"]);
    later.send("ext", &client().seq(1_001).ack(5_001).payload(b"question").frame());
    assert_eq!(later.engine.flows(0, 1).0[0].state.label(), "established");
    assert_eq!((row(&later.engine), table.moves()[0]), (Some(0), true));
}

/// Else whoever had just finished a handshake would have been ended for the next who began one.
#[test]
fn a_handshake_that_the_datapath_has_completed_makes_room_for_nobody() {
    let (mut dialogue, table) = opening();
    table.follows(dialogue.now, [1, 0], |sides| sides[0].ack = 5_001);
    let limit = "  default: { action: drop, log: sampled }\n";
    let few = format!("{limit}  flood: {{ half-open: 1 }}\n");
    dialogue.commit(&POLICY.replace(limit, &few));
    let other = build::tcp().from("198.51.100.9:40001").to(SERVER).window(64_000);
    dialogue.send("ext", &other.syn().seq(7_000).frame());
    let states = dialogue.engine.flows(0, 9).0;
    let states: Vec<_> = states.iter().map(|flow| flow.state.label()).collect();
    assert_eq!(states, ["established", "syn-sent"]);
}

/// Covers: 5382-5
#[test]
fn a_half_closed_connection_that_the_datapath_moves_lives_for_hours() {
    let (mut dialogue, table) = connected();
    dialogue.send("int", &server().seq(5_001).ack(1_001).fin().frame());
    assert_eq!(fins(&table), Some([false, true]));
    for _ in 0..5 {
        dialogue.wait(Duration::from_hours(2), &[], &[]);
        table.moved(1, 0, dialogue.now);
    }
    let idle = Duration::from_secs(7_440);
    dialogue.wait(Duration::from_secs(2), &[], &[]);
    let report = dialogue.engine.flows(0, 1).0[0];
    assert_eq!(report.expires + Duration::from_secs(2), dialogue.now + idle);
    dialogue.wait(idle, &[], &[]);
    assert_eq!((dialogue.flows(), table.flow()), (vec![], None));
}

#[test]
fn a_half_closed_connection_is_taken_over_as_such_by_a_later_process() {
    let (mut dialogue, table) = connected();
    dialogue.send("ext", &client().seq(1_001).ack(5_001).fin().frame());
    let (mut later, resumed) = resumed(POLICY, &table, dialogue.now);
    assert_eq!(resumed, KEPT);
    assert_eq!(later.engine.flows(0, 1).0[0].state.label(), "closing");
    let more = client().seq(1_002).ack(5_001).payload(b"more").frame();
    later.step("ext", &more, &[], &["drop:tcp-state"]);
    later.send("int", &server().seq(5_001).ack(1_002).payload(b"rest").frame());
    assert!(table.moves()[1]);
    later.send("int", &server().seq(5_005).ack(1_002).fin().frame());
    later.send("ext", &client().seq(1_002).ack(5_006).frame());
    assert_eq!(later.engine.flows(0, 1).0[0].state.label(), "closed");
}
