#![allow(clippy::unwrap_used)]

use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::route::{RouteNextHop, RouteNextHopFlags};

use super::*;

fn route_message(family: AddressFamily, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.attributes = attributes;
    message
}

fn gateway_v4() -> RouteAttribute {
    RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 1)))
}

#[test]
fn a_default_route_has_the_unspecified_destination() {
    let message = route_message(
        AddressFamily::Inet6,
        vec![RouteAttribute::Oif(3), RouteAttribute::Priority(9)],
    );
    let expected = Route {
        destination: Ipv6Addr::UNSPECIFIED.into(),
        prefix_length: 0,
        metric: 9,
        target: RouteTarget::Link { index: LinkIndex(3), gateway: None },
        preferred_source: None,
    };
    assert_eq!(route(&message), Some(expected));
}

#[test]
fn of_many_next_hops_the_first_is_taken() {
    let hop = |index, attributes| {
        let mut hop = RouteNextHop::default();
        hop.flags = RouteNextHopFlags::empty();
        hop.interface_index = index;
        hop.attributes = attributes;
        hop
    };
    let hops = vec![hop(4, vec![gateway_v4()]), hop(5, vec![])];
    let message = route_message(AddressFamily::Inet, vec![RouteAttribute::MultiPath(hops)]);
    assert_eq!(
        route(&message).unwrap().target,
        RouteTarget::Link { index: LinkIndex(4), gateway: Some([192, 0, 2, 1].into()) }
    );
}

#[test]
fn a_gateway_of_the_other_family_is_a_gateway() {
    let via = RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::LOCALHOST));
    let message = route_message(AddressFamily::Inet, vec![RouteAttribute::Oif(3), via]);
    let gateway = Some(Ipv6Addr::LOCALHOST.into());
    assert_eq!(route(&message).unwrap().target, RouteTarget::Link { index: LinkIndex(3), gateway });
}

#[test]
fn routes_that_drop_are_routes_and_other_tables_are_not() {
    for (kind, target) in [
        (RouteType::BlackHole, Some(RouteTarget::Blackhole)),
        (RouteType::Unreachable, Some(RouteTarget::Unreachable)),
        (RouteType::Prohibit, Some(RouteTarget::Prohibit)),
        (RouteType::Local, None),
        (RouteType::Throw, None),
    ] {
        let mut message = route_message(AddressFamily::Inet, vec![]);
        message.header.kind = kind;
        assert_eq!(route(&message).map(|route| route.target), target, "{kind:?}");
    }
    let other = vec![RouteAttribute::Oif(3), RouteAttribute::Table(1000)];
    assert_eq!(route(&route_message(AddressFamily::Inet, other)), None);
    let mut cloned = route_message(AddressFamily::Inet6, vec![RouteAttribute::Oif(3)]);
    cloned.header.flags = RouteFlags::Cloned;
    assert_eq!(route(&cloned), None);
}

#[test]
fn an_address_in_duplicate_detection_is_not_there_yet() {
    let ip = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let mut message = AddressMessage::default();
    message.header.index = 2;
    message.header.prefix_len = 64;
    message.attributes = vec![AddressAttribute::Address(ip)];
    let expected = InterfaceAddress { index: LinkIndex(2), ip, prefix_length: 64 };
    assert_eq!(address(&message), Some(expected));

    message.header.flags = AddressHeaderFlags::Tentative;
    assert_eq!(address(&message), None);
    let gone = change(&RouteNetlinkMessage::DelAddress(message), Replaces::No);
    assert_eq!(gone, Some(Change::AddressGone(expected)));
}

#[test]
fn of_a_point_to_point_link_our_end_is_the_address() {
    let (ours, theirs) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
    let mut message = AddressMessage::default();
    message.attributes = vec![AddressAttribute::Address(theirs), AddressAttribute::Local(ours)];
    assert_eq!(address(&message).unwrap().ip, ours);
}

#[test]
fn a_port_that_leaves_a_bridge_does_not_go() {
    let mut message = LinkMessage::default();
    message.header = LinkHeader { index: 7, ..LinkHeader::default() };
    let gone = |message: &LinkMessage| {
        change(&RouteNetlinkMessage::DelLink(message.clone()), Replaces::No)
    };
    assert_eq!(gone(&message), Some(Change::LinkGone(LinkIndex(7))));
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(gone(&message), None);
}

#[test]
fn states_of_neighbours() {
    let mac = LinkAddress([2, 0, 0, 0, 0, 9]);
    for (kernel, expected) in [
        (KernelState::Reachable, Some(NeighbourState::Reachable(mac))),
        (KernelState::Permanent, Some(NeighbourState::Reachable(mac))),
        (KernelState::Stale, Some(NeighbourState::Stale(mac))),
        (KernelState::Delay, Some(NeighbourState::Stale(mac))),
        (KernelState::Probe, Some(NeighbourState::Stale(mac))),
        (KernelState::Incomplete, Some(NeighbourState::Resolving)),
        (KernelState::Failed, Some(NeighbourState::Failed)),
        (KernelState::Noarp, None),
        (KernelState::None, None),
    ] {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = kernel;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::LOCALHOST)),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        assert_eq!(neighbour(&message).map(|(_, _, state)| state), expected, "{kernel:?}");
    }
}
