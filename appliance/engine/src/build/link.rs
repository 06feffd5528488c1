//! Frames of the link itself: ARP and neighbour discovery.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{
    ArpOperation, ArpRepr, EthernetAddress, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use crate::reply;

/// An ARP request for `target`, broadcast.
///
/// # Panics
/// When a text is no IPv4 address.
pub fn arp_request(sender_mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(sender_mac),
        source_protocol_addr: ipv4(sender),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ipv4(target),
    };
    reply::arp_frame(sender_mac, EthernetAddress::BROADCAST.0, &repr)
}

/// The ARP reply that says that `sender` is at `sender_mac`.
///
/// # Panics
/// When a text is no IPv4 address.
pub fn arp_reply(sender_mac: [u8; 6], sender: &str, mac: [u8; 6], target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(sender_mac),
        source_protocol_addr: ipv4(sender),
        target_hardware_addr: EthernetAddress(mac),
        target_protocol_addr: ipv4(target),
    };
    reply::arp_frame(sender_mac, mac, &repr)
}

/// A neighbour solicitation for `target`, to its solicited-node address. From `::` it is duplicate
/// address detection and has no option.
///
/// # Panics
/// When a text is no IPv6 address.
pub fn neighbour_solicitation(mac: [u8; 6], source: &str, target: &str) -> Vec<u8> {
    let (source, target) = (ipv6(source), ipv6(target));
    let [.., a, b, c] = target.octets();
    // RFC 4291 section 2.7.1, RFC 2464 section 7.
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[a, b, c]);
    let repr = NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: (!source.is_unspecified()).then(|| RawHardwareAddress::from_bytes(&mac)),
    };
    reply::ndisc_frame(mac, [0x33, 0x33, 0xff, a, b, c], source, group.into(), repr)
}

/// The solicited neighbour advertisement that says to `to` that `target` is at `mac`.
///
/// # Panics
/// When a text is no IPv6 address.
pub fn neighbour_advertisement(mac: [u8; 6], target: &str, to_mac: [u8; 6], to: &str) -> Vec<u8> {
    let target = ipv6(target);
    let repr = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac)),
    };
    reply::ndisc_frame(mac, to_mac, target, ipv6(to), repr)
}

fn ipv4(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no IPv4 address"))
}

fn ipv6(text: &str) -> Ipv6Addr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no IPv6 address"))
}
