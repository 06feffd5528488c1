//! From bytes to facts: what a frame says, proved once. Nothing after this stage parses.

use crate::address::{Address, FlowKey};
use crate::frame::Frame;
use crate::verdict::DropReason;

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
    /// The upper-layer protocol, behind all extension headers.
    pub protocol: u8,
    /// Where the IP header starts (always 14), where the transport header starts, and where the
    /// packet ends; link-layer padding lies behind.
    pub network: usize,
    pub transport: usize,
    pub end: usize,
    pub fragment: Option<Fragment>,
    pub segment: Segment,
}

/// The fragment header of a packet that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    pub identification: u32,
    /// Bytes of the datagram's payload before this fragment.
    pub offset: u32,
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
    /// A protocol without ports.
    Other,
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
    pub payload: u32,
    /// From the options of a SYN.
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
    pub fn parse(_frame: &Frame<'_>) -> Result<Parsed, DropReason> {
        unimplemented!()
    }

    /// The key by which the packet's flow is found; `None` for ICMP errors, link-local messages and
    /// later fragments.
    pub fn key(&self) -> Option<FlowKey> {
        unimplemented!()
    }
}
