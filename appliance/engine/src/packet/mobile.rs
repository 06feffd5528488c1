//! Mobile IPv6 (RFC 6275): packets that name a host's home address beside the one where it is.

use smoltcp::wire::Ipv6ExtHeader;

use crate::Address;

/// The home addresses that a packet names, which stand in the pseudo-header of its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Homes {
    /// From the home address option (section 6.3).
    pub source: Option<Address>,
    /// From a routing header of type 2 (section 6.4).
    pub destination: Option<Address>,
}

impl Homes {
    pub(crate) const fn is_none(&self) -> bool {
        self.source.is_none() && self.destination.is_none()
    }

    /// As the answers name them.
    pub(crate) const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// The option's type: a host that does not know it drops the packet.
pub(super) const HOME_ADDRESS: u8 = 0xc9;

/// The address in a home address option's data.
pub(super) fn home_of_option(data: &[u8]) -> Option<Address> {
    <[u8; 16]>::try_from(data).ok().map(Address::from)
}

/// The address in a routing header, where it is one of type 2: one address, one segment left.
pub(super) fn home_of_routing(header: &Ipv6ExtHeader<&[u8]>) -> Option<Address> {
    const TYPE_2: u8 = 2;
    let &[kind, segments_left, _, _, _, _, ref home @ ..] = header.payload() else { return None };
    if kind != TYPE_2 || segments_left != 1 {
        return None;
    }
    home_of_option(home)
}
