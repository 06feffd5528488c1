//! The policy of all subjects, with as many rules as wanted.

use std::fmt::Write as _;

/// Each rule but the last is for one of so many networks of the servers' side.
pub const NETWORKS: usize = 50_000;

/// A policy with this many rules. Traffic of the subjects is allowed by the last of them alone, so
/// that a list that is searched from the top is searched whole.
///
/// # Panics
/// When there would be no rule, or more than there are networks for.
pub fn policy(rules: usize) -> String {
    assert!((1..=NETWORKS).contains(&rules), "{rules} rules are not 1 to {NETWORKS}");
    let mut text = String::from(
        "apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  default: { action: drop }
  flood: { flows-per-source: 1048576 }
nat:
  - { name: publish, kind: dnat, from: internet, to: 203.0.113.7, service: tcp/443, target: 10.1.0.10 }
  - { name: out, kind: snat, from: spokes, out: internet, service: udp, address: 203.0.113.4, ports: 1024-65535 }
rules:
",
    );
    for rule in 1..rules {
        // 10.128.0.0/9, 128 addresses each.
        let (high, middle) = (128 + rule / 512, rule / 2 % 256);
        let low = rule % 2 * 128;
        let port = 1_024 + rule % 30_000;
        writeln!(
            text,
            "  - {{ name: rule-{rule}, from: any, to: spokes, destination: 10.{high}.{middle}.{low}/25, service: tcp/{port}, action: allow }}"
        )
        .expect("writing to a string works");
    }
    text.push_str("  - { name: last, from: any, to: any, action: allow }\n");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn policies_have_the_rules_that_are_asked_for() {
        for rules in [1, 10, 1_000] {
            let loaded = gabion_rules::load("subject.yaml", &policy(rules), None);
            let loaded = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
            let defaults = loaded.rule_set.zones().len().pow(2);
            assert_eq!(loaded.rule_set.rules().len() - defaults, rules);
        }
    }
}
