//! Changes addresses, ports and hop limits in place and mends the checksums (RFC 1624).

use smoltcp::wire::{ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, Ipv6Packet};

use crate::address::{Endpoint, Family, FlowKey};
use crate::checksum::Delta;
use crate::frame::{Checksum, Frame, Offload};
use crate::packet::{Packet, Segment, protocol};

/// What to change in every packet of one direction of a flow; computed once per flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rewrite {
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
    /// What the change of addresses does to a sum over them, and that of ports or identifier.
    addresses: Delta,
    ports: Delta,
}

impl Rewrite {
    /// The rewrite that turns packets of `from` into packets of `to`; both of one protocol and family.
    pub(crate) fn between(from: &FlowKey, to: &FlowKey) -> Self {
        debug_assert_eq!(from.protocol, to.protocol);
        let address = |from: &Endpoint, to: &Endpoint| {
            Delta::between(from.address.wire_bytes(), to.address.wire_bytes())
        };
        let port = |from: &Endpoint, to: &Endpoint| {
            Delta::between(&from.port.to_be_bytes(), &to.port.to_be_bytes())
        };
        let source = port(&from.source, &to.source);
        let ports = match from.protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                debug_assert_eq!(to.source.port, to.destination.port, "one identifier for both");
                source
            }
            _ => source.and(port(&from.destination, &to.destination)),
        };
        Self {
            source: (from.source != to.source).then_some(to.source),
            destination: (from.destination != to.destination).then_some(to.destination),
            addresses: address(&from.source, &to.source)
                .and(address(&from.destination, &to.destination)),
            ports,
        }
    }

    pub(crate) fn is_identity(&self) -> bool {
        self.source.is_none() && self.destination.is_none()
    }

    /// Rewrites headers and checksums. A later fragment has no transport header: its addresses
    /// change alone. Partial checksums stay partial, a UDP checksum of zero stays zero (IPv4).
    ///
    /// Other protocols have their addresses changed and nothing else, but for the checksum of UDP-Lite
    /// and DCCP, which covers them.
    pub(crate) fn apply(&self, frame: &mut Frame<'_>, packet: &Packet) {
        if self.is_identity() {
            return;
        }
        self.apply_to(frame.bytes, &Fields::of(packet, &frame.offload));
    }

    pub(crate) fn apply_to(&self, bytes: &mut [u8], fields: &Fields) {
        self.write_addresses(bytes, fields);
        self.write_ports(bytes, fields);
        let Some((at, sum)) = fields.checksum else { return };
        let field = word(bytes, at);
        let old = u16::from_be_bytes(*field);
        let new = match sum {
            Sum::Message => self.ports.mend(old),
            Sum::Segment => self.addresses.and(self.ports).mend(old),
            Sum::Datagram if old == 0 => 0,
            // Zero would say that there is no checksum (RFC 768).
            Sum::Datagram => match self.addresses.and(self.ports).mend(old) {
                0 => u16::MAX,
                sum => sum,
            },
            Sum::PseudoHeader => self.addresses.shift(old),
        };
        *field = new.to_be_bytes();
    }

    fn write_addresses(&self, bytes: &mut [u8], fields: &Fields) {
        // Where the source address stands (RFC 791 section 3.1, RFC 8200 section 3) and how long it is.
        let (at, length) = match fields.family {
            Family::Ipv4 => (fields.network + 12, 4),
            Family::Ipv6 => (fields.network + 8, 16),
        };
        if let Some(source) = &self.source {
            bytes[at..at + length].copy_from_slice(source.address.wire_bytes());
        }
        if let Some(destination) = &self.destination {
            bytes[at + length..at + 2 * length].copy_from_slice(destination.address.wire_bytes());
        }
        if fields.family == Family::Ipv4 {
            mend(bytes, fields.network + IPV4_CHECKSUM, self.addresses);
        }
    }

    fn write_ports(&self, bytes: &mut [u8], fields: &Fields) {
        match fields.ports {
            Some(Ports::Pair(at)) => {
                if let Some(source) = self.source {
                    *word(bytes, at) = source.port.to_be_bytes();
                }
                if let Some(destination) = self.destination {
                    *word(bytes, at + 2) = destination.port.to_be_bytes();
                }
            }
            Some(Ports::Identifier(at)) => {
                if let Some(endpoint) = self.source.or(self.destination) {
                    *word(bytes, at) = endpoint.port.to_be_bytes();
                }
            }
            None => {}
        }
    }
}

/// Where the fields stand that a rewrite changes, in a packet or in a quote of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) network: usize,
    pub(crate) family: Family,
    pub(crate) ports: Option<Ports>,
    pub(crate) checksum: Option<(usize, Sum)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Ports {
    /// Source port, then destination port.
    Pair(usize),
    /// The identifier of an ICMP query.
    Identifier(usize),
}

/// What a checksum field holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sum {
    /// ICMP: over the message.
    Message,
    /// TCP, ICMPv6: over pseudo-header and segment.
    Segment,
    /// UDP: the same; zero for none.
    Datagram,
    /// Left to hardware: the pseudo-header's sum, not complemented. Ports are not in it.
    PseudoHeader,
}

impl Fields {
    pub(crate) fn of(packet: &Packet, offload: &Offload) -> Self {
        let mut fields = Self {
            network: packet.network,
            family: packet.source.family(),
            ports: None,
            checksum: None,
        };
        if packet.segment != Segment::Later {
            fields.locate_transport(packet.protocol, packet.transport);
        }
        let is_partial = match offload.checksum {
            Checksum::Partial { start, .. } => usize::from(start) == packet.transport,
            Checksum::Unverified | Checksum::Verified => false,
        };
        if let Some((_, sum)) = &mut fields.checksum
            && is_partial
        {
            *sum = Sum::PseudoHeader;
        }
        fields
    }

    /// Fills in where ports and checksum of a whole transport header at `transport` are.
    pub(crate) fn locate_transport(&mut self, protocol: u8, transport: usize) {
        let (ports, checksum) = match protocol {
            // RFC 3828 section 3.1, RFC 4340 section 5.1: the sum covers the addresses; ports stay.
            protocol::UDP_LITE => {
                self.checksum = Some((transport + 6, Sum::Datagram));
                return;
            }
            protocol::DCCP => {
                self.checksum = Some((transport + 6, Sum::Segment));
                return;
            }
            // RFC 9293 section 3.1.
            protocol::TCP => (Ports::Pair(transport), (transport + 16, Sum::Segment)),
            // RFC 768.
            protocol::UDP => (Ports::Pair(transport), (transport + 6, Sum::Datagram)),
            // RFC 792, RFC 4443 section 4.
            protocol::ICMP => (Ports::Identifier(transport + 4), (transport + 2, Sum::Message)),
            protocol::ICMPV6 => (Ports::Identifier(transport + 4), (transport + 2, Sum::Segment)),
            _ => return,
        };
        self.ports = Some(ports);
        self.checksum = Some(checksum);
    }
}

/// Writes another identification: an IPv4 header has one, an IPv6 packet where it is a fragment.
pub(crate) fn set_identification(bytes: &mut [u8], packet: &Packet, identification: u32) {
    match (packet.source.family(), packet.fragment) {
        (Family::Ipv4, _) => {
            let field = word(bytes, packet.network + IPV4_IDENTIFICATION);
            let old = *field;
            // IPv4 has sixteen bits of it.
            *field = (identification as u16).to_be_bytes();
            let delta = Delta::between(&old, &*field);
            mend(bytes, packet.network + IPV4_CHECKSUM, delta);
        }
        (Family::Ipv6, Some(fragment)) => {
            let field = &mut bytes[fragment.identification_at..][..4];
            field.copy_from_slice(&identification.to_be_bytes());
        }
        (Family::Ipv6, None) => {}
    }
}

/// Takes one from the TTL or hop limit. The caller has seen that it is more than one.
pub(crate) fn decrement_hop_limit(bytes: &mut [u8], packet: &Packet) {
    match packet.source.family() {
        Family::Ipv4 => {
            // TTL and protocol, the word that the checksum sees (RFC 791 section 3.1).
            let field = word(bytes, packet.network + 8);
            let old = *field;
            field[0] -= 1;
            let delta = Delta::between(&old, &*field);
            mend(bytes, packet.network + IPV4_CHECKSUM, delta);
        }
        Family::Ipv6 => {
            let mut header = Ipv6Packet::new_unchecked(&mut bytes[packet.network..]);
            header.set_hop_limit(header.hop_limit() - 1);
        }
    }
}

/// Writes the Ethernet addresses of the next link.
pub(crate) fn set_link_addresses(bytes: &mut [u8], source: [u8; 6], destination: [u8; 6]) {
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..ETHERNET_HEADER_LEN]);
    ethernet.set_src_addr(EthernetAddress(source));
    ethernet.set_dst_addr(EthernetAddress(destination));
}

/// Of the identification in an IPv4 header (RFC 791 section 3.1).
const IPV4_IDENTIFICATION: usize = 4;

/// Of the header checksum in an IPv4 header (RFC 791 section 3.1).
const IPV4_CHECKSUM: usize = 10;

fn mend(bytes: &mut [u8], at: usize, delta: Delta) {
    let field = word(bytes, at);
    *field = delta.mend(u16::from_be_bytes(*field)).to_be_bytes();
}

fn word(bytes: &mut [u8], at: usize) -> &mut [u8; 2] {
    bytes[at..].first_chunk_mut().expect("the field lies in a header that was parsed")
}

#[cfg(test)]
mod tests;
