//! The network as the shell describes it: interfaces, addresses, routes. Replaced whole.

use std::net::IpAddr;

use gabion_rules::{RuleSet, ZoneId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::{Address, Family, InterfaceId, nat};

/// What the shell knows of the node's network; a value, compiled by the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// The data interfaces; `InterfaceId` is the index.
    pub interfaces: Vec<Interface>,
    pub routes: Vec<Route>,
    /// Addresses of the host elsewhere (management, loopback): never forwarded to.
    pub host_addresses: Vec<IpAddr>,
    /// TCP ports on which the host itself answers on data interfaces (health).
    pub host_ports: Vec<u16>,
    /// Whose TCP and UDP to the node's addresses is the host's: the services of a cloud's platform, which the guard lets it
    /// speak with.
    pub host_services: Vec<IpAddr>,
}

/// A data interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The logical name, as the policy's zones list it.
    pub name: String,
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
    pub up: bool,
    /// The node's own addresses, with the prefix that is on the link.
    pub addresses: Vec<IpNet>,
}

/// A route out of a data interface, or to nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: IpNet,
    /// `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// `None`: unreachable, blackhole, or by an interface that carries no data.
    pub out: Option<InterfaceId>,
    /// Smaller is better.
    pub metric: u32,
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    pub out: InterfaceId,
    /// The neighbour to hand the packet to.
    pub address: Address,
}

/// A [`Network`] compiled for lookups under one rule set.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    interfaces: Vec<Interface>,
    zones: Vec<Option<ZoneId>>,
    own: Vec<Address>,
    broadcasts: Vec<Address>,
    /// Addresses of NAT that the node answers ARP and ND for, where they are on a link of its own.
    proxied: Vec<Address>,
    /// Those of them that are in a pool of source NAT.
    pooled: Vec<Address>,
    host_ports: Vec<u16>,
    host_services: Vec<Address>,
    routes_v4: PrefixMap<Ipv4Net, Hop>,
    routes_v6: PrefixMap<Ipv6Net, Hop>,
}

#[derive(Debug, Clone, Copy)]
struct Hop {
    gateway: Option<Address>,
    out: Option<InterfaceId>,
    metric: u32,
}

impl Topology {
    pub(crate) fn new(network: &Network, rules: Option<&RuleSet>) -> Self {
        let mut topology = Self {
            interfaces: network.interfaces.clone(),
            zones: network
                .interfaces
                .iter()
                .map(|interface| rules.and_then(|rules| rules.zone_of_interface(&interface.name)))
                .collect(),
            own: own_addresses(network),
            broadcasts: broadcasts(network),
            host_ports: network.host_ports.clone(),
            host_services: network.host_services.iter().copied().map(Address::from).collect(),
            ..Self::default()
        };
        topology.proxied = rules.map(|rules| topology.proxied_addresses(rules)).unwrap_or_default();
        let pools = nat::used_addresses(&[], rules);
        topology.pooled = topology.proxied.clone();
        topology.pooled.retain(|address| {
            let behind = pools.partition_point(|pool| pool.end() < address);
            pools.get(behind).is_some_and(|pool| pool.contains(address))
        });
        for route in &network.routes {
            topology.insert_route(route);
        }
        topology
    }

    fn proxied_addresses(&self, rules: &RuleSet) -> Vec<Address> {
        let mut proxied: Vec<Address> = rules
            .translated_addresses()
            .map(Address::from)
            .filter(|address| !self.is_own(*address))
            .collect();
        proxied.sort_unstable();
        proxied.dedup();
        proxied
    }

    fn insert_route(&mut self, route: &Route) {
        let hop =
            Hop { gateway: route.gateway.map(Address::from), out: route.out, metric: route.metric };
        let better = |old: Option<&Hop>| old.is_none_or(|old| hop.metric < old.metric);
        match route.prefix {
            IpNet::V4(prefix) => {
                if better(self.routes_v4.get(&prefix)) {
                    self.routes_v4.insert(prefix, hop);
                }
            }
            IpNet::V6(prefix) => {
                if better(self.routes_v6.get(&prefix)) {
                    self.routes_v6.insert(prefix, hop);
                }
            }
        }
    }

    pub(crate) fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    pub(crate) fn zone(&self, id: InterfaceId) -> Option<ZoneId> {
        self.zones.get(usize::from(id.0)).copied().flatten()
    }

    /// Whether the address means all hosts of a link that the node is on (RFC 919 section 7).
    pub(crate) fn is_broadcast(&self, address: Address) -> bool {
        self.broadcasts.binary_search(&address).is_ok()
    }

    /// Whether the address is one of the node's own, on any interface.
    pub(crate) fn is_own(&self, address: Address) -> bool {
        self.own.binary_search(&address).is_ok()
    }

    /// The interface that has the address.
    pub(crate) fn owner(&self, address: Address) -> Option<InterfaceId> {
        let has = |interface: &Interface| {
            interface.addresses.iter().any(|prefix| Address::from(prefix.addr()) == address)
        };
        let place = self.interfaces.iter().position(has)?;
        u16::try_from(place).ok().map(InterfaceId)
    }

    pub(crate) fn own_addresses(&self) -> &[Address] {
        &self.own
    }

    pub(crate) fn is_host_port(&self, port: u16) -> bool {
        self.host_ports.contains(&port)
    }

    pub(crate) fn is_host_service(&self, source: Address) -> bool {
        self.host_services.contains(&source)
    }

    pub(crate) fn host_ports(&self) -> &[u16] {
        &self.host_ports
    }

    /// Whether the node answers ARP and ND for the address on this interface: it is one that NAT
    /// translates, and the link is the one it belongs to.
    pub(crate) fn answers_for(&self, id: InterfaceId, address: Address) -> bool {
        self.proxied.binary_search(&address).is_ok()
            && self.interface(id).is_some_and(|interface| {
                interface.addresses.iter().any(|prefix| prefix.contains(&address.to_ip()))
            })
    }

    /// Whether a pool of source NAT has the address.
    pub(crate) fn is_pooled(&self, address: Address) -> bool {
        self.pooled.binary_search(&address).is_ok()
    }

    /// The node's address of a family on an interface: the first that is not link-local.
    pub(crate) fn own_address(&self, id: InterfaceId, family: Family) -> Option<Address> {
        self.interface(id)?
            .addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| match (family, address) {
                (Family::Ipv4, IpAddr::V4(v4)) => !v4.is_link_local(),
                (Family::Ipv6, IpAddr::V6(v6)) => !v6.is_unicast_link_local(),
                (Family::Ipv4, IpAddr::V6(_)) | (Family::Ipv6, IpAddr::V4(_)) => false,
            })
            .map(Address::from)
    }

    /// The longest prefix's next hop; `None` where no route, or one to nowhere, matches.
    pub(crate) fn next_hop(&self, destination: Address) -> Option<NextHop> {
        let hop = match destination.to_ip() {
            IpAddr::V4(v4) => self.routes_v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, hop)| hop),
            IpAddr::V6(v6) => self.routes_v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, hop)| hop),
        }?;
        Some(NextHop { out: hop.out?, address: hop.gateway.unwrap_or(destination) })
    }
}

/// The broadcast addresses of the links, the old ones with a host part of zero too (RFC 1812 section
/// 4.2.3.1); two hosts or one have none (RFC 3021 section 2.1).
fn broadcasts(network: &Network) -> Vec<Address> {
    const POINT_TO_POINT: u8 = 31;
    let mut broadcasts: Vec<Address> = network
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .filter_map(|prefix| match prefix {
            IpNet::V4(v4) if v4.prefix_len() < POINT_TO_POINT => {
                Some([v4.broadcast().octets(), v4.network().octets()])
            }
            IpNet::V4(_) | IpNet::V6(_) => None,
        })
        .flatten()
        .map(Address::from)
        .collect();
    broadcasts.sort_unstable();
    broadcasts.dedup();
    broadcasts
}

/// The node's addresses, those of every router of a link among them (RFC 4291 section 2.6.1); on a
/// link of two there is none (RFC 6164 section 6).
fn own_addresses(network: &Network) -> Vec<Address> {
    const POINT_TO_POINT: u8 = 127;
    let of_links = || network.interfaces.iter().flat_map(|interface| &interface.addresses);
    let routers = of_links().filter_map(|prefix| match prefix {
        IpNet::V6(v6) if v6.prefix_len() < POINT_TO_POINT => Some(IpAddr::V6(v6.network())),
        IpNet::V4(_) | IpNet::V6(_) => None,
    });
    let mut own: Vec<Address> = of_links()
        .map(IpNet::addr)
        .chain(routers)
        .chain(network.host_addresses.iter().copied())
        .map(Address::from)
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}

#[cfg(test)]
mod tests;
