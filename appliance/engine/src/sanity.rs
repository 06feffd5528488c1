//! Martians: addresses that never cross a router, whatever the rules say (RFC 1812 section 5.3.7).
//!
//! What depends on zones is not here: unique local addresses (fc00::/7) may go between inside zones,
//! and a source that belongs to another zone is admission's matter. The IPv4 documentation networks
//! pass: they are ordinary unicast to every other router, and the examples in our own documents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{Packet, Segment};
use crate::verdict::DropReason;

/// Checks source and destination of a packet. Messages for this link alone (neighbour discovery,
/// multicast listener discovery) are exempt: link-local and unspecified addresses are theirs.
///
/// # Errors
/// `Land`, `MartianSource` or `MartianDestination`.
pub fn check(packet: &Packet) -> Result<(), DropReason> {
    if let Segment::LinkLocal { .. } = packet.segment {
        return Ok(());
    }
    if is_martian(packet.source.to_ip()) {
        return Err(DropReason::MartianSource);
    }
    if is_martian(packet.destination.to_ip()) {
        return Err(DropReason::MartianDestination);
    }
    if packet.source == packet.destination {
        return Err(DropReason::Land);
    }
    Ok(())
}

fn is_martian(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => MARTIANS_V4.iter().any(|prefix| prefix.contains(ip.to_bits())),
        IpAddr::V6(ip) => MARTIANS_V6.iter().any(|prefix| prefix.contains(ip.to_bits())),
    }
}

/// Neither source nor destination of a packet that is forwarded.
#[rustfmt::skip]
const MARTIANS_V4: &[Prefix<u32>] = &[
    v4([0, 0, 0, 0], 8),        // this network, unspecified: RFC 791 section 3.2, RFC 1122 section 3.2.1.3
    v4([127, 0, 0, 0], 8),      // loopback: RFC 1122 section 3.2.1.3
    v4([169, 254, 0, 0], 16),   // link-local: RFC 3927 section 7
    v4([224, 0, 0, 0], 4),      // multicast, which is not routed here: RFC 5771
    v4([240, 0, 0, 0], 4),      // reserved, limited broadcast: RFC 1112 section 4, RFC 8190
];

#[rustfmt::skip]
const MARTIANS_V6: &[Prefix<u128>] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),            // unspecified, loopback, IPv4-compatible: RFC 4291 section 2.5
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),       // IPv4-mapped: RFC 4291 section 2.5.5.2 (refused by the parser)
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),        // discard-only: RFC 6666
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28),    // ORCHID: RFC 4843
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28),    // ORCHIDv2: RFC 7343
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),   // documentation: RFC 3849
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),       // documentation: RFC 9637
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),       // link-local: RFC 4291 section 2.5.6
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),       // site-local: RFC 3879
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),        // multicast, which is not routed here: RFC 4291 section 2.7
];

/// Network and mask, ready to be compared.
struct Prefix<Bits> {
    network: Bits,
    mask: Bits,
}

impl Prefix<u32> {
    const fn contains(&self, bits: u32) -> bool {
        bits & self.mask == self.network
    }
}

impl Prefix<u128> {
    const fn contains(&self, bits: u128) -> bool {
        bits & self.mask == self.network
    }
}

const fn v4([a, b, c, d]: [u8; 4], length: u32) -> Prefix<u32> {
    Prefix { network: Ipv4Addr::new(a, b, c, d).to_bits(), mask: u32::MAX << (32 - length) }
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u32) -> Prefix<u128> {
    let network = Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits();
    Prefix { network, mask: u128::MAX << (128 - length) }
}
