#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::waker::poll_for;

const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// Two nodes on the loopback, each the only peer of the other, and their ports.
fn pair() -> (PeerSockets, PeerSockets, [u16; 2]) {
    let free = [(); 2].map(|()| UdpSocket::bind((ONE, 0)).unwrap());
    let [sync, wrapped] = free.map(|socket| socket.local_addr().unwrap().port());
    let open = |own, peer| PeerSockets::open(own, &[peer], sync, wrapped).unwrap();
    (open(ONE, TWO), open(TWO, ONE), [sync, wrapped])
}

/// Waits until so many datagrams have come.
fn received(sockets: &mut PeerSockets, traffic: PeerTraffic, count: usize) -> Vec<Vec<u8>> {
    let handles = sockets.handles().unwrap();
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        let mut fds = handles.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        poll_for(&mut fds, None).unwrap();
        let mut keep = |came: FromPeer<'_>| {
            assert_eq!(came.peer, 0);
            let bytes = &came.buffer[..came.length];
            datagrams.extend(bytes.chunks(came.stride).map(<[u8]>::to_vec));
        };
        sockets.receive(traffic, 1_000, &mut keep).unwrap();
    }
    datagrams
}

fn to_peer(bytes: &[u8], stride: usize) -> ToPeer<'_> {
    ToPeer { peer: 0, bytes, stride }
}

#[test]
fn datagrams_come_in_batches_both_ways_and_stay_apart() {
    let (mut one, mut two, _) = pair();
    let sent: Vec<Vec<u8>> = (0..PEER_BATCH).map(|n| vec![n as u8; 20 + n]).collect();
    let batch: Vec<ToPeer<'_>> = sent.iter().map(|bytes| to_peer(bytes, 9_000)).collect();
    one.send(PeerTraffic::Sync, &batch);
    one.send(PeerTraffic::Wrapped, &batch[..2]);
    two.send(PeerTraffic::Sync, &batch[..1]);
    assert_eq!(received(&mut two, PeerTraffic::Sync, PEER_BATCH), sent);
    assert_eq!(received(&mut two, PeerTraffic::Wrapped, 2), sent[..2]);
    assert_eq!(received(&mut one, PeerTraffic::Sync, 1), sent[..1]);
    let counters = two.counters(PeerTraffic::Sync);
    assert_eq!((counters.received, counters.sent), (PEER_BATCH as u64, 1));
}

#[test]
fn a_superframe_arrives_as_its_datagrams() {
    let (mut one, mut two, _) = pair();
    // More than one call takes, and a shorter piece at the end.
    for (stride, length) in [(1_400, 100_000), (1_400, 2_801), (9_000, 64_000), (600, 600 * 64)] {
        let bytes: Vec<u8> = (0..length).map(|at| (at / stride) as u8).collect();
        one.send(PeerTraffic::Wrapped, &[to_peer(&bytes, stride)]);
        let expected: Vec<&[u8]> = bytes.chunks(stride).collect();
        assert_eq!(received(&mut two, PeerTraffic::Wrapped, expected.len()), expected);
    }
    assert_eq!(one.counters(PeerTraffic::Wrapped).send_drops, 0);
    let all = one.counters(PeerTraffic::Wrapped).sent;
    assert_eq!(two.counters(PeerTraffic::Wrapped).received, all);
}

#[test]
fn a_device_that_cannot_cut_has_it_done_here() {
    let (mut one, mut two, _) = pair();
    one.wrapped.segments = false;
    let bytes: Vec<u8> = (0..3_000).map(|at| (at / 1_000) as u8).collect();
    one.send(PeerTraffic::Wrapped, &[to_peer(&bytes, 1_000), to_peer(b"behind", 1_000)]);
    let arrived = received(&mut two, PeerTraffic::Wrapped, 4);
    assert_eq!(arrived[3], b"behind");
    assert_eq!(arrived[..3].concat(), bytes);
}

#[test]
fn strangers_and_what_is_too_large_are_counted_and_gone() {
    let (mut one, mut two, [sync, _]) = pair();
    let stranger = UdpSocket::bind(("127.0.0.3", 0)).unwrap();
    stranger.send_to(b"let me in", (TWO, sync)).unwrap();
    let large = vec![0; SYNC_BYTES + 1];
    one.send(PeerTraffic::Sync, &[to_peer(&large, large.len()), to_peer(b"peer", 100)]);
    assert_eq!(received(&mut two, PeerTraffic::Sync, 1), [b"peer"]);
    let counters = two.counters(PeerTraffic::Sync);
    assert_eq!((counters.strangers, counters.truncated, counters.received), (1, 1, 1));
}

#[test]
fn what_the_kernel_refuses_does_not_keep_back_what_follows() {
    let (mut one, mut two, _) = pair();
    let too_large = vec![0; 70_000];
    one.send(PeerTraffic::Sync, &[to_peer(&too_large, 70_000), to_peer(b"follows", 100)]);
    assert_eq!(received(&mut two, PeerTraffic::Sync, 1), [b"follows"]);
    assert_eq!(one.counters(PeerTraffic::Sync).send_drops, 1);
}

#[test]
fn an_address_of_another_machine_cannot_be_opened() {
    let (traffic, error) = PeerSockets::open(IpAddr::from([192, 0, 2, 77]), &[], 0, 0).unwrap_err();
    assert_eq!(traffic, PeerTraffic::Sync);
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}
