//! The policies between which the walks change.

use std::sync::{Arc, LazyLock};

use gabion_rules::RuleSet;

use crate::network::POLICY;

/// Eight ports of one address: a pool that runs out.
const SMALL_POOL: &str = "address: 203.0.113.4, ports: 2000-2007";
const POOL: &str = "address: 203.0.113.4, ports: 1024-65000";
const DEFAULT: &str = "  default: { action: drop, log: sampled }";

/// Where the small pool is to be filled in the end, and where three flows are the limit.
pub(super) const FILLED: usize = 0;
pub(super) const TIGHT: usize = 9;

pub static POLICIES: LazyLock<Vec<Arc<RuleSet>>> = LazyLock::new(|| {
    let base =
        POLICY.replace(POOL, SMALL_POOL).replace("service: udp/53, action", "service: udp, action");
    let out = |more: &str| base.replace(SMALL_POOL, &format!("{SMALL_POOL}, {more}"));
    let settings = |more: &str| base.replace(DEFAULT, &format!("{DEFAULT}\n  {more}"));
    let texts = [
        base.clone(),
        out("filtering: endpoint-independent"),
        out("filtering: address-dependent"),
        out("mapping: symmetric"),
        base.replace(
            "name: out, from: spokes, to: internet, action: allow",
            "name: out, from: spokes, to: internet, service: udp/53, action: allow",
        ),
        base.replace("service: [https, tcp/22], action: allow", "service: tcp/22, action: allow"),
        base.replace(SMALL_POOL, "address: self"),
        base.replace("name: out,", "name: other,").replace("name: web-in,", "name: web,"),
        base.replace("target: 10.1.0.10 }", "target: web-farm }").replace(
            SMALL_POOL,
            "address: 203.0.113.5, ports: 2004-2011, filtering: endpoint-independent",
        ),
        settings(
            "timeouts: { tcp-established: 20s, udp: 5s, udp-unreplied: 10s }\n  flood: { half-open-per-destination: 6, flows-per-source: 3, answers-per-second: 5 }",
        ),
    ];
    texts
        .iter()
        .map(|text| match gabion_rules::load("walk.yaml", text, None) {
            Ok(loaded) => loaded.rule_set,
            Err(diagnostics) => panic!("{diagnostics}"),
        })
        .collect()
});
