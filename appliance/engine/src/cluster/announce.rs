//! What this node says of the flows that it owns: that they are there, how they are, and that they have
//! ended.

use super::channel::Item;
use super::consult::Passage;
use super::digests;
use super::message::{Birth, End, Message, Rank};
use super::record::Record;
use super::rendezvous::Pair;
use super::share::{
    self, AWAITED, COVERED, ESTABLISHED, KEY_OF_SIDE, RECORD_WAITS, REGISTER_WAITS, REGISTERED,
    REPLICATED, SIDES, Share,
};
use super::word::{moved, rank_of, seconds};
use super::{Cluster, NodeId};
use crate::event::FlowState;
use crate::flows::{Flow, FlowTable, Slot, Tracker};
use crate::judge::Refusal;
use crate::packet::Packet;
use crate::tcp::TcpState;
use crate::translate::Translator;
use crate::{Direction, Engine, FlowKey, InterfaceId, Time};

/// Records are sent of flows whose time has gone on by so much.
const REFRESH_SECONDS: u32 = 10;

impl Engine {
    /// A flow that the rules admit, and of which other nodes are told; its packet came in by another node or
    /// by this one.
    pub(crate) fn begin(
        &mut self,
        now: Time,
        from: InterfaceId,
        packet: &Packet,
        key: FlowKey,
        by: Option<NodeId>,
    ) -> Result<Passage, Refusal> {
        let slot = self.admit(now, from, packet, key)?;
        self.announce(slot, None);
        self.note_leg(now, slot, Direction::Original, by);
        Ok(self.passage(slot, Direction::Original))
    }

    /// A flow has begun: its keys are registered before its first packet leaves. One that is taken over has
    /// a birth and legs already.
    pub(crate) fn announce(&mut self, slot: Slot, adopted: Option<&Record>) {
        for key in [0, 1].map(|side| key_of(&self.flows, slot, side)).into_iter().flatten() {
            self.drop_relay(&key);
        }
        let is_new = self.cluster.is_some() && adopted.is_none();
        let waits = is_new && (self.is_strict(slot) || self.is_answered_elsewhere(slot));
        let Self { cluster: Some(cluster), flows, translator, .. } = self else { return };
        let Some(entry) = flows.get(slot) else { return };
        let id = entry.id();
        let (doubt, losses) = (cluster.pauses, cluster.losses);
        let term = cluster.tick();
        let birth = adopted.map_or(Birth::of(term, cluster.me()), |record| record.birth);
        let legs = adopted.map_or_else(Default::default, |record| record.legs);
        let share = Share { term, birth, doubt, losses, legs, ..Share::default() };
        cluster.shares.begin(slot, share);
        for side in 0..SIDES as u8 {
            cluster.place(translator, flows, slot, id, side);
        }
        if waits && !cluster.shares.get(slot).is_known() {
            cluster.shares.mark(slot, AWAITED, true);
        }
        if adopted.is_some()
            && let Some(key) = key_of(flows, slot, 0)
        {
            cluster.replace_copies(slot, key);
        }
    }

    /// The flow's state is another: its backup is to know, or its director that the key is free.
    pub(crate) fn tell_change(&mut self, slot: Slot, tracker: &Tracker) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let state = tracker.state();
        let established = matches!(
            state,
            FlowState::Replied | FlowState::Tcp(TcpState::Established | TcpState::Closing)
        );
        cluster.shares.mark(slot, ESTABLISHED, established);
        cluster.shares.mark(slot, share::CLOSED, state == FlowState::Tcp(TcpState::Closed));
        if state == FlowState::Tcp(TcpState::Closed) {
            for side in 0..SIDES as u8 {
                cluster.say(flows, slot, side);
            }
            // What it was would be taken over, and outlive it.
            if cluster.shares.get(slot).has(REPLICATED) {
                cluster.replicate(flows, slot);
            }
        } else if established {
            cluster.replicate(flows, slot);
        }
    }

    /// The flow has ended. It is out of the table already, and has its port still.
    pub(crate) fn tell_end(&mut self, now: Time, slot: Slot, flow: &Flow) {
        let Some(cluster) = &mut self.cluster else { return };
        let share = cluster.shares.end(slot);
        let [first, second] = [Pair::from(flow.original), Pair::from(flow.reply)];
        let Share { birth, term, .. } = share;
        let is_over = rank_of(&flow.tracker) == Rank::Closed;
        let end = End { birth, term, is_over };
        for (side, holder) in KEY_OF_SIDE.into_iter().zip(share.holders) {
            if let Some(holder) = holder {
                let key = if side == 0 { first } else { second };
                cluster.tell(holder, Message::Gone { key, end });
            }
        }
        // Others may have it too, of whom this node does not know: an owner that it was taken from, and who
        // stood still.
        if birth != Birth::NONE && (share.has(REPLICATED) || birth != Birth::of(term, cluster.me()))
        {
            cluster.directory.bury(now, None, first, end);
            cluster.directory.bury(now, None, second, end);
        }
        self.rest_port(now, &share, flow);
    }

    /// The flow is somebody else's now, who has said so to those whom it concerns.
    pub(crate) fn tell_nothing(&mut self, slot: Slot) {
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(share) = cluster.shares.get_mut(slot) {
            share.holders = [None; SIDES];
            share.birth = Birth::NONE;
        }
    }

    /// Looks at some flows: whether their backups should hear again how they are.
    pub(crate) fn scan_flows(&mut self, now: Time, count: u32) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let slots = flows.slots();
        for _ in 0..count.min(slots) {
            if cluster.scan >= slots {
                cluster.scan = 0;
                cluster.send_digests();
            }
            let slot = Slot(cluster.scan);
            cluster.scan += 1;
            let Some(entry) = flows.get(slot) else { continue };
            let share = cluster.shares.get(slot);
            if rank_of(&entry.tracker()) > Rank::Closed {
                cluster.add_to_digests(&share);
            }
            let is_due = if share.has(REPLICATED) {
                let expires = seconds(entry.expires());
                let moved = moved(flows, slot);
                expires > share.expires + REFRESH_SECONDS || moved != share.moved
            } else {
                now.since(entry.opened()) >= super::presence::REPLICATE_AFTER
                    && !entry.is_filtered()
            };
            if is_due {
                cluster.replicate(flows, slot);
            }
            cluster.offer(flows, slot);
        }
    }
}

impl Cluster {
    /// Looks for the holder of a flow's key and tells it, if it is another than before.
    pub(crate) fn place(
        &mut self,
        translator: &Translator,
        flows: &FlowTable,
        slot: Slot,
        id: crate::FlowId,
        side: u8,
    ) {
        let Some(key) = key_of(flows, slot, side) else { return };
        let holder = match side {
            2 => self.giver_of(translator, &flows.key(slot, Direction::Reply)),
            side if share::BESIDE.contains(&side) => self.holder_beside(&key),
            _ => self.holder_elsewhere(&key),
        };
        let at = usize::from(side);
        let bit = digests::bit(self.shares.get(slot).term);
        let owes =
            |holder| self.peers.iter().any(|peer| peer.node == holder && peer.owes & bit != 0);
        let Some(share) = self.shares.get_mut(slot) else { return };
        let is_told = share.holders[at] == holder && holder.is_none_or(|holder| !owes(holder));
        if is_told {
            return;
        }
        let before = std::mem::replace(&mut share.holders[at], holder);
        let term = share.term;
        // Who cannot be heard may hear: it is on its own then, and needs what it keeps.
        let is_old = |before: &NodeId| Some(*before) != holder && self.is_alive(*before);
        if let Some(before) = before.filter(is_old) {
            self.tell(before, Message::Elsewhere { key, term });
        }
        let marks = REGISTERED[at] | REGISTER_WAITS[at] | share::OFFERED;
        self.shares.mark(slot, marks, false);
        self.tell_registration(holder, slot, id, side);
        if side == 0 {
            self.shares.mark(slot, COVERED | RECORD_WAITS, false);
            if self.shares.get(slot).has(REPLICATED) {
                self.tell_record(slot, id);
            }
        }
    }

    /// Whom this node tells of a key so that its machine can go: the director, if that is elsewhere, and him who
    /// becomes it.
    pub(super) fn holder_elsewhere(&self, key: &Pair) -> Option<NodeId> {
        self.rendezvous.director(key, self.directors.without_all(self.machines.around(self.me())))
    }

    /// The director where that is another worker of this machine: whoever claims the key too is told of there.
    fn holder_beside(&self, key: &Pair) -> Option<NodeId> {
        let holder = self.rendezvous.holder(key, self.directors, self.me());
        holder.filter(|holder| self.is_beside(*holder))
    }

    /// The flow has been taken over: copies of the last owner's, wherever they are, are old.
    fn replace_copies(&mut self, slot: Slot, key: Pair) {
        let share = self.shares.get(slot);
        let others = self.view.without(self.me()).nodes();
        let [elsewhere, _, _, beside, _] = share.holders;
        for peer in others.filter(|peer| ![elsewhere, beside].contains(&Some(*peer))) {
            self.tell(peer, Message::Elsewhere { key, term: share.term });
        }
    }

    /// Another node that gives out the port which a flow has.
    fn giver_of(&self, translator: &Translator, reply: &FlowKey) -> Option<NodeId> {
        translator.owner_of(reply).filter(|giver| *giver != self.me() && self.is_alive(*giver))
    }

    /// Registers a key again where it is registered.
    pub(crate) fn say(&mut self, flows: &FlowTable, slot: Slot, side: u8) {
        let Some(entry) = flows.get(slot) else { return };
        let holder = self.shares.get(slot).holders[usize::from(side)];
        self.tell_registration(holder, slot, entry.id(), side);
    }

    /// A record of the flow is to be sent.
    pub(crate) fn replicate(&mut self, flows: &FlowTable, slot: Slot) {
        let Some(entry) = flows.get(slot) else { return };
        let id = entry.id();
        self.shares.mark(slot, REPLICATED, true);
        self.tell_record(slot, id);
    }

    fn tell_registration(
        &mut self,
        holder: Option<NodeId>,
        slot: Slot,
        id: crate::FlowId,
        side: u8,
    ) {
        let waits = REGISTER_WAITS[usize::from(side)];
        if self.shares.get(slot).has(waits) {
            return;
        }
        if let Some(peer) = holder.and_then(|holder| self.peer(holder))
            && peer.channel.tell(Item::Register { slot, id, side })
        {
            self.shares.mark(slot, waits, true);
        }
    }

    fn tell_record(&mut self, slot: Slot, id: crate::FlowId) {
        let share = self.shares.get(slot);
        if share.has(RECORD_WAITS) {
            return;
        }
        let Some(peer) = share.holders[0].and_then(|holder| self.peer(holder)) else { return };
        let has_room = peer.channel.tell(Item::Record { slot, id });
        self.shares.mark(slot, RECORD_WAITS, has_room);
        if !has_room {
            // As one of which there is no record yet: it is looked for again within a second.
            self.shares.mark(slot, REPLICATED, false);
        }
    }

    /// Tells peers what they are to know, as it was when this node's flows were looked at.
    fn send_digests(&mut self) {
        for peer in &mut self.peers {
            let sums = std::mem::take(&mut peer.sums);
            if self.view.contains(peer.node) && peer.owes == 0 {
                for part in 0..2 {
                    peer.channel.note(Message::Digest { part, sums: sums.part(part) });
                }
            }
        }
    }

    fn add_to_digests(&mut self, share: &Share) {
        let [_, second, giver, _, beside] = share.holders;
        for (side, holder) in share.holders.into_iter().enumerate() {
            // One who is asked for the key and gave out its port is told once.
            let is_told = side == 2 && [second, beside].contains(&giver);
            if let Some(peer) = holder.filter(|_| !is_told).and_then(|node| self.peer(node)) {
                peer.sums.add(share.term, side > 0);
            }
        }
    }
}

/// The flow of this node's that has the key, on either side and whichever way its packets go.
pub(super) fn slot_of(flows: &FlowTable, key: &Pair) -> Option<Slot> {
    let key = key.key();
    let found = flows.find(&key).or_else(|| flows.find(&key.reversed()));
    found.map(|(slot, _)| slot)
}

/// The first or the second key; no second one where both are the same.
pub(crate) fn key_of(flows: &FlowTable, slot: Slot, side: u8) -> Option<Pair> {
    let key = |way| Pair::from(flows.key(slot, way));
    match KEY_OF_SIDE.get(usize::from(side)) {
        Some(0) => Some(key(Direction::Original)),
        Some(_) | None => {
            Some(key(Direction::Reply)).filter(|second| *second != key(Direction::Original))
        }
    }
}
