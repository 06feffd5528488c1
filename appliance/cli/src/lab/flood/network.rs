//! The network of the `flood` scenario: good clients and an attacker before one node.

use crate::lab::topology::{End, Role, Topology};

/// The picture of the network, as the report shows it.
pub(crate) const DRAWING: &str = r"
    internet                                 spokes
    client ─────┐                        ┌──────────────┐
    198.51.100.9, 44.0.0.0/16            │    node-1    │
                ├── isp ────────── ext ──┤   gabiond    ├── int ──── web
    attacker ───┘   203.0.113.0/24       │ gabion-guard │            10.1.0.10
    192.0.2.66, invented sources         └──────────────┘";

pub(crate) const CLIENT: &str = "client";
pub(crate) const ATTACKER: &str = "attacker";
pub(crate) const NODE: &str = "node-1";
pub(crate) const WEB: &str = "web";

pub(crate) const WEB_V4: [u8; 4] = [10, 1, 0, 10];
pub(crate) const ATTACKER_V4: [u8; 4] = [192, 0, 2, 66];
/// The network of clients that nobody has seen before: each connection has an address of its own.
pub(crate) const NEWCOMERS: [u8; 2] = [44, 0];

const ISP: &str = "isp";
/// Ethernet's own.
const MTU: u16 = 1500;

/// The hosts and links of [`DRAWING`]. What is sent to invented sources ends at the attacker.
pub(crate) fn topology() -> Topology {
    Topology::new()
        .link(
            MTU,
            [
                End::new(CLIENT, "eth0", &["198.51.100.9/24"]),
                End::new(ISP, "client", &["198.51.100.1/24"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(ATTACKER, "eth0", &["192.0.2.66/24"]),
                End::new(ISP, "attacker", &["192.0.2.1/24"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(ISP, "node", &["203.0.113.254/24"]),
                End::new(NODE, "eth1", &["203.0.113.1/24"]),
            ],
        )
        .link(
            MTU,
            [End::new(NODE, "eth2", &["10.1.0.1/24"]), End::new(WEB, "eth0", &["10.1.0.10/24"])],
        )
        .host(CLIENT, Role::End, &[("0.0.0.0/0", "198.51.100.1")])
        .host(ATTACKER, Role::End, &[("0.0.0.0/0", "192.0.2.1")])
        .host(
            ISP,
            Role::Router,
            &[
                ("10.1.0.0/24", "203.0.113.1"),
                ("44.0.0.0/16", "198.51.100.9"),
                ("0.0.0.0/0", "192.0.2.66"),
            ],
        )
        .host(NODE, Role::Node, &[("0.0.0.0/0", "203.0.113.254")])
        .host(WEB, Role::End, &[("0.0.0.0/0", "10.1.0.1")])
}
