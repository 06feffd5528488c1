#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use gabion_datapath::PeerPlace;
use gabion_engine::{ClusterConfig, EngineConfig, Limits, Presence};

use super::*;
use crate::cluster::seal::Key;
use crate::cluster::session::Keys;
use crate::config::ClusterPorts;

const SYNC: u16 = 26_082;
const WRAPPED: u16 = 26_081;

fn seconds(count: u64) -> Time {
    Time::ZERO + Duration::from_secs(count)
}

/// A session's keys as one of its nodes has them.
fn keys(session: u8, is_first: bool) -> Keys {
    let (first, second): (Key, Key) = ([session; 16], [session + 100; 16]);
    let (send, receive) = if is_first { (first, second) } else { (second, first) };
    Keys { sync_send: send, sync_receive: receive, wrapped_send: send, wrapped_receive: receive }
}

fn up(peer: u8, incarnation: u64, session: u8) -> SessionChange {
    SessionChange::Up {
        unwraps: false,
        peer: NodeId(peer),
        incarnation,
        version: 1,
        epoch: session,
        keys: keys(session, peer == 2).into(),
    }
}

/// Both nodes' engines and links, over the loopback.
struct Pair {
    nodes: [(Engine, Links); 2],
    addresses: [IpAddr; 2],
    now: Time,
}

impl Pair {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(200);
        let test = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = (std::process::id() % 250 + 1) as u8;
        let addresses = [1, 2].map(|node| IpAddr::V4(Ipv4Addr::new(127, process, test, node)));
        let nodes = [(1, 0), (2, 1)].map(|(node, at): (u8, usize)| {
            let config = ClusterConfig {
                node: NodeId(node),
                members: vec![NodeId(1), NodeId(2)],
                machines: Vec::new(),
                incarnation: 1,
                secret: [7; 16],
                sync_mtu: 1_500,
                heartbeat: Duration::from_millis(100),
                heartbeats_missed: 4,
                reset_lost: true,
            };
            let limits = Limits { flows: 64, ..Limits::default() };
            let config = EngineConfig { limits, seed: [node; 32], cluster: Some(config) };
            let peer = NodeId(3 - node);
            let members = BTreeMap::from([(peer, addresses[1 - at])]);
            let known = Arc::new(Known::new(NodeId(node), 1, &members));
            let sockets =
                PeerSockets::open(addresses[at], &[addresses[1 - at]], SYNC, WRAPPED).unwrap();
            (
                Engine::new(Time::ZERO, config),
                Links::new(sockets, &[peer], known, Duration::from_millis(400)),
            )
        });
        Self { nodes, addresses, now: Time::ZERO }
    }

    /// Both hear and speak, every 10 ms.
    fn run(&mut self, turns: u32) {
        for _ in 0..turns {
            self.now = self.now + Duration::from_millis(10);
            for (engine, links) in &mut self.nodes {
                links.receive(self.now, engine, &mut |_| ());
                if engine.poll_timeout().is_some_and(|due| due <= self.now) {
                    engine.handle_timeout(self.now);
                }
                links.send(self.now, engine);
            }
        }
        for (engine, links) in &mut self.nodes {
            links.receive(self.now, engine, &mut |_| ());
        }
    }

    fn tell(&mut self, node: usize, change: &SessionChange) {
        let (engine, links) = &mut self.nodes[node];
        links.handle_session(self.now, change, engine);
    }

    fn presence(&self, node: usize) -> Presence {
        let (engine, links) = &self.nodes[node];
        links.snapshot(self.now, engine).status.members[0].presence
    }

    fn counts(&self, node: usize) -> LinkCounts {
        self.nodes[node].1.links[0].counts
    }
}

#[test]
fn engines_hear_each_other_once_the_session_stands_and_no_longer_when_it_is_lost() {
    let mut pair = Pair::new();
    pair.run(20);
    assert_eq!((pair.presence(0), pair.counts(0).opened), (Presence::Unknown, 0));
    pair.tell(0, &up(2, 1, 0));
    pair.tell(1, &up(1, 1, 0));
    pair.run(20);
    assert_eq!([pair.presence(0), pair.presence(1)], [Presence::Alive; 2]);
    assert_eq!(pair.counts(0).opened, pair.counts(1).sealed);
    assert_eq!(pair.counts(0).refused() + pair.counts(1).refused(), 0);
    pair.tell(0, &SessionChange::Lost { peer: NodeId(2) });
    assert_eq!(pair.presence(0), Presence::Dead);
    pair.run(20);
    assert_eq!(pair.presence(0), Presence::Dead, "what comes under keys that died is not heard");
    assert!(pair.counts(0).early > 0);
}

/// From the peer's own address, whole and half datagrams of its and nonsense.
#[test]
fn what_is_forged_in_a_members_name_is_counted_and_changes_nothing() {
    let mut pair = Pair::new();
    pair.tell(0, &up(2, 1, 0));
    pair.tell(1, &up(1, 1, 0));
    pair.run(20);
    let before = pair.counts(0);
    let mut forger = Sealer::new(1, 0, &[9; 16]);
    let forger_socket = std::net::UdpSocket::bind((pair.addresses[1], 0)).unwrap();
    let mut forged = Vec::new();
    for round in 0..1_000_u32 {
        for port in [SYNC, WRAPPED] {
            assert!(forger.seal(&round.to_be_bytes(), &mut forged));
            let length = if round % 2 == 0 { forged.len() } else { round as usize % forged.len() };
            forger_socket.send_to(&forged[..length], (pair.addresses[0], port)).unwrap();
        }
        if round % 100 == 99 {
            let (engine, links) = &mut pair.nodes[0];
            links.receive(pair.now, engine, &mut |_| panic!("nothing leaves"));
        }
    }
    let after = pair.counts(0);
    assert_eq!(after.refused() - before.refused(), 1_000, "{after:?}");
    assert_eq!(after.opened, before.opened);
    pair.run(20);
    assert_eq!([pair.presence(0), pair.presence(1)], [Presence::Alive; 2]);
}

fn link() -> Link {
    let net = Pair::new();
    let [(_, mut links), _] = net.nodes;
    links.links.remove(0)
}

fn take(link: &mut Link, now: Time, incarnation: u64, session: u8, is_first: bool) {
    let keys = keys(session, is_first);
    let sealer = Sealer::new(1, session, &keys.sync_send);
    link.take(now, incarnation, sealer, Opener::new(1, session, &keys.sync_receive));
}

fn known() -> Known {
    Known::new(NodeId(1), 1, &BTreeMap::new())
}

#[test]
fn renewed_keys_are_used_when_both_have_them_and_the_old_ones_taken_for_a_while() {
    let (mut first, mut second, known) = (link(), link(), known());
    let mut datagram = Vec::new();
    let mut sent = |from: &mut Link, now| {
        assert!(from.seal(now, b"records", &mut datagram, &known));
        datagram.clone()
    };
    take(&mut first, seconds(1), 1, 0, true);
    take(&mut second, seconds(1), 1, 0, false);
    let early = sent(&mut first, seconds(2));
    // The second has the new keys before the first.
    take(&mut second, seconds(3), 1, 1, false);
    let old = sent(&mut second, seconds(3));
    assert_eq!(epoch_of(&old), Some(0));
    assert!(first.open(seconds(3), &mut old.clone()).is_some());
    take(&mut first, seconds(3), 1, 1, true);
    let new = sent(&mut first, seconds(4));
    assert_eq!(epoch_of(&new), Some(1));
    assert!(second.open(seconds(4), &mut new.clone()).is_some());
    assert!(second.open(seconds(12), &mut early.clone()).is_some(), "for 10 s");
    let late = sent(&mut second, seconds(3));
    assert!(first.open(seconds(13), &mut late.clone()).is_none(), "and no longer");
    assert_eq!((first.counts.unknown_epoch, second.counts.refused()), (1, 0));
}

#[test]
fn keys_of_an_earlier_incarnation_open_nothing() {
    let (mut first, mut second, known) = (link(), link(), known());
    take(&mut first, seconds(1), 1, 0, true);
    take(&mut second, seconds(1), 1, 0, false);
    let mut old = Vec::new();
    assert!(second.seal(seconds(1), b"records", &mut old, &known));
    take(&mut first, seconds(2), 2, 1, true);
    assert!(first.open(seconds(2), &mut old.clone()).is_none());
    first.forget();
    assert!(!first.seal(seconds(2), b"records", &mut old, &known));
    assert_eq!(first.counts.unsent, 1);
}

/// Two workers of node 1 and one of node 2's, which are the members 1, 2 and 3.
#[test]
fn workers_of_one_node_hear_each_other_without_a_session() {
    let process = (std::process::id() % 250 + 1) as u8;
    let [here, there] = [1, 2].map(|node| IpAddr::V4(Ipv4Addr::new(127, process, 199, node)));
    let workers = Workers(2);
    let ports = ClusterPorts { sync: SYNC, session: 0, wrapped: WRAPPED, machine: 0 };
    let place = |member: NodeId| PeerPlace {
        address: if workers.node_of(member) == NodeId(1) { here } else { there },
        ports: Workers::ports(ports, workers.worker_of(member)),
    };
    let known = Arc::new(Known::new(NodeId(1), 1, &BTreeMap::from([(NodeId(2), there)])));
    let members = [1, 2, 3].map(NodeId);
    let beside = Beside::new([7; 32], Duration::from_secs(2));
    let mut nodes: Vec<(Engine, Links)> = workers
        .members(NodeId(1))
        .map(|me| {
            let peers: Vec<_> = members.into_iter().filter(|member| *member != me).collect();
            let places: Vec<_> = peers.iter().map(|peer| place(*peer)).collect();
            let sockets = PeerSockets::open_at(place(me), &places).unwrap();
            let patience = Duration::from_millis(400);
            let links = Links::of_worker(sockets, &peers, known.clone(), patience, workers, me);
            let config = ClusterConfig {
                node: me,
                members: members.to_vec(),
                machines: vec![vec![NodeId(1), NodeId(2)]],
                incarnation: 1,
                secret: [7; 16],
                sync_mtu: 1_500,
                heartbeat: Duration::from_millis(100),
                heartbeats_missed: 4,
                reset_lost: true,
            };
            let limits = Limits { flows: 64, ..Limits::default() };
            let config = EngineConfig { limits, seed: [me.0; 32], cluster: Some(config) };
            (Engine::new(Time::ZERO, config), links.speak_beside(1, beside.clone()))
        })
        .collect();
    // Longer than keys live, and each turn before the next.
    for turn in 0..700 {
        let now = Time::from_nanos(turn * 10_000_000);
        for (engine, links) in &mut nodes {
            links.receive(now, engine, &mut |_| ());
            if engine.poll_timeout().is_some_and(|due| due <= now) {
                engine.handle_timeout(now);
            }
            links.send(now, engine);
        }
        let presence = |at: usize| nodes[at].0.cluster_status(now).unwrap().members[0].presence;
        assert!(turn < 20 || [presence(0), presence(1)] == [Presence::Alive; 2], "turn {turn}");
    }
    let (engine, links) = &nodes[0];
    let snapshot = links.snapshot(Time::ZERO, engine);
    // Whoever looks at a node sees other nodes.
    assert_eq!(snapshot.status.node, NodeId(1));
    let shown: Vec<_> = snapshot.status.members.iter().map(|member| member.node).collect();
    assert_eq!(shown, [NodeId(2)]);
    assert_eq!(snapshot.links.iter().map(|(node, _)| *node).collect::<Vec<_>>(), [NodeId(2)]);
    assert_eq!(links.links.iter().map(|link| link.counts.refused()).sum::<u64>(), 0);
}
