//! The network of the cluster's scenarios: clients, a load balancer, the nodes, a load balancer, servers; and a
//! network between the nodes.

use std::net::IpAddr;

use crate::lab::topology::{End, Role, Topology};

/// The most nodes that there are names for.
pub(crate) const NODES_MAX: u8 = 4;

pub(crate) const CLIENT: &str = "client";
pub(crate) const EXTERNAL: &str = "elb";
pub(crate) const INTERNAL: &str = "ilb";
pub(crate) const SERVER: &str = "server";
pub(crate) const SYNC: &str = "sync";
pub(crate) const NODES: [&str; NODES_MAX as usize] = ["node-1", "node-2", "node-3", "node-4"];

/// Devices of a node: towards clients, towards servers, towards the other nodes.
pub(crate) const EXT: &str = "eth1";
pub(crate) const INT: &str = "eth2";
pub(crate) const PEERS: &str = "eth3";
/// The device of a load balancer that does not lead to a node.
pub(crate) const OUTER: &str = "outer";

/// Clients have so many addresses, so that what goes by addresses alone is spread too.
pub(crate) const CLIENTS: u8 = 16;

pub(crate) const SERVER_V4: &str = "10.1.0.10";
pub(crate) const SERVER_V6: &str = "2600:2:0:1::10";
/// Destination NAT to the server: the frontends of the external load balancer.
pub(crate) const PUBLISHED_V4: &str = "203.0.113.7";
pub(crate) const PUBLISHED_V6: &str = "2600:1:0:113::7";

/// Source NAT for what the server asks of the internet, shared by all nodes.
pub(crate) const SHARED_V4: &str = "203.0.113.8";
pub(crate) const SHARED_V6: &str = "2600:1:0:113::8";

/// Ethernet's own.
const MTU: u16 = 1500;

/// The picture of the network, as the report shows it.
pub(crate) fn drawing(nodes: u8) -> String {
    let mut lines = vec![
        "    internet                                                          spokes".to_owned(),
    ];
    let middle = usize::from(nodes - 1);
    for row in 0..=2 * middle {
        let node = row / 2 + 1;
        let (left, right) = if row == middle {
            ("client ── external LB ─┤", "├─ internal LB ── server")
        } else {
            let corner = |first, last, between| {
                if row == 0 {
                    first
                } else if row == 2 * middle {
                    last
                } else {
                    between
                }
            };
            (corner("┌", "└", "│"), corner("┐", "┘", "│"))
        };
        let node = if row % 2 == 0 {
            format!("── ext  node-{node}  int ──")
        } else {
            format!("{:^22}", "│ sync")
        };
        lines.push(format!("    {left:>24}{node}{right}"));
    }
    lines.push(String::new());
    lines.push(format!(
        "    published: {PUBLISHED_V4}, {PUBLISHED_V6}; the servers' shared address: {SHARED_V4}"
    ));
    lines.join("\n")
}

/// The hosts and links of that picture.
pub(crate) fn topology(nodes: u8) -> Topology {
    let outside = addresses(
        (9..9 + CLIENTS)
            .flat_map(|host| [format!("198.51.100.{host}/24"), format!("2600:1:0:9::{host}/64")]),
    );
    let outside: Vec<_> = outside.iter().map(String::as_str).collect();
    let mut topology = Topology::new()
        .link(
            MTU,
            [
                End::new(CLIENT, "eth0", &outside),
                End::new(EXTERNAL, OUTER, &["198.51.100.1/24", "2600:1:0:9::1/64"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(SERVER, "eth0", &["10.1.0.10/24", "2600:2:0:1::10/64"]),
                End::new(INTERNAL, OUTER, &["10.1.0.1/24", "2600:2:0:1::1/64"]),
            ],
        )
        .host(CLIENT, Role::End, &[("0.0.0.0/0", "198.51.100.1"), ("::/0", "2600:1:0:9::1")])
        .host(SERVER, Role::End, &[("0.0.0.0/0", "10.1.0.1"), ("::/0", "2600:2:0:1::1")])
        .host(EXTERNAL, Role::Balancer, &[])
        .host(INTERNAL, Role::Balancer, &[])
        .host(SYNC, Role::Balancer, &[]);
    for number in 0..nodes {
        topology = node(topology, number);
    }
    topology
}

/// A node with its three links. Each has networks of its own with the load balancers: what a cloud makes of a
/// common subnet is no more than that.
fn node(topology: Topology, number: u8) -> Topology {
    let name = NODES[usize::from(number)];
    let [ext, int] = [External(number), Internal(number)].map(Link::parts);
    let peers = format!("{}/24", peer_address(number));
    let link = |topology: Topology, device, balancer, parts: &Parts| {
        let Parts { own, gateway, prefixes: [v4, v6] } = parts;
        let ends = |[four, six]: &[String; 2]| [format!("{four}/{v4}"), format!("{six}/{v6}")];
        let (own, gateway) = (ends(own), ends(gateway));
        topology.link(
            MTU,
            [
                End::new(name, device, &own.each_ref().map(String::as_str)),
                End::new(balancer, name, &gateway.each_ref().map(String::as_str)),
            ],
        )
    };
    let topology = link(topology, EXT, EXTERNAL, &ext);
    let topology = link(topology, INT, INTERNAL, &int);
    topology.link(MTU, [End::new(name, PEERS, &[&peers]), End::new(SYNC, name, &[])]).host(
        name,
        Role::Node,
        &[
            ("0.0.0.0/0", &ext.gateway[0]),
            ("::/0", &ext.gateway[1]),
            ("10.1.0.0/24", &int.gateway[0]),
            ("2600:2:0:1::/64", &int.gateway[1]),
            // The other nodes' interfaces on this side.
            ("10.2.0.0/16", &int.gateway[0]),
            ("2600:2::/32", &int.gateway[1]),
        ],
    )
}

fn addresses(each: impl Iterator<Item = String>) -> Vec<String> {
    each.collect()
}

/// A node's link to a load balancer.
#[derive(Debug, Clone, Copy)]
enum Link {
    External(u8),
    Internal(u8),
}
use Link::{External, Internal};

/// Of a link, IPv4 and IPv6: the node's address, the load balancer's, the prefixes' lengths.
struct Parts {
    own: [String; 2],
    gateway: [String; 2],
    prefixes: [u8; 2],
}

impl Link {
    fn parts(self) -> Parts {
        match self {
            External(number) => {
                let base = 16 * (number + 1);
                Parts {
                    own: [format!("203.0.113.{}", base + 1), format!("2600:1:{base}:113::1")],
                    gateway: [format!("203.0.113.{}", base + 14), format!("2600:1:{base}:113::fe")],
                    prefixes: [28, 64],
                }
            }
            Internal(number) => Parts {
                own: [format!("10.2.{number}.1"), format!("2600:2:{number}:2::1")],
                gateway: [format!("10.2.{number}.254"), format!("2600:2:{number}:2::fe")],
                prefixes: [24, 64],
            },
        }
    }
}

/// Where a node answers the probes of the external and of the internal load balancer.
pub(crate) fn probed_addresses(number: u8) -> [IpAddr; 2] {
    [External(number), Internal(number)]
        .map(|link| link.parts().own[0].parse().expect("the plan's addresses are literals"))
}

/// A node's address on the network between the nodes.
pub(crate) fn peer_address(number: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, number + 1])
}
