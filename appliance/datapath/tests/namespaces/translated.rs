//! What programs translate of frames whose checksum or segments a card was to make: the node's way out has none that
//! could, so the kernel makes them of what the programs have left, and the server sees whether they are right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use gabion_datapath::ebpf::{
    Afterlife, EbpfDatapath, Exit, FastPathLimits, FlowEntry, FlowTable, Hook, HookChoice, HopId,
    NextHop, TcpWindow, WireEndpoint, WireKey,
};
use gabion_datapath::{Datapath, LinkAddress, Port, UserspaceDatapath, VnetHeader};

use crate::lab::{CLIENT, LIMITS, Lab, NODE, PATIENCE, SERVER};

const CLIENT_LINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const NODE_LINKS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
pub(crate) const SERVER_LINK: [u8; 6] = [2, 0, 0, 0, 0, 4];

pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
pub(crate) const LINK: usize = 14;
pub(crate) const HOP: HopId = HopId { place: 0, tenancy: 1 };
/// Sequence number and acknowledgement.
const NUMBER: u32 = 1_000;

/// What the sender has left to a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Checksum,
    Segments,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) wide: bool,
    pub(crate) protocol: u8,
    pub(crate) left: Left,
    addresses: bool,
    ports: bool,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (wide, protocol) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
        for left in [Left::Nothing, Left::Checksum, Left::Segments] {
            for (addresses, ports) in [(false, false), (false, true), (true, false), (true, true)] {
                cases.push(Case { wide, protocol, left, addresses, ports });
            }
        }
    }
    cases
}

impl Case {
    fn key(&self, hosts: [u8; 2], ports: [u16; 2]) -> WireKey {
        let end = |host: u8, port| {
            let address: IpAddr = if self.wide {
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into()
            } else {
                Ipv4Addr::new(198, 51, 100, host).into()
            };
            WireEndpoint { address, port }
        };
        let protocol = self.protocol;
        let [source, destination] = [0, 1].map(|at| end(hosts[at], ports[at]));
        WireKey { protocol, source, destination }
    }

    fn arrives(&self) -> WireKey {
        self.key([1, 9], [5_001, 5_009])
    }

    fn leaves(&self) -> WireKey {
        self.key(
            if self.addresses { [77, 2] } else { [1, 9] },
            if self.ports { [6_077, 6_002] } else { [5_001, 5_009] },
        )
    }

    pub(crate) fn entry(&self) -> FlowEntry {
        let leaves = self.leaves();
        let reply = WireKey { source: leaves.destination, destination: leaves.source, ..leaves };
        let side = TcpWindow {
            end: NUMBER,
            ack: NUMBER,
            edge: 1 << 20,
            window: 1 << 20,
            ..TcpWindow::default()
        };
        FlowEntry {
            stamp: 1,
            keys: [self.arrives(), reply],
            zones: [1; 2],
            hops: [HOP; 2],
            tcp: (self.protocol == TCP).then_some([side; 2]),
            legs: [None; 2],
        }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let length = if self.left == Left::Segments { 4_001 } else { 301 };
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    /// Where the transport header and its payload begin, and where the checksum is in that header.
    fn places(&self) -> (usize, usize, usize) {
        let transport = LINK + if self.wide { 40 } else { 20 };
        let (header, checksum) = if self.protocol == TCP { (20, 16) } else { (8, 6) };
        (transport, transport + header, checksum)
    }

    pub(crate) fn frame(&self) -> (Vec<u8>, VnetHeader) {
        let key = self.arrives();
        let built = PacketBuilder::ethernet2(CLIENT_LINK, NODE_LINKS[0]);
        let built = match (key.source.address, key.destination.address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => built.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => built.ipv6(from.octets(), to.octets(), 64),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => unreachable!("both are of one family"),
        };
        let mut frame = Vec::new();
        let (from, to) = (key.source.port, key.destination.port);
        if self.protocol == TCP {
            let built = built.tcp(from, to, NUMBER, 4_000).ack(NUMBER);
            built.write(&mut frame, &self.payload()).unwrap();
        } else {
            built.udp(from, to).write(&mut frame, &self.payload()).unwrap();
        }
        let vnet = self.leave(&mut frame);
        (frame, vnet)
    }

    /// Leaves to a card what is to be left.
    fn leave(&self, frame: &mut [u8]) -> VnetHeader {
        if self.left == Left::Nothing {
            return VnetHeader::default();
        }
        let (transport, payload, checksum) = self.places();
        let pseudo = sum(&self.pseudo_header(frame)).to_be_bytes();
        frame[transport + checksum..][..2].copy_from_slice(&pseudo);
        let partial = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            checksum_start: transport as u16,
            checksum_offset: checksum as u16,
            ..VnetHeader::default()
        };
        if self.left == Left::Checksum {
            return partial;
        }
        let gso_type = match (self.protocol, self.wide) {
            (TCP, false) => VnetHeader::GSO_TCPV4,
            (TCP, true) => VnetHeader::GSO_TCPV6,
            _ => VnetHeader::GSO_UDP_L4,
        };
        VnetHeader { gso_type, gso_size: 1_400, header_length: payload as u16, ..partial }
    }

    /// RFC 9293 section 3.1, RFC 8200 section 8.1: the latter's longer fields add nothing to the sum.
    fn pseudo_header(&self, frame: &[u8]) -> Vec<u8> {
        let (transport, ..) = self.places();
        let addresses = if self.wide { &frame[22..54] } else { &frame[26..34] };
        let length = (frame.len() - transport) as u16;
        [addresses, &[0, self.protocol], &length.to_be_bytes()].concat()
    }

    /// The payload of a frame that has come to the server.
    ///
    /// # Panics
    /// When it is not what has to come.
    pub(crate) fn check<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (transport, payload, _) = self.places();
        let key = self.leaves();
        assert_eq!(frame[..12], [SERVER_LINK, NODE_LINKS[1]].concat(), "{self:?}");
        let octets = [key.source, key.destination].map(|end| match end.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let (hop_limit, addresses) = if self.wide { (21, 22..54) } else { (22, 26..34) };
        assert_eq!(frame[hop_limit], 63, "{self:?}");
        assert_eq!(frame[addresses], octets.concat(), "{self:?}");
        if !self.wide {
            assert_eq!(sum(&frame[LINK..transport]), 0xffff, "{self:?}: header");
        }
        let all = [&self.pseudo_header(frame), &frame[transport..]].concat();
        assert_eq!(sum(&all), 0xffff, "{self:?}: {frame:02x?}");
        &frame[payload..]
    }
}

/// The one's-complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into());
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn open_node(lab: &Lab, hook: HookChoice) -> (EbpfDatapath, FlowTable) {
    lab.within(NODE, move || {
        let tables = FastPathLimits { flows: 64, relays: 0, hops: 1, workers: 1 };
        let (datapath, mut table) = EbpfDatapath::open(
            &["ext", "int"],
            LIMITS,
            tables,
            [1, 2],
            Afterlife::default(),
            hook,
            None,
        )
        .unwrap();
        let hop = NextHop {
            interface: table.interface(Port(1)).unwrap(),
            source: LinkAddress(NODE_LINKS[1]),
            destination: LinkAddress(SERVER_LINK),
            mtu: 1_500,
        };
        table.set_hop(HOP, Some(hop));
        table.set_zone(Port(0), Some(1));
        table.set_stamp(1);
        (datapath, table)
    })
}

/// What comes to the server for this case, until all of its payload is there.
pub(crate) fn receive(server: &mut UserspaceDatapath, case: &Case) -> Vec<Vec<u8>> {
    let (transport, payload, _) = case.places();
    let port = case.leaves().destination.port.to_be_bytes();
    let (mut frames, mut got) = (Vec::new(), 0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while got < case.payload().len() {
        assert!(std::time::Instant::now() < deadline, "{case:?}: {got} bytes have come");
        server.wait(Some(PATIENCE)).unwrap();
        server
            .receive(64, &mut |batch| {
                for frame in batch {
                    // The kernels say things of their own.
                    let is_ours = frame.bytes.len() > payload
                        && frame.bytes[6..12] == NODE_LINKS[1]
                        && frame.bytes[transport + 2..transport + 4] == port;
                    if is_ours {
                        assert_eq!(frame.vnet.flags & VnetHeader::NEEDS_CHECKSUM, 0, "{case:?}");
                        got += frame.bytes.len() - payload;
                        frames.push(frame.bytes.to_vec());
                    }
                }
            })
            .unwrap();
    }
    frames
}

/// A lab with these link addresses.
pub(crate) fn build() -> Option<Lab> {
    let lab = Lab::build()?;
    let link =
        |[a, b, c, d, e, f]: [u8; 6]| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    lab.ip(CLIENT, &format!("link set eth0 address {}", link(CLIENT_LINK)));
    lab.ip(NODE, &format!("link set ext address {}", link(NODE_LINKS[0])));
    lab.ip(NODE, &format!("link set int address {}", link(NODE_LINKS[1])));
    lab.ip(SERVER, &format!("link set eth0 address {}", link(SERVER_LINK)));
    Some(lab)
}

/// Sends a frame of each case and sees that the server gets the right one.
fn translate(lab: &Lab, table: &mut FlowTable, cases: &[Case]) {
    let open = || UserspaceDatapath::open(&["eth0"], LIMITS).unwrap();
    let (mut client, mut server) = (lab.within(CLIENT, open), lab.within(SERVER, open));
    for case in cases {
        let place = table.install(&case.entry()).unwrap();
        send(&mut client, case);
        let frames = receive(&mut server, case);
        let payload: Vec<u8> = frames.iter().flat_map(|frame| case.check(frame)).copied().collect();
        assert_eq!(payload, case.payload(), "{case:?}");
        let segments = if case.left == Left::Segments { 3 } else { 1 };
        assert_eq!(frames.len(), segments, "{case:?}");
        let usage = table.remove(place);
        assert_eq!(usage.packets, [segments as u64, 0], "{case:?}");
    }
}

pub(crate) fn send(client: &mut UserspaceDatapath, case: &Case) {
    let (frame, vnet) = case.frame();
    assert!(client.transmit(Port(0), &frame, vnet));
    client.flush().unwrap();
}

pub(crate) fn exit(node: &EbpfDatapath, exit: Exit) -> u64 {
    node.exits().into_iter().find(|(which, _)| *which == exit).map_or(0, |(_, count)| count)
}

#[test]
fn checksums_that_a_card_was_to_make_are_right_after_translation() {
    let Some(lab) = build() else { return };
    lab.execute(NODE, "ethtool -K int tso off gso off tx off");
    let (node, mut table) = open_node(&lab, HookChoice::Auto);
    assert_eq!(node.hooks()[0], [Hook::Tc], "these are not hardware");
    translate(&lab, &mut table, &cases());
    assert_eq!(exit(&node, Exit::ForwardedEarly), 0);
}

#[test]
fn frames_from_a_wire_are_moved_by_xdp_where_the_way_out_takes_them() {
    let Some(lab) = build() else { return };
    lab.execute(CLIENT, "ethtool -K eth0 tso off gso off tx off");
    // Such a device takes frames of programs while its other end polls for them.
    lab.execute(SERVER, "ethtool -K eth0 gro on");
    let (mut node, mut table) = open_node(&lab, HookChoice::Xdp);
    assert_eq!(node.hooks()[0], [Hook::Xdp, Hook::Tc]);
    // Who comes second finds the place taken, and goes on without.
    assert_eq!(open_node(&lab, HookChoice::Xdp).0.hooks()[0], [Hook::Tc]);
    // Segments the server would merge again.
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.left != Left::Segments).collect();
    translate(&lab, &mut table, &cases);
    let counts =
        |node: &EbpfDatapath| [Exit::ForwardedEarly, Exit::Forwarded].map(|e| exit(node, e));
    assert_eq!(counts(&node), [cases.len() as u64, 0], "{:?}", node.exits());

    // When it takes none any more, what would be lost goes by tc.
    lab.execute(SERVER, "ethtool -K eth0 gro off");
    let mut client = lab.within(CLIENT, || UserspaceDatapath::open(&["eth0"], LIMITS).unwrap());
    let case = cases[0];
    table.install(&case.entry()).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while counts(&node)[1] == 0 {
        assert!(std::time::Instant::now() < deadline, "{:?}", node.exits());
        send(&mut client, &case);
        node = lab.within(NODE, move || {
            node.wait(Some(std::time::Duration::from_millis(50))).unwrap();
            node
        });
    }
}
