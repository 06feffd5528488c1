//! What a node says of a flow of its own when a datagram leaves: its right to the keys, and how the flow is; and what it
//! knows of that when the datagram has come.

use super::announce::key_of;
use super::channel::Item;
use super::message::{Claim, Message, Rank, Registration};
use super::ports::Ends;
use super::record::{Record, Translation};
use super::share::{
    self, AWAITED, COVERED, RECORD_WAITS, REGISTER_WAITS, REGISTERED, Share, Shares,
};
use super::{Cluster, NodeId};
use crate::event::FlowState;
use crate::flows::{FlowTable, Slot, Tracker};
use crate::tcp::TcpState;
use crate::{Direction, Time};

/// Records are sent of flows that have moved so much since.
const BYTES_MOVED: u64 = 64 << 20;

impl Cluster {
    /// What an item says now; nothing where the flow has gone or the peer is not concerned any more.
    pub(crate) fn word(
        &mut self,
        now: Time,
        flows: &FlowTable,
        to: NodeId,
        item: &Item,
    ) -> Option<Message> {
        match *item {
            Item::Said(message) => Some(message),
            Item::Register { slot, id, side } => {
                flows.get(slot).filter(|flow| flow.id() == id)?;
                let at = usize::from(side);
                self.shares.mark(slot, REGISTER_WAITS[at], false);
                let share = self.shares.get(slot);
                if share.holders[at] != Some(to) {
                    return None;
                }
                let (key, first) = (key_of(flows, slot, side)?, key_of(flows, slot, 0)?);
                let first = (first != key).then_some(first);
                let (claim, round) = (self.claim(flows, slot), self.peer(to)?.round);
                Some(Message::Register(Registration { key, first, claim, round }))
            }
            Item::Record { slot, id } => {
                flows.get(slot).filter(|flow| flow.id() == id)?;
                self.shares.mark(slot, RECORD_WAITS, false);
                if self.shares.get(slot).holders[0] != Some(to) {
                    return None;
                }
                self.record(now, flows, slot).map(Message::Record)
            }
            Item::Handover { slot, id } => {
                flows.get(slot).filter(|flow| flow.id() == id)?;
                self.record(now, flows, slot).map(Message::Handover)
            }
        }
    }

    /// A peer has what an item said; of flows that have ended, it is put down which.
    pub(super) fn came(
        shares: &mut Shares,
        ends: &mut Ends,
        flows: &FlowTable,
        from: NodeId,
        item: &Item,
    ) {
        let is_there = |slot, id| flows.get(slot).is_some_and(|flow| flow.id() == id);
        let holds = |shares: &Shares, slot, side: u8| {
            shares.get(slot).holders[usize::from(side)] == Some(from)
        };
        match *item {
            Item::Said(Message::Gone { key, .. }) => ends.heard.push(key),
            Item::Said(Message::Told { .. }) => ends.all = true,
            Item::Register { slot, id, side }
                if is_there(slot, id) && holds(shares, slot, side) =>
            {
                shares.mark(slot, REGISTERED[usize::from(side)], true);
                if shares.get(slot).has(AWAITED) && shares.get(slot).is_known() {
                    shares.mark(slot, AWAITED, false);
                    ends.known.extend(key_of(flows, slot, 0));
                }
            }
            Item::Record { slot, id } if is_there(slot, id) && holds(shares, slot, 0) => {
                shares.mark(slot, COVERED, true);
            }
            Item::Register { .. } | Item::Record { .. } | Item::Handover { .. } | Item::Said(_) => {
            }
        }
    }

    /// This node's right to a flow of its own.
    pub(super) fn claim(&self, flows: &FlowTable, slot: Slot) -> Claim {
        let share = self.shares.get(slot);
        let shown = rank_of(&flows[slot].tracker());
        let is_refuted = shown == Rank::Answered && share.has(share::REFUTED);
        let rank = if is_refuted { Rank::Opening } else { shown };
        let Share { term, birth, .. } = share;
        Claim { rank, term, owner: self.me(), birth }
    }

    pub(super) fn record(&mut self, now: Time, flows: &FlowTable, slot: Slot) -> Option<Record> {
        let flow = flows.read(slot)?;
        let share = self.shares.get_mut(slot)?;
        share.version = share.version.wrapping_add(1);
        share.expires = seconds(flow.expires);
        share.moved = moved(flows, slot);
        let (term, version, legs) = (share.term, share.version, share.legs);
        let birth = share.birth;
        let zones = [flow.admission.from, flow.admission.to]
            .map(|zone| self.zone_tags.get(usize::from(zone.0)).copied().unwrap_or_default());
        let remaining = flow.expires.since(now).as_millis();
        Some(Record {
            original: flow.original,
            reply: flow.reply,
            birth,
            term,
            version,
            zones,
            legs,
            tracker: flow.tracker,
            translation: Translation::of(&flow),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        })
    }
}

pub(super) fn rank_of(tracker: &Tracker) -> Rank {
    match tracker.state() {
        FlowState::Tcp(TcpState::Closed) => Rank::Closed,
        FlowState::Tcp(TcpState::SynSent) | FlowState::Unreplied => Rank::Opening,
        FlowState::Tcp(TcpState::SynReceived) => Rank::Answered,
        FlowState::Tcp(TcpState::Established | TcpState::Closing) | FlowState::Replied => {
            Rank::Open
        }
    }
}

pub(super) fn seconds(time: Time) -> u32 {
    (time.as_nanos() / 1_000_000_000) as u32
}

/// In steps of which each wants a record.
pub(super) fn moved(flows: &FlowTable, slot: Slot) -> u16 {
    let flow = &flows[slot];
    let bytes = Direction::BOTH.map(|way| flow.usage(way).bytes);
    (bytes.iter().sum::<u64>() / BYTES_MOVED) as u16
}
