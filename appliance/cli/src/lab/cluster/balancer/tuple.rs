//! What a load balancer reads of a packet.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

/// The transports that are balanced. Azure's rules know TCP and UDP only; echoes go by their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Echo,
}

/// What packets of one direction of a connection have in common. The ports of echoes are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tuple {
    pub(crate) transport: Transport,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// How far a packet shows its connection to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A TCP SYN, with or without an acknowledgement.
    Opening,
    /// Any later segment of TCP.
    Established,
    /// Not TCP.
    Stateless,
}

/// A packet that wants to be balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) tuple: Tuple,
    pub(crate) phase: Phase,
}

impl Tuple {
    pub(crate) const fn new(
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        Self { transport, source, destination }
    }

    /// Of echoes between two addresses.
    pub(crate) const fn echo(source: IpAddr, destination: IpAddr) -> Self {
        Self::new(Transport::Echo, SocketAddr::new(source, 0), SocketAddr::new(destination, 0))
    }
}

/// Where a frame is bound for, if it is an IP packet.
pub(crate) fn destination(frame: &[u8]) -> Option<IpAddr> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            Some(Ipv4Packet::new_checked(frame.payload()).ok()?.dst_addr().into())
        }
        EthernetProtocol::Ipv6 => {
            Some(Ipv6Packet::new_checked(frame.payload()).ok()?.dst_addr().into())
        }
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => None,
    }
}

/// Reads a frame. `None` for what is not balanced: other protocols, and fragments, which Azure's load
/// balancers do not carry.
pub(crate) fn read(frame: &[u8]) -> Option<Seen> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            if packet.more_frags() || packet.frag_offset() != 0 {
                return None;
            }
            let ends = [packet.src_addr().into(), packet.dst_addr().into()];
            read_transport(ends, packet.next_header(), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
            let ends = [packet.src_addr().into(), packet.dst_addr().into()];
            read_transport(ends, packet.next_header(), packet.payload())
        }
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => None,
    }
}

fn read_transport(ends: [IpAddr; 2], protocol: IpProtocol, payload: &[u8]) -> Option<Seen> {
    let [source, destination] = ends;
    let tuple = |transport, from, to| {
        Tuple::new(transport, SocketAddr::new(source, from), SocketAddr::new(destination, to))
    };
    match protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(payload).ok()?;
            let phase = if segment.syn() { Phase::Opening } else { Phase::Established };
            let tuple = tuple(Transport::Tcp, segment.src_port(), segment.dst_port());
            Some(Seen { tuple, phase })
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(payload).ok()?;
            let tuple = tuple(Transport::Udp, datagram.src_port(), datagram.dst_port());
            Some(Seen { tuple, phase: Phase::Stateless })
        }
        IpProtocol::Icmp | IpProtocol::Icmpv6 => {
            Some(Seen { tuple: tuple(Transport::Echo, 0, 0), phase: Phase::Stateless })
        }
        IpProtocol::HopByHop
        | IpProtocol::Igmp
        | IpProtocol::Ipv6Route
        | IpProtocol::Ipv6Frag
        | IpProtocol::IpSecEsp
        | IpProtocol::IpSecAh
        | IpProtocol::Ipv6NoNxt
        | IpProtocol::Ipv6Opts
        | IpProtocol::Unknown(_) => None,
    }
}
