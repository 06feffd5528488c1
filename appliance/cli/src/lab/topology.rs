//! What a lab consists of, as a value: hosts, the links between them, addresses and routes.
//!
//! Nothing here touches the kernel; [`build`](super::build) makes it real.

use std::net::IpAddr;

use ipnet::IpNet;

/// A network of hosts.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: Vec<Link>,
}

/// One network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) routes: Vec<Route>,
}

/// What a host does with packets that are not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing: a client or a server.
    End,
    /// The kernel forwards them.
    Router,
    /// All its devices are ports of one bridge.
    Switch,
    /// The kernel answers for its own addresses and is silent about all others: a program of the lab's own
    /// moves the packets.
    Balancer,
    /// A virtual machine has its links: the namespace joins them and forwards nothing.
    Machine,
    /// The appliance: the kernel's forwarding is switched on, as on a host where somebody forgot
    /// it, so that the guard has something to guard against.
    Node,
}

/// A veth pair.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    pub(crate) mtu: u16,
}

/// One end of a link.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) host: &'static str,
    pub(crate) device: &'static str,
    pub(crate) addresses: Vec<IpNet>,
}

/// A static route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    pub(crate) via: IpAddr,
}

impl Topology {
    pub(crate) fn new() -> Self {
        Self { hosts: Vec::new(), links: Vec::new() }
    }

    /// Adds a host; `routes` are pairs of prefix and next hop.
    ///
    /// # Panics
    /// If a route is not written correctly: topologies are part of the program.
    pub(crate) fn host(mut self, name: &'static str, role: Role, routes: &[(&str, &str)]) -> Self {
        let routes = routes
            .iter()
            .map(|(to, via)| Route {
                to: to.parse().expect("a topology's prefixes are literals"),
                via: via.parse().expect("a topology's next hops are literals"),
            })
            .collect();
        self.hosts.push(Host { name, role, routes });
        self
    }

    /// Adds a link between two hosts, with the devices' names and addresses on either side.
    pub(crate) fn link(mut self, mtu: u16, ends: [End; 2]) -> Self {
        self.links.push(Link { ends, mtu });
        self
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The link addresses of a host's device and of the device at the other end.
    pub(crate) fn link_addresses(&self, host: &str, device: &str) -> Option<[LinkAddress; 2]> {
        self.links.iter().enumerate().find_map(|(number, link)| {
            let is_it = |end: &End| end.host == host && end.device == device;
            let [first, second] = link_addresses(number);
            match &link.ends {
                [end, _] if is_it(end) => Some([first, second]),
                [_, end] if is_it(end) => Some([second, first]),
                _ => None,
            }
        })
    }
}

/// An Ethernet address.
pub(crate) type LinkAddress = [u8; 6];

/// Of the two ends of a link, by its number in the topology: locally administered and unique in a lab.
pub(crate) const fn link_addresses(number: usize) -> [LinkAddress; 2] {
    let [high, low] = (number as u16).to_be_bytes();
    [[2, 0, 0, high, low, 1], [2, 0, 0, high, low, 2]]
}

/// As `ip` writes it.
pub(crate) fn written(address: LinkAddress) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

impl End {
    /// # Panics
    /// If an address is not written correctly: topologies are part of the program.
    pub(crate) fn new(host: &'static str, device: &'static str, addresses: &[&str]) -> Self {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().expect("a topology's addresses are literals"))
            .collect();
        Self { host, device, addresses }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Topology;
    use crate::lab::{SCENARIOS, boot, cluster};

    fn topologies() -> impl Iterator<Item = Topology> {
        let of_one = SCENARIOS.into_iter().map(|scenario| (scenario.topology)());
        of_one.chain((1..=4).map(cluster::topology)).chain([boot::topology()])
    }

    #[test]
    fn every_link_joins_two_hosts_and_no_address_is_used_twice() {
        for topology in topologies() {
            let mut addresses = BTreeSet::new();
            let mut devices = BTreeSet::new();
            for end in topology.links.iter().flat_map(|link| &link.ends) {
                assert!(topology.find(end.host).is_some(), "{} is no host", end.host);
                assert!(devices.insert((end.host, end.device)), "{} twice", end.device);
                // A cloud probes every network from the same address.
                let own = end.addresses.iter().filter(|address| address.addr() != boot::PROBER);
                for address in own {
                    assert!(addresses.insert(address.addr()), "{address} twice");
                }
            }
        }
    }

    #[test]
    fn every_next_hop_is_on_a_link_of_its_host() {
        for topology in topologies() {
            let ends = || topology.links.iter().flat_map(|link| &link.ends);
            for host in &topology.hosts {
                for route in &host.routes {
                    let reaches = ends()
                        .filter(|end| end.host == host.name)
                        .flat_map(|end| &end.addresses)
                        .any(|address| address.contains(&route.via));
                    assert!(reaches, "{}: {} is on no link", host.name, route.via);
                }
            }
        }
    }

    /// Linux's IFNAMSIZ without the terminating zero.
    #[test]
    fn device_names_fit_the_kernel() {
        for topology in topologies() {
            for end in topology.links.iter().flat_map(|link| &link.ends) {
                assert!(end.device.len() <= 15, "{}", end.device);
            }
        }
    }
}
