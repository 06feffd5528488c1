//! Several nodes: packets that come to another node than their flow's owner, and owners that go.

mod buffers;
mod fast_path;
mod halves;
mod late;
mod lost;
mod mtu;
mod nat;
mod refused;
mod repair;
mod strict;
mod wall;

use std::time::Duration;

use gabion_engine::{NodeId, Probe, Verdict, build};
use gabion_rules::Transport;
use gabion_tests::network::interface_id;

use super::POLICY;
use wall::Wall;

const SERVER: &str = "10.1.0.10:443";

/// Sequence numbers in these tests count from here: such that nothing that was forgotten is near zero.
const CLIENT: u32 = 3_000_000_000;
const HOST: u32 = 1_500_000_000;

fn client(port: u16) -> build::FrameBuilder {
    build::tcp().from(&format!("198.51.100.9:{port}")).to(SERVER).window(64_000)
}

fn server(port: u16) -> build::FrameBuilder {
    build::tcp().from(SERVER).to(&format!("198.51.100.9:{port}")).window(64_000)
}

/// Opens a connection whose packets come in by one node and whose answers come to another.
fn open(wall: &mut Wall, port: u16, inward: u8, outward: u8) {
    let left = wall.send(inward, "ext", &client(port).syn().seq(CLIENT + 1_000).frame());
    assert_eq!(left, [format!("{inward} int: tcp 198.51.100.9:{port} > {SERVER} S ttl 63")]);
    let left = wall.send(
        outward,
        "int",
        &server(port).syn().seq(HOST + 5_000).ack(CLIENT + 1_001).frame(),
    );
    assert_eq!(left, [format!("{inward} ext: tcp {SERVER} > 198.51.100.9:{port} S. ttl 63")]);
    let left =
        wall.send(inward, "ext", &client(port).seq(CLIENT + 1_001).ack(HOST + 5_001).frame());
    assert_eq!(left, [format!("{inward} int: tcp 198.51.100.9:{port} > {SERVER} . ttl 63")]);
}

/// The client's first words on a connection, and the server's.
fn question(port: u16) -> Vec<u8> {
    client(port).seq(CLIENT + 1_001).ack(HOST + 5_001).psh().payload(b"hello").frame()
}

fn answer(port: u16) -> Vec<u8> {
    server(port).seq(HOST + 5_001).ack(CLIENT + 1_006).psh().payload(b"hello").frame()
}

/// What left, by whichever node.
fn ends(left: &[String]) -> Vec<&str> {
    left.iter().map(|left| &left[2..]).collect()
}

#[test]
fn an_answer_that_comes_to_another_node_leaves_by_the_owner() {
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, POLICY);
        // Directors are chosen by the key: some are the owner, some the forwarder, some neither.
        for port in 40_000..40_040 {
            open(&mut wall, port, 1, 2);
            let data =
                server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).psh().payload(b"hello").frame();
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
            let left = wall.send(2, "ext", &question(port));
            assert_eq!(
                ends(&left),
                [format!("int: tcp 198.51.100.9:{port} > {SERVER} P. +5 ttl 63")]
            );
            let left = wall.send(2, "int", &answer(port));
            assert_eq!(
                ends(&left),
                [format!("ext: tcp {SERVER} > 198.51.100.9:{port} P. +5 ttl 63")]
            );
        }
        assert_eq!(wall.drops(), [].into());
    }
}

#[test]
fn a_packet_of_another_nodes_flow_is_explained() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let transport = Transport::Tcp { source_port: 443, destination_port: 40_000 };
    let (source, destination) = ("10.1.0.10".parse().unwrap(), "198.51.100.9".parse().unwrap());
    let probe = Probe { from: interface_id("int"), source, destination, transport };
    let explained = wall.engine(2).explain(&probe);
    assert_eq!(explained.verdict, Verdict::ToPeer { node: NodeId(1) });
    assert!(explained.steps.iter().any(|step| step.detail.contains("a flow of node 1's")));
    assert!(matches!(wall.engine(1).explain(&probe).verdict, Verdict::Forward { .. }));
}

/// Numbers of asks begin anew with a process, and those of the one before are remembered for a while.
#[test]
fn what_a_node_asks_after_a_quick_restart_is_handled() {
    let mut wall = Wall::new(2, POLICY);
    for port in 40_000..40_020 {
        open(&mut wall, port, 2, 1);
    }
    wall.kill(1);
    wall.start(1);
    wall.wait(Duration::from_millis(300));
    for port in 40_000..40_020 {
        let data = server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).payload(b"hello").frame();
        let left = wall.send(1, "int", &data);
        assert_eq!(ends(&left).len(), 1, "{port}: {:?}", wall.drops());
    }
    assert_eq!(wall.drops(), [].into());
}

/// A sender that has waited for a node to come back does not say it again for seconds.
#[test]
fn what_comes_before_a_node_has_found_the_others_waits_for_them() {
    let mut wall = Wall::new(2, POLICY);
    for port in 40_000..40_020 {
        open(&mut wall, port, 1, 1);
    }
    wall.wait(Duration::from_millis(50));
    wall.kill(1);
    wall.wait(Duration::from_secs(2));
    wall.boot(1);
    for port in 40_000..40_020 {
        assert_eq!(wall.send(1, "ext", &question(port)), [""; 0]);
    }
    wall.wait(Duration::from_millis(100));
    wall.meet(1);
    let mut left = wall.wait(Duration::from_millis(300));
    left.sort();
    let expected: Vec<String> = (40_000..40_020)
        .map(|port| format!("int: tcp 198.51.100.9:{port} > {SERVER} P. +5 ttl 63"))
        .collect();
    assert_eq!(ends(&left), expected);
    assert_eq!(wall.drops(), [].into());
}

/// The sender waits longer before it says it a third time than the node takes to find out; and what it says anew
/// comes before what it repeats.
#[test]
fn what_was_sent_to_a_dead_node_goes_on_when_its_death_is_noticed() {
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, POLICY);
        let ports = 40_000..40_006;
        for port in ports.clone() {
            open(&mut wall, port, 1, 2);
            // Node 2 knows the owner, and asks nobody.
            let data = server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).payload(b"hello").frame();
            assert_eq!(wall.send(2, "int", &data).len(), 1);
        }
        wall.wait(Duration::from_millis(50));
        wall.power_off(1);
        wall.wait(Duration::from_millis(200));
        for port in ports.clone() {
            let say = |at, what| server(port).seq(HOST + at).ack(CLIENT + 1_001).payload(what);
            let (anew, again) = (say(5_010, b"anew"), say(5_006, b"lost"));
            for frame in [anew.frame(), again.frame()] {
                assert_eq!(wall.send(2, "int", &frame), [""; 0]);
            }
        }
        let mut left = wall.wait(Duration::from_millis(300));
        left.sort();
        let expected = ports.flat_map(|port| {
            ["", ""].map(|_| format!("ext: tcp {SERVER} > 198.51.100.9:{port} . +4 ttl 63"))
        });
        let mut found = ends(&left);
        found.sort_unstable();
        assert_eq!(found, expected.collect::<Vec<_>>(), "{nodes} nodes");
        assert_eq!(wall.drops(), [].into());
    }
}

/// RFC 6092 REC-32, and what is known of a connection that has moved on since it was last written down.
#[test]
fn windows_are_learnt_after_an_adoption_and_hold_from_then_on() {
    let mut wall = Wall::new(2, POLICY);
    let port = 40_000;
    open(&mut wall, port, 1, 1);
    wall.wait(Duration::from_millis(50));
    wall.kill(1);
    let data = client(port).seq(CLIENT + 9_000_001).ack(HOST + 7_000_001).payload(b"hello").frame();
    assert_eq!(
        wall.send(2, "ext", &data),
        [format!("2 int: tcp 198.51.100.9:{port} > {SERVER} . +5 ttl 63")]
    );
    let answer =
        server(port).seq(HOST + 7_000_001).ack(CLIENT + 9_000_006).payload(b"hello").frame();
    assert_eq!(
        wall.send(2, "int", &answer),
        [format!("2 ext: tcp {SERVER} > 198.51.100.9:{port} . +5 ttl 63")]
    );
    let more = client(port).seq(CLIENT + 9_000_006).ack(HOST + 7_000_006).payload(b"hello").frame();
    assert_eq!(wall.send(2, "ext", &more).len(), 1);
    assert_eq!(wall.drops(), [].into());
    for seq in [9_200_000, 8_000_000] {
        let stray = client(port).seq(CLIENT + seq).ack(HOST + 7_000_006).payload(b"hello").frame();
        assert_eq!(wall.send(2, "ext", &stray), [""; 0]);
    }
    assert_eq!(wall.drops(), ["2 drop:tcp-window".to_owned()].into());
}

/// What the dead node had passed lies behind a gap that is filled after the adoption: more is acknowledged then
/// than the adopter has seen.
#[test]
fn what_was_sent_before_an_adoption_may_be_acknowledged_after_it() {
    let mut wall = Wall::new(2, POLICY);
    let port = 40_000;
    open(&mut wall, port, 1, 1);
    wall.wait(Duration::from_millis(50));
    wall.kill(1);
    let ack = |ack: u32| client(port).seq(CLIENT + 1_001).ack(HOST + ack).frame();
    let data = |seq: u32| server(port).seq(HOST + seq).ack(CLIENT + 1_001).payload(b"hello");
    assert_eq!(wall.send(2, "int", &data(5_001).frame()).len(), 1);
    assert_eq!(wall.send(2, "ext", &ack(5_006)).len(), 1);
    assert_eq!(wall.send(2, "int", &data(5_006).frame()).len(), 1);
    assert_eq!(wall.send(2, "ext", &ack(25_006)).len(), 1);
    assert_eq!(wall.drops(), [].into());
    // But no more than it has let the server send.
    assert_eq!(wall.send(2, "ext", &ack(25_006 + 64_001)), [""; 0]);
    assert_eq!(wall.drops(), ["2 drop:tcp-window".to_owned()].into());
}

#[test]
fn a_node_that_leaves_hands_its_flows_over_and_forwards_what_still_comes() {
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, POLICY);
        for port in 40_000..40_040 {
            open(&mut wall, port, 1, 2);
        }
        let now = wall.now;
        wall.engine(1).set_draining(now, true);
        wall.wait(Duration::from_secs(3));
        assert_eq!(wall.status(1).owned, 0);
        for port in 40_000..40_040 {
            let left = wall.send(1, "ext", &question(port));
            assert_eq!(
                ends(&left),
                [format!("int: tcp 198.51.100.9:{port} > {SERVER} P. +5 ttl 63")]
            );
            assert!(!left[0].starts_with('1'), "{left:?}");
        }
        assert_eq!(wall.drops(), [].into());
        wall.kill(1);
        for port in 40_000..40_040 {
            let left = wall.send(2, "int", &answer(port));
            assert_eq!(
                ends(&left),
                [format!("ext: tcp {SERVER} > 198.51.100.9:{port} P. +5 ttl 63")]
            );
        }
        assert_eq!(wall.drops(), [].into());
    }
}

/// One death after the other: copies of flows are copied on.
#[test]
fn connections_outlive_all_nodes_but_one() {
    let mut wall = Wall::new(4, POLICY);
    for port in 40_000..40_040 {
        open(&mut wall, port, 1, 2);
    }
    for node in 1..=3 {
        wall.wait(Duration::from_millis(500));
        wall.kill(node);
    }
    for port in 40_000..40_040 {
        let left = wall.send(4, "ext", &question(port));
        assert_eq!(left, [format!("4 int: tcp 198.51.100.9:{port} > {SERVER} P. +5 ttl 63")]);
    }
}

#[test]
fn a_node_that_stood_still_leaves_its_flows_to_whoever_took_them() {
    let mut wall = Wall::new(3, POLICY);
    for port in 40_000..40_040 {
        open(&mut wall, port, 1, 2);
    }
    wall.wait(Duration::from_millis(50));
    wall.pause(1);
    wall.wait(Duration::from_secs(5));
    for port in 40_000..40_020 {
        let data = question(port);
        assert_eq!(wall.send(2, "ext", &data).len(), 1);
    }
    wall.resume(1);
    for port in 40_000..40_040 {
        let left = wall.send(1, "ext", &question(port));
        assert_eq!(ends(&left), [format!("int: tcp 198.51.100.9:{port} > {SERVER} P. +5 ttl 63")]);
        assert_eq!(left[0].starts_with('1'), port >= 40_020, "{left:?}");
    }
    assert_eq!(wall.drops(), [].into());
}

#[test]
fn a_datagram_that_may_be_an_answer_is_asked_about_before_the_rules_are() {
    let dns = || build::udp().from("198.51.100.9:5353").to("10.1.0.10:53").payload(b"who");
    let answer = || build::udp().from("10.1.0.10:53").to("198.51.100.9:5353").payload(b"he");
    for nodes in 2..=4 {
        let mut wall = Wall::new(nodes, POLICY);
        let left = wall.claim(1, "ext", &dns().frame());
        assert_eq!(left, ["1 int: udp 198.51.100.9:5353 > 10.1.0.10:53 +3 ttl 63"]);
        let left = wall.send(2, "int", &answer().frame());
        assert_eq!(left, ["1 ext: udp 10.1.0.10:53 > 198.51.100.9:5353 +2 ttl 63"]);
        let left = wall.send(2, "int", &answer().frame());
        assert_eq!(left, ["1 ext: udp 10.1.0.10:53 > 198.51.100.9:5353 +2 ttl 63"]);
        assert_eq!(wall.drops(), [].into());
    }
}

#[test]
fn an_error_that_comes_to_another_node_finds_the_flow_that_it_quotes() {
    let mut wall = Wall::new(3, POLICY);
    for port in 40_000..40_010 {
        open(&mut wall, port, 1, 1);
        let sent = client(port).seq(CLIENT + 1_001).ack(HOST + 5_001).payload(b"hello").frame();
        let left = wall.send(1, "ext", &sent);
        assert_eq!(left.len(), 1);
        let quoted = client(port)
            .seq(CLIENT + 1_001)
            .ack(HOST + 5_001)
            .payload(b"hello")
            .hop_limit(62)
            .frame();
        let error = build::icmp_error_about(&quoted, 3, 1, [0; 4]).from("10.1.0.99");
        let left = wall.send(2, "int", &error.frame());
        assert_eq!(left.len(), 1, "{:?}", wall.drops());
        assert!(left[0].starts_with("1 ext: icmp"), "{left:?}");
    }
}

/// Both nodes live, and neither knows: each sees one half of the connections, and they go on.
#[test]
fn connections_go_on_in_halves_while_nodes_do_not_hear_each_other() {
    let mut wall = Wall::new(2, POLICY);
    for port in 40_000..40_010 {
        open(&mut wall, port, 1, 2);
    }
    wall.wait(Duration::from_millis(50));
    wall.cut.extend([(1, 2), (2, 1)]);
    wall.wait(Duration::from_millis(600));
    for round in 0..20 {
        for port in 40_000..40_010 {
            let (sent, told) = (CLIENT + 1_001 + 5 * round, HOST + 5_001 + 2 * round);
            let ask = client(port).seq(sent).ack(told).payload(b"hello").frame();
            assert_eq!(wall.send(1, "ext", &ask).len(), 1, "round {round}: {:?}", wall.drops());
            let tell = server(port).seq(told).ack(sent + 5).payload(b"hi").frame();
            assert_eq!(wall.send(2, "int", &tell).len(), 1, "round {round}: {:?}", wall.drops());
        }
        wall.wait(Duration::from_millis(100));
    }
    wall.cut.clear();
    wall.wait(Duration::from_secs(2));
    for port in 40_000..40_010 {
        let ask = client(port).seq(CLIENT + 1_101).ack(HOST + 5_041).payload(b"hello").frame();
        let left = wall.send(1, "ext", &ask);
        assert_eq!(left, [format!("2 int: tcp 198.51.100.9:{port} > {SERVER} . +5 ttl 63")]);
        let tell = server(port).seq(HOST + 5_041).ack(CLIENT + 1_106).payload(b"hi").frame();
        assert_eq!(wall.send(2, "int", &tell).len(), 1);
    }
    assert_eq!(wall.drops(), [].into());
}

/// S3: each node has seen one side close, and neither that both have.
#[test]
fn a_connection_that_ended_in_two_halves_is_over_when_these_meet() {
    let mut wall = Wall::new(2, POLICY);
    for port in 40_000..40_010 {
        open(&mut wall, port, 1, 2);
    }
    wall.wait(Duration::from_millis(50));
    wall.cut.extend([(1, 2), (2, 1)]);
    wall.wait(Duration::from_millis(600));
    for port in 40_000..40_010 {
        let data = server(port).seq(HOST + 5_001).ack(CLIENT + 1_001).payload(b"hi").frame();
        assert_eq!(wall.send(2, "int", &data).len(), 1);
        let end = client(port).seq(CLIENT + 1_001).ack(HOST + 5_003).fin().frame();
        assert_eq!(wall.send(1, "ext", &end).len(), 1);
        let end = server(port).seq(HOST + 5_003).ack(CLIENT + 1_002).fin().frame();
        assert_eq!(wall.send(2, "int", &end).len(), 1);
        let last = client(port).seq(CLIENT + 1_002).ack(HOST + 5_004).frame();
        assert_eq!(wall.send(1, "ext", &last).len(), 1);
    }
    wall.cut.clear();
    wall.wait(Duration::from_secs(2));
    assert_eq!(wall.drops(), [].into());
    for port in 40_000..40_010 {
        let stray = server(port).seq(HOST + 5_004).ack(CLIENT + 1_002).payload(b"more").frame();
        assert_eq!(wall.send(2, "int", &stray), [""; 0]);
        let stray = client(port).seq(CLIENT + 1_002).ack(HOST + 5_004).payload(b"more").frame();
        assert_eq!(wall.send(1, "ext", &stray), [""; 0]);
    }
}

/// Of two nodes one hears the other: both take the other for dead, and none waits for what does not come.
#[test]
fn connections_go_on_where_nodes_hear_each_other_one_way_only() {
    for cut in [(1, 2), (2, 1)] {
        let mut wall = Wall::new(2, POLICY);
        for port in 40_000..40_010 {
            open(&mut wall, port, 1, 2);
        }
        wall.wait(Duration::from_millis(50));
        wall.cut.insert(cut);
        wall.wait(Duration::from_millis(700));
        for port in 40_000..40_010 {
            let ask = client(port).seq(CLIENT + 1_001).ack(HOST + 5_001).payload(b"hello").frame();
            assert_eq!(wall.send(1, "ext", &ask).len(), 1, "{cut:?} {:?}", wall.drops());
            let tell = server(port).seq(HOST + 5_001).ack(CLIENT + 1_006).payload(b"hi").frame();
            assert_eq!(wall.send(2, "int", &tell).len(), 1, "{cut:?} {:?}", wall.drops());
        }
        assert_eq!(wall.drops(), [].into());
    }
}
