//! Frames by hand: for tests, `explain` and the simulator.
//!
//! ```
//! use gabion_engine::build;
//! let syn = build::tcp().from("198.51.100.9:40000").to("10.1.0.10:443").syn().seq(1).mss(1460);
//! let frame: Vec<u8> = syn.frame();
//! # assert_eq!(frame.len(), 14 + 20 + 24);
//! ```
//! Whatever is not said is plain and right: lengths, checksums, hop limit 64. Lies are told with
//! [`FrameBuilder::lie_ip`] and [`FrameBuilder::lie_transport`]; checksums are computed after them, so
//! that the lie is all that is wrong.

mod link;
mod pieces;
mod transport;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetFrame, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN,
    Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, checksum,
};

use crate::frame::{Checksum, Offload, SegmentKind, Segments};
use crate::packet::protocol;
pub use link::{arp_reply, arp_request, neighbour_advertisement, neighbour_solicitation};
pub(crate) use pieces::fill_ipv4_checksum;
pub use pieces::{fragmented, piece};
use transport::Transport;

/// A TCP segment without flags.
pub fn tcp() -> FrameBuilder {
    FrameBuilder::new(Transport::tcp())
}

/// A UDP datagram.
pub fn udp() -> FrameBuilder {
    FrameBuilder::new(Transport::Udp)
}

/// An echo request, of the family of its addresses. [`FrameBuilder::id`] sets the identifier.
pub fn icmp_echo() -> FrameBuilder {
    FrameBuilder::new(Transport::Echo { request: true, identifier: 1, sequence: 1 })
}

/// An echo reply.
pub fn icmp_echo_reply() -> FrameBuilder {
    FrameBuilder::new(Transport::Echo { request: false, identifier: 1, sequence: 1 })
}

/// An ICMP or ICMPv6 message of any type. `rest` are the four octets behind the checksum.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4]) -> FrameBuilder {
    FrameBuilder::new(Transport::Icmp { kind, code, rest })
}

/// An ICMP error about the packet in `quoted`, as a router would send it that has seen the packet as
/// it is there: to its source, from its destination unless [`FrameBuilder::from`] says otherwise.
///
/// # Panics
/// When `quoted` is no IP packet.
pub fn icmp_error_about(quoted: &[u8], kind: u8, code: u8, rest: [u8; 4]) -> FrameBuilder {
    let quote = &quoted[ETHERNET_HEADER_LEN..];
    let (source, destination, room) = match EthernetFrame::new_unchecked(quoted).ethertype() {
        EthernetProtocol::Ipv4 => {
            let header = Ipv4Packet::new_unchecked(quote);
            (header.src_addr().into(), header.dst_addr().into(), 548)
        }
        EthernetProtocol::Ipv6 => {
            let header = Ipv6Packet::new_unchecked(quote);
            (IpAddr::from(header.src_addr()), IpAddr::from(header.dst_addr()), 1_232)
        }
        other @ (EthernetProtocol::Arp | EthernetProtocol::Unknown(_)) => {
            panic!("{other} is not quoted in ICMP errors")
        }
    };
    let mut builder = icmp(kind, code, rest).payload(&quote[..quote.len().min(room)]);
    builder.source = SocketAddr::new(destination, 0);
    builder.destination = SocketAddr::new(source, 0);
    builder
}

/// A packet of any other protocol.
pub fn protocol(number: u8) -> FrameBuilder {
    FrameBuilder::new(Transport::Other(number))
}

/// A frame in the making; every method sets one thing and [`FrameBuilder::frame`] builds.
#[derive(Debug, Clone)]
#[must_use]
pub struct FrameBuilder {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    source: SocketAddr,
    destination: SocketAddr,
    hop_limit: u8,
    dont_fragment: bool,
    identification: u16,
    options: Vec<u8>,
    extension_headers: Vec<(u8, Vec<u8>)>,
    transport: Transport,
    payload: Vec<u8>,
    partial_checksum: bool,
    segment_size: Option<u16>,
    ip_lies: Vec<(usize, Vec<u8>)>,
    transport_lies: Vec<(usize, Vec<u8>)>,
    ip_checksum_flip: u16,
    transport_checksum_flip: u16,
    without_checksum: bool,
}

impl FrameBuilder {
    fn new(transport: Transport) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: SocketAddr::new(Ipv4Addr::new(198, 51, 100, 9).into(), 40_000),
            destination: SocketAddr::new(Ipv4Addr::new(10, 1, 0, 10).into(), 443),
            hop_limit: 64,
            dont_fragment: true,
            identification: 0,
            options: Vec::new(),
            extension_headers: Vec::new(),
            transport,
            payload: Vec::new(),
            partial_checksum: false,
            segment_size: None,
            ip_lies: Vec::new(),
            transport_lies: Vec::new(),
            ip_checksum_flip: 0,
            transport_checksum_flip: 0,
            without_checksum: false,
        }
    }

    /// Source as `address:port`, `[address]:port`, or an address alone.
    ///
    /// # Panics
    /// When the text is neither.
    pub fn from(mut self, source: &str) -> Self {
        self.source = endpoint(source);
        self
    }

    /// Destination, written like the source; of the same family.
    ///
    /// # Panics
    /// When the text is neither.
    pub fn to(mut self, destination: &str) -> Self {
        self.destination = endpoint(destination);
        self
    }

    pub const fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// TTL or hop limit.
    pub const fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// IPv4: the DF bit, set unless said otherwise.
    pub const fn dont_fragment(mut self, dont_fragment: bool) -> Self {
        self.dont_fragment = dont_fragment;
        self
    }

    /// IPv4: the identification.
    pub const fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// IPv4 options, padded with end-of-list to whole words.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an IPv6 extension header: its protocol number, and its bytes from the second octet on
    /// (the first, next header, is filled in).
    pub fn extension_header(mut self, number: u8, behind_next_header: &[u8]) -> Self {
        self.extension_headers.push((number, behind_next_header.to_vec()));
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Overwrites bytes of the IP header and what follows it, before the header checksum is computed.
    pub fn lie_ip(mut self, at: usize, bytes: &[u8]) -> Self {
        self.ip_lies.push((at, bytes.to_vec()));
        self
    }

    /// Overwrites bytes of the transport header or payload, before its checksum is computed.
    pub fn lie_transport(mut self, at: usize, bytes: &[u8]) -> Self {
        self.transport_lies.push((at, bytes.to_vec()));
        self
    }

    pub const fn bad_ip_checksum(mut self) -> Self {
        self.ip_checksum_flip = 0x0101;
        self
    }

    pub const fn bad_transport_checksum(mut self) -> Self {
        self.transport_checksum_flip = 0x0101;
        self
    }

    /// UDP: a checksum of zero.
    pub const fn without_checksum(mut self) -> Self {
        self.without_checksum = true;
        self
    }

    /// Leaves the transport checksum to hardware: see [`Checksum::Partial`].
    pub const fn partial_checksum(mut self) -> Self {
        self.partial_checksum = true;
        self
    }

    /// Makes the frame a superframe with segments of this many bytes of payload.
    pub const fn segment_size(mut self, size: u16) -> Self {
        self.partial_checksum = true;
        self.segment_size = Some(size);
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// When the addresses are of different families, or a lie lies outside the frame.
    pub fn frame(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        let network = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.ipv4(&transport),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.ipv6(&transport),
            (source, destination) => panic!("{source} and {destination} are of two families"),
        };
        let ethertype =
            if self.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        crate::reply::ethernet_frame(self.source_mac, self.destination_mac, ethertype, &network)
    }

    /// What is left undone in the frame.
    pub fn offload(&self) -> Offload {
        if !self.partial_checksum {
            return Offload::default();
        }
        let offset = self.transport.checksum_offset().expect("the protocol has a checksum");
        let start = ETHERNET_HEADER_LEN + self.ip_header_length();
        let kind = match (&self.transport, self.is_ipv4()) {
            (Transport::Udp, _) => SegmentKind::Udp,
            (_, true) => SegmentKind::TcpIpv4,
            (_, false) => SegmentKind::TcpIpv6,
        };
        let header = start + self.transport_bytes().len() - self.payload.len();
        Offload {
            checksum: Checksum::Partial { start: start as u16, offset: offset as u16 },
            segments: self.segment_size.map(|size| Segments { kind, size, header: header as u16 }),
        }
    }

    const fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    fn ip_header_length(&self) -> usize {
        if self.is_ipv4() {
            IPV4_HEADER_LEN + self.options.len()
        } else {
            let headers = self.extension_headers.iter().map(|(_, bytes)| 1 + bytes.len());
            IPV6_HEADER_LEN + headers.sum::<usize>()
        }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let number = self.transport.number(self.is_ipv4());
        let mut bytes = self.transport.emit(self.source, self.destination, &self.payload);
        tell(&mut bytes, &self.transport_lies);
        let Some(at) = self.transport.checksum_offset() else { return bytes };
        bytes[at..at + 2].fill(0);
        if self.without_checksum {
            return bytes;
        }
        // A datagram's own length may be told shorter than it is (RFC 9868).
        let told = [bytes[4], bytes[5]];
        let summed = match number {
            protocol::UDP => bytes.len().min(u16::from_be_bytes(told).into()),
            _ => bytes.len(),
        };
        let pseudo_header = if number == protocol::ICMP {
            0
        } else {
            checksum::pseudo_header(
                &self.source.ip().into(),
                &self.destination.ip().into(),
                number.into(),
                summed as u32,
            )
        };
        let sum = if self.partial_checksum {
            pseudo_header
        } else {
            match !checksum::combine(&[pseudo_header, checksum::data(&bytes[..summed])]) {
                0 if number == protocol::UDP => u16::MAX,
                sum => sum,
            }
        };
        bytes[at..at + 2].copy_from_slice(&(sum ^ self.transport_checksum_flip).to_be_bytes());
        bytes
    }

    fn ipv4(&self, transport: &[u8]) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) =
            (self.source.ip(), self.destination.ip())
        else {
            unreachable!("the caller has looked at the family");
        };
        let repr = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: self.transport.number(true).into(),
            payload_len: self.options.len() + transport.len(),
            hop_limit: self.hop_limit,
        };
        let mut bytes = vec![0; IPV4_HEADER_LEN];
        let mut header = Ipv4Packet::new_unchecked(&mut bytes[..]);
        repr.emit(&mut header, &ChecksumCapabilities::ignored());
        header.set_header_len(self.ip_header_length() as u8);
        header.set_ident(self.identification);
        header.set_dont_frag(self.dont_fragment);
        bytes.extend_from_slice(&self.options);
        bytes.extend_from_slice(transport);
        tell(&mut bytes, &self.ip_lies);
        fill_ipv4_checksum(&mut bytes);
        bytes[10] ^= (self.ip_checksum_flip >> 8) as u8;
        bytes[11] ^= self.ip_checksum_flip as u8;
        bytes
    }

    fn ipv6(&self, transport: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) =
            (self.source.ip(), self.destination.ip())
        else {
            unreachable!("the caller has looked at the family");
        };
        let upper = self.transport.number(false);
        let following =
            |index: usize| self.extension_headers.get(index).map_or(upper, |&(number, _)| number);
        let repr = Ipv6Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: following(0).into(),
            payload_len: self.ip_header_length() - IPV6_HEADER_LEN + transport.len(),
            hop_limit: self.hop_limit,
        };
        let mut bytes = vec![0; IPV6_HEADER_LEN];
        repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
        for (index, (_, header)) in self.extension_headers.iter().enumerate() {
            bytes.push(following(index + 1));
            bytes.extend_from_slice(header);
        }
        bytes.extend_from_slice(transport);
        tell(&mut bytes, &self.ip_lies);
        bytes
    }
}

fn tell(bytes: &mut [u8], lies: &[(usize, Vec<u8>)]) {
    for (at, lie) in lies {
        bytes[*at..at + lie.len()].copy_from_slice(lie);
    }
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)))
        .unwrap_or_else(|_| panic!("{text:?} is neither an address nor an address with a port"))
}
