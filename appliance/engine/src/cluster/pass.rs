//! After the view has changed: flows' keys are registered where they are to be looked for now.

use super::NodeId;
use super::message::Message;
use crate::flows::Slot;
use crate::recheck::FLOWS_PER_TURN;
use crate::{Engine, Time};

impl Engine {
    pub(super) fn begin_pass(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.pass = Some(0);
        }
    }

    /// Looks at some flows' holders; when all were looked at and everything has come, peers have been
    /// told all that they are to know.
    pub(super) fn go_on_with_pass(&mut self, _now: Time) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        if let Some(from) = cluster.pass {
            let end = from.saturating_add(FLOWS_PER_TURN).min(flows.slots());
            for slot in (from..end).map(Slot) {
                let Some(entry) = flows.get(slot) else { continue };
                let id = entry.id();
                for side in 0..=1 {
                    cluster.place(flows, slot, id, side);
                }
            }
            cluster.pass = (end < flows.slots()).then_some(end);
        }
        if cluster.pass.is_none() {
            for peer in &mut cluster.peers {
                peer.told |= cluster.view.contains(peer.node) && peer.channel.is_idle();
            }
        }
    }

    pub(super) fn hear_round(&mut self, _now: Time, _from: NodeId, _message: Message) {}
}
