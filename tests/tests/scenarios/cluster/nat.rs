//! Source NAT to an address that all nodes share: who gave a port out can be told by the port.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_engine::build;

use super::super::POLICY;
use super::ends;
use super::wall::Wall;

const REMOTE: &str = "198.51.100.9:443";

/// The policy's pool has one address; `symmetric` ports are shared.
fn policy(mapping: &str) -> String {
    POLICY.replace("ports: 1024-65000", &format!("ports: 1024-65000, mapping: {mapping}"))
}

/// The external endpoint in what left, as `203.0.113.4:port`.
fn external(left: &[String]) -> String {
    let [line] = left else { panic!("one packet leaves: {left:?}") };
    let end = line.split(' ').find(|word| word.starts_with("203.0.113.4:"));
    end.unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn request(kind: &str, port: u16) -> build::FrameBuilder {
    let inside = format!("10.1.0.10:{port}");
    match kind {
        "tcp" => build::tcp().from(&inside).to(REMOTE).window(64_000).syn().seq(1_000),
        "udp" => build::udp().from(&inside).to(REMOTE).payload(b"ask"),
        _ => build::icmp_echo().from("10.1.0.10").to("198.51.100.9").id(port),
    }
}

fn answer(kind: &str, external: &str) -> build::FrameBuilder {
    match kind {
        "tcp" => build::tcp().from(REMOTE).to(external).window(64_000).syn().seq(5_000).ack(1_001),
        "udp" => build::udp().from(REMOTE).to(external).payload(b"told"),
        _ => {
            let (address, id) = external.split_once(':').unwrap();
            build::icmp_echo_reply().from("198.51.100.9").to(address).id(id.parse().unwrap())
        }
    }
}

/// The external endpoint of a request that went out by a node.
fn ask(wall: &mut Wall, node: u8, kind: &str, port: u16) -> String {
    let left = wall.claim(node, "int", &request(kind, port).frame());
    if kind == "icmp" {
        let [line] = &left[..] else { panic!("one packet leaves: {left:?}") };
        let (_, id) = line.split_once(" echo ").unwrap();
        return format!("203.0.113.4:{}", id.split(' ').next().unwrap());
    }
    external(&left)
}

#[test]
fn an_answer_finds_who_translated_whichever_node_it_comes_to() {
    for mapping in ["endpoint-independent", "symmetric"] {
        for nodes in 2..=4 {
            let mut wall = Wall::new(nodes, &policy(mapping));
            let mut owners = BTreeMap::new();
            for (kind, port) in ["tcp", "udp", "icmp"].into_iter().cycle().zip(40_000..40_060) {
                let by = 1 + (port % u16::from(nodes)) as u8;
                let external = ask(&mut wall, by, kind, port);
                let before = owners.insert((kind, external.clone()), by);
                assert_eq!(before, None, "{external} stands for one");
                let other = 1 + by % nodes;
                let left = wall.send(other, "ext", &answer(kind, &external).frame());
                let [line] = &left[..] else { panic!("{kind} {external} at {other}: {left:?}") };
                assert!(line.starts_with(&format!("{by} int: {kind} ")), "{line}");
                assert!(line.contains("> 10.1.0.10"), "{line}");
            }
            assert_eq!(wall.drops(), [].into(), "{mapping}");
        }
    }
}

/// Strangers who send to a mapping that lets them in come in where the mapping is.
#[test]
fn a_stranger_comes_in_by_the_node_of_the_mapping() {
    let policy = POLICY
        .replace("ports: 1024-65000", "ports: 1024-65000, filtering: endpoint-independent")
        .replace("service: udp/53", "service: udp");
    let mut wall = Wall::new(3, &policy);
    for port in 40_000..40_020 {
        let external = ask(&mut wall, 1, "udp", port);
        let stranger = build::udp().from("198.51.100.77:99").to(&external).payload(b"hello");
        let left = wall.send(2, "ext", &stranger.frame());
        assert_eq!(
            left,
            [format!("1 int: udp 198.51.100.77:99 > 10.1.0.10:{port} +5 ttl 63")],
            "{external}"
        );
    }
    assert_eq!(wall.drops(), [].into());
}

/// The same SYN came to both, and each node gave it a port of its own: the one whose answer the client has taken is the
/// connection, and the other one gives way, whichever is later.
#[test]
fn a_connection_does_not_give_way_to_one_whose_answer_the_client_has_not_taken() {
    for (taken, other) in [(1, 2), (2, 1)] {
        let mut wall = Wall::new(2, &policy("symmetric"));
        wall.cut.extend([(1, 2), (2, 1)]);
        wall.wait(Duration::from_millis(600));
        let inside = |port: u16| {
            build::tcp().from(&format!("10.1.0.10:{port}")).to(REMOTE).window(64_000).seq(1_001)
        };
        for port in 40_000..40_020 {
            for (node, sequence) in [(taken, 5_000), (other, 9_000)] {
                let external = ask(&mut wall, node, "tcp", port);
                let answer = answer("tcp", &external).seq(sequence);
                assert_eq!(wall.send(node, "ext", &answer.frame()).len(), 1);
            }
            assert_eq!(wall.send(other, "int", &inside(port).ack(5_001).frame()), [""; 0]);
        }
        wall.cut.clear();
        wall.wait(Duration::from_millis(500));
        assert_eq!((wall.status(taken).owned, wall.status(other).owned), (20, 0));
        for port in 40_000..40_020 {
            let left = wall.send(other, "int", &inside(port).ack(5_001).frame());
            let [line] = &left[..] else { panic!("{port}: {left:?} {:?}", wall.drops()) };
            assert!(line.starts_with(&format!("{taken} ext: tcp ")), "{line}");
        }
    }
}

/// Its external port stays with it: the server sees nothing of it.
#[test]
fn a_translated_connection_outlives_its_owner() {
    for mapping in ["endpoint-independent", "symmetric"] {
        for nodes in 2..=4 {
            let mut wall = Wall::new(nodes, &policy(mapping));
            let open = |wall: &mut Wall, port: u16| {
                let external = ask(wall, 1, "tcp", port);
                wall.send(2, "ext", &answer("tcp", &external).frame());
                let ack = build::tcp().from(&format!("10.1.0.10:{port}")).to(REMOTE);
                wall.send(1, "int", &ack.window(64_000).seq(1_001).ack(5_001).frame());
                external
            };
            let connections: Vec<(u16, String)> =
                (40_000..40_040).map(|port| (port, open(&mut wall, port))).collect();
            wall.wait(Duration::from_millis(50));
            wall.kill(1);
            for (port, external) in connections {
                let inside = format!("10.1.0.10:{port}");
                let data = build::tcp().from(&inside).to(REMOTE).window(64_000);
                let data = data.seq(1_001).ack(5_001).psh().payload(b"hello").frame();
                let left = wall.send(2, "int", &data);
                assert_eq!(ends(&left), [format!("ext: tcp {external} > {REMOTE} P. +5 ttl 63")]);
                let told = build::tcp().from(REMOTE).to(&external).window(64_000);
                let told = told.seq(5_001).ack(1_006).psh().payload(b"hello").frame();
                let left = wall.send(2, "ext", &told);
                assert_eq!(ends(&left), [format!("int: tcp {REMOTE} > {inside} P. +5 ttl 63")]);
            }
            assert_eq!(wall.drops(), [].into());
        }
    }
}

/// S2: the node that gave a port out does not give it to somebody else while another node uses it, though
/// it has forgotten everything itself.
#[test]
fn a_port_that_was_taken_over_is_not_given_out_again() {
    let policy = policy("endpoint-independent").replace("1024-65000", "1024-1535");
    let mut wall = Wall::new(2, &policy);
    let mut taken = BTreeMap::new();
    for port in 40_000..40_040 {
        let external = ask(&mut wall, 1, "tcp", port);
        wall.send(2, "ext", &answer("tcp", &external).frame());
        let ack = build::tcp().from(&format!("10.1.0.10:{port}")).to(REMOTE);
        wall.send(1, "int", &ack.window(64_000).seq(1_001).ack(5_001).frame());
        taken.insert(external, port);
    }
    wall.wait(Duration::from_millis(50));
    wall.kill(1);
    for port in 40_000..40_020 {
        let data = build::tcp().from(&format!("10.1.0.10:{port}")).to(REMOTE).window(64_000);
        wall.send(2, "int", &data.seq(1_001).ack(5_001).payload(b"hello").frame());
    }
    wall.start(1);
    wall.wait(Duration::from_secs(2));
    for port in 50_000..50_400 {
        let left = wall.send(1, "int", &request("tcp", port).frame());
        if left.first().is_some_and(|line| line.starts_with("1 ext")) {
            let external = external(&left);
            assert_eq!(taken.insert(external.clone(), port), None, "{external} stands for two");
        }
    }
    assert!(taken.len() > 100, "{} ports", taken.len());
}

/// The wrapped packet is lost: it is asked about again, though nobody but its owner knows of it.
#[test]
fn an_answer_to_a_shared_address_that_is_lost_between_nodes_is_sent_again() {
    let mut wall = Wall::new(3, &policy("symmetric"));
    for port in 40_000..40_030 {
        let external = ask(&mut wall, 1, "tcp", port);
        wall.cut.insert((2, 1));
        assert_eq!(wall.send(2, "ext", &answer("tcp", &external).frame()), [""; 0]);
        wall.cut.clear();
        let left = wall.wait(Duration::from_millis(60));
        assert_eq!(left.len(), 1, "{external}: {left:?}");
        assert!(left[0].starts_with("1 int: tcp "), "{left:?}");
    }
}
