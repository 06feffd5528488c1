//! What may happen next.

use std::net::IpAddr;
use std::time::Duration;

use gabion_engine::build::{self, FrameBuilder};
use gabion_engine::{Neighbour, Network};
use proptest::prelude::*;

use crate::network;

/// One step of a walk.
#[derive(Debug, Clone)]
pub enum Step {
    /// A packet comes in by an interface.
    Packet {
        from: u16,
        packet: Packet,
    },
    /// The same with bytes changed.
    Garbage {
        from: u16,
        packet: Packet,
        flips: Vec<(usize, u8)>,
        cut: usize,
    },
    /// The receiver of a frame that has left answers it.
    Answer {
        of: usize,
        more: u8,
    },
    /// A router complains of a frame that has left.
    Error {
        about: usize,
        kind: u8,
        code: u8,
        mtu: u16,
    },
    Wait(Duration),
    Commit(usize),
    Network(NetworkChange),
    Neighbour {
        known: bool,
        out: u16,
        which: usize,
    },
    Gate {
        open: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub enum NetworkChange {
    AsBuilt,
    WithoutRoutes,
    OtherAddress,
    LinkDown,
    SmallMtu,
}

impl NetworkChange {
    /// The network as it is then.
    pub fn network(self) -> Network {
        let mut network = network::network();
        match self {
            Self::AsBuilt => {}
            Self::WithoutRoutes => network.routes.truncate(2),
            Self::OtherAddress => {
                network.interfaces[0].addresses[0] = "203.0.113.2/24".parse().unwrap();
                network.interfaces[1].addresses[0] = "10.1.0.2/16".parse().unwrap();
            }
            Self::LinkDown => network.interfaces[1].up = false,
            Self::SmallMtu => network.interfaces[0].mtu = 600,
        }
        network
    }
}

/// Of which address a step tells something, and what.
pub fn told(known: bool, which: usize) -> (IpAddr, Neighbour) {
    let gateways = ["203.0.113.254", "2600:1::fe"];
    let address = ADDRESSES.iter().chain(&gateways).nth(which).unwrap();
    let neighbour = match (known, which % 2) {
        (true, _) => Neighbour::Reachable { mac: [2, 0, 0, 0, 1, which as u8] },
        (false, 0) => Neighbour::Failed,
        (false, _) => Neighbour::Gone,
    };
    (address.parse().unwrap(), neighbour)
}

#[derive(Debug, Clone)]
pub struct Packet {
    pub(super) kind: Kind,
    pub(super) source: usize,
    pub(super) destination: usize,
    pub(super) ports: (u16, u16),
    pub(super) hop_limit: u8,
    pub(super) length: usize,
    pub(super) dont_fragment: bool,
    pub(super) offloaded: bool,
    /// Cut to fragments, of which those with a bit come, and in this order if not reversed.
    pub cut: Option<(u8, bool, u32)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Tcp(u8),
    Udp,
    Echo,
    EchoReply,
    Other(u8),
}

/// Clients, servers, addresses of the node and of NAT; of both families.
pub(super) const ADDRESSES: [&str; 14] = [
    "198.51.100.9",
    "10.1.0.10",
    "203.0.113.7",
    "203.0.113.4",
    "10.1.0.11",
    "10.1.0.12",
    "203.0.113.8",
    "198.51.100.10",
    "203.0.113.1",
    "10.1.0.1",
    "203.0.113.5",
    "2600:9::9",
    "2600:2::10",
    "2600:1::7",
];
const FIRST_V6: usize = 11;

pub(super) const PORTS: [u16; 12] =
    [443, 53, 22, 23, 2_222, 4_480, 5_000, 5_001, 5_002, 5_003, 40_000, 514];

impl Packet {
    pub fn builder(&self) -> FrameBuilder {
        let (v6, count) = if self.source >= FIRST_V6 { (FIRST_V6, 3) } else { (0, FIRST_V6) };
        let destination = ADDRESSES[v6 + self.destination % count];
        let source = ADDRESSES[self.source];
        let ported = |address: &str, port: u16| {
            if v6 > 0 { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
        };
        let (from, to) = (ported(source, self.ports.0), ported(destination, self.ports.1));
        let header = if matches!(self.kind, Kind::Other(_)) { 12 } else { 0 };
        let payload = vec![7; self.length.max(header)];
        let builder = match self.kind {
            Kind::Tcp(flags) => tcp(flags).from(&from).to(&to).window(64_000),
            Kind::Udp => build::udp().from(&from).to(&to),
            Kind::Echo => build::icmp_echo().from(source).to(destination).id(self.ports.0),
            Kind::EchoReply => {
                build::icmp_echo_reply().from(source).to(destination).id(self.ports.0)
            }
            Kind::Other(number) => build::protocol(number).from(source).to(destination),
        };
        let builder = builder
            .hop_limit(self.hop_limit)
            .dont_fragment(self.dont_fragment && self.cut.is_none())
            .payload(&payload);
        let offloadable = matches!(self.kind, Kind::Tcp(_) | Kind::Udp) && self.cut.is_none();
        if self.offloaded && offloadable { builder.partial_checksum() } else { builder }
    }

    pub fn frames(&self) -> Vec<Vec<u8>> {
        let whole = self.builder().frame();
        let Some((come, reversed, identification)) = self.cut else { return vec![whole] };
        let pieces = build::fragmented(&whole, 600, identification);
        let mut pieces: Vec<Vec<u8>> = pieces
            .into_iter()
            .enumerate()
            .filter(|(place, _)| come >> (place % 8) & 1 == 1)
            .map(|(_, piece)| piece)
            .collect();
        if reversed {
            pieces.reverse();
        }
        pieces
    }
}

/// SYN, ACK, FIN, RST, PSH by bit.
pub(super) fn tcp(flags: u8) -> FrameBuilder {
    let mut builder = build::tcp().seq(100);
    for (bit, set) in [FrameBuilder::syn, FrameBuilder::fin, FrameBuilder::rst, FrameBuilder::psh]
        .iter()
        .enumerate()
    {
        if flags >> bit & 1 == 1 {
            builder = set(builder);
        }
    }
    if flags >> 4 & 1 == 1 { builder.ack(101) } else { builder }
}

pub fn any_step() -> impl Strategy<Value = Step> {
    let garbage = prop::collection::vec((0..120_usize, any::<u8>()), 1..4);
    prop_oneof![
        24 => (interface(), packet()).prop_map(|(from, packet)| Step::Packet { from, packet }),
        8 => likely().prop_map(|(from, packet)| Step::Packet { from, packet }),
        2 => (interface(), packet(), garbage, 0..200_usize)
            .prop_map(|(from, packet, flips, cut)| Step::Garbage { from, packet, flips, cut }),
        16 => (0..12_usize, any::<u8>()).prop_map(|(of, more)| Step::Answer { of, more }),
        4 => (0..12_usize, error(), prop_oneof![Just(0), 60..1_600_u16])
            .prop_map(|(about, (kind, code), mtu)| Step::Error { about, kind, code, mtu }),
        4 => prop_oneof![
            4 => 0..2_000_u64,
            2 => 2_000..20_000_u64,
            1 => 20_000..400_000_u64,
        ]
        .prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        3 => (0..super::policies::TIGHT + 1).prop_map(Step::Commit),
        2 => network().prop_map(Step::Network),
        10 => (prop::bool::weighted(0.8), 0..2_u16, 0..ADDRESSES.len() + 2)
            .prop_map(|(known, out, which)| Step::Neighbour { known, out, which }),
        1 => prop::bool::weighted(0.7).prop_map(|open| Step::Gate { open }),
    ]
}

fn interface() -> impl Strategy<Value = u16> {
    prop_oneof![8 => Just(0), 8 => Just(1), 1 => Just(2)]
}

fn network() -> impl Strategy<Value = NetworkChange> {
    prop_oneof![
        4 => Just(NetworkChange::AsBuilt),
        1 => Just(NetworkChange::WithoutRoutes),
        1 => Just(NetworkChange::OtherAddress),
        1 => Just(NetworkChange::LinkDown),
        1 => Just(NetworkChange::SmallMtu),
    ]
}

fn error() -> impl Strategy<Value = (u8, u8)> {
    prop_oneof![Just((3, 1)), Just((3, 4)), Just((11, 0)), Just((1, 1)), Just((2, 0)), Just((5, 0))]
}

/// What most policies let pass.
fn likely() -> impl Strategy<Value = (u16, Packet)> {
    let port = || prop_oneof![Just(40_000), 5_000..5_012_u16];
    let outwards = (packet(), port()).prop_map(|(packet, port)| {
        let ports = (port, 53);
        (1, Packet { kind: Kind::Udp, source: 1, destination: 0, ports, hop_limit: 64, ..packet })
    });
    let inwards = (packet(), port(), 0..3_usize).prop_map(|(packet, port, which)| {
        let (kind, destination, ports) = (Kind::Tcp(1), [1, 2, 4][which], (port, 443));
        let small = Packet { length: 0, cut: None, ..packet };
        (0, Packet { kind, source: 0, destination, ports, hop_limit: 64, ..small })
    });
    // To the external endpoints of mappings.
    let strangers = (packet(), port(), 2_000..2_008_u16).prop_map(|(packet, port, mapped)| {
        let (ports, kind) = ((port, mapped), Kind::Udp);
        (0, Packet { kind, source: 7, destination: 3, ports, hop_limit: 64, cut: None, ..packet })
    });
    prop_oneof![2 => outwards, 2 => inwards, 1 => strangers]
}

fn packet() -> impl Strategy<Value = Packet> {
    let kind = prop_oneof![
        6 => prop_oneof![4 => Just(1_u8), 2 => Just(16), 1 => 0..32_u8].prop_map(Kind::Tcp),
        6 => Just(Kind::Udp),
        3 => Just(Kind::Echo),
        1 => Just(Kind::EchoReply),
        1 => prop_oneof![Just(47_u8), Just(50), Just(132)].prop_map(Kind::Other),
    ];
    let port = || {
        prop_oneof![
            6 => (0..PORTS.len()).prop_map(|place| PORTS[place]),
            3 => 2_000..2_012_u16,
            1 => any::<u16>(),
        ]
    };
    let hop_limit = prop_oneof![12 => Just(64_u8), 1 => 0..3_u8];
    let length = prop_oneof![8 => 0..40_usize, 2 => 40..3_000_usize];
    let cut = prop::option::weighted(
        0.15,
        (prop_oneof![3 => Just(255_u8), 1 => any::<u8>()], any::<bool>(), 0..4_u32),
    );
    (
        kind,
        (0..ADDRESSES.len(), 0..ADDRESSES.len(), (port(), port())),
        hop_limit,
        length,
        any::<bool>(),
        prop::bool::weighted(0.1),
        cut,
    )
        .prop_map(
            |(kind, (source, destination, ports), hop_limit, length, df, offloaded, cut)| Packet {
                kind,
                source,
                destination,
                ports,
                hop_limit,
                length,
                dont_fragment: df,
                offloaded,
                cut,
            },
        )
}
