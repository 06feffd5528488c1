//! The network and the policy of most scenarios and of the walks.

use std::sync::{Arc, LazyLock};

use gabion_engine::{Interface, InterfaceId, Network, Route};
use gabion_rules::RuleSet;

/// The policy of most scenarios: publishing, inbound SNAT, outbound SNAT, and each action.
pub const POLICY: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
objects:
  addresses:
    web-farm: [10.1.0.10, 10.1.0.11]
  services:
    https: tcp/443
settings:
  default: { action: drop, log: sampled }
nat:
  - { name: publish-web, kind: dnat, from: [internet, spokes], to: 203.0.113.7, service: https, target: 10.1.0.10 }
  - { name: publish-farm, kind: dnat, from: internet, to: 203.0.113.8, service: https, target: web-farm }
  - { name: publish-v6, kind: dnat, from: internet, to: '2600:1::7', service: https, target: '2600:2::10' }
  - { name: publish-ssh, kind: dnat, from: internet, to: 203.0.113.7, service: tcp/2222, target: 10.1.0.10, target-port: 22 }
  - { name: symmetric-in, kind: snat, direction: inbound, from: internet, out: spokes, destination: 10.1.0.11, address: self }
  - { name: out, kind: snat, from: spokes, out: internet, address: 203.0.113.4, ports: 1024-65000 }
rules:
  - { name: no-telnet, from: internet, to: spokes, service: tcp/23, action: reject, log: all }
  - { name: no-syslog, from: internet, to: spokes, service: udp/514, action: reject }
  - { name: quiet, from: internet, to: spokes, service: tcp/25, action: drop }
  - { name: web-in, from: internet, to: spokes, service: [https, tcp/22], action: allow, log: all }
  - { name: dns-in, from: internet, to: spokes, service: udp/53, action: allow }
  - { name: ping-in, from: internet, to: spokes, service: [icmp/echo-request, icmpv6/echo-request], action: allow }
  - { name: watch-out, from: spokes, to: internet, service: tcp/80, action: monitor }
  - { name: out, from: spokes, to: internet, action: allow }
  - { name: inside, from: spokes, to: spokes, service: https, action: allow }
";

/// [`POLICY`], compiled once.
///
/// # Panics
/// Never: it is a policy.
pub fn rules() -> Arc<RuleSet> {
    static RULES: LazyLock<Arc<RuleSet>> =
        LazyLock::new(|| gabion_rules::load("policy.yaml", POLICY, None).unwrap().rule_set);
    Arc::clone(&RULES)
}

/// The node's link address on every interface; `build`'s frames are addressed to it.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Two interfaces, a client's network and a server's, and a spare one.
///
/// # Panics
/// Never: all texts are addresses.
pub fn network() -> Network {
    let interface = |name: &str, addresses: &[&str]| Interface {
        name: name.to_owned(),
        mac: NODE_MAC,
        mtu: 1_500,
        up: true,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let route = |prefix: &str, gateway: Option<&str>, out: &str| Route {
        prefix: prefix.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        out: Some(interface_id(out)),
        metric: 0,
    };
    Network {
        interfaces: vec![
            interface("ext", &["203.0.113.1/24", "2600:1::1/64"]),
            interface("int", &["10.1.0.1/16", "2600:2::1/64"]),
            interface("spare", &["192.0.2.1/24"]),
        ],
        routes: vec![
            route("203.0.113.0/24", None, "ext"),
            route("2600:1::/64", None, "ext"),
            route("10.1.0.0/16", None, "int"),
            route("2600:2::/64", None, "int"),
            route("192.0.2.0/24", None, "spare"),
            route("0.0.0.0/0", Some("203.0.113.254"), "ext"),
            route("::/0", Some("2600:1::fe"), "ext"),
        ],
        host_addresses: vec!["192.168.9.9".parse().unwrap()],
        host_ports: vec![4_480],
        host_services: Vec::new(),
    }
}

pub fn interface_id(name: &str) -> InterfaceId {
    match name {
        "ext" => InterfaceId(0),
        "int" => InterfaceId(1),
        "spare" => InterfaceId(2),
        other => panic!("no interface is called {other}"),
    }
}
