//! Scenarios: dialogues with the engine. Send this, expect that, and every counter that is not named
//! is unchanged.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

pub(crate) mod dialogue;
pub(crate) mod words;

mod filter;
mod fragments;
mod icmp;
mod limits;
mod martians;
mod nat;
mod neighbours;
mod policy_change;
mod residue;
mod tcp;
mod timers;

/// The policy of most scenarios: publishing, inbound SNAT, outbound SNAT, and each action.
pub(crate) const POLICY: &str = r"
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

/// A policy that permits whatever the engine lets the rules see.
pub(crate) const ALLOW_ALL: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
rules:
  - { name: everything, from: any, to: any, action: allow }
";

/// The same under the profile that drops all that the Common Criteria module names.
pub(crate) const STRICT: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  profile: strict-cc
rules:
  - { name: everything, from: any, to: any, action: allow }
";
