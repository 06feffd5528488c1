//! Packets of invented flows, and what must become of them, built by etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, SlicedPacket,
    TcpHeader,
};
use proptest::prelude::*;

use super::{NEXT, OURS};
use crate::ebpf::{TcpWindow, WireEndpoint, WireKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    /// Over IPv4, without a checksum.
    BareUdp,
}

/// One packet of one flow.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) protocol: Protocol,
    /// Source and destination of the original direction as they come in, and as they leave.
    pub(super) inside: [WireEndpoint; 2],
    pub(super) outside: [WireEndpoint; 2],
    pub(super) direction: usize,
    pub(super) hop_limit: u8,
    pub(super) dont_fragment: bool,
    pub(super) identification: u16,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) timestamps: bool,
    pub(super) payload: Vec<u8>,
    /// Bytes behind the packet, as short frames have.
    pub(super) padding: usize,
}

/// Any packet that its flow covers.
pub(super) fn case() -> impl Strategy<Value = Case> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::BareUdp)];
    (protocol, any::<bool>()).prop_flat_map(|(protocol, wide)| {
        let wide = wide && protocol != Protocol::BareUdp;
        let endpoints = (endpoint(wide), endpoint(wide), endpoint(wide), endpoint(wide));
        let translated = (any::<bool>(), any::<bool>(), 0..2_usize);
        let header = (2..=255_u8, any::<bool>(), any::<u16>());
        let tcp = (any::<u32>(), any::<u32>(), any::<bool>());
        let rest = (proptest::collection::vec(any::<u8>(), 0..200), 0..20_usize);
        (endpoints, translated, header, tcp, rest).prop_map(
            move |((a, b, c, d), (source, destination, direction), header, tcp, rest)| Case {
                protocol,
                inside: [a, b],
                outside: [if source { c } else { a }, if destination { d } else { b }],
                direction,
                hop_limit: header.0,
                dont_fragment: header.1,
                identification: header.2,
                sequence: tcp.0,
                acknowledgement: tcp.1,
                timestamps: tcp.2,
                payload: rest.0,
                padding: rest.1,
            },
        )
    })
}

fn endpoint(wide: bool) -> BoxedStrategy<WireEndpoint> {
    let address = if wide {
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).boxed()
    } else {
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).boxed()
    };
    (address, 1..=u16::MAX).prop_map(|(address, port)| WireEndpoint { address, port }).boxed()
}

impl Case {
    fn number(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp | Protocol::BareUdp => 17,
        }
    }

    pub(super) fn keys(&self) -> [WireKey; 2] {
        let protocol = self.number();
        let [source, destination] = self.inside;
        let [to, from] = self.outside;
        [
            WireKey { protocol, source, destination },
            WireKey { protocol, source: from, destination: to },
        ]
    }

    /// Windows in which the packet lies.
    pub(super) fn windows(&self) -> [TcpWindow; 2] {
        let (sequence, acknowledgement) = (self.sequence, self.acknowledgement);
        let sender =
            TcpWindow { end: sequence, ack: acknowledgement, window: 1, ..TcpWindow::default() };
        let receiver = TcpWindow {
            end: acknowledgement,
            ack: sequence,
            edge: sequence.wrapping_add(1_000),
            window: 1_000,
            ..TcpWindow::default()
        };
        if self.direction == 0 { [sender, receiver] } else { [receiver, sender] }
    }

    /// Bytes of the IP packet.
    pub(super) fn length(&self) -> usize {
        let network = if self.inside[0].address.is_ipv4() { 20 } else { 40 };
        let transport = match self.protocol {
            Protocol::Tcp if self.timestamps => 32,
            Protocol::Tcp => 20,
            Protocol::Udp | Protocol::BareUdp => 8,
        };
        network + transport + self.payload.len()
    }

    pub(super) fn arrives(&self) -> Vec<u8> {
        let key = self.keys()[self.direction];
        // The kernel runs tests on the loopback device, whose link address is zero.
        let links = [[2, 9, 9, 9, 9, 9], [0; 6]];
        let mut frame = self.frame(key, links, self.hop_limit, self.identification);
        frame.extend((0..self.padding).map(|at| 0xa0 + at as u8));
        frame
    }

    /// # Panics
    /// When `frame` is not what has to leave.
    pub(super) fn assert_leaves(&self, frame: &[u8]) {
        let arrived = self.keys()[self.direction];
        let other = self.keys()[1 - self.direction];
        let key = WireKey { source: other.destination, destination: other.source, ..other };
        let is_translated = key != arrived;
        let identification = match (is_translated, self.dont_fragment) {
            (false, _) => self.identification,
            (true, true) => 0,
            // Of the program's choice: what it has chosen, with the checksum that belongs to it.
            (true, false) => u16::from_be_bytes([frame[18], frame[19]]),
        };
        let links = [OURS.0, NEXT.0];
        let expected = self.frame(key, links, self.hop_limit - 1, identification);
        assert_eq!(frame, expected, "\n{:?}", SlicedPacket::from_ethernet(frame));
    }

    fn frame(&self, key: WireKey, links: [[u8; 6]; 2], hop_limit: u8, id: u16) -> Vec<u8> {
        let payload = &self.payload;
        let mut frame = Vec::new();
        let [source, destination] = links;
        let built = PacketBuilder::ethernet2(source, destination).ip(self.ip(key, hop_limit, id));
        match self.protocol {
            Protocol::Tcp => {
                let mut header =
                    TcpHeader::new(key.source.port, key.destination.port, self.sequence, 0);
                header.ack = true;
                header.acknowledgment_number = self.acknowledgement;
                if self.timestamps {
                    header.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
                }
                built.tcp_header(header).write(&mut frame, payload).unwrap();
            }
            Protocol::Udp | Protocol::BareUdp => {
                let built = built.udp(key.source.port, key.destination.port);
                built.write(&mut frame, payload).unwrap();
            }
        }
        if self.protocol == Protocol::BareUdp {
            frame[40..42].fill(0);
        }
        frame
    }

    fn ip(&self, key: WireKey, hop_limit: u8, identification: u16) -> IpHeaders {
        match (key.source.address, key.destination.address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header::new(
                    0,
                    hop_limit,
                    IpNumber(self.number()),
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                header.identification = identification;
                header.dont_fragment = self.dont_fragment;
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber(self.number()),
                    hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _) => unreachable!("both are of one family"),
        }
    }
}
