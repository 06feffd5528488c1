//! From bytes to facts: what a frame says, proved once. Nothing after this stage parses.
//!
//! What a packet claims about itself is checked against the bytes that are there, and whatever does
//! not fit is dropped for a reason of its own: a malformed packet is never merely "no match". Checksums
//! are verified, those of IPv4 headers and of transport, unless the sender has left them to hardware
//! or hardware has done it: what an endpoint drops must not move the state of its connection.

mod ipv4;
pub(crate) mod ipv6;
mod mobile;
mod other;
mod transport;

pub use mobile::Homes;
pub(crate) use transport::{ICMP_HEADER, has_right_checksum};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, ETHERNET_HEADER_LEN, EthernetFrame, EthernetProtocol,
};

use crate::address::{Address, Endpoint, FlowKey};
use crate::frame::Frame;
use crate::verdict::DropReason;

/// IP protocol numbers (IANA "protocol-numbers").
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const DCCP: u8 = 33;
    pub(crate) const GRE: u8 = 47;
    pub(crate) const ESP: u8 = 50;
    pub(crate) const AUTHENTICATION: u8 = 51;
    pub(crate) const SCTP: u8 = 132;
    pub(crate) const MOBILITY: u8 = 135;
    pub(crate) const UDP_LITE: u8 = 136;
    pub(crate) const HIP: u8 = 139;
    pub(crate) const SHIM6: u8 = 140;

    /// Whether packets of the protocol begin with two ports.
    pub(crate) const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    Arp(Arp),
    Ip(Packet),
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub request: bool,
    pub sender_mac: [u8; 6],
    pub sender: Address,
    pub target: Address,
}

/// An IPv4 or IPv6 packet whose headers are whole: every offset lies inside the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    /// TTL or hop limit as it came in.
    pub hop_limit: u8,
    /// IPv4: the DF bit. IPv6: always.
    pub dont_fragment: bool,
    /// The upper-layer protocol, behind all extension headers. In an IPv6 fragment that is not the
    /// first, the next header of the fragment header, which may be an extension header.
    pub protocol: u8,
    /// Where the IP header starts (always 14), where the transport header starts, and where the
    /// packet ends; link-layer padding lies behind.
    pub network: usize,
    pub transport: usize,
    pub end: usize,
    pub fragment: Option<Fragment>,
    pub homes: Homes,
    pub segment: Segment,
}

/// The fragment header of a packet that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    pub identification: u32,
    /// Where that stands in the frame.
    pub identification_at: usize,
    /// Bytes of the datagram's payload before this fragment.
    pub offset: u32,
    /// Bytes of the datagram's payload in this fragment; they reach to the packet's end.
    pub length: u32,
    pub more: bool,
}

/// The transport header, as far as the engine needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    Tcp(TcpSegment),
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    /// Echo request or reply, of either family. `kind` is the ICMP type.
    IcmpQuery {
        kind: u8,
        code: u8,
        identifier: u16,
        request: bool,
    },
    /// Unreachable, too big, time exceeded, parameter problem; the quoted packet starts eight
    /// bytes behind `transport`.
    IcmpError {
        kind: u8,
        code: u8,
    },
    /// ICMPv6 neighbour and router discovery, multicast listener discovery: for this link only.
    LinkLocal {
        kind: u8,
    },
    /// Any other protocol. SCTP, DCCP and UDP-Lite have ports, which rules do not ask for and NAT
    /// leaves alone; zero for the rest.
    Other {
        source_port: u16,
        destination_port: u16,
    },
    /// A fragment that is not the first: there is no transport header.
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: TcpFlags,
    /// As in the header, not scaled.
    pub window: u16,
    /// Bytes behind the TCP header in this packet; in a first fragment not the whole segment's.
    pub payload: u32,
    /// From the options of a SYN; at most 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub psh: bool,
    pub urg: bool,
}

impl Packet {
    /// Parses and checks a frame: lengths, header checksums, options and extension headers, TCP
    /// flags, ICMP types. Martian addresses and everything that needs state comes later.
    ///
    /// # Errors
    /// The reason for which a malformed frame is dropped, before any rule is asked.
    pub fn parse(frame: &Frame<'_>) -> Result<Parsed, DropReason> {
        let ethernet =
            EthernetFrame::new_checked(&*frame.bytes).map_err(|_| DropReason::FrameTruncated)?;
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => ipv4::parse(frame).map(Parsed::Ip),
            EthernetProtocol::Ipv6 => ipv6::parse(frame).map(Parsed::Ip),
            EthernetProtocol::Arp => parse_arp(ethernet.payload()).map(Parsed::Arp),
            EthernetProtocol::Unknown(_) => Err(DropReason::NotIp),
        }
    }

    /// The addresses in the pseudo-header of the transport checksum.
    pub(crate) fn summed_addresses(&self) -> (Address, Address) {
        let Homes { source, destination } = self.homes;
        (source.unwrap_or(self.source), destination.unwrap_or(self.destination))
    }

    /// The key by which the packet's flow is found; `None` for ICMP errors, link-local messages and
    /// later fragments.
    pub fn key(&self) -> Option<FlowKey> {
        let (source, destination) = match self.segment {
            Segment::Tcp(TcpSegment { source_port, destination_port, .. })
            | Segment::Udp { source_port, destination_port }
            | Segment::Other { source_port, destination_port } => (source_port, destination_port),
            Segment::IcmpQuery { identifier, .. } => (identifier, identifier),
            Segment::IcmpError { .. } | Segment::LinkLocal { .. } | Segment::Later => return None,
        };
        Some(FlowKey {
            source: Endpoint { address: self.source, port: source },
            destination: Endpoint { address: self.destination, port: destination },
            protocol: self.protocol,
        })
    }
}

/// ARP for IPv4 over Ethernet: a request or a reply, nothing else is asked here.
fn parse_arp(bytes: &[u8]) -> Result<Arp, DropReason> {
    let packet = ArpPacket::new_checked(bytes).map_err(|_| DropReason::FrameTruncated)?;
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return Err(DropReason::NotIp);
    };
    let request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return Err(DropReason::NotIp),
    };
    Ok(Arp {
        request,
        sender_mac: source_hardware_addr.0,
        sender: source_protocol_addr.octets().into(),
        target: target_protocol_addr.octets().into(),
    })
}

/// What the IP header has settled before the transport header is read.
struct Network {
    source: Address,
    destination: Address,
    hop_limit: u8,
    dont_fragment: bool,
    protocol: u8,
    transport: usize,
    end: usize,
    fragment: Option<Fragment>,
    homes: Homes,
}

impl Network {
    fn with(self, segment: Segment) -> Packet {
        let Self { source, destination, hop_limit, dont_fragment, .. } = self;
        let Self { protocol, transport, end, fragment, homes, .. } = self;
        Packet {
            source,
            destination,
            hop_limit,
            dont_fragment,
            protocol,
            network: ETHERNET_HEADER_LEN,
            transport,
            end,
            fragment,
            homes,
            segment,
        }
    }
}

impl Fragment {
    /// Checks a fragment's place in its datagram, whichever the family. `before` are the bytes of
    /// this packet's headers.
    fn check(&self, protocol: u8, before: usize) -> Result<(), DropReason> {
        // RFC 791 section 3.2, RFC 8200 section 4.5: pieces of eight octets, 65,535 at most.
        const MAX_DATAGRAM: usize = 65_535;
        let length = self.length as usize;
        let misplaced = length == 0
            || (self.more && !length.is_multiple_of(8))
            || before + self.offset as usize + length > MAX_DATAGRAM;
        if misplaced {
            return Err(DropReason::FragmentInvalid);
        }
        // RFC 1858 section 4: such a fragment could only rewrite the TCP flags of the first.
        if self.offset == 8 && protocol == protocol::TCP {
            return Err(DropReason::FragmentTiny);
        }
        Ok(())
    }

    fn is_first(&self) -> bool {
        self.offset == 0
    }
}

#[cfg(test)]
mod tests;
