//! Taking over what an earlier process has left in the table: flows that go on meanwhile.
//!
//! Nothing is believed of them but who they are and how far. Each is judged as a packet of it would be by the policy in
//! force, keeps the translation that it has, and goes on under the judgement that it was moved by: there is no moment
//! in which it is nobody's. What the policy, the network or this node's own tables do not allow is taken back.

use super::{FLOWS_PER_TURN, FastPath, FastPlace, FastWindow};
use crate::event::FlowState;
use crate::flows::{DestinationChoice, Flow, Slot, SourceChoice, Tracker};
use crate::tcp::{TcpState, TcpTracker};
use crate::translate::Lease;
use crate::{Direction, Engine, FlowKey, InterfaceId, Time, Usage};

/// A flow that an earlier process had moved. Pairs are indexed by [`Direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastRemains {
    pub keys: [FlowKey; 2],
    /// That packets of each direction came in by.
    /// `None` where that is not there any more.
    pub ingress: Option<[InterfaceId; 2]>,
    pub tcp: Option<[FastWindow; 2]>,
    /// Since it was opened.
    pub usage: [Usage; 2],
    pub opened: Time,
    /// No later than this was its last packet.
    pub seen: Time,
}

/// What became of flows that an earlier process had moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resumed {
    pub kept: u32,
    pub ended: u32,
}

impl Engine {
    /// As [`use_fast_path`](Self::use_fast_path), with the flows that are in the table already. To be called when rules
    /// and network are known, before the first packet; calls `turn` now and then.
    pub fn resume_fast_path(
        &mut self,
        now: Time,
        mut table: Box<dyn FastPath>,
        mut turn: impl FnMut(),
    ) -> Resumed {
        let (stamp, places) = (table.stamp().max(1), table.begin_resuming());
        self.take_table(table, stamp);
        let mut resumed = Resumed::default();
        for place in (0..places).map(FastPlace) {
            if place.0.is_multiple_of(FLOWS_PER_TURN) {
                turn();
            }
            let Some(table) = &mut self.offloading.table else { break };
            let Some(remains) = table.remains(place) else { continue };
            match self.resume(now, &remains) {
                Some(slot) => {
                    resumed.kept += 1;
                    self.offloading.places[slot.0 as usize] = place.0 + 1;
                    self.offloading.installed += 1;
                    self.offer(now, slot);
                }
                None => {
                    resumed.ended += 1;
                    if let Some(table) = &mut self.offloading.table {
                        table.remove(place);
                    }
                }
            }
        }
        self.tell_judgement();
        resumed
    }

    fn resume(&mut self, now: Time, remains: &FastRemains) -> Option<Slot> {
        // Others have taken over the flows of a member that has died.
        if self.cluster.is_some() {
            return None;
        }
        let flow = self.flow_of_remains(remains)?;
        let admission = self.judge_anew(&flow).ok()?;
        let expires = remains.seen + self.timeout(Some(admission.rule), &flow.tracker);
        if expires <= now {
            return None;
        }
        let lease = match (admission.source, admission.destination) {
            // The mapping that a stranger came in by may not be there yet.
            (_, DestinationChoice::Mapping | DestinationChoice::Filtered) => return None,
            (SourceChoice::Hairpin, _) => return None,
            (SourceChoice::AsSent, _) => Lease::Nothing,
            (SourceChoice::Rule(id), _) => {
                self.inherit_translation(now, &flow.original, &flow.reply, id)?
            }
        };
        let flow = Flow { admission, lease, expires, ..flow };
        let slot = self.insert_flow(now, &flow).ok()?;
        // It has shown that it lives.
        if !flow.half_open {
            self.expendable.remove(slot.0);
        }
        for direction in Direction::BOTH {
            // Where none is found, its next packet asks again.
            let _ = self.side_hop(slot, direction);
        }
        Some(slot)
    }

    fn flow_of_remains(&mut self, remains: &FastRemains) -> Option<Flow> {
        let tracker = match &remains.tcp {
            // Its originator sends its SYN again.
            Some([_, replier]) if replier.window == 0 => return None,
            Some(windows) => Tracker::Tcp(TcpTracker::settled_at(windows)),
            None => Tracker::Udp { replied: true },
        };
        let mut flow = self.unjudged_flow(remains.keys, remains.ingress?, tracker)?;
        for (side, usage) in flow.sides.iter_mut().zip(remains.usage) {
            side.usage = usage;
        }
        let half_open = flow.tracker.state() == FlowState::Tcp(TcpState::SynReceived);
        Some(Flow { opened: remains.opened, half_open, ..flow })
    }
}
