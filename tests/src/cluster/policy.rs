//! What all nodes enforce, and what they are told to enforce in the middle of things.

use std::sync::{Arc, LazyLock};

use gabion_engine::{Interface, InterfaceId, Network, Route};
use gabion_rules::RuleSet;

use crate::network::NODE_MAC;

pub(super) const EXT: InterfaceId = InterfaceId(0);
pub(super) const INT: InterfaceId = InterfaceId(1);

const POLICY: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  default: { action: drop }
nat:
  - { name: web, kind: dnat, from: internet, to: 192.0.2.100, service: tcp/443, target: 10.1.0.10 }
  - { name: dns, kind: dnat, from: internet, to: 192.0.2.100, service: udp/53, target: 10.1.0.10 }
  - { name: web-v6, kind: dnat, from: internet, to: '2600:7::100', service: tcp/443, target: '2600:2::10' }
  - { name: out, kind: snat, from: spokes, out: internet, address: 192.0.2.16/31, ports: 1024-65000 }
  - { name: out-v6, kind: snat, from: spokes, out: internet, address: '2600:7::10/127', ports: 1024-65000 }
rules:
  - { name: barred, from: internet, to: spokes, service: [tcp/8443, udp/5353], action: BARRED }
  - { name: web-in, from: internet, to: spokes, service: [tcp/443, udp/53], action: allow }
  - { name: ping-in, from: internet, to: spokes, service: [icmp/echo-request, icmpv6/echo-request], action: allow }
  - { name: out, from: spokes, to: internet, action: allow }
";

/// Number 1 permits nothing on paths that are barred, number 0 does.
pub(super) fn rules(number: usize) -> Arc<RuleSet> {
    static RULES: LazyLock<[Arc<RuleSet>; 2]> = LazyLock::new(|| {
        ["allow", "drop"].map(|action| {
            let text = POLICY.replace("BARRED", action);
            gabion_rules::load("policy.yaml", &text, None).unwrap().rule_set
        })
    });
    Arc::clone(&RULES[number])
}

/// What a node is connected to; addresses that all nodes share are no interface's.
pub(super) fn network(node: u8) -> Network {
    let interface = |name: &str, addresses: [String; 2]| Interface {
        name: name.to_owned(),
        mac: NODE_MAC,
        mtu: 1_500,
        up: true,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let route = |prefix: &str, gateway: Option<&str>, out| Route {
        prefix: prefix.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        out: Some(out),
        metric: 0,
    };
    Network {
        interfaces: vec![
            interface("ext", [format!("203.0.113.{node}/24"), format!("2600:1::{node}/64")]),
            interface("int", [format!("10.1.0.{}/16", 100 + node), format!("2600:2::a:{node}/64")]),
        ],
        routes: vec![
            route("203.0.113.0/24", None, EXT),
            route("2600:1::/64", None, EXT),
            route("10.1.0.0/16", None, INT),
            route("2600:2::/64", None, INT),
            route("0.0.0.0/0", Some("203.0.113.254"), EXT),
            route("::/0", Some("2600:1::fe"), EXT),
        ],
        host_addresses: Vec::new(),
        host_ports: Vec::new(),
        host_services: Vec::new(),
    }
}
