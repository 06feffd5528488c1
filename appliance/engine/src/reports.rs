//! What can be asked of an engine: settings, counters, tables, flows.

use std::ops::Range;

use gabion_rules::Settings;

use crate::Engine;
use crate::Time;
use crate::counters::{Counters, RuleCounters, TableUse};
use crate::event::{FlowReport, Generation};
use crate::flows::Slot;

impl Engine {
    /// That of the policy in force.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.policy.as_ref().map(|policy| policy.generation)
    }

    /// Those of the policy in force, or the defaults before there is one.
    pub(crate) fn settings(&self) -> &Settings {
        self.policy.as_ref().map_or(&self.defaults, |policy| policy.rules.settings())
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Indexed by `RuleId` of the rule set in force.
    pub fn rule_counters(&self) -> &[RuleCounters] {
        &self.rule_counters
    }

    /// How full each table is.
    pub fn table_use(&self) -> Vec<TableUse> {
        let limits = &self.limits;
        let flood = self.flood();
        let row = |name, used: u32, limit: u32| TableUse {
            name,
            used: u64::from(used),
            limit: u64::from(limit),
        };
        vec![
            row("flows", self.flows.len(), limits.flows),
            row("mappings", self.translator.mappings.len(), limits.mappings),
            row("fragmented-datagrams", self.fragments.len(), limits.fragmented_datagrams),
            row("half-open", self.half_open.len(), flood.half_open),
            row("neighbours", self.neighbours.len(), limits.neighbours),
            row("parked-packets", self.neighbours.parked(), limits.parked),
            row("transmit-queue", self.outbox.len() as u32, limits.transmit_queue),
        ]
    }

    /// At most `limit` flows from slot `from` on, and the slot to go on from, `None` at the end:
    /// a million flows are listed without stopping the packets. A page looks at so many slots at
    /// most, and may be empty.
    pub fn flows(&self, from: u32, limit: u32) -> (Vec<FlowReport>, Option<u32>) {
        let Range { start, end } = self.page(from);
        let mut reports = Vec::new();
        for slot in start..end {
            if let Some(report) = self.flows.report(Slot(slot)) {
                if reports.len() >= limit as usize {
                    return (reports, Some(slot));
                }
                reports.push(report);
            }
        }
        (reports, (end < self.flows.slots()).then_some(end))
    }

    /// Learns what the datapath has done for the flows of such a page, so that it is exact.
    pub fn update_flows(&mut self, now: Time, from: u32, limit: u32) {
        let listed = self.page(from).map(Slot).filter(|slot| self.flows.get(*slot).is_some());
        let listed: Vec<Slot> = listed.take(limit as usize).collect();
        for slot in listed {
            self.update_moved(now, slot);
        }
    }

    fn page(&self, from: u32) -> Range<u32> {
        const SLOTS_PER_PAGE: u32 = 65_536;
        from..from.saturating_add(SLOTS_PER_PAGE).min(self.flows.slots())
    }
}
