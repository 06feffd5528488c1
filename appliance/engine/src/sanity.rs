//! Martians: addresses that never cross a router, whatever the rules say (RFC 1812 section 5.3.7).
//!
//! What depends on the network is not here: the broadcast addresses of the node's links are the
//! topology's, unique local addresses (fc00::/7) may go between inside zones, and a source that
//! belongs to another zone is admission's matter. The IPv4 documentation networks
//! pass: they are ordinary unicast to every other router, and the examples in our own documents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gabion_rules::Profile;

use crate::Address;
use crate::verdict::DropReason;

/// Checks source and destination of a packet that is to be forwarded. Messages for this link alone
/// (neighbour discovery, multicast listener discovery) do not come here: link-local and unspecified
/// addresses are theirs.
///
/// # Errors
/// `Land`, `MartianSource` or `MartianDestination`.
pub(crate) fn check(
    source: Address,
    destination: Address,
    profile: Profile,
) -> Result<(), DropReason> {
    if is_martian(source.to_ip(), profile) {
        return Err(DropReason::MartianSource);
    }
    if is_martian(destination.to_ip(), profile) {
        return Err(DropReason::MartianDestination);
    }
    if source == destination {
        return Err(DropReason::Land);
    }
    Ok(())
}

fn is_martian(ip: IpAddr, profile: Profile) -> bool {
    match ip {
        IpAddr::V4(ip) => MARTIANS_V4.iter().any(|prefix| prefix.contains(ip.to_bits())),
        IpAddr::V6(ip) => {
            MARTIANS_V6.iter().any(|prefix| prefix.contains(ip.to_bits()))
                || profile == Profile::StrictCc && !GLOBAL_UNICAST.contains(ip.to_bits())
        }
    }
}

/// The one part of the IPv6 space from which unicast addresses are given out (RFC 4291 section 2.4,
/// IANA "ipv6-address-space"); the strict profile takes no other for forwarding.
const GLOBAL_UNICAST: Prefix<u128> = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Neither source nor destination of a packet that is forwarded.
#[rustfmt::skip]
const MARTIANS_V4: &[Prefix<u32>] = &[
    v4([0, 0, 0, 0], 8),        // this network, unspecified: RFC 791 section 3.2, RFC 1122 section 3.2.1.3
    v4([127, 0, 0, 0], 8),      // loopback: RFC 1122 section 3.2.1.3
    v4([168, 63, 129, 16], 32), // of Azure's hosts, each of which answers its own VMs by it: never behind a router
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn judge(source: &str, destination: &str, profile: Profile) -> Result<(), DropReason> {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        check(address(source), address(destination), profile)
    }

    const MARTIANS: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "100::1",
        "2001:10::1",
        "2001:2f:ffff::1",
        "2001:db8::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
        "ff0e::1",
    ];

    const GOOD: &[&str] = &[
        "1.0.0.1",
        "10.0.0.1",
        "100.64.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.0.1",
        "169.255.0.1",
        "192.168.1.1",
        "198.51.100.9",
        "203.0.113.7",
        "223.255.255.255",
        "64:ff9b::a00:1",
        "100:0:0:1::1",
        "2001:30::1",
        "2001:db7::1",
        "2001:db9::1",
        "2600::1",
        "3fff:1000::1",
        "fc00::1",
        "fd00::1",
    ];

    fn other(address: &str) -> &'static str {
        if address.contains(':') { "2600:dead::1" } else { "9.9.9.9" }
    }

    /// Covers: CC-1.6d, CC-1.6e, CC-1.6f, CC-1.7b, 6092-1, 6092-2, 6092-3, 3.17
    #[test]
    fn martians_are_refused_as_source_and_as_destination() {
        for profile in [Profile::Standard, Profile::StrictCc] {
            for martian in MARTIANS {
                let from = judge(martian, other(martian), profile);
                assert_eq!(from, Err(DropReason::MartianSource), "from {martian}");
                let to = judge(other(martian), martian, profile);
                assert_eq!(to, Err(DropReason::MartianDestination), "to {martian}");
            }
        }
    }

    #[test]
    fn neighbours_of_martian_networks_pass() {
        for good in GOOD {
            assert_eq!(judge(good, other(good), Profile::Standard), Ok(()), "from {good}");
            assert_eq!(judge(other(good), good, Profile::Standard), Ok(()), "to {good}");
        }
    }

    /// Covers: CC-1.6g
    #[test]
    fn the_strict_profile_takes_global_unicast_alone() {
        for inside in ["2000::", "2600::1", "3ffe::1", "3fff:1000::", "10.0.0.1"] {
            assert_eq!(judge(inside, other(inside), Profile::StrictCc), Ok(()), "{inside}");
        }
        let outside = [
            "::",
            "64:ff9b::1",
            "1fff:ffff::",
            "4000::",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fe00::",
        ];
        for ip in outside {
            let from = judge(ip, other(ip), Profile::StrictCc);
            assert_eq!(from, Err(DropReason::MartianSource), "from {ip}");
            let to = judge(other(ip), ip, Profile::StrictCc);
            assert_eq!(to, Err(DropReason::MartianDestination), "to {ip}");
        }
    }

    /// Covers: 3.17
    #[test]
    fn land() {
        for host in ["10.0.0.1", "2600::1"] {
            assert_eq!(judge(host, host, Profile::Standard), Err(DropReason::Land));
        }
    }
}
