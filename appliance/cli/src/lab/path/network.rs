//! The network of the `path` scenario: one node between the internet and two servers.

use crate::lab::topology::{End, Role, Topology};

/// The picture of the network, as the report shows it.
pub(crate) const DRAWING: &str = r"
    internet                           spokes
    client ───┐                   ┌──────────────┐                 ┌─── web-1
    198.51.100.9                  │    node-1    │                 │    10.1.0.10
    2600:1:0:9::9                 │              │                 │    2600:2:0:1::10
              ├─── isp ────── ext ┤   gabiond    ├ int ─── lan ────┤
    remote ───┘    203.0.113.0/24 │ gabion-guard │ 10.1.0.0/24     └─── web-2
    192.0.2.80     2600:1:0:113:: │              │ 2600:2:0:1::         10.1.0.11
    2600:1:0:80::80               └──────────────┘                      2600:2:0:1::11
                  published web servers: 203.0.113.7, 2600:1:0:113::7";

pub(crate) const CLIENT: &str = "client";
pub(crate) const REMOTE: &str = "remote";
pub(crate) const ISP: &str = "isp";
pub(crate) const NODE: &str = "node-1";
pub(crate) const LAN: &str = "lan";
pub(crate) const WEB_1: &str = "web-1";
pub(crate) const WEB_2: &str = "web-2";

pub(crate) const CLIENT_V4: &str = "198.51.100.9";
pub(crate) const CLIENT_V6: &str = "2600:1:0:9::9";
pub(crate) const REMOTE_V4: &str = "192.0.2.80";
pub(crate) const REMOTE_V6: &str = "2600:1:0:80::80";
pub(crate) const NODE_EXT_V4: &str = "203.0.113.1";
pub(crate) const NODE_EXT_V6: &str = "2600:1:0:113::1";
pub(crate) const NODE_INT_V4: &str = "10.1.0.1";
pub(crate) const NODE_INT_V6: &str = "2600:2:0:1::1";
pub(crate) const WEB_1_V4: &str = "10.1.0.10";
pub(crate) const WEB_1_V6: &str = "2600:2:0:1::10";
/// Destination NAT to both web servers.
pub(crate) const PUBLISHED_V4: &str = "203.0.113.7";
pub(crate) const PUBLISHED_V6: &str = "2600:1:0:113::7";
/// Source NAT for what the servers ask of the internet.
pub(crate) const POOL_V4: &str = "203.0.113.8";
pub(crate) const POOL_V6: &str = "2600:1:0:113::8";

/// Ethernet's own.
pub(crate) const MTU: u16 = 1500;

/// The hosts and links of [`DRAWING`].
pub(crate) fn topology() -> Topology {
    Topology::new()
        .link(
            MTU,
            [
                End::new(CLIENT, "eth0", &["198.51.100.9/24", "2600:1:0:9::9/64"]),
                End::new(ISP, "client", &["198.51.100.1/24", "2600:1:0:9::1/64"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(REMOTE, "eth0", &["192.0.2.80/24", "2600:1:0:80::80/64"]),
                End::new(ISP, "remote", &["192.0.2.1/24", "2600:1:0:80::1/64"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(ISP, "node", &["203.0.113.254/24", "2600:1:0:113::fe/64"]),
                End::new(NODE, "eth1", &["203.0.113.1/24", "2600:1:0:113::1/64"]),
            ],
        )
        .link(
            MTU,
            [
                End::new(NODE, "eth2", &["10.1.0.1/24", "2600:2:0:1::1/64"]),
                End::new(LAN, "node", &[]),
            ],
        )
        .link(
            MTU,
            [
                End::new(WEB_1, "eth0", &["10.1.0.10/24", "2600:2:0:1::10/64"]),
                End::new(LAN, "web-1", &[]),
            ],
        )
        .link(
            MTU,
            [
                End::new(WEB_2, "eth0", &["10.1.0.11/24", "2600:2:0:1::11/64"]),
                End::new(LAN, "web-2", &[]),
            ],
        )
        .host(CLIENT, Role::End, &[("0.0.0.0/0", "198.51.100.1"), ("::/0", "2600:1:0:9::1")])
        .host(REMOTE, Role::End, &[("0.0.0.0/0", "192.0.2.1"), ("::/0", "2600:1:0:80::1")])
        .host(
            ISP,
            Role::Router,
            &[("10.1.0.0/24", "203.0.113.1"), ("2600:2:0:1::/64", "2600:1:0:113::1")],
        )
        .host(NODE, Role::Node, &[("0.0.0.0/0", "203.0.113.254"), ("::/0", "2600:1:0:113::fe")])
        .host(LAN, Role::Switch, &[])
        .host(WEB_1, Role::End, &[("0.0.0.0/0", "10.1.0.1"), ("::/0", "2600:2:0:1::1")])
        .host(WEB_2, Role::End, &[("0.0.0.0/0", "10.1.0.1"), ("::/0", "2600:2:0:1::1")])
}
