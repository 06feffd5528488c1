//! Leaving: flows are handed over one by one, while packets go on.

use std::time::Duration;

use super::NodeState;
use super::channel::Item;
use super::directory::Hint;
use super::message::{Message, Term};
use super::record::Record;
use super::rendezvous::Pair;
use super::share::{OFFERED, REPLICATED};
use super::{Cluster, NodeId};
use crate::flows::{FlowTable, Slot};
use crate::{Engine, Time};

impl Engine {
    /// Begins to hand this node's flows over; or stops to.
    pub fn set_draining(&mut self, now: Time, draining: bool) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.state = match (draining, cluster.state) {
            (true, _) => NodeState::Draining,
            // Ready at once, if it ever was.
            (false, NodeState::Draining) => NodeState::Joining,
            (false, other @ (NodeState::Joining | NodeState::Ready)) => other,
        };
        cluster.beat_now(now);
        // What is another's goes on to it; of this node's own, nothing is moved until it is looked at.
        self.outdate_judgements();
        self.look_around(now);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.state == NodeState::Draining)
    }

    pub(super) fn hear_handover(&mut self, now: Time, from: NodeId, record: Record) {
        let expires = now + Duration::from_millis(record.remaining.into());
        let key = record.first();
        let Some(cluster) = &mut self.cluster else { return };
        let ended = cluster.directory.ended(now, &key);
        // The offer may have waited while this node stood still, and the flow has ended: not now.
        cluster.notice_pause(now);
        if cluster.has_stood_still(now, Duration::ZERO) {
            cluster.tell(from, Message::Taken { key, accepted: false, term: record.term });
            return;
        }
        let found = self.flows.find(&record.original).map(|(slot, _)| slot);
        if found.is_some_and(|slot| cluster.shares.get(slot).birth != record.birth) {
            // Both nodes have begun one: claims decide, and it may be offered again.
            cluster.tell(from, Message::Taken { key, accepted: false, term: record.term });
            return;
        }
        let taken = match found {
            // It was repeated.
            Some(slot) => Some(slot),
            None if ended.is_some_and(|end| end.ends(record.birth, record.term)) => None,
            None => self.take_over(now, &record, expires).ok(),
        };
        let Some(cluster) = &mut self.cluster else { return };
        if taken.is_some() {
            cluster.directory.take_replica(&key);
            cluster.directory.drop_hint(&key);
            cluster.directory.drop_hint(&record.second());
        }
        let accepted = taken.is_some();
        let term = taken.map_or(Term(0), |slot| cluster.shares.get(slot).term);
        cluster.tell(from, Message::Taken { key, accepted, term });
    }

    /// The flow is the other node's now, if it has taken it.
    pub(super) fn hear_taken(
        &mut self,
        now: Time,
        from: NodeId,
        key: Pair,
        accepted: bool,
        term: Term,
    ) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        cluster.hear(term);
        let Some(slot) = super::announce::slot_of(flows, &key) else {
            // The offer has come late: the flow had ended.
            if let Some(end) = cluster.directory.ended(now, &key).filter(|_| accepted) {
                cluster.tell(from, Message::Ended { key, end });
            }
            return;
        };
        if !accepted && cluster.shares.get(slot).term == term {
            cluster.shares.mark(slot, OFFERED, false);
        }
        if !accepted || cluster.shares.get(slot).term >= term {
            return;
        }
        let second = super::announce::key_of(flows, slot, 1);
        self.lose_to(now, slot, Hint { key, owner: from, term });
        if let (Some(second), Some(cluster)) = (second, &mut self.cluster) {
            cluster.note_hint(now, Hint { key: second, owner: from, term });
        }
    }
}

impl Cluster {
    /// Offers a flow to the node that keeps its copy, if this one leaves and the flow can.
    pub(super) fn offer(&mut self, flows: &FlowTable, slot: Slot) {
        let share = self.shares.get(slot);
        let Some(entry) = flows.get(slot) else { return };
        let is_due = self.state == NodeState::Draining
            && share.has(REPLICATED)
            && !share.has(OFFERED)
            && !entry.is_from_own_address();
        if !is_due {
            return;
        }
        let item = Item::Handover { slot, id: entry.id() };
        if let Some(peer) = share.holders[0].and_then(|holder| self.peer(holder))
            && peer.channel.tell(item)
        {
            self.shares.mark(slot, OFFERED, true);
        }
    }
}
