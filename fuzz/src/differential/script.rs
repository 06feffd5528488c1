//! What the hosts say: conversations with something odd in them now and then.

use std::ops::Range;

use gabion_engine::build::FrameBuilder;

use super::rng::Rng;

/// On which side of the router somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Outside = 0,
    Inside = 1,
}

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Outside => Self::Inside,
            Self::Inside => Self::Outside,
        }
    }
}

/// The router's own address outside, behind which NAT hides the inside.
pub(super) const EXTERNAL: &str = "198.51.100.1";

/// Everybody whom the router may hand a packet to.
pub(super) const HOSTS: [(&str, &str, Side); 10] = [
    ("198.51.100.9", "02:00:00:00:01:09", Side::Outside),
    ("198.51.100.10", "02:00:00:00:01:0a", Side::Outside),
    ("198.51.100.200", "02:00:00:00:01:c8", Side::Outside),
    ("2600:9::9", "02:00:00:00:01:19", Side::Outside),
    ("2600:9::a", "02:00:00:00:01:1a", Side::Outside),
    ("10.1.0.10", "02:00:00:00:01:2a", Side::Inside),
    ("10.1.0.11", "02:00:00:00:01:2b", Side::Inside),
    ("10.1.0.200", "02:00:00:00:01:c9", Side::Inside),
    ("2600:2::10", "02:00:00:00:01:3a", Side::Inside),
    ("2600:2::11", "02:00:00:00:01:3b", Side::Inside),
];

#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) from: Side,
    /// What is odd about it; `plain` where nothing is.
    pub(super) what: &'static str,
    pub(super) packet: Packet,
    /// What passes of it shows the port that NAT has chosen.
    pub(super) learns: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Packet {
    Plain(FrameBuilder),
    /// To this address and the port, or query identifier, that NAT has chosen.
    ToMapped {
        builder: FrameBuilder,
        address: &'static str,
        is_query: bool,
    },
    /// An ICMP error about the last packet that has come to this side.
    Error {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        cut: usize,
        /// Where in the quoted packet which bits are not as they were.
        lies: Vec<(usize, u8)>,
        from: Option<&'static str>,
    },
    Piece {
        builder: FrameBuilder,
        range: Range<usize>,
        more: bool,
        identification: u32,
    },
}

/// Who talks to whom, and as whom they are seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) name: &'static str,
    pub(super) client: &'static str,
    pub(super) client_side: Side,
    /// As the client addresses it.
    pub(super) asked: &'static str,
    /// As it is.
    pub(super) server: &'static str,
    pub(super) server_port: u16,
    /// The client is hidden behind a port that NAT chooses.
    pub(super) hides: bool,
}

const fn path(
    name: &'static str,
    client: (&'static str, Side),
    asked: &'static str,
    server: (&'static str, u16),
    hides: bool,
) -> Path {
    Path {
        name,
        client: client.0,
        client_side: client.1,
        asked,
        server: server.0,
        server_port: server.1,
        hides,
    }
}

pub(super) const TCP_PATHS: [Path; 5] = [
    path(
        "tcp out, masqueraded",
        ("10.1.0.10", Side::Inside),
        "198.51.100.9",
        ("198.51.100.9", 443),
        true,
    ),
    path("tcp in, plain", ("198.51.100.9", Side::Outside), "10.1.0.11", ("10.1.0.11", 22), false),
    path(
        "tcp in, published",
        ("198.51.100.9", Side::Outside),
        "203.0.113.7",
        ("10.1.0.10", 443),
        false,
    ),
    path("tcp6 in", ("2600:9::9", Side::Outside), "2600:2::10", ("2600:2::10", 22), false),
    path("tcp6 out", ("2600:2::10", Side::Inside), "2600:9::9", ("2600:9::9", 443), false),
];
pub(super) const UDP_PATHS: [Path; 5] = [
    path(
        "udp out, masqueraded",
        ("10.1.0.10", Side::Inside),
        "198.51.100.9",
        ("198.51.100.9", 53),
        true,
    ),
    path("udp in, plain", ("198.51.100.9", Side::Outside), "10.1.0.11", ("10.1.0.11", 53), false),
    path(
        "udp in, published",
        ("198.51.100.9", Side::Outside),
        "203.0.113.7",
        ("10.1.0.10", 53),
        false,
    ),
    path("udp6 in", ("2600:9::9", Side::Outside), "2600:2::10", ("2600:2::10", 53), false),
    path("udp6 out", ("2600:2::10", Side::Inside), "2600:9::9", ("2600:9::9", 53), false),
];
pub(super) const ECHO_PATHS: [Path; 4] = [
    path(
        "echo out, masqueraded",
        ("10.1.0.10", Side::Inside),
        "198.51.100.9",
        ("198.51.100.9", 0),
        true,
    ),
    path("echo in", ("198.51.100.9", Side::Outside), "10.1.0.11", ("10.1.0.11", 0), false),
    path("echo6 in", ("2600:9::9", Side::Outside), "2600:2::10", ("2600:2::10", 0), false),
    path("echo6 out", ("2600:2::10", Side::Inside), "2600:9::9", ("2600:9::9", 0), false),
];

impl Path {
    pub(super) fn end(address: &str, port: u16) -> String {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    pub(super) fn is_v6(&self) -> bool {
        self.client.contains(':')
    }

    /// A packet of the client's.
    pub(super) fn ask(&self, what: &'static str, builder: FrameBuilder, port: u16) -> Step {
        let builder = builder
            .from(&Self::end(self.client, port))
            .to(&Self::end(self.asked, self.server_port));
        Step { from: self.client_side, what, packet: Packet::Plain(builder), learns: self.hides }
    }

    /// A packet of the server's.
    pub(super) fn answer(&self, what: &'static str, builder: FrameBuilder, port: u16) -> Step {
        let builder = builder.from(&Self::end(self.server, self.server_port));
        let packet = if self.hides {
            Packet::ToMapped { builder, address: EXTERNAL, is_query: self.server_port == 0 }
        } else {
            Packet::Plain(builder.to(&Self::end(self.client, port)))
        };
        Step { from: self.client_side.other(), what, packet, learns: false }
    }

    /// An ICMP error of one side about the last packet that has come to it.
    fn complain(&self, rng: &mut Rng, from: Side) -> Step {
        let (kind, code) = if self.is_v6() {
            *rng.of(&[(1, 0), (1, 1), (1, 3), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1)])
        } else {
            *rng.of(&[
                (3, 0),
                (3, 1),
                (3, 2),
                (3, 3),
                (3, 4),
                (3, 10),
                (3, 13),
                (11, 0),
                (11, 1),
                (12, 0),
                (4, 0),
                (5, 1),
            ])
        };
        let is_mtu = matches!((self.is_v6(), kind, code), (false, 3, 4) | (true, 2, _));
        // The quoted packets are short: an MTU below their length is below any link's.
        let rest = if is_mtu { [0, 0, 5, 0] } else { [0; 4] };
        let header = if self.is_v6() { 40 } else { 20 };
        let none = Vec::new();
        let cut = 14 + 200;
        let (what, cut, lies) = match rng.below(9) {
            0..=2 => ("error: plain", cut, none),
            3 => ("error: quote cut in the transport header", 14 + header + 6, none),
            4 => ("error: another source port inside", cut, vec![(header, 0x40)]),
            5 => ("error: another destination port inside", cut, vec![(header + 2, 0x40)]),
            6 => (
                "error: another protocol inside",
                cut,
                vec![(if self.is_v6() { 6 } else { 9 }, 0x10)],
            ),
            7 => (
                "error: another source inside",
                cut,
                vec![(if self.is_v6() { 23 } else { 15 }, 0x02)],
            ),
            _ => ("error: another sequence number inside", cut, vec![(header + 4, 0x40)]),
        };
        let what = if what == "error: plain" && (kind, code) == (5, 1) {
            "error: redirect"
        } else if what == "error: plain" && !self.is_v6() && kind == 4 {
            "error: source quench"
        } else if what == "error: plain" && is_mtu {
            "error: mtu"
        } else {
            what
        };
        let router = match (from, self.is_v6()) {
            (Side::Outside, false) => "198.51.100.10",
            (Side::Outside, true) => "2600:9::a",
            (Side::Inside, false) => "10.1.0.11",
            (Side::Inside, true) => "2600:2::11",
        };
        let from_router = rng.percent(30).then_some(router);
        let packet = Packet::Error { kind, code, rest, cut, lies, from: from_router };
        Step { from, what, packet, learns: false }
    }
}

impl Step {
    /// The same with another builder.
    pub(super) fn changed(mut self, change: impl FnOnce(FrameBuilder) -> FrameBuilder) -> Self {
        if let Packet::Plain(builder) | Packet::ToMapped { builder, .. } = &mut self.packet {
            *builder = change(builder.clone());
        }
        self
    }
}

pub(super) fn complaint(rng: &mut Rng, path: &Path) -> Step {
    let from = *rng.of(&[Side::Inside, Side::Outside]);
    path.complain(rng, from)
}
