//! Scenarios: dialogues with the engine. Send this, expect that, and every counter that is not named
//! is unchanged.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod dialogue;

mod batches;
mod cluster;
mod common_criteria;
mod extension_headers;
mod fast_path;
mod filter;
mod fragments;
mod icmp;
mod icmp_errors;
mod icmpv6;
mod limits;
mod martians;
mod nat;
mod neighbours;
mod options;
mod policy_change;
mod port_shadowing;
mod protocols;
mod reasons;
mod residue;
mod tcp;
mod tcp_tracking;
mod timers;
mod transparency;
mod workers;

pub(crate) use gabion_tests::network::POLICY;

/// A policy that permits whatever the engine lets the rules see.
pub(crate) const ALLOW_ALL: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
rules:
  - { name: everything, from: any, to: any, action: allow }
";

/// A policy that lets the inside out and nothing in.
pub(crate) const OUTBOUND: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
rules:
  - { name: out, from: spokes, to: internet, action: allow }
";

/// `ALLOW_ALL` under the profile that drops all that the Common Criteria module names.
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
