//! Established flows of the kinds that benchmarks name, and the packets that belong to them.

use gabion_engine::InterfaceId;
use gabion_engine::build::{self, FrameBuilder};

use crate::{EXTERNAL, INTERNAL, Subject};

/// Bytes of payload of each packet: the smallest TCP segment with data that a sender fills is not
/// smaller, and headers are most of what is looked at.
const PAYLOAD: &[u8] = &[0x55; 64];
const WINDOW: u16 = 64_000;

/// What a flow is: transport, family, translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp4,
    Tcp6,
    Tcp4Dnat,
    Udp4Snat,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Tcp4Dnat, Self::Udp4Snat];

    /// The family of benchmark names.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Tcp4Dnat => "tcp4-dnat",
            Self::Udp4Snat => "udp4-snat",
        }
    }

    /// The interface by which the first packet comes in, and that of the replies.
    pub const fn interfaces(self) -> (InterfaceId, InterfaceId) {
        match self {
            Self::Tcp4 | Self::Tcp6 | Self::Tcp4Dnat => (EXTERNAL, INTERNAL),
            Self::Udp4Snat => (INTERNAL, EXTERNAL),
        }
    }

    /// Originator and responder as the originator's side shows them, and the responder as it is.
    fn endpoints(self, number: u16) -> (String, &'static str, &'static str) {
        // Many clients with many ports each, so that no table sees one of them only.
        let (host, port) = (number / 1_000, 40_000 + number % 1_000);
        match self {
            Self::Tcp4 => (format!("198.51.100.{host}:{port}"), "10.1.0.10:443", "10.1.0.10:443"),
            Self::Tcp6 => {
                (format!("[2600:9::{host:x}]:{port}"), "[2600:2::10]:443", "[2600:2::10]:443")
            }
            Self::Tcp4Dnat => {
                (format!("192.0.2.{host}:{port}"), "203.0.113.7:443", "10.1.0.10:443")
            }
            Self::Udp4Snat => {
                (format!("10.1.1.{host}:{port}"), "198.51.100.53:53", "198.51.100.53:53")
            }
        }
    }

    /// The first packet of flow `number`.
    pub fn first(self, number: u16) -> Vec<u8> {
        let (from, to, _) = self.endpoints(number);
        match self {
            Self::Tcp4 | Self::Tcp6 | Self::Tcp4Dnat => {
                build::tcp().from(&from).to(to).syn().seq(1_000).window(WINDOW).mss(1_460).frame()
            }
            Self::Udp4Snat => build::udp().from(&from).to(to).payload(PAYLOAD).frame(),
        }
    }
}

/// A flow that has seen packets both ways, and a packet in either direction that may be repeated.
#[derive(Debug, Clone)]
pub struct Established {
    pub original: (InterfaceId, Vec<u8>),
    pub reply: (InterfaceId, Vec<u8>),
}

impl Established {
    /// Opens flow `number` in an engine.
    ///
    /// # Panics
    /// When the policy does not admit it.
    pub fn open(subject: &mut Subject, kind: Kind, number: u16) -> Self {
        let (near, far) = kind.interfaces();
        // The reply needs the source that this was given.
        let first = subject.pass(near, &kind.first(number));
        let (from, to, responder) = kind.endpoints(number);
        let originator = source_of(&first);
        let data = |builder: FrameBuilder, seq: u32, ack: u32| {
            builder.seq(seq).ack(ack).psh().window(WINDOW).payload(PAYLOAD).frame()
        };
        let client = || build::tcp().from(&from).to(to);
        let server = || build::tcp().from(responder).to(&originator);
        let (original, reply) = match kind {
            Kind::Tcp4 | Kind::Tcp6 | Kind::Tcp4Dnat => {
                let syn_ack = server().syn().seq(5_000).ack(1_001).window(WINDOW).mss(1_460);
                subject.pass(far, &syn_ack.frame());
                let ack = client().seq(1_001).ack(5_001).window(WINDOW);
                subject.pass(near, &ack.frame());
                (data(client(), 1_001, 5_001), data(server(), 5_001, 1_001))
            }
            Kind::Udp4Snat => (
                kind.first(number),
                build::udp().from(responder).to(&originator).payload(PAYLOAD).frame(),
            ),
        };
        // Once each, so that whatever the first packet of a direction sets up is set up.
        subject.pass(near, &original);
        subject.pass(far, &reply);
        subject.pass(near, &original);
        Self { original: (near, original), reply: (far, reply) }
    }
}

/// The source of a packet as the far side sees it.
fn source_of(frame: &[u8]) -> String {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    let ip = &frame[14..];
    let (address, transport): (IpAddr, &[u8]) = if ip[0] >> 4 == 4 {
        (Ipv4Addr::from(<[u8; 4]>::try_from(&ip[12..16]).expect("four octets")).into(), &ip[20..])
    } else {
        (
            Ipv6Addr::from(<[u8; 16]>::try_from(&ip[8..24]).expect("sixteen octets")).into(),
            &ip[40..],
        )
    };
    SocketAddr::new(address, u16::from_be_bytes([transport[0], transport[1]])).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    #[test]
    fn flows_of_every_kind_open_once() {
        let mut subject = Subject::new(&policy(10), 4_096);
        for kind in Kind::ALL {
            for number in [0, 1, 999, 1_000] {
                Established::open(&mut subject, kind, number);
            }
        }
        assert_eq!(subject.engine.flows(0, u32::MAX).0.len(), Kind::ALL.len() * 4);
    }
}
