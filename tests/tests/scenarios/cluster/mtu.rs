//! Packets that have to fit between nodes: links of 1,500 bytes carry wrapped ones of 1,420.

use etherparse::{PacketHeaders, TcpOptionElement};
use gabion_engine::build;

use super::super::POLICY;
use super::wall::Wall;
use super::{CLIENT, HOST, SERVER, client, open, server};

fn tcp(from: &str, to: &str) -> build::FrameBuilder {
    build::tcp().from(from).to(to).window(64_000)
}

/// The maximum segment size that a SYN tells.
fn told(frame: &[u8]) -> Option<u16> {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let tcp = headers.transport.unwrap().tcp().unwrap();
    tcp.options_iterator().find_map(|option| match option.unwrap() {
        TcpOptionElement::MaximumSegmentSize(size) => Some(size),
        _ => None,
    })
}

/// Both sides hear of what fits, whatever their families, and nobody of more than he said.
#[test]
fn segments_are_made_to_fit_when_a_connection_opens() {
    let mut wall = Wall::new(2, POLICY);
    let ends = [("198.51.100.9:40000", SERVER), ("[2600:1::9]:40000", "[2600:2::10]:443")];
    for ((from, to), most) in ends.into_iter().zip([1_380, 1_360]) {
        for (mss, expected) in [(1_460, most), (most, most), (536, 536)] {
            let from = from.replace("40000", &(40_000 + mss).to_string());
            let left = wall.send(1, "ext", &tcp(&from, to).syn().seq(1_000).mss(mss).frame());
            assert_eq!(
                (left.len(), told(wall.frames.last().unwrap())),
                (1, Some(expected)),
                "{left:?}"
            );
            let answer = tcp(to, &from).syn().seq(5_000).ack(1_001).mss(mss).frame();
            let left = wall.send(2, "int", &answer);
            assert_eq!(
                (left.len(), told(wall.frames.last().unwrap())),
                (1, Some(expected)),
                "{left:?}"
            );
        }
    }
}

/// A host that sends longer packets even so is told, by the node that can not hand them over; the owner
/// itself can pass them.
#[test]
fn a_packet_that_does_not_fit_is_answered() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let longest = server(40_000).seq(HOST + 5_001).ack(CLIENT + 1_001).payload(&[7; 1_380]).frame();
    let left = wall.send(2, "int", &longest);
    assert_eq!(left, [format!("1 ext: tcp {SERVER} > 198.51.100.9:40000 . +1380 ttl 63")]);
    let longer = server(40_000).seq(HOST + 6_381).ack(CLIENT + 1_001).payload(&[7; 1_381]).frame();
    let left = wall.send(2, "int", &longer);
    assert_eq!(
        left,
        [format!(
            "2 int: icmp 10.1.0.1 > 10.1.0.10 error 3/4 mtu 1420 about \
             [tcp {SERVER} > 198.51.100.9:40000] ttl 64"
        )]
    );
    let left = wall.send(1, "int", &longer);
    assert_eq!(left, [format!("1 ext: tcp {SERVER} > 198.51.100.9:40000 . +1381 ttl 63")]);
    assert_eq!(wall.drops(), [].into());
}

/// A packet that might begin a flow, and is too long to be asked about, is not passed behind its back.
#[test]
fn a_first_packet_that_does_not_fit_is_answered_and_goes_nowhere() {
    let mut wall = Wall::new(2, POLICY);
    let (mut answered, mut passed) = (0, 0);
    for port in 40_000..40_020 {
        let from = format!("198.51.100.9:{port}");
        let query = build::udp().from(&from).to("10.1.0.10:53").payload(&[7; 1_472]).frame();
        let mut left = wall.send(1, "ext", &query);
        left.extend(wall.wait(std::time::Duration::from_secs(2)));
        let [line] = &left[..] else { panic!("{left:?}") };
        answered += u32::from(line.contains("error 3/4 mtu 1420"));
        passed += u32::from(line.starts_with(&format!("1 int: udp {from} > 10.1.0.10:53 ")));
    }
    assert_eq!(answered + passed, 20);
    // Whose key this node directs itself has nobody to ask.
    assert!(answered > 0 && passed > 0, "{answered} {passed}");
}

#[test]
fn superframes_arrive_in_segments() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let data = server(40_000)
        .seq(HOST + 5_001)
        .ack(CLIENT + 1_001)
        .psh()
        .payload(&[7; 4_000])
        .segment_size(1_380);
    let left = wall.send_offloaded(2, "int", &data.frame(), data.offload());
    let part = |flags: &str, length: u16| {
        format!("1 ext: tcp {SERVER} > 198.51.100.9:40000 {flags} +{length} ttl 63")
    };
    assert_eq!(left, [part(".", 1_380), part(".", 1_380), part("P.", 1_240)]);
    // The client has seen nothing of it.
    let ack = client(40_000).seq(CLIENT + 1_001).ack(HOST + 9_001).frame();
    assert_eq!(wall.send(1, "ext", &ack).len(), 1);
    assert_eq!(wall.drops(), [].into());
}
/// Without DF it comes in pieces, which the owner puts in order; the sender hears nothing.
#[test]
fn a_packet_that_may_be_cut_is() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let long = server(40_000)
        .seq(HOST + 5_001)
        .ack(CLIENT + 1_001)
        .payload(&[7; 1_460])
        .dont_fragment(false);
    let left = wall.send(2, "int", &long.frame());
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|left| left.starts_with("1 ext: ")), "{left:?}");
    assert_eq!(wall.drops(), [].into());
}

fn fragments(builder: &build::FrameBuilder, identification: u32) -> Vec<Vec<u8>> {
    build::fragmented(&builder.clone().dont_fragment(false).frame(), 1_000, identification)
}

/// Sends fragments one after the other; what left, and what left in the seconds after.
fn send_all(wall: &mut Wall, node: u8, interface: &str, fragments: &[Vec<u8>]) -> Vec<String> {
    let mut left: Vec<String> =
        fragments.iter().flat_map(|fragment| wall.send(node, interface, fragment)).collect();
    left.extend(wall.wait(std::time::Duration::from_secs(2)));
    left
}

/// A datagram in fragments comes to its owner as one that came in there, whoever must be asked first; a
/// first one leaves where it came in.
#[test]
fn datagrams_in_fragments_find_their_owner() {
    for (from, to) in [("198.51.100.9", "10.1.0.10"), ("[2600:1::9]", "[2600:2::10]")] {
        for nodes in 2..=4 {
            let mut wall = Wall::new(nodes, POLICY);
            for port in 40_000..40_020 {
                let (client, server) = (format!("{from}:{port}"), format!("{to}:53"));
                let query = build::udp().from(&client).to(&server).payload(&[1; 2_500]);
                let left = send_all(&mut wall, 1, "ext", &fragments(&query, port));
                assert_eq!(left.len(), 3, "{nodes} {port}: {left:?}");
                assert!(left.iter().all(|left| left.starts_with("1 int: ")), "{left:?}");
                for again in 1..=2 {
                    let answer = build::udp().from(&server).to(&client).payload(&[2; 2_500]);
                    let answer = fragments(&answer, port + again * 1_000);
                    let left = send_all(&mut wall, 2, "int", &answer);
                    assert_eq!(left.len(), 3, "{nodes} {port}: {left:?}");
                    assert!(left.iter().all(|left| left.starts_with("1 ext: ")), "{left:?}");
                }
            }
            assert_eq!(wall.drops(), [].into());
        }
    }
}
