//! Real traffic through the userspace datapath.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use gabion_datapath::{Datapath, Port, PortCounters, UserspaceDatapath, VnetHeader};

use crate::lab::{CLIENT, CLIENT_PORT, LIMITS, Lab, NODE, PATIENCE, SERVER, SERVER_PORT};

const SERVER_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2));
const SERVER_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// Bytes that repeat only after 251 kB, so that a segment in the wrong place is seen.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251 + index / 251 % 241) as u8).collect()
}

/// Sends bytes from client to server and back over one connection; returns what came back.
fn echo_tcp(lab: &Lab, server: IpAddr, length: usize) -> Vec<u8> {
    let (listening, address) = sync_channel(1);
    let echo = lab.spawn(SERVER, move || {
        let listener = TcpListener::bind(SocketAddr::new(server, 0)).unwrap();
        listening.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let address = address.recv_timeout(PATIENCE).unwrap();
    let back = lab.within(CLIENT, move || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&pattern(length)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        back
    });
    echo.join().unwrap();
    back
}

/// Sends datagrams of these lengths and awaits each one's echo.
fn echo_udp(lab: &Lab, server: IpAddr, lengths: &'static [usize]) {
    let (listening, address) = sync_channel(1);
    let echo = lab.spawn(SERVER, move || {
        let socket = UdpSocket::bind(SocketAddr::new(server, 0)).unwrap();
        listening.send(socket.local_addr().unwrap()).unwrap();
        let mut buffer = vec![0; 65536];
        for _ in lengths {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
        }
    });
    let address = address.recv_timeout(PATIENCE).unwrap();
    lab.within(CLIENT, move || {
        let local: IpAddr = if address.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind(SocketAddr::new(local, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 65536];
        for &length in lengths {
            socket.send_to(&pattern(length), address).unwrap();
            let (echoed, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..echoed], pattern(length));
        }
    });
    echo.join().unwrap();
}

/// Nothing was lost on the way, and what came in by one port left by the other.
fn assert_all_forwarded(counters: [PortCounters; 2]) {
    let [client, server] = counters;
    let expected = |own: PortCounters, other: PortCounters| PortCounters {
        received: own.received,
        sent: other.received,
        ..PortCounters::default()
    };
    assert_eq!(client, expected(client, server));
    assert_eq!(server, expected(server, client));
}

#[test]
fn tcp_crosses_byte_for_byte_in_superframes() {
    let Some(lab) = Lab::build() else { return };
    for server in [SERVER_V4, SERVER_V6] {
        let bridge = lab.bridge();
        let length = 8 << 20;
        assert!(echo_tcp(&lab, server, length) == pattern(length), "bytes changed on the way");
        let seen = bridge.stop();
        assert!(seen.superframes > 0 && seen.partial_checksums > 0, "{seen:?}");
        assert!(seen.largest_frame > 16 << 10, "superframes are cut: {seen:?}");
        let lost: u64 = seen.counters.iter().map(|c| c.truncated + c.vlan_tagged).sum();
        assert_eq!(lost, 0, "{seen:?}");
    }
}

#[test]
fn a_superframe_leaves_by_a_device_that_cannot_segment() {
    let Some(lab) = Lab::build() else { return };
    lab.execute(NODE, "ethtool -K int tso off gso off tx off");
    let bridge = lab.bridge();
    let length = 2 << 20;
    assert!(echo_tcp(&lab, SERVER_V4, length) == pattern(length), "bytes changed on the way");
    assert!(bridge.stop().superframes > 0);
}

#[test]
fn frames_without_offloads_cross() {
    let Some(lab) = Lab::build() else { return };
    for host in [CLIENT, SERVER] {
        lab.execute(host, "ethtool -K eth0 tso off gso off tx off");
    }
    let bridge = lab.bridge();
    let length = 2 << 20;
    assert!(echo_tcp(&lab, SERVER_V4, length) == pattern(length), "bytes changed on the way");
    let seen = bridge.stop();
    assert_eq!((seen.superframes, seen.partial_checksums), (0, 0));
    assert_eq!(seen.largest_frame, 1514);
}

#[test]
fn udp_crosses_with_partial_checksums_and_in_fragments() {
    let Some(lab) = Lab::build() else { return };
    let bridge = lab.bridge();
    for server in [SERVER_V4, SERVER_V6] {
        echo_udp(&lab, server, &[1, 18, 512, 1400, 4000, 60_000]);
    }
    let seen = bridge.stop();
    assert!(seen.partial_checksums > 0, "{seen:?}");
    assert_all_forwarded(seen.counters);
}

#[test]
fn a_bulk_transfer_of_iperf3_ends_well() {
    let Some(lab) = Lab::build() else { return };
    let bridge = lab.bridge();
    lab.execute(SERVER, "iperf3 --server --one-off --daemon");
    lab.execute(CLIENT, "iperf3 --client 198.51.100.2 --connect-timeout 5000 --bytes 256M");
    assert!(bridge.stop().superframes > 0);
}

#[test]
fn a_vlan_tag_is_counted_and_goes_nowhere() {
    let Some(lab) = Lab::build() else { return };
    let bridge = lab.bridge();
    lab.within(CLIENT, || {
        let mut datapath = UserspaceDatapath::open(&["eth0"], LIMITS).unwrap();
        let mut tagged = arp_request();
        // VLAN 5 (IEEE 802.1Q), before the type.
        tagged.splice(12..12, [0x81, 0x00, 0, 5]);
        assert!(datapath.transmit(Port(0), &tagged, VnetHeader::default()));
        datapath.flush().unwrap();
    });
    // Untagged behind tagged: when the echo is back, the tagged frame has been seen.
    echo_udp(&lab, SERVER_V4, &[64]);
    let [client, server] = bridge.stop().counters;
    assert_eq!(client.vlan_tagged, 1, "{client:?}");
    assert_eq!(server.sent, client.received, "{server:?}");
}

#[test]
fn a_frame_of_our_own_is_sent_and_answered() {
    let Some(lab) = Lab::build() else { return };
    lab.within(NODE, || {
        let mut datapath = UserspaceDatapath::open(&["ext", "int"], LIMITS).unwrap();
        assert!(datapath.transmit(CLIENT_PORT, &arp_request(), VnetHeader::default()));
        datapath.flush().unwrap();
        assert_eq!(datapath.counters(CLIENT_PORT).sent, 1);
        let mut answered = false;
        while !answered {
            datapath.wait(Some(PATIENCE)).unwrap();
            let handled = datapath.receive(64, &mut |frames| {
                // The client's address as sender of an ARP reply (RFC 826).
                answered |= frames.iter().any(|frame| {
                    frame.from == CLIENT_PORT
                        && frame.bytes.get(20..22) == Some(&[0, 2])
                        && frame.bytes.get(28..32) == Some(&[198, 51, 100, 1])
                });
            });
            assert_ne!(handled.unwrap(), 0, "no answer");
        }
    });
}

/// Who has 198.51.100.1? From nobody in particular (RFC 5227 probe).
fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x08, 0x06]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0]);
    frame.extend([0, 0, 0, 0, 0, 0, 198, 51, 100, 1]);
    frame
}

#[test]
fn held_frames_stay_whole_until_the_flush_while_the_ring_goes_round() {
    let Some(lab) = Lab::build() else { return };
    let frames = 3_000;
    lab.ip(CLIENT, "neighbour add 198.51.100.9 lladdr 02:00:00:00:00:09 dev eth0");
    let (opened, ready) = sync_channel(1);
    let (sent, go_on) = sync_channel(1);
    let node = lab.spawn(NODE, move || {
        let mut datapath = UserspaceDatapath::open(&["ext", "int"], LIMITS).unwrap();
        opened.send(()).unwrap();
        go_on.recv_timeout(PATIENCE).unwrap();
        // More than the ring has, in turns without a flush: no frame may be seen twice.
        let mut numbers = Vec::new();
        loop {
            datapath.wait(Some(Duration::ZERO)).unwrap();
            let handled = datapath.receive(50, &mut |frames| {
                for frame in frames.iter_mut().filter(|frame| frame.bytes.len() == 44) {
                    numbers.push(u16::from_be_bytes([frame.bytes[42], frame.bytes[43]]));
                    frame.out = Some(SERVER_PORT);
                }
            });
            if handled.unwrap() == 0 {
                break;
            }
        }
        datapath.flush().unwrap();
        (numbers, datapath.counters(CLIENT_PORT), datapath.counters(SERVER_PORT))
    });
    ready.recv_timeout(PATIENCE).unwrap();
    lab.within(CLIENT, move || {
        let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
        for number in 0..frames {
            socket.send_to(&u16::to_be_bytes(number), "198.51.100.9:9").unwrap();
        }
    });
    sent.send(()).unwrap();
    let (numbers, client, server) = node.join().unwrap();
    assert_eq!(numbers, (0..numbers.len() as u16).collect::<Vec<_>>());
    assert!(client.ring_drops > 0, "the ring did not go round: {client:?}");
    assert_eq!(server.sent, numbers.len() as u64);
}

#[test]
fn a_frame_that_the_device_refuses_does_not_stop_the_next() {
    let Some(lab) = Lab::build() else { return };
    lab.within(NODE, || {
        let mut datapath = UserspaceDatapath::open(&["ext", "int"], LIMITS).unwrap();
        let too_large = vec![0; 4000];
        let nonsense = VnetHeader { gso_type: 0x7f, gso_size: 1, ..VnetHeader::default() };
        assert!(datapath.transmit(SERVER_PORT, &too_large, VnetHeader::default()));
        assert!(datapath.transmit(SERVER_PORT, &arp_request(), VnetHeader::default()));
        assert!(datapath.transmit(SERVER_PORT, &arp_request(), nonsense));
        assert!(datapath.transmit(SERVER_PORT, &arp_request(), VnetHeader::default()));
        datapath.flush().unwrap();
        let expected = PortCounters { sent: 2, transmit_drops: 2, ..PortCounters::default() };
        assert_eq!(datapath.counters(SERVER_PORT), expected);

        // More than the queue takes is sent in between, and more than it ever takes is refused.
        for _ in 0..LIMITS.queue_bytes / 20 {
            assert!(datapath.transmit(Port(0), &arp_request(), VnetHeader::default()));
        }
        assert!(!datapath.transmit(Port(0), &vec![0; LIMITS.queue_bytes], VnetHeader::default()));
        assert_eq!(datapath.counters(Port(0)).transmit_drops, 1);
    });
}
