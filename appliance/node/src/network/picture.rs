//! What the kernel has told of links, addresses and routes, and the engine's view of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gabion_datapath::netlink::{
    InterfaceAddress, Link, LinkIndex, NetworkEvent, Route, RouteTarget,
};
use gabion_engine::{Interface, InterfaceId, Network};
use ipnet::IpNet;

use crate::config::DataInterface;
use crate::health::Devices;

/// What an interface without a device is given as MTU: it carries nothing anyway.
const MTU_UNKNOWN: u32 = 1_500;

/// All that has been told; nothing is believed before the first dump is whole.
#[derive(Debug)]
pub struct Picture {
    wanted: Vec<DataInterface>,
    host_ports: Vec<u16>,
    host_services: Vec<IpAddr>,
    links: BTreeMap<LinkIndex, Link>,
    addresses: BTreeSet<InterfaceAddress>,
    routes: BTreeSet<Route>,
    whole: bool,
    /// What the engine was last given.
    published: Option<Network>,
}

impl Picture {
    pub fn new(
        wanted: Vec<DataInterface>,
        host_ports: Vec<u16>,
        host_services: Vec<IpAddr>,
    ) -> Self {
        Self {
            wanted,
            host_ports,
            host_services,
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            whole: false,
            published: None,
        }
    }

    /// Neighbours are no part of the picture.
    pub fn apply(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::LinkChanged(link) => drop(self.links.insert(link.index, link)),
            NetworkEvent::LinkGone(index) => drop(self.links.remove(&index)),
            NetworkEvent::AddressAdded(address) => drop(self.addresses.insert(address)),
            NetworkEvent::AddressRemoved(address) => drop(self.addresses.remove(&address)),
            NetworkEvent::RouteAdded(route) => drop(self.routes.insert(route)),
            NetworkEvent::RouteRemoved(route) => drop(self.routes.remove(&route)),
            NetworkEvent::Resynced => self.whole = true,
            NetworkEvent::Neighbour { .. } => {}
        }
    }

    /// Whether all that the kernel knew at first has been told.
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// The network, if it is known and not what this last returned.
    pub fn network(&mut self) -> Option<Network> {
        if !self.whole {
            return None;
        }
        let network = self.view();
        if self.published.as_ref() == Some(&network) {
            return None;
        }
        self.published = Some(network.clone());
        Some(network)
    }

    fn view(&self) -> Network {
        let on = |index| self.addresses.iter().filter(move |address| address.index == index);
        let interfaces = self.wanted.iter().map(|wanted| {
            let link = self.link_named(&wanted.device);
            Interface {
                name: wanted.name.clone(),
                mac: link.and_then(|link| link.mac).map_or([0; 6], |mac| mac.0),
                mtu: link.map_or(MTU_UNKNOWN, |link| link.mtu),
                up: link.is_some_and(|link| link.up),
                addresses: link
                    .map(|link| on(link.index).filter_map(prefix).collect())
                    .unwrap_or_default(),
            }
        });
        let elsewhere = |address: &&InterfaceAddress| self.interface(address.index).is_none();
        Network {
            interfaces: interfaces.collect(),
            routes: self.routes(),
            host_addresses: self.addresses.iter().filter(elsewhere).map(|a| a.ip).collect(),
            host_ports: self.host_ports.clone(),
            host_services: self.host_services.clone(),
        }
    }

    /// The main table's routes, and after them the data interfaces' own networks: those may stand in tables of their
    /// interfaces alone, as policy routing has it, and who is on a link is reached over it all the same.
    fn routes(&self) -> Vec<gabion_engine::Route> {
        let mut routes: Vec<_> = self.routes.iter().filter_map(|route| self.route(route)).collect();
        for address in &self.addresses {
            let Some(network) = on_link(address) else { continue };
            let is_up = self.links.get(&address.index).is_some_and(|link| link.up);
            let Some(out) = self.interface(address.index).filter(|_| is_up) else { continue };
            // Whoever has written a route for it means that one, be it a black hole.
            if routes.iter().all(|route| route.prefix != network) {
                let out = Some(out);
                routes.push(gabion_engine::Route {
                    prefix: network,
                    gateway: None,
                    out,
                    metric: 0,
                });
            }
        }
        routes
    }

    fn route(&self, route: &Route) -> Option<gabion_engine::Route> {
        let prefix = IpNet::new(route.destination, route.prefix_length).ok()?;
        let (gateway, out) = match route.target {
            RouteTarget::Link { index, gateway } => (gateway, self.interface(index)),
            RouteTarget::Blackhole | RouteTarget::Unreachable | RouteTarget::Prohibit => {
                (None, None)
            }
        };
        Some(gabion_engine::Route { prefix, gateway, out, metric: route.metric })
    }

    /// The data interface that a link carries.
    pub fn interface(&self, index: LinkIndex) -> Option<InterfaceId> {
        let device = &self.links.get(&index)?.name;
        let position = self.wanted.iter().position(|wanted| wanted.device == *device)?;
        u16::try_from(position).ok().map(InterfaceId)
    }

    /// The link that carries a data interface.
    pub fn link(&self, interface: InterfaceId) -> Option<LinkIndex> {
        let wanted = self.wanted.get(usize::from(interface.0))?;
        self.link_named(&wanted.device).map(|link| link.index)
    }

    fn link_named(&self, device: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == device)
    }

    /// Every device there is.
    pub fn devices(&self) -> Devices {
        self.links.values().map(|link| (link.name.clone(), link.index.0)).collect()
    }

    /// What is wrong with the first data interface that cannot carry anything.
    pub fn missing(&self) -> Option<String> {
        self.wanted.iter().find_map(|DataInterface { name, device }| {
            match self.link_named(device) {
                None => Some(format!("interface {name}: device {device} does not exist")),
                Some(link) if link.mac.is_none() => {
                    Some(format!("interface {name}: device {device} is no Ethernet device"))
                }
                Some(link) if !link.up => {
                    Some(format!("interface {name}: device {device} is down or has no carrier"))
                }
                Some(link) => self.half_of(link).map(|whole| half(name, device, &whole.name)),
            }
        })
    }

    /// The device before one that is only its half: on Azure a virtual function and the synthetic device have one address, and
    /// the kernel hands what comes in by either to the synthetic one.
    fn half_of(&self, link: &Link) -> Option<&Link> {
        let whole = self.links.get(&link.above?)?;
        (whole.mac == link.mac).then_some(whole)
    }
}

/// What is said of a data device that is another's half.
pub(crate) fn half(name: &str, device: &str, whole: &str) -> String {
    format!(
        "interface {name}: device {device} is a half of {whole}, which gets its packets and may lose it any time (a virtual function of accelerated networking comes and goes); write {name} = \"{whole}\" under [interfaces]"
    )
}

/// The network that an address says is on its link; of link-local ones every link has the same.
fn on_link(address: &InterfaceAddress) -> Option<IpNet> {
    let network = prefix(address)?.trunc();
    let is_local = match network {
        IpNet::V4(network) => network.addr().is_link_local(),
        IpNet::V6(network) => network.addr().is_unicast_link_local(),
    };
    (!is_local && network.prefix_len() < network.max_prefix_len()).then_some(network)
}

fn prefix(address: &InterfaceAddress) -> Option<IpNet> {
    IpNet::new(address.ip, address.prefix_length).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gabion_datapath::LinkAddress;

    use super::*;

    fn link(index: u32, name: &str) -> NetworkEvent {
        NetworkEvent::LinkChanged(Link {
            index: LinkIndex(index),
            name: name.into(),
            mac: Some(LinkAddress([2, 0, 0, 0, 0, index as u8])),
            mtu: 9_000,
            up: true,
            above: None,
        })
    }

    /// A virtual function of the device `whole`.
    fn function(index: u32, name: &str, whole: u32) -> NetworkEvent {
        let NetworkEvent::LinkChanged(link) = link(whole, name) else { unreachable!() };
        let (index, above) = (LinkIndex(index), Some(LinkIndex(whole)));
        NetworkEvent::LinkChanged(Link { index, above, ..link })
    }

    fn address(index: u32, ip: &str, prefix_length: u8) -> NetworkEvent {
        let ip = ip.parse().unwrap();
        NetworkEvent::AddressAdded(InterfaceAddress { index: LinkIndex(index), ip, prefix_length })
    }

    fn told(network: &Network) -> Vec<(String, Option<IpAddr>, Option<InterfaceId>)> {
        network.routes.iter().map(|r| (r.prefix.to_string(), r.gateway, r.out)).collect()
    }

    fn route(destination: &str, prefix_length: u8, target: RouteTarget) -> NetworkEvent {
        let destination = destination.parse().unwrap();
        let metric = 100;
        NetworkEvent::RouteAdded(Route {
            destination,
            prefix_length,
            metric,
            target,
            preferred_source: None,
        })
    }

    fn picture(events: Vec<NetworkEvent>) -> Picture {
        let wanted = [("ext", "eth1"), ("int", "eth2")]
            .map(|(name, device)| DataInterface { name: name.into(), device: device.into() });
        let mut picture = Picture::new(wanted.to_vec(), vec![4480], Vec::new());
        events.into_iter().for_each(|event| picture.apply(event));
        picture
    }

    #[test]
    fn nothing_is_told_before_the_dump_is_whole_and_nothing_twice() {
        let mut picture = picture(vec![link(1, "lo"), link(2, "eth1")]);
        assert_eq!(picture.network(), None);
        picture.apply(NetworkEvent::Resynced);
        assert!(picture.network().is_some());
        assert_eq!(picture.network(), None);
        picture.apply(link(7, "eth9"));
        assert_eq!(picture.network(), None, "no data interface has changed");
        picture.apply(link(3, "eth2"));
        assert!(picture.network().is_some());
    }

    #[test]
    fn addresses_and_routes_are_the_data_interfaces_or_the_hosts() {
        let gateway = Some("192.0.2.254".parse().unwrap());
        let over = |index, gateway| RouteTarget::Link { index: LinkIndex(index), gateway };
        let mut picture = picture(vec![
            link(1, "lo"),
            link(2, "eth1"),
            link(3, "eth2"),
            link(4, "eth0"),
            address(1, "127.0.0.1", 8),
            address(2, "192.0.2.1", 24),
            address(3, "2001:db8::1", 64),
            address(4, "203.0.113.1", 24),
            route("0.0.0.0", 0, over(2, gateway)),
            route("10.9.0.0", 16, over(4, None)),
            route("10.8.0.0", 16, RouteTarget::Blackhole),
            NetworkEvent::Resynced,
        ]);
        let network = picture.network().unwrap();
        assert_eq!(network.interfaces[0].addresses, ["192.0.2.1/24".parse().unwrap()]);
        assert_eq!(network.interfaces[1].addresses, ["2001:db8::1/64".parse().unwrap()]);
        let mut host: Vec<String> =
            network.host_addresses.iter().map(ToString::to_string).collect();
        host.sort();
        assert_eq!(host, ["127.0.0.1", "203.0.113.1"]);
        assert_eq!(
            told(&network),
            [
                ("0.0.0.0/0".to_owned(), gateway, Some(InterfaceId(0))),
                ("10.8.0.0/16".to_owned(), None, None),
                ("10.9.0.0/16".to_owned(), None, None),
                ("192.0.2.0/24".to_owned(), None, Some(InterfaceId(0))),
                ("2001:db8::/64".to_owned(), None, Some(InterfaceId(1))),
            ]
        );
    }

    #[test]
    fn hosts_on_a_data_link_need_no_route_in_the_main_table() {
        let gateway = Some("10.1.0.5".parse().unwrap());
        let mut picture = picture(vec![
            link(2, "eth1"),
            link(3, "eth2"),
            link(4, "eth0"),
            address(2, "192.0.2.1", 24),
            address(2, "192.0.2.9", 24),
            address(2, "203.0.113.7", 32),
            address(2, "fe80::2", 64),
            address(3, "10.1.0.1", 24),
            address(4, "10.9.0.1", 24),
            route("10.1.0.0", 24, RouteTarget::Link { index: LinkIndex(3), gateway }),
            NetworkEvent::Resynced,
        ]);
        // Not the host's own network, not an address alone, not in place of a route that somebody has written.
        let expected = [
            ("10.1.0.0/24".to_owned(), gateway, Some(InterfaceId(1))),
            ("192.0.2.0/24".to_owned(), None, Some(InterfaceId(0))),
        ];
        assert_eq!(told(&picture.network().unwrap()), expected);
        let NetworkEvent::LinkChanged(ext) = link(2, "eth1") else { unreachable!() };
        picture.apply(NetworkEvent::LinkChanged(Link { up: false, ..ext }));
        assert_eq!(told(&picture.network().unwrap()), expected[..1]);
    }

    #[test]
    fn a_virtual_function_that_comes_and_goes_changes_nothing() {
        let all = [link(2, "eth1"), link(3, "eth2"), NetworkEvent::Resynced];
        let mut picture = picture(all.to_vec());
        assert!(picture.network().is_some());
        for _ in 0..3 {
            picture.apply(function(7, "enP1s1", 2));
            assert_eq!((picture.network(), picture.missing()), (None, None));
            picture.apply(NetworkEvent::LinkGone(LinkIndex(7)));
            assert_eq!((picture.network(), picture.missing()), (None, None));
        }
        assert_eq!(picture.link(InterfaceId(0)), Some(LinkIndex(2)));
    }

    #[test]
    fn a_virtual_function_is_no_data_interface_and_the_whole_is_named() {
        let all = [link(8, "hv1"), function(2, "eth1", 8), link(3, "eth2"), NetworkEvent::Resynced];
        let picture = picture(all.to_vec());
        let missing = picture.missing().unwrap();
        assert!(missing.contains("device eth1 is a half of hv1"), "{missing}");
        assert!(missing.ends_with("write ext = \"hv1\" under [interfaces]"), "{missing}");
    }

    #[test]
    fn an_interface_without_its_device_is_named_until_the_device_is_there() {
        let mut picture = picture(vec![link(2, "eth1"), NetworkEvent::Resynced]);
        let missing = picture.missing().unwrap();
        assert_eq!(missing, "interface int: device eth2 does not exist");
        assert!(!picture.network().unwrap().interfaces[1].up);
        picture.apply(link(3, "eth2"));
        assert_eq!(picture.missing(), None);
        picture.apply(NetworkEvent::LinkGone(LinkIndex(3)));
        assert!(picture.missing().is_some());
    }
}
