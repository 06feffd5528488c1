//! What clients and servers say to each other, and what became of it.

use std::net::{IpAddr, SocketAddr};

use crate::random::Random;

use super::schedule::{MILLISECOND, SECOND};

/// Where a conversation goes, and what is translated on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) transport: Transport,
    pub(super) path: Path,
    pub(super) is_v6: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    Echo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// From outside to a server, nothing changed.
    Plain,
    /// The same under the other policy's displeasure.
    Barred,
    /// To a published address.
    Published,
    /// From inside to the world, from addresses that all nodes share.
    Outbound,
}

impl Kind {
    pub(super) const ALL: [Self; 16] = {
        use Path::{Barred, Outbound, Plain, Published};
        use Transport::{Echo, Tcp, Udp};
        [
            kind(Tcp, Plain, false),
            kind(Tcp, Plain, true),
            kind(Tcp, Published, false),
            kind(Tcp, Published, true),
            kind(Tcp, Outbound, false),
            kind(Tcp, Outbound, true),
            kind(Tcp, Barred, false),
            kind(Udp, Plain, false),
            kind(Udp, Plain, true),
            kind(Udp, Published, false),
            kind(Udp, Outbound, false),
            kind(Udp, Outbound, true),
            kind(Udp, Barred, false),
            kind(Echo, Plain, false),
            kind(Echo, Plain, true),
            kind(Echo, Outbound, false),
        ]
    };

    pub(super) fn any(random: &mut Random) -> Self {
        // TCP twice as often: it has more to lose.
        if random.is_one_in(2) {
            Self::ALL[random.below(7) as usize]
        } else {
            random.pick(&Self::ALL)
        }
    }

    /// Client and server as they are, and the server as the client knows it; the client's port is the
    /// conversation's.
    pub(super) fn endpoints(self, port: u16) -> Endpoints {
        let address =
            |v4: &str, v6: &str| -> IpAddr { if self.is_v6 { v6 } else { v4 }.parse().unwrap() };
        let outside = address("198.51.100.9", "2600:9::9");
        let inside = address("10.1.0.10", "2600:2::10");
        let service = match (self.transport, self.path) {
            (Transport::Echo, _) => port,
            (Transport::Tcp, Path::Barred) => 8_443,
            (Transport::Udp, Path::Barred) => 5_353,
            (Transport::Tcp, _) => 443,
            (Transport::Udp, _) => 53,
        };
        let (client, server) =
            if self.path == Path::Outbound { (inside, outside) } else { (outside, inside) };
        let called = if self.path == Path::Published {
            address("192.0.2.100", "2600:7::100")
        } else {
            server
        };
        Endpoints {
            client: SocketAddr::new(client, port),
            server: SocketAddr::new(server, service),
            called: SocketAddr::new(called, service),
        }
    }
}

const fn kind(transport: Transport, path: Path, is_v6: bool) -> Kind {
    Kind { transport, path, is_v6 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) called: SocketAddr,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) starts: u64,
    /// Bytes from the client and from the server; for datagrams, how many are asked and answered.
    pub(super) bytes: [usize; 2],
    /// Bytes that are sent at once, and how long the client waits in between.
    pub(super) chunk: usize,
    pub(super) gap: u64,
}

impl Plan {
    pub(super) fn draw(random: &mut Random, kind: Kind, starts: u64, lasts: u64) -> Self {
        let gap = random.between(10, 300) * MILLISECOND;
        let turns = (lasts / gap).clamp(1, 200) as usize;
        let chunk = random.pick(&[1, 100, 1_000, 3_000]);
        let answer = random.pick(&[1, 1, 4]);
        let bytes = match kind.transport {
            Transport::Tcp => [4 + turns * chunk, turns * chunk * answer],
            Transport::Udp | Transport::Echo => [turns, turns],
        };
        Self { kind, starts, bytes, chunk, gap }
    }

    pub(super) fn is_final(&self) -> bool {
        self.starts >= super::schedule::SETTLED
    }
}

/// What became of one.
#[derive(Debug, Clone, Default)]
pub(super) struct Course {
    pub(super) connected: Option<u64>,
    /// By which the client and the server had everything.
    pub(super) done: [Option<u64>; 2],
    /// When they knew that the connection was over.
    pub(super) closed: [Option<u64>; 2],
    pub(super) failed: Option<(u64, &'static str)>,
    /// Datagrams asked and answered, and when the last answer came.
    pub(super) asked: u32,
    pub(super) answered: u32,
    pub(super) last: u64,
}

impl Course {
    pub(super) fn is_over(&self) -> bool {
        self.failed.is_some() || self.done.iter().all(Option::is_some)
    }
}

/// What stands at a place of a stream.
pub(super) fn byte(conversation: usize, from_server: bool, place: usize) -> u8 {
    let seed =
        (place as u32).wrapping_add((conversation as u32) << 20) ^ u32::from(from_server) << 31;
    seed.wrapping_mul(2_654_435_761).to_be_bytes()[0]
}

/// A TCP connection may be slow where nothing was wrong by this much.
pub(super) const SLOW: u64 = SECOND / 2;
