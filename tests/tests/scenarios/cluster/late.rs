//! What comes too late, or not at all: it brings nothing back, and is taken for nothing else.

use std::time::Duration;

use gabion_engine::{NodeId, Presence, build};

use super::super::POLICY;
use super::wall::Wall;
use super::{CLIENT, HOST, SERVER, answer, client, ends, open, question, server};

const PORT: u16 = 40_000;

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Two nodes that know each other, and ten connections that came in by one and whose answers come to another.
fn ten_connections(inward: u8, outward: u8) -> Wall {
    let mut wall = Wall::new(2, POLICY);
    for port in PORT..PORT + 10 {
        open(&mut wall, port, inward, outward);
    }
    wall.wait(milliseconds(50));
    wall
}

/// A link that loses 5 % loses three in a row each quarter of an hour.
#[test]
fn a_peer_three_heartbeats_of_which_were_lost_is_not_taken_for_dead() {
    let mut wall = Wall::new(2, POLICY);
    for _ in 0..20 {
        wall.cut.insert((1, 2));
        wall.wait(milliseconds(340));
        wall.cut.clear();
        wall.wait(milliseconds(65));
        assert_eq!(wall.status(2).members[0].presence, Presence::Alive);
    }
}

/// The connection ends by the other node, whose word of it is cut off: a packet from before that waited here brought
/// it back when the other was taken for dead.
#[test]
fn a_packet_that_has_waited_for_longer_than_a_death_takes_brings_nothing_back() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, PORT, 1, 1);
    wall.wait(milliseconds(50));
    wall.delay = milliseconds(150);
    for port in 1..20 {
        // How long it takes is learnt.
        wall.send(2, "ext", &client(PORT + port).syn().seq(CLIENT).frame());
        wall.wait(milliseconds(100));
    }
    assert_eq!(wall.send(2, "ext", &question(PORT)), [""; 0]);
    wall.wait(milliseconds(140));
    wall.cut.insert((1, 2));
    assert_eq!(ends(&wall.wait(milliseconds(20))).len(), 1);
    let end = client(PORT).seq(CLIENT + 1_006).ack(HOST + 5_001).fin().frame();
    assert_eq!(wall.send(1, "ext", &end).len(), 1);
    let end = server(PORT).seq(HOST + 5_001).ack(CLIENT + 1_007).fin().frame();
    assert_eq!(wall.send(1, "int", &end).len(), 1);
    let last = client(PORT).seq(CLIENT + 1_007).ack(HOST + 5_002).frame();
    assert_eq!(wall.send(1, "ext", &last).len(), 1);
    let before = wall.status(2).owned;
    let left = wall.wait(milliseconds(1_000));
    assert_eq!(wall.status(2).members[0].presence, Presence::Dead);
    assert!(!left.iter().any(|left| left.contains(&format!(":{PORT} "))), "{left:?}");
    assert!(wall.status(2).owned <= before);
}

/// S3: whoever has given a flow up to the one who saw its end takes no offer of it that was on its way.
#[test]
fn an_offer_of_a_flow_whose_end_has_been_heard_of_is_not_taken() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, PORT, 1, 1);
    wall.wait(milliseconds(50));
    let now = wall.now;
    wall.engine(1).set_draining(now, true);
    wall.said.clear();
    wall.wait(milliseconds(1_500));
    let offers: Vec<_> = std::mem::take(&mut wall.said);
    assert_eq!((wall.status(1).owned, wall.status(2).owned), (0, 1));
    let now = wall.now;
    wall.engine(1).set_draining(now, false);
    wall.wait(milliseconds(1_000));
    // In a partition it passes by the first node again, and ends there.
    wall.cut.extend([(1, 2), (2, 1)]);
    wall.wait(milliseconds(600));
    assert_eq!(wall.send(1, "ext", &question(PORT)).len(), 1, "{:?}", wall.drops());
    let end = server(PORT).seq(HOST + 5_001).ack(CLIENT + 1_006).fin().frame();
    assert_eq!(wall.send(1, "int", &end).len(), 1, "{:?}", wall.drops());
    let end = client(PORT).seq(CLIENT + 1_006).ack(HOST + 5_002).fin().frame();
    assert_eq!(wall.send(1, "ext", &end).len(), 1);
    let last = server(PORT).seq(HOST + 5_002).ack(CLIENT + 1_007).frame();
    assert_eq!(wall.send(1, "int", &last).len(), 1);
    assert_eq!((wall.status(1).owned, wall.status(2).owned), (1, 1));
    wall.cut.clear();
    wall.wait(milliseconds(300));
    assert_eq!(wall.status(2).owned, 0);
    for (from, to, datagram) in offers {
        if (from, to) == (1, 2) {
            let now = wall.now;
            wall.engine(2).handle_peer(now, NodeId(1), &datagram);
            assert_eq!(wall.status(2).owned, 0);
        }
    }
}

/// A node that is offered a connection while it has begun another of the same addresses, as it had not heard of the
/// first one: it said that it had taken it, and the first one was gone.
#[test]
fn an_offer_is_not_taken_for_a_repeated_one_of_another_connection() {
    let mut wall = ten_connections(1, 1);
    wall.cut.extend([(1, 2), (2, 1)]);
    wall.said.clear();
    let now = wall.now;
    wall.engine(1).set_draining(now, true);
    wall.wait(milliseconds(600));
    let offers: Vec<_> = std::mem::take(&mut wall.said);
    for port in PORT..PORT + 10 {
        wall.send(2, "ext", &client(port).syn().seq(CLIENT + 1_000).frame());
    }
    assert_eq!((wall.status(1).owned, wall.status(2).owned), (10, 10));
    wall.cut.clear();
    for (from, to, datagram) in offers {
        if (from, to) == (1, 2) {
            wall.hear(2, 1, &datagram);
        }
    }
    wall.wait(milliseconds(1_000));
    for port in PORT..PORT + 10 {
        let left = wall.send(2, "ext", &question(port));
        assert_eq!(ends(&left).len(), 1, "{:?}", wall.drops());
    }
}

/// The node that the flows were given to was cut off from the one that took them over then, and from nobody else: who had
/// given them away went on sending their packets to it.
#[test]
fn a_hint_does_not_outlive_a_later_registration() {
    let published = "203.0.113.7:443";
    let from = |port: u16| format!("198.51.100.9:{port}");
    let inward = |port: u16| build::tcp().from(&from(port)).to(published).window(64_000);
    let mut wall = Wall::new(3, POLICY);
    let ports = PORT..PORT + 40;
    for port in ports.clone() {
        wall.send(2, "ext", &inward(port).syn().seq(CLIENT + 1_000).frame());
        wall.send(2, "int", &server(port).syn().seq(HOST + 5_000).ack(CLIENT + 1_001).frame());
        let last = inward(port).seq(CLIENT + 1_001).ack(HOST + 5_001);
        assert_eq!(wall.send(2, "ext", &last.frame()).len(), 1, "{:?}", wall.drops());
    }
    wall.wait(milliseconds(50));
    let now = wall.now;
    wall.engine(2).set_draining(now, true);
    wall.wait(milliseconds(1_500));
    assert_eq!(wall.status(2).owned, 0);
    wall.cut.extend([(1, 3), (3, 1)]);
    wall.wait(milliseconds(600));
    for port in ports.clone() {
        // Only one of the two has had it: the other takes it over.
        let tell = server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).payload(b"hello").frame();
        assert_eq!(wall.send(1, "int", &tell).len(), 1, "{:?}", wall.drops());
        assert_eq!(wall.send(3, "int", &tell).len(), 1, "{:?}", wall.drops());
    }
    let now = wall.now;
    wall.engine(2).set_draining(now, false);
    // It hears of it later than who gives way.
    wall.cut = [(1, 2)].into();
    wall.wait(milliseconds(250));
    wall.cut.clear();
    wall.wait(milliseconds(1_000));
    for port in ports {
        let question = inward(port).seq(CLIENT + 1_001).ack(HOST + 5_001).psh().payload(b"hello");
        let left = wall.send(2, "ext", &question.frame());
        assert_eq!(ends(&left).len(), 1, "{port}: {:?}", wall.drops());
    }
}

/// The answer came to the node that directs its key, and waits there for word of its owner.
#[test]
fn an_answer_waits_until_what_was_lost_of_its_owner_has_been_said_again() {
    let mut wall = Wall::new(2, POLICY);
    wall.delay = milliseconds(20);
    for port in 1..20 {
        // How long it takes is learnt.
        wall.send(1, "ext", &client(PORT + 100 + port).syn().seq(CLIENT).frame());
        wall.send(2, "ext", &client(PORT + 200 + port).syn().seq(CLIENT).frame());
        wall.wait(milliseconds(60));
    }
    for port in PORT..PORT + 10 {
        wall.cut.insert((1, 2));
        assert_eq!(wall.send(1, "ext", &client(port).syn().seq(CLIENT).frame()).len(), 1);
        let answer = server(port).syn().seq(HOST).ack(CLIENT + 1).frame();
        let mut left = wall.send(2, "int", &answer);
        left.extend(wall.wait(milliseconds(100)));
        wall.cut.clear();
        left.extend(wall.wait(milliseconds(300)));
        let expected = format!("1 ext: tcp {SERVER} > 198.51.100.9:{port} S. ttl 63");
        assert!(left.contains(&expected), "{left:?} {:?}", wall.drops());
    }
}

/// It hears of what is its own from others only: it asks them whether it still is.
#[test]
fn a_node_that_stood_still_asks_about_what_others_hand_it() {
    for nodes in 2..=3 {
        let mut wall = Wall::new(nodes, POLICY);
        for port in PORT..PORT + 10 {
            open(&mut wall, port, 1, 1);
        }
        wall.wait(milliseconds(50));
        wall.pause(1);
        wall.wait(milliseconds(700));
        wall.resume(1);
        wall.wait(milliseconds(500));
        for port in PORT..PORT + 10 {
            let left = wall.send(2, "ext", &question(port));
            assert_eq!(ends(&left).len(), 1, "{:?}", wall.drops());
            let left = wall.send(2, "int", &answer(port));
            assert_eq!(ends(&left).len(), 1, "{:?}", wall.drops());
        }
        assert_eq!(wall.drops(), [].into());
    }
}

/// What it heard first was that the other did not hear it: it took itself for alone, and all that it had for its own.
#[test]
fn a_node_that_stood_still_and_hears_first_that_it_is_not_heard_is_not_alone() {
    let mut wall = ten_connections(1, 2);
    wall.pause(1);
    wall.wait(milliseconds(700));
    for port in PORT..PORT + 10 {
        assert_eq!(ends(&wall.send(2, "int", &answer(port))).len(), 1, "{:?}", wall.drops());
    }
    let (.., heartbeat) = wall.said.iter().rfind(|said| (said.0, said.1) == (2, 1)).unwrap();
    let heartbeat = heartbeat.clone();
    wall.resume(1);
    wall.hear(1, 2, &heartbeat);
    assert_eq!(wall.status(1).members[0].presence, Presence::Alive);
    for port in PORT..PORT + 10 {
        let left = wall.send(1, "ext", &question(port));
        assert_eq!(ends(&left).len(), 1, "{:?}", wall.drops());
        assert!(left[0].starts_with("2 int"), "{left:?}");
    }
    assert_eq!(wall.drops(), [].into());
}

/// A SYN that had waited for as long as its node stood still, and its answer, made a flow of the latest term, to which the
/// owner of the connection that they had begun elsewhere gave way.
#[test]
fn a_connection_does_not_give_way_to_what_is_left_of_its_beginning() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, PORT, 1, 1);
    wall.wait(milliseconds(50));
    wall.cut.extend([(1, 2), (2, 1)]);
    wall.send(2, "ext", &client(PORT).syn().seq(CLIENT + 1_000).frame());
    wall.wait(milliseconds(600));
    wall.send(2, "ext", &client(PORT).syn().seq(CLIENT + 1_000).frame());
    wall.send(2, "int", &server(PORT).syn().seq(HOST + 5_000).ack(CLIENT + 1_001).frame());
    assert_eq!(wall.status(2).owned, 1);
    wall.cut.clear();
    wall.wait(milliseconds(500));
    assert_eq!((wall.status(1).owned, wall.status(2).owned), (1, 0));
    let left = wall.send(2, "ext", &question(PORT));
    assert_eq!(left, [format!("1 int: tcp 198.51.100.9:{PORT} > {SERVER} P. +5 ttl 63")]);
}

/// The rules would let it out, from whatever address they give it.
#[test]
fn a_datagram_of_which_all_asks_were_lost_is_not_taken_for_a_question() {
    let mut wall = Wall::new(3, POLICY);
    for port in 40_000..40_010 {
        let ask = build::udp().from(&format!("198.51.100.9:{port}")).to("10.1.0.10:53");
        assert_eq!(wall.claim(1, "ext", &ask.payload(b"who").frame()).len(), 1);
    }
    wall.cut_wrapped.extend([(2, 1), (2, 3)]);
    for port in 40_000..40_010 {
        let tell = build::udp().from("10.1.0.10:53").to(&format!("198.51.100.9:{port}"));
        let mut left = wall.send(2, "int", &tell.payload(b"he").frame());
        left.extend(wall.wait(milliseconds(300)));
        assert_eq!(left, [""; 0]);
    }
    assert_eq!(wall.drops(), ["2 drop:no-owner".to_owned()].into());
}
