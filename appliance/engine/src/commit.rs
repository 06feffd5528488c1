//! What the shell puts in force: policies and networks, each replaced whole.

use std::sync::Arc;

use gabion_rules::RuleSet;

use crate::counters::RuleCounters;
use crate::engine::Policy;
use crate::event::Generation;
use crate::network::{Interface, Network, Topology};
use crate::{DropReason, Engine, Verdict};

impl Engine {
    /// Puts a policy in force. Live flows are asked again: those that it permits, with the
    /// translation that they have, go on; the others are closed as `revoked`. Counters of rules
    /// that keep their name go on.
    pub fn set_rules(&mut self, generation: Generation, rules: Arc<RuleSet>) {
        self.rule_counters = self.carry_counters(&rules);
        let flood = self.share_of(rules.settings().flood);
        self.journal.set_rules(generation, rules.rules().len(), flood);
        self.monitors.reserve(rules.rules().iter().filter(|rule| rule.action.is_none()).count());
        self.translator.set_rules(&self.limits, &self.flows, &rules);
        self.policy = Some(Policy { generation, rules });
        self.rebuild_topology();
    }

    /// Puts a network in force. Flows go on by its routes; those that were translated to an address
    /// which the node has lost are closed.
    pub fn set_network(&mut self, network: Network) {
        if !are_same_links(&network.interfaces, &self.network.interfaces) {
            let lost = self.neighbours.clear();
            let verdict = Verdict::Drop(DropReason::NeighbourUnresolved);
            self.counters.release(verdict, u64::from(lost));
        }
        self.network = network;
        self.rebuild_topology();
    }

    fn rebuild_topology(&mut self) {
        let rules = self.policy.as_ref().map(|policy| &*policy.rules);
        self.topology = Topology::new(&self.network, rules);
        self.epoch += 1;
        let (own, host) = (self.topology.own_addresses(), self.topology.host_ports());
        let rules = self.policy.as_ref().map(|policy| &*policy.rules);
        self.translator.reserve(own, host, rules);
        self.name_zones();
        self.outdate_judgements();
    }

    fn carry_counters(&self, rules: &RuleSet) -> Vec<RuleCounters> {
        let mut carried = vec![RuleCounters::default(); rules.rules().len()];
        let old = self.policy.as_ref().map(|policy| policy.rules.rules()).unwrap_or_default();
        // Packets wait meanwhile, so names are looked up only where most policies differ: rules keep
        // their distance to their neighbours but for a few.
        let mut next = 0;
        for (rule, counters) in old.iter().zip(&self.rule_counters) {
            let is_next = rules.rules().get(next).is_some_and(|new| new.name == rule.name);
            let place = if is_next {
                Some(next)
            } else if *counters == RuleCounters::default() {
                None
            } else {
                rules.rule_named(&rule.name).map(|id| id.0 as usize)
            };
            next = place.unwrap_or(next) + 1;
            if let Some(place) = place {
                carried[place] = *counters;
            }
        }
        carried
    }
}

/// Whether who is known to be behind an interface still is, whatever addresses the node has there.
fn are_same_links(new: &[Interface], old: &[Interface]) -> bool {
    let link = |interface: &Interface| (interface.mac, interface.up);
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| new.name == old.name && link(new) == link(old))
}
