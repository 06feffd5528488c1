//! What programs of two nodes make of packets that come by the wrong one.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::ebpf::device::Route;

const OWNER: u8 = 1;
const FORWARDER: u8 = 2;
const INNER_MTU: u16 = 1_420;
const PATIENCE: Duration = Duration::from_secs(60);
const LINK: usize = 14;

/// The addresses of owner and forwarder, of either family.
fn nodes(wide: bool) -> [IpAddr; 2] {
    [1_u8, 2].map(|node| match wide {
        true => std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, node.into()).into(),
        false => IpAddr::from([172, 16, 0, node]),
    })
}

fn outer_length(wide: bool) -> usize {
    if wide { 40 + 8 + 32 } else { 20 + 8 + 32 }
}

/// A header as the engine makes it of a flow that comes in by the forwarder: an invented tag is as good as any.
fn head(case: &Case) -> Head {
    let mut head = [0xa5; 32];
    head[..8].copy_from_slice(&[6, 0x40, 8, 0, 1, 2, 3, 0]);
    if case.inside[0].address.is_ipv6() {
        head[2..4].copy_from_slice(&[0x86, 0xdd]);
    }
    head[8..16].copy_from_slice(&[0xff, 0xff, 0x81, 5, 16, 0, 3, FORWARDER]);
    head
}

/// Both nodes, which know each other by these addresses.
struct Nodes {
    forwarder: Rig,
    owner: Rig,
}

impl Nodes {
    fn new(wide: bool) -> Option<Self> {
        std::env::var_os("GABION_NETNS")?;
        let [own, other] = nodes(wide);
        let rig = |address| {
            let limits = FastPathLimits { flows: 2_048, relays: 512, hops: 8, workers: 1 };
            let sync = SyncLink {
                interface: "lo".to_owned(),
                address,
                port: 6_081,
                peers: Vec::new(),
                patience: PATIENCE,
            };
            Rig::of(Trial::between(limits, [1, 2], &sync).unwrap())
        };
        let (mut forwarder, mut owner) = (rig(other), rig(own));
        let route = Some(Route { interface: TRIAL_INTERFACE, gateway: None });
        for (rig, peer, [local, remote]) in
            [(&mut forwarder, OWNER, [other, own]), (&mut owner, FORWARDER, [own, other])]
        {
            rig.table().peers.set_way(peer, local, remote, route);
            rig.table().set_peer(peer, true);
            rig.table().control[0].confirm_between(Some(PATIENCE));
        }
        Some(Self { forwarder, owner })
    }

    /// Has the case's direction come by the forwarder.
    fn install(&mut self, case: &Case) -> [FlowPlace; 2] {
        let relay = self.forwarder.table().install_relay(&relay(case)).unwrap();
        [relay, self.owner.table().install(&legged(case)).unwrap()]
    }

    fn remove(&mut self, [relay, flow]: [FlowPlace; 2]) {
        self.forwarder.table().remove(relay);
        self.owner.table().remove(flow);
    }

    /// What the forwarder makes of a frame that comes to it.
    fn wrap(&mut self, case: &Case, frame: &[u8], segment: u32) -> (u32, Vec<u8>) {
        self.forwarder.run_segments(ZONES[case.direction], frame, segment)
    }

    fn unwrap(&mut self, frame: &[u8], segment: u32) -> (u32, Vec<u8>) {
        let programs = self.owner.trial.programs();
        let result = programs.unwrap(TRIAL_INTERFACE, frame, segment, 1).unwrap();
        (result.verdict, result.frame)
    }
}

fn relay(case: &Case) -> RelayEntry {
    let mut ways = [None; 2];
    ways[case.direction] = Some((ZONES[case.direction], head(case)));
    RelayEntry { stamp: STAMP, keys: case.keys(), ways, peer: OWNER, mtu: INNER_MTU }
}

fn legged(case: &Case) -> FlowEntry {
    let mut entry = entry(case);
    entry.legs[case.direction] = Some(head(case));
    entry
}

/// A packet that one node has wrapped for the other.
fn wrapped(wide: bool) -> Option<(Nodes, Case, [FlowPlace; 2], Vec<u8>)> {
    let mut nodes = Nodes::new(wide)?;
    let case = good();
    let places = nodes.install(&case);
    let (verdict, frame) = nodes.wrap(&case, &case.arrives(), 0);
    assert_eq!(verdict, REDIRECTED, "{:?}", nodes.forwarder.exits());
    Some((nodes, case, places, frame))
}

#[test]
fn what_one_node_wraps_another_unwraps_to_what_a_router_with_nat_would_have_built() {
    for wide in [false, true] {
        let Some(nodes) = Nodes::new(wide) else { return };
        let nodes = RefCell::new(nodes);
        let mut runner =
            TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
        runner
            .run(&packets::case(), |case| {
                let mut nodes = nodes.borrow_mut();
                let places = nodes.install(&case);
                let arrives = case.arrives();
                let (verdict, frame) = nodes.wrap(&case, &arrives, 0);
                prop_assert_eq!(verdict, REDIRECTED, "{:?}", nodes.forwarder.exits());
                // The packet as it came, but for what fills short frames; before it just what the engine has made.
                let inner = LINK + outer_length(wide);
                prop_assert_eq!(&frame[inner..], &arrives[LINK..LINK + case.length()]);
                prop_assert_eq!(&frame[inner - 32..inner], &head(&case)[..]);
                let parsed = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
                prop_assert!(parsed.transport.is_some(), "{:?}", parsed);
                let (verdict, out) = nodes.unwrap(&frame, 0);
                prop_assert_eq!(verdict, REDIRECTED, "{:?}", nodes.owner.exits());
                case.assert_leaves(&out);
                for (rig, place) in
                    [(places[0], true), (places[1], false)].map(|(place, first)| (first, place))
                {
                    let rig = if rig { &mut nodes.forwarder } else { &mut nodes.owner };
                    let usage = rig.table().take_usage(place);
                    prop_assert_eq!(usage.packets[case.direction], 1);
                    prop_assert_eq!(usage.bytes[case.direction], case.length() as u64);
                }
                nodes.remove(places);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn outer_headers_are_those_of_a_datagram_between_the_nodes() {
    for wide in [false, true] {
        let Some((_, case, _, frame)) = wrapped(wide) else { return };
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let [owner, forwarder] = nodes(wide);
        match parsed.net.unwrap() {
            etherparse::NetHeaders::Ipv4(header, _) => {
                assert_eq!(
                    [header.source, header.destination].map(IpAddr::from),
                    [forwarder, owner]
                );
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(usize::from(header.total_len), frame.len() - LINK);
                assert!(header.dont_fragment);
            }
            etherparse::NetHeaders::Ipv6(header, _) => {
                assert_eq!(
                    [header.source, header.destination].map(IpAddr::from),
                    [forwarder, owner]
                );
                assert_eq!(usize::from(header.payload_length) + 40, frame.len() - LINK);
            }
            etherparse::NetHeaders::Arp(_) => unreachable!(),
        }
        let etherparse::TransportHeader::Udp(udp) = parsed.transport.unwrap() else {
            unreachable!()
        };
        assert_eq!([udp.source_port, udp.destination_port, udp.checksum], [6_081, 6_081, 0]);
        assert_eq!(usize::from(udp.length), 8 + 32 + case.length());
    }
}

/// The kernel makes superframes of no kind for trials, and puts nothing before those: `tests/namespaces` has real ones.
#[test]
fn a_superframe_that_comes_to_the_socket_says_how_long_its_segments_are() {
    let Some((mut nodes, case, _, frame)) = wrapped(false) else { return };
    nodes.owner.table().set_stamp(STAMP + 1);
    let (verdict, out) = nodes.unwrap(&frame, 50);
    let mut told = frame;
    told[34..36].copy_from_slice(&50_u16.to_be_bytes());
    assert_eq!((verdict, out), (TO_STACK, told));
    // One whose segments do not fit is the engine's, also on its way there.
    let mut long = case;
    long.payload = vec![5; 3_000];
    let (verdict, out) = nodes.wrap(&long, &long.arrives(), 1_369);
    assert_eq!((verdict, out), (TO_STACK, long.arrives()));
    assert_eq!(nodes.forwarder.exits(), [(Exit::Wrapped, 1), (Exit::TooBig, 1)]);
}

#[test]
fn what_is_not_to_be_handed_over_now_goes_to_the_engine_untouched() {
    type Change = fn(&mut Rig, FlowPlace, &Case);
    let changes: [(Exit, Change); 6] = [
        (Exit::NoPeer, |rig, _, _| rig.table().set_peer(OWNER, false)),
        (Exit::NoPeer, |rig, _, _| {
            let [own, other] = nodes(false);
            rig.table().peers.set_way(OWNER, other, own, None);
        }),
        // Nobody follows the network any more.
        (Exit::Unconfirmed, |rig, _, _| rig.table().control[0].confirmed.store(1, Relaxed)),
        (Exit::Stale, |rig, _, _| rig.table().set_stamp(STAMP + 1)),
        (Exit::WrongZone, |rig, place, case| {
            rig.table().renew_relay(place, &RelayEntry { ways: [None; 2], ..relay(case) });
        }),
        (Exit::TooBig, |rig, place, case| {
            rig.table().renew_relay(place, &RelayEntry { mtu: 100, ..relay(case) });
        }),
    ];
    for (reason, change) in changes {
        let Some((mut nodes, case, [place, _], _)) = wrapped(false) else { return };
        change(&mut nodes.forwarder, place, &case);
        let (verdict, out) = nodes.wrap(&case, &case.arrives(), 0);
        assert_eq!((verdict, out), (TO_STACK, case.arrives()), "{reason:?}");
        assert_eq!(nodes.forwarder.exits(), {
            let mut exits = [(Exit::Wrapped, 1), (reason, 1)];
            exits.sort_unstable();
            exits
        });
    }
}

/// Whoever can send to the sync interface may try this.
#[test]
fn what_differs_in_anything_from_what_the_owner_expects_goes_to_its_socket() {
    for wide in [false, true] {
        let Some((mut nodes, ..)) = wrapped(wide) else { return };
        let Some((_, _, _, frame)) = wrapped(wide) else { return };
        let case = good();
        nodes.owner.table().peers.set_way(3, nodes_of(wide, 0), nodes_of(wide, 3), None);
        let inner = LINK + outer_length(wide);
        // Every byte of the outer IP header but its hop limit, of UDP but the source port, of the header, and of the
        // addresses and ports inside.
        let hops = if wide { 21 } else { 22 };
        let source_port = inner - 40..inner - 38;
        for at in (LINK..inner).chain(inner + 12..inner + 24) {
            // IPv6's class and label mean nothing here.
            if at == hops || source_port.contains(&at) || (wide && (15..18).contains(&at)) {
                continue;
            }
            let mut changed = frame.clone();
            changed[at] ^= if wide && at == LINK { 0x10 } else { 1 };
            let (verdict, out) = nodes.unwrap(&changed, 0);
            assert_eq!((verdict, out), (TO_STACK, changed), "byte {at}");
        }
        assert_eq!(nodes.unwrap(&frame, 0).0, REDIRECTED, "{:?}", nodes.owner.exits());
        assert_eq!(nodes.owner.table().take_usage(FlowPlace(0)).packets[case.direction], 1);
    }
}

fn nodes_of(wide: bool, last: u8) -> IpAddr {
    match nodes(wide)[0] {
        IpAddr::V4(_) => IpAddr::from([172, 16, 0, last]),
        IpAddr::V6(_) => std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

#[test]
fn who_takes_a_direction_from_another_node_takes_it_from_nobody_else() {
    let Some((mut nodes, case, [_, flow], frame)) = wrapped(false) else { return };
    // By its own interface.
    let (verdict, out) = nodes.owner.run(ZONES[0], &case.arrives());
    assert_eq!((verdict, out), (TO_STACK, case.arrives()));
    assert_eq!(nodes.owner.exits(), [(Exit::WrongZone, 1)]);
    // And nothing at all, in either direction, when the node has not turned for a while: others have its flows then.
    nodes.owner.table().control[0].confirm_between(None);
    assert_eq!(nodes.unwrap(&frame, 0), (TO_STACK, frame.clone()));
    let back = Case { direction: 1, ..case.clone() };
    assert_eq!(nodes.owner.run(ZONES[1], &back.arrives()).0, TO_STACK);
    // The other node no more: what it has wrapped is nobody's.
    nodes.owner.table().control[0].confirm_between(Some(PATIENCE));
    nodes.owner.table().renew(flow, &entry(&case));
    assert_eq!(nodes.unwrap(&frame, 0), (TO_STACK, frame));
    assert_eq!(nodes.owner.run(ZONES[0], &case.arrives()).0, REDIRECTED);
}

/// Flows of its own others take over, as the program is gone that unwraps what they hand over of them.
#[test]
fn a_later_process_finds_none_of_its_flows_that_other_nodes_have_to_do_with() {
    let Some((mut nodes, _, [_, flow], frame)) = wrapped(false) else { return };
    nodes.owner.table().recover();
    assert_eq!(nodes.unwrap(&frame, 0).0, TO_STACK);
    assert_eq!(nodes.owner.table().remains(flow), None);
    assert_eq!(nodes.owner.exits(), [(Exit::NoFlow, 1)]);
}

/// A planned restart lost all packets of such flows from the process's end until the next one had joined, a second later.
#[test]
fn a_restart_interrupted_packets_that_are_handed_over_to_other_nodes() {
    for wide in [false, true] {
        let Some((mut nodes, case, [relay, _], frame)) = wrapped(wide) else { return };
        // Nobody turns, and the next process has not joined yet.
        nodes.forwarder.table().control[0].confirm_between(None);
        nodes.forwarder.table().recover();
        let again = nodes.wrap(&case, &case.arrives(), 0);
        assert_eq!(again, (REDIRECTED, frame));
        // It has, and takes the place back.
        let table = nodes.forwarder.table();
        table.begin_resuming();
        assert!(table.remains(relay).is_some());
        table.remove(relay);
        assert_eq!(nodes.wrap(&case, &case.arrives(), 0).0, TO_STACK);
        let relay = nodes.forwarder.table().install_relay(&self::relay(&case)).unwrap();
        // Whom packets may be handed over to, it says anew.
        assert_eq!(nodes.wrap(&case, &case.arrives(), 0).0, TO_STACK);
        nodes.forwarder.table().set_peer(OWNER, true);
        assert_eq!(nodes.wrap(&case, &case.arrives(), 0).0, REDIRECTED);
        nodes.forwarder.table().remove(relay);
    }
}
