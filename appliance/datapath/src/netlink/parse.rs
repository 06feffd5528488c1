//! Kernel messages to the watch's own words. What does not concern a router becomes `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as KernelState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::state::Change;
use super::{InterfaceAddress, Link, LinkIndex, NeighbourState, Route, RouteTarget};
use crate::LinkAddress;

/// What a route message that comes after another of the same prefix and metric does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaces {
    Yes,
    No,
}

/// `replaces`: whether the header has NLM_F_REPLACE.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has dozens of other messages")]
pub(super) fn change(message: &RouteNetlinkMessage, replaces: Replaces) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link(message).map(Change::Link),
        RouteNetlinkMessage::DelLink(message) => {
            // A bridge tells so that a port has left it; the link stays.
            (message.header.interface_family == AddressFamily::Unspec)
                .then_some(Change::LinkGone(LinkIndex(message.header.index)))
        }
        RouteNetlinkMessage::NewAddress(message) => address(message).map(Change::Address),
        RouteNetlinkMessage::DelAddress(message) => any_address(message).map(Change::AddressGone),
        RouteNetlinkMessage::NewRoute(message) => route(message).map(|route| match replaces {
            Replaces::Yes => Change::RouteReplaced(route),
            Replaces::No => Change::Route(route),
        }),
        RouteNetlinkMessage::DelRoute(message) => route(message).map(Change::RouteGone),
        RouteNetlinkMessage::NewNeighbour(message) => {
            neighbour(message).map(|(index, ip, state)| Change::Neighbour(index, ip, state))
        }
        RouteNetlinkMessage::DelNeighbour(message) => neighbour_key(message)
            .map(|(index, ip)| Change::Neighbour(index, ip, NeighbourState::Gone)),
        _ => None,
    }
}

pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        index: LinkIndex(message.header.index),
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        above: None,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Address(bytes) = attribute {
            link.mac = bytes.as_slice().try_into().ok().map(LinkAddress);
        } else if let LinkAttribute::Controller(index) = attribute {
            link.above = Some(LinkIndex(*index)).filter(|above| above.0 != 0);
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// An address that may be used.
pub(super) fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let optimistic = message.header.flags.contains(AddressHeaderFlags::Optimistic);
    if message.header.flags.intersects(unusable) && !optimistic {
        return None;
    }
    any_address(message)
}

fn any_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut ip = None;
    for attribute in &message.attributes {
        // On a point-to-point link `Address` is the other end, and `Local` ours.
        if let AddressAttribute::Local(local) = attribute {
            ip = Some(*local);
        } else if let AddressAttribute::Address(address) = attribute {
            ip = ip.or(Some(*address));
        }
    }
    Some(InterfaceAddress {
        index: LinkIndex(message.header.index),
        ip: ip?,
        prefix_length: message.header.prefix_len,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "other families are routed elsewhere")]
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length != 0 {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = unspecified;
    let mut metric = 0;
    let mut preferred_source = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Destination(address) = attribute {
            destination = route_address(address)?;
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::PrefSource(address) = attribute {
            preferred_source = route_address(address);
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    Some(Route {
        destination,
        prefix_length: header.destination_prefix_length,
        metric,
        target: route_target(message)?,
        preferred_source,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other types are not of the main table")]
fn route_target(message: &RouteMessage) -> Option<RouteTarget> {
    match message.header.kind {
        RouteType::BlackHole => Some(RouteTarget::Blackhole),
        RouteType::Unreachable => Some(RouteTarget::Unreachable),
        RouteType::Prohibit => Some(RouteTarget::Prohibit),
        RouteType::Unicast => {
            let multipath = message.attributes.iter().find_map(|attribute| {
                if let RouteAttribute::MultiPath(hops) = attribute { hops.first() } else { None }
            });
            match multipath {
                Some(hop) => Some(RouteTarget::Link {
                    index: LinkIndex(hop.interface_index),
                    gateway: gateway(&hop.attributes),
                }),
                None => Some(RouteTarget::Link {
                    index: message.attributes.iter().find_map(|attribute| {
                        if let RouteAttribute::Oif(index) = attribute {
                            Some(LinkIndex(*index))
                        } else {
                            None
                        }
                    })?,
                    gateway: gateway(&message.attributes),
                }),
            }
        }
        _ => None,
    }
}

/// `Via` is a gateway of the other family (RFC 8950).
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Gateway(address) = attribute {
            route_address(address)
        } else if let RouteAttribute::Via(RouteVia::Inet(address)) = attribute {
            Some(IpAddr::V4(*address))
        } else if let RouteAttribute::Via(RouteVia::Inet6(address)) = attribute {
            Some(IpAddr::V6(*address))
        } else {
            None
        }
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "labels are no addresses")]
fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(LinkIndex, IpAddr, NeighbourState)> {
    let (index, ip) = neighbour_key(message)?;
    let mac = message.attributes.iter().find_map(|attribute| {
        if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            bytes.as_slice().try_into().ok().map(LinkAddress)
        } else {
            None
        }
    });
    let state = match (message.header.state, mac) {
        (KernelState::Reachable | KernelState::Permanent, Some(mac)) => {
            NeighbourState::Reachable(mac)
        }
        (KernelState::Stale | KernelState::Delay | KernelState::Probe, Some(mac)) => {
            NeighbourState::Stale(mac)
        }
        (KernelState::Incomplete, _) => NeighbourState::Resolving,
        (KernelState::Failed, _) => NeighbourState::Failed,
        // NOARP is for multicast, broadcast and loopback, which are nobody's next hop.
        _ => return None,
    };
    Some((index, ip, state))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "bridges and others keep their tables here too")]
fn neighbour_key(message: &NeighbourMessage) -> Option<(LinkIndex, IpAddr)> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    Some((LinkIndex(message.header.ifindex), ip))
}

#[cfg(test)]
mod tests;
