//! Packets that one node's programs wrap and another's unwrap, superframes whole: real ones, over a real link.

use std::net::IpAddr;
use std::process::Command;

use gabion_datapath::ebpf::{
    Afterlife, EbpfDatapath, Exit, FastPathLimits, FlowTable, Head, HookChoice, NextHop,
    RelayEntry, SyncLink,
};
use gabion_datapath::{LinkAddress, PeerSockets, PeerTraffic, Port, UserspaceDatapath};

use crate::lab::{CLIENT, LIMITS, Lab, NODE, PATIENCE, SERVER};
use crate::translated::{
    Case, HOP, LINK, Left, NODE_LINKS, SERVER_LINK, TCP, build, cases, exit, receive, send,
};

/// The node that has the flows, and the one that their packets come to.
const OWNER: u8 = 1;
const FORWARDER: u8 = 2;
const OTHER: &str = "other";
const PORT: u16 = 6_081;
const HEADER: usize = 32;

/// A lab whose second interface is another node's, and a link between the two.
struct Pair {
    lab: Lab,
}

impl Pair {
    fn build() -> Option<Self> {
        let pair = Self { lab: build()? };
        let (node, other) = (pair.lab.namespace(NODE), pair.lab.namespace(OTHER));
        let added = Command::new("ip").args(["netns", "add", &other]).status().unwrap();
        assert!(added.success());
        pair.lab.sysctl(OTHER, "net.ipv6.conf.default.accept_dad=0");
        pair.lab.ip(NODE, &format!("link set int netns {other}"));
        pair.lab.ip(OTHER, "link set int up");
        pair.lab.ip(
            NODE,
            &format!("link add sync netns {node} type veth peer name sync netns {other}"),
        );
        for (name, last) in [(OTHER, OWNER), (NODE, FORWARDER)] {
            for wide in [false, true] {
                let bits = if wide { 64 } else { 24 };
                let address = address(wide, last);
                pair.lab.ip(name, &format!("address add {address}/{bits} dev sync"));
            }
            // The test's packets are larger than those that hosts behind nodes send.
            pair.lab.ip(name, "link set sync mtu 1600 up");
        }
        Some(pair)
    }

    /// A node with one data interface.
    fn open(&self, name: &str, data: &'static str, wide: bool) -> (EbpfDatapath, FlowTable) {
        let (own, peer) = if name == NODE { (FORWARDER, OWNER) } else { (OWNER, FORWARDER) };
        let sync = SyncLink {
            interface: "sync".to_owned(),
            address: address(wide, own),
            port: PORT,
            peers: vec![(peer, address(wide, peer))],
            patience: PATIENCE * 30,
        };
        self.lab.within(name, move || {
            let tables = FastPathLimits { flows: 64, relays: 64, hops: 1, workers: 1 };
            let (datapath, mut table) = EbpfDatapath::open(
                &[data],
                LIMITS,
                tables,
                [1, 2],
                Afterlife::default(),
                HookChoice::Auto,
                Some(sync),
            )
            .unwrap();
            assert!(datapath.unwraps());
            table.set_zone(Port(0), Some(1));
            table.set_peer(peer, true);
            table.set_stamp(1);
            (datapath, table)
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.lab.namespace(OTHER)]).status();
    }
}

fn address(wide: bool, node: u8) -> IpAddr {
    match wide {
        true => std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, node.into()).into(),
        false => IpAddr::from([172, 16, 0, node]),
    }
}

/// What the engines of both would make of the flow; any tag is as good.
fn head(case: &Case) -> Head {
    let mut head = [0x5a; HEADER];
    let ethertype = if case.wide { [0x86, 0xdd] } else { [8, 0] };
    head[..8].copy_from_slice(&[6, 0x40, ethertype[0], ethertype[1], 1, 2, 3, 0]);
    head[8..16].copy_from_slice(&[0xff, 0xff, 0x81, 5, 16, 0, 3, FORWARDER]);
    head
}

fn relay(case: &Case) -> RelayEntry {
    let ways = [Some((1, head(case))), None];
    RelayEntry { stamp: 1, keys: case.entry().keys, ways, peer: OWNER, mtu: 1_460 }
}

/// Those that programs hand over: superframes of UDP are the engine's.
fn handed_over() -> Vec<Case> {
    let is_moved = |case: &Case| case.left != Left::Segments || case.protocol == TCP;
    cases().into_iter().filter(is_moved).collect()
}

#[test]
fn superframes_and_checksums_left_undone_cross_from_node_to_node_as_they_are() {
    for wide in [false, true] {
        let Some(pair) = Pair::build() else { return };
        // The link between them carries superframes whole, and the way out none.
        pair.lab.execute(OTHER, "ethtool -K int tso off gso off tx off");
        cross(&pair, wide);
    }
}

/// Where the link's own device, or its driver, has to cut them.
#[test]
fn superframes_are_cut_on_a_link_between_nodes_that_carries_none() {
    for wide in [false, true] {
        let Some(pair) = Pair::build() else { return };
        pair.lab.execute(OTHER, "ethtool -K int tso off gso off tx off");
        pair.lab
            .execute(NODE, "ethtool -K sync tso off gso off tx off tx-udp_tnl-segmentation off");
        cross(&pair, wide);
    }
}

fn cross(pair: &Pair, wide: bool) {
    let lab = &pair.lab;
    let (forwarder, mut relays) = pair.open(NODE, "ext", wide);
    let (owner, mut flows) = pair.open(OTHER, "int", wide);
    let hop = NextHop {
        interface: flows.interface(Port(0)).unwrap(),
        source: LinkAddress(NODE_LINKS[1]),
        destination: LinkAddress(SERVER_LINK),
        mtu: 1_500,
    };
    flows.set_hop(HOP, Some(hop));
    let open = || UserspaceDatapath::open(&["eth0"], LIMITS).unwrap();
    let (mut client, mut server) = (lab.within(CLIENT, open), lab.within(SERVER, open));
    for case in handed_over() {
        let relayed = relays.install_relay(&relay(&case)).unwrap();
        let mut entry = case.entry();
        entry.legs[0] = Some(head(&case));
        let flow = flows.install(&entry).unwrap();
        send(&mut client, &case);
        let frames = receive(&mut server, &case);
        let payload: Vec<u8> = frames.iter().flat_map(|frame| case.check(frame)).copied().collect();
        assert_eq!(payload, case.payload(), "{case:?}");
        let segments = if case.left == Left::Segments { 3 } else { 1 };
        assert_eq!(frames.len(), segments, "{case:?}");
        for usage in [relays.remove(relayed), flows.remove(flow)] {
            assert_eq!(usage.packets, [segments as u64, 0], "{case:?}");
        }
    }
    assert_eq!(exit(&forwarder, Exit::Wrapped), handed_over().len() as u64);
    assert!(exit(&owner, Exit::Unwrapped) >= handed_over().len() as u64);
}

/// Of a flow that the owner's program does not know, or not so.
#[test]
fn what_no_program_unwraps_comes_to_the_socket_whole() {
    for wide in [false, true] {
        let Some(pair) = Pair::build() else { return };
        let lab = &pair.lab;
        let (_forwarder, mut relays) = pair.open(NODE, "ext", wide);
        let (_owner, _flows) = pair.open(OTHER, "int", wide);
        let mut sockets = lab.within(OTHER, move || {
            let [own, peer] = [OWNER, FORWARDER].map(|node| address(wide, node));
            PeerSockets::open(own, &[peer], 6_082, PORT).unwrap()
        });
        let open = || UserspaceDatapath::open(&["eth0"], LIMITS).unwrap();
        let mut client = lab.within(CLIENT, open);
        for case in handed_over() {
            let relayed = relays.install_relay(&relay(&case)).unwrap();
            send(&mut client, &case);
            let (sent, _) = case.frame();
            let mut came = None;
            let deadline = std::time::Instant::now() + PATIENCE;
            while came.is_none() {
                assert!(std::time::Instant::now() < deadline, "{case:?}");
                sockets
                    .receive(PeerTraffic::Wrapped, 1, &mut |from| {
                        let bytes = from.buffer[..from.length].to_vec();
                        came = Some((bytes, from.stride, from.segment));
                    })
                    .unwrap();
            }
            let expected = [&head(&case)[..], &sent[LINK..]].concat();
            let segment = (case.left == Left::Segments).then_some(1_400);
            let length = expected.len();
            assert_eq!(came, Some((expected, length, segment)), "{case:?}");
            relays.remove(relayed);
        }
    }
}

/// A daemon that has ended leaves nothing of what other nodes have to do with.
#[test]
fn with_the_process_ends_what_programs_do_between_nodes() {
    let Some(pair) = Pair::build() else { return };
    let (owner, _) = pair.open(OTHER, "int", false);
    drop(owner);
    let programs = pair.lab.within(OTHER, || {
        use aya::programs::{SchedClassifier, TcAttachType};
        SchedClassifier::query_tcx("sync", TcAttachType::Ingress).unwrap().1.len()
    });
    assert_eq!(programs, 0);
}
