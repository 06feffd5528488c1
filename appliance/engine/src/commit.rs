//! What the shell puts in force: policies and networks, each replaced whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use gabion_rules::RuleSet;

use crate::counters::RuleCounters;
use crate::engine::Policy;
use crate::event::Generation;
use crate::network::{Network, Topology};
use crate::{DropReason, Engine, Verdict};

impl Engine {
    /// Puts a policy in force. Live flows are asked again: those that it permits, with the
    /// translation that they have, go on; the others are closed as `revoked`. Counters of rules
    /// that keep their name go on.
    pub fn set_rules(&mut self, generation: Generation, rules: Arc<RuleSet>) {
        self.rule_counters = self.carry_counters(&rules);
        let flood = rules.settings().flood;
        self.journal.set_rules(generation, rules.rules().len(), flood);
        self.translator.set_rules(&rules);
        self.policy = Some(Policy { generation, rules });
        self.rebuild_topology();
        self.sweep = Some(0);
    }

    /// Puts a network in force. Flows go on by its routes; those that were translated to an address
    /// which the node has lost are closed.
    pub fn set_network(&mut self, network: Network) {
        if network.interfaces != self.network.interfaces {
            let lost = self.neighbours.clear();
            let verdict = Verdict::Drop(DropReason::NeighbourUnresolved);
            self.counters.release(verdict, u64::from(lost));
            self.sweep = Some(0);
        }
        self.network = network;
        self.rebuild_topology();
    }

    fn rebuild_topology(&mut self) {
        let rules = self.policy.as_ref().map(|policy| &*policy.rules);
        self.topology = Topology::new(&self.network, rules);
        self.epoch += 1;
        self.translator.reserve(self.topology.own_addresses(), self.topology.host_ports());
    }

    fn carry_counters(&self, rules: &RuleSet) -> Vec<RuleCounters> {
        let old = self.policy.as_ref().map(|policy| policy.rules.rules()).unwrap_or_default();
        let kept: BTreeMap<&str, RuleCounters> = old
            .iter()
            .map(|rule| rule.name.as_str())
            .zip(self.rule_counters.iter().copied())
            .collect();
        rules
            .rules()
            .iter()
            .map(|rule| kept.get(rule.name.as_str()).copied().unwrap_or_default())
            .collect()
    }
}
