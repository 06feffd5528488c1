//! Addresses and keys, packed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 or IPv6 address in sixteen bytes; IPv4 is kept IPv4-mapped (`::ffff:a.b.c.d`).
///
/// IPv6 packets with IPv4-mapped addresses are dropped as martians before they get here, so the
/// two families never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address([u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Address {
    #[inline]
    pub fn family(self) -> Family {
        if self.bits() >> 32 == 0xffff { Family::Ipv4 } else { Family::Ipv6 }
    }

    pub fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    pub(crate) const fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    pub(crate) const fn from_bits(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// All sixteen bytes as two words, for hashing; an IPv4 address is the upper half of the second.
    #[inline]
    pub(crate) fn words(self) -> [u64; 2] {
        let bits = u128::from_le_bytes(self.0);
        [bits as u64, (bits >> 64) as u64]
    }

    /// All sixteen bytes, for hashing.
    pub const fn octets(self) -> [u8; 16] {
        self.0
    }

    /// fc00::/7 (RFC 4193).
    pub(crate) const fn is_unique_local(self) -> bool {
        self.0[0] & 0xfe == 0xfc
    }

    /// The bytes as they stand in a packet: four or sixteen.
    pub fn wire_bytes(&self) -> &[u8] {
        match self.family() {
            Family::Ipv4 => &self.0[12..],
            Family::Ipv6 => &self.0,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<[u8; 4]> for Address {
    fn from(octets: [u8; 4]) -> Self {
        Self::from(IpAddr::from(octets))
    }
}

impl From<[u8; 16]> for Address {
    fn from(octets: [u8; 16]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// Whom limits per source count as one: an IPv4 address, or an IPv6 /64 since a host has all of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceNetwork(Address);

impl SourceNetwork {
    /// Its first address.
    pub(crate) const fn address(self) -> Address {
        self.0
    }
}

impl From<Address> for SourceNetwork {
    fn from(source: Address) -> Self {
        Self(match source.family() {
            Family::Ipv4 => source,
            Family::Ipv6 => Address::from_bits(source.bits() & u128::MAX << 64),
        })
    }
}

/// An address with a port, or with an ICMP query identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.address.to_ip(), self.port).fmt(f)
    }
}

/// A flow as packets of one direction show it on the wire.
///
/// TCP and UDP, SCTP, DCCP and UDP-Lite: the ports. ICMP queries: the identifier stands for both
/// ports. Other protocols: zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    pub source: Endpoint,
    pub destination: Endpoint,
    /// IP protocol number; ICMP and ICMPv6 stand for their queries.
    pub protocol: u8,
}

impl FlowKey {
    /// The key of the answers to packets of this key, if their source were `external`.
    pub(crate) const fn reply_to(self, external: Endpoint) -> Self {
        let mut source = self.destination;
        if self.is_icmp_query() {
            source.port = external.port;
        }
        Self { source, destination: external, protocol: self.protocol }
    }

    /// Whether the protocol has ports, or an identifier that serves as one, which NAT may change.
    pub(crate) const fn has_ports(self) -> bool {
        matches!(self.protocol, 1 | 6 | 17 | 58)
    }

    /// ICMP queries have one identifier, which stands for both ports.
    pub(crate) const fn is_icmp_query(self) -> bool {
        matches!(self.protocol, 1 | 58)
    }

    /// The key of the packets that answer packets of this key.
    pub const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, protocol: self.protocol }
    }
}

/// Which way a packet of a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the endpoint that sent the first packet.
    Original,
    Reply,
}

impl Direction {
    /// In the order of [`index`](Self::index).
    pub(crate) const BOTH: [Self; 2] = [Self::Original, Self::Reply];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    pub const fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}
