//! The network of the `boot` scenario: one machine between the internet, a server and an operator.

use std::net::{IpAddr, Ipv4Addr};

use crate::lab::topology::{End, Role, Topology};

/// The picture of the network, as the report shows it.
pub(crate) const DRAWING: &str = r"
    internet                 ┌─────── QEMU ───────┐                 spokes
    client ───────────── ext ┤ the image:         ├ int ───────────── server
    203.0.113.254            │   gabion-provision │                   10.1.0.10
    168.63.129.16, probes    │   gabiond          │   168.63.129.16, probes
                             └─────── mgmt ───────┘
                                       │
                                   operator: gabion push, over mutual TLS";

pub(crate) const CLIENT: &str = "client";
pub(crate) const SERVER: &str = "server";
pub(crate) const OPERATOR: &str = "operator";
pub(crate) const NODE: &str = "node-1";

/// The node's devices in the order in which the machine has them.
pub(crate) const DEVICES: [&str; 3] = ["eth0", "eth1", "eth2"];

pub(crate) const NODE_MGMT: &str = "10.9.0.1";
pub(crate) const NODE_EXT: &str = "203.0.113.1";
pub(crate) const NODE_INT: &str = "10.1.0.1";
pub(crate) const SERVER_ADDRESS: &str = "10.1.0.10";
/// Destination NAT to the server.
pub(crate) const PUBLISHED: &str = "203.0.113.7";
/// From where Azure's load balancers probe every interface.
pub(crate) const PROBER: IpAddr = IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16));

const MTU: u16 = 1500;

/// The hosts and links of [`DRAWING`].
pub(crate) fn topology() -> Topology {
    let prober = format!("{PROBER}/32");
    Topology::new()
        .link(
            MTU,
            [
                End::new(OPERATOR, "eth0", &["10.9.0.10/24"]),
                End::new(NODE, DEVICES[0], &["10.9.0.1/24"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(CLIENT, "eth0", &["203.0.113.254/24", &prober]),
                End::new(NODE, DEVICES[1], &["203.0.113.1/24"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(SERVER, "eth0", &["10.1.0.10/24", &prober]),
                End::new(NODE, DEVICES[2], &["10.1.0.1/24"]),
            ],
        )
        .host(OPERATOR, Role::End, &[])
        .host(CLIENT, Role::End, &[("10.1.0.0/24", NODE_EXT)])
        .host(SERVER, Role::End, &[("0.0.0.0/0", NODE_INT)])
        .host(NODE, Role::Machine, &[("0.0.0.0/0", "203.0.113.254")])
}
