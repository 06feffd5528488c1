//! A node as it stands on Azure: probes of one address on every interface, and data devices that are two devices each.
//! Root with `GABION_NETNS=1`, and the built binaries.
#![allow(clippy::unwrap_used)]

mod halves;
mod probes;
mod services;

/// Nothing is let through.
const DENY_ALL: &str = "\
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8] }
settings:
  default: { action: drop }
rules:
  - { name: nobody, from: any, to: any, action: drop }
";
