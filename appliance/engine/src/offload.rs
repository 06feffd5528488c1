//! Flows that the datapath moves by itself: told to it when they are established, and taken from it
//! when they end. A datapath that moves none is never told.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{FlowId, FlowState, Usage};
use crate::flows::Slot;
use crate::recheck::Standing;
use crate::{Direction, Engine, FlowChange, TcpState, Time};

/// What the datapath is to be told, and which flows it has.
#[derive(Debug)]
pub(crate) struct Offloading {
    wanted: bool,
    changes: VecDeque<FlowChange>,
    installed: BTreeMap<FlowId, Slot>,
}

impl Offloading {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted, changes: VecDeque::new(), installed: BTreeMap::new() }
    }

    pub(crate) fn poll(&mut self) -> Option<FlowChange> {
        self.changes.pop_front()
    }

    /// The flow has gone, or is to be decided packet by packet again.
    pub(crate) fn withdraw(&mut self, id: FlowId) {
        if self.wanted && self.installed.remove(&id).is_some() {
            self.changes.push_back(FlowChange::Remove { id });
        }
    }
}

impl Engine {
    /// Hands a flow over once both sides have spoken.
    pub(crate) fn offer(&mut self, slot: Slot) {
        if !self.offloading.wanted {
            return;
        }
        let Some(report) = self.flows.report(slot) else { return };
        let settled = match report.state {
            FlowState::Tcp(state) => state == TcpState::Established,
            FlowState::Replied => true,
            FlowState::Unreplied => false,
        };
        if settled {
            if self.offloading.installed.insert(report.id, slot).is_none() {
                self.offloading.changes.push_back(FlowChange::Install { flow: report });
            }
        } else {
            self.offloading.withdraw(report.id);
        }
    }

    /// What an offloading datapath has moved of a flow since it last said so.
    pub fn handle_flow_usage(&mut self, now: Time, id: FlowId, original: Usage, reply: Usage) {
        let Some(&slot) = self.offloading.installed.get(&id) else { return };
        // What was moved while the policy changed counts for the rule that now permits the flow.
        if self.still_permitted(now, slot) != Standing::Permitted {
            return;
        }
        for (direction, moved) in [(Direction::Original, original), (Direction::Reply, reply)] {
            self.add_usage(slot, direction, moved);
        }
        if original.packets + reply.packets > 0 {
            let tracker = self.flows[slot].tracker();
            self.refresh(now, slot, &tracker);
        }
    }
}
