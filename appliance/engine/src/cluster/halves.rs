//! A connection that two nodes have had for a while, each a half of it: what the one has seen that gives way,
//! the other is told. Neither could see alone that it has ended.

use super::message::{Message, Rank};
use super::record::Record;
use super::share::{REFUTED, REPLICATED};
use super::word::rank_of;
use super::{Cluster, NodeId};
use crate::flows::{FlowTable, Slot, Tracker};
use crate::packet::{Packet, Segment};
use crate::tcp::TcpEffect;
use crate::{Direction, Engine, Time};

impl Cluster {
    /// The flow is about to be another node's.
    pub(super) fn tell_what_was_seen(
        &mut self,
        now: Time,
        flows: &FlowTable,
        slot: Slot,
        to: NodeId,
    ) {
        let tracker = flows[slot].tracker();
        let may_help = matches!(tracker, Tracker::Tcp(_)) && rank_of(&tracker) == Rank::Open;
        if may_help
            && self.shares.get(slot).has(REPLICATED)
            && let Some(record) = self.record(now, flows, slot)
        {
            self.tell(to, Message::Record(record));
        }
    }
}

impl Engine {
    /// A packet is none of the flow's. Another node may have the connection that its originator is in: the same SYN
    /// came to both while they did not hear each other, each went out by a port of its own, and both were answered.
    pub(crate) fn doubt_answer(&mut self, slot: Slot, direction: Direction, packet: &Packet) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let (Tracker::Tcp(tcp), Segment::Tcp(segment)) = (flows[slot].tracker(), &packet.segment)
        else {
            return;
        };
        let is_known = cluster.shares.get(slot).has(REFUTED);
        if !is_known && tcp.is_answered_elsewhere(direction, segment) {
            cluster.shares.mark(slot, REFUTED, true);
            for side in 0..=1 {
                cluster.say(flows, slot, side);
            }
        }
    }

    /// Another node has had this flow of ours, and has seen this of it.
    pub(super) fn learn_from(&mut self, now: Time, slot: Slot, record: &Record) {
        self.take_usage(now, slot);
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let (Tracker::Tcp(mut tcp), Tracker::Tcp(seen)) = (flows[slot].tracker(), record.tracker)
        else {
            return;
        };
        if cluster.shares.get(slot).birth != record.birth {
            return;
        }
        let effect = tcp.merge(&seen);
        let tracker = Tracker::Tcp(tcp);
        flows[slot].set_tracker(&tracker);
        self.withdraw_changed(now, slot, &tracker, effect);
        if let TcpEffect::Moved { to, .. } = effect {
            self.moved(now, slot, &tracker, to);
            self.tell_change(slot, &tracker);
        }
    }
}
