//! Flows that the datapath moves by itself: told to it when they are established, and taken from it
//! when they end. A datapath that moves none is never told.

use std::collections::VecDeque;

use crate::chains::{HasKey, Keyed};
use crate::event::{FlowId, FlowState, Usage};
use crate::flows::Slot;
use crate::recheck::Standing;
use crate::{Direction, Engine, FlowChange, TcpState, Time};

/// What the datapath is to be told, and which flows it has.
#[derive(Debug)]
pub(crate) struct Offloading {
    wanted: bool,
    changes: VecDeque<FlowChange>,
    installed: Keyed<Installed>,
}

#[derive(Debug, Clone, Copy)]
struct Installed {
    id: FlowId,
    slot: Slot,
}

impl HasKey for Installed {
    type Key = FlowId;

    fn key(&self) -> FlowId {
        self.id
    }
}

/// Changes that are held without new memory: the datapath takes them after each batch.
const CHANGES: usize = 1_024;

impl Offloading {
    /// For a table of so many flows; `key` seeds the hash.
    pub(crate) fn new(wanted: bool, flows: u32, key: [u8; 16]) -> Self {
        let (room, changes) = if wanted { (flows, CHANGES) } else { (0, 0) };
        let changes = VecDeque::with_capacity(changes);
        Self { wanted, changes, installed: Keyed::new(room, key) }
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
            let installed = &mut self.offloading.installed;
            if installed.get(&report.id).is_none()
                && installed.get_or_insert(Installed { id: report.id, slot }).is_some()
            {
                self.offloading.changes.push_back(FlowChange::Install { flow: report });
            }
        } else {
            self.offloading.withdraw(report.id);
        }
    }

    /// What an offloading datapath has moved of a flow since it last said so.
    pub fn handle_flow_usage(&mut self, now: Time, id: FlowId, original: Usage, reply: Usage) {
        let Some(&Installed { slot, .. }) = self.offloading.installed.get(&id) else { return };
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
