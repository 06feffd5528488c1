//! Connections one side of which sends by way of a machine that has gone: load balancers that pin
//! connections do not move them. They would hang for minutes; they are reset instead.

use std::time::Duration;

use super::message::Birth;
use super::{Cluster, NodeId};
use crate::event::CloseReason;
use crate::flows::{Slot, Tracker};
use crate::packet::{Packet, Segment};
use crate::recheck::{FLOWS_PER_TURN, Standing};
use crate::tcp::TcpTracker;
use crate::{Direction, Engine, FlowKey, Time, reply};

/// All flows are gone through at once, again for those whose next hops were not known, again as Linux answers
/// a segment that does not fit twice a second only (`tcp_invalid_ratelimit`), and a last time to end by what is
/// known of them those that did not answer. Each round begins so long after the one before.
const ROUNDS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(550),
    Duration::from_millis(600),
];

/// Where the search for connections of a machine that has gone stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    round: usize,
    begins: Time,
    /// Over the copies' places, and then over the flows' slots.
    at: u32,
}

impl Search {
    pub(super) const fn new(begins: Time) -> Self {
        Self { round: 0, begins, at: 0 }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        (self.round < ROUNDS.len()).then_some(self.begins)
    }
}

/// A connection of this node's, or one that it keeps a copy of; keys are as packets of each direction come in.
struct Connection {
    keys: [FlowKey; 2],
    tcp: TcpTracker,
}

impl Engine {
    /// A peer was lost, and may live: what came by it is heard by it alone. Windows are learnt anew, so that
    /// one half of a connection is enough to go on with.
    pub(crate) fn relearn(&mut self, slot: Slot) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let losses = cluster.losses;
        let Some(share) = cluster.shares.get_mut(slot).filter(|share| share.losses != losses)
        else {
            return;
        };
        share.losses = losses;
        if let Tracker::Tcp(tcp) = flows[slot].tracker()
            && let Some(loose) = tcp.adopted()
        {
            flows[slot].set_tracker(&Tracker::Tcp(loose));
        }
    }

    /// A packet passes in this direction, which came in by another node or by this one.
    pub(crate) fn note_leg(
        &mut self,
        now: Time,
        slot: Slot,
        direction: Direction,
        by: Option<NodeId>,
    ) {
        let Some(cluster) = &mut self.cluster else { return };
        let by = by.unwrap_or(cluster.me());
        if let Some(share) = cluster.shares.get_mut(slot)
            && share.legs[direction.index()] != by
        {
            share.legs[direction.index()] = by;
        }
        if let Tracker::Tcp(_) = self.flows[slot].tracker() {
            self.fall_behind(now, slot);
        }
    }

    /// Goes on with the search for what the machines that have gone have left.
    pub(super) fn search_lost_legs(&mut self, now: Time) {
        let Some(cluster) = &self.cluster else { return };
        let due = cluster.peers.iter().enumerate().find_map(|(place, peer)| {
            let begins = peer.search.filter(|_| !cluster.is_alive(peer.node))?.poll_timeout()?;
            (begins <= now).then_some((place, peer.search?))
        });
        let Some((place, search)) = due else { return };
        let copies = cluster.directory.replica_places();
        let places = copies.saturating_add(self.flows.slots());
        let end = search.at.saturating_add(FLOWS_PER_TURN).min(places);
        let is_last = search.round + 1 == ROUNDS.len();
        for at in search.at..end {
            match at.checked_sub(copies) {
                None => self.end_lost_copy(now, at, is_last),
                Some(slot) => self.end_lost(now, Slot(slot), is_last),
            }
        }
        let next = if end == places {
            let round = search.round + 1;
            Search { round, begins: now + ROUNDS.get(round).copied().unwrap_or_default(), at: 0 }
        } else {
            Search { at: end, ..search }
        };
        if let Some(cluster) = &mut self.cluster {
            cluster.peers[place].search = Some(next);
        }
    }

    fn end_lost(&mut self, now: Time, slot: Slot, is_last: bool) {
        let Some(cluster) = &self.cluster else { return };
        if self.flows.get(slot).is_none() {
            return;
        }
        let lost = cluster.lost_legs_of(slot, self.flows[slot].opened());
        if lost == [false; 2] {
            return;
        }
        // The side that is heard still says where it stands, and is to be heard here.
        self.withdraw(now, slot);
        // The rules may be others since its last packet.
        if self.still_permitted(now, slot) != Standing::Permitted {
            return;
        }
        let Tracker::Tcp(tcp) = self.flows[slot].tracker() else { return };
        let keys = self.keys(slot);
        if self.speak_to_sides(now, &Connection { keys, tcp }, lost, is_last) {
            self.remove_flow(now, slot, CloseReason::LegLost);
        }
    }

    /// The machine has owned the connection too. It stays a copy until one of its sides is heard.
    fn end_lost_copy(&mut self, now: Time, place: u32, is_last: bool) {
        let Some(cluster) = &self.cluster else { return };
        let Some(replica) = cluster.directory.replica_at(place).copied() else { return };
        let Tracker::Tcp(tcp) = replica.record.tracker else { return };
        let lost = cluster.lost_legs(replica.record.legs, None);
        let is_ours = lost != [false; 2] && cluster.is_adoptable(now, &replica, None);
        if !is_ours || !self.permits_copy(now, &replica) {
            return;
        }
        let keys = [replica.record.original, replica.record.reply];
        if self.speak_to_sides(now, &Connection { keys, tcp }, lost, is_last) {
            let Self { cluster: Some(cluster), translator, .. } = self else { return };
            cluster.drop_copy(translator, &replica);
        }
    }

    /// Resets a connection, or asks the side that is heard still where it stands. Whether it is over.
    fn speak_to_sides(
        &mut self,
        now: Time,
        connection: &Connection,
        lost: [bool; 2],
        is_last: bool,
    ) -> bool {
        if connection.tcp.adopted().is_none() {
            return false;
        }
        let living = Direction::BOTH.into_iter().find(|way| !lost[way.index()]);
        match living.filter(|_| !is_last) {
            Some(living) => {
                self.challenge(now, connection, living);
                false
            }
            None => self.reset_both(now, connection, None) || is_last,
        }
    }

    /// Says something old to one side, which it answers by saying where it stands (RFC 9293 section
    /// 3.10.7.4).
    fn challenge(&mut self, now: Time, connection: &Connection, side: Direction) {
        let Connection { keys, tcp } = connection;
        let known = tcp.expected(side).zip(tcp.expected(side.reversed()));
        let Some(([expects, _], [_, has_sent])) = known else { return };
        let key = keys[side.index()].reversed();
        if let Some(frame) = reply::tcp_empty_to(&key, expects.wrapping_sub(1), has_sent) {
            self.send_routed(now, frame);
        }
    }

    /// Whether a segment tells where the connection stands that is to be reset; it is, then.
    pub(crate) fn ends_lost_leg(
        &mut self,
        now: Time,
        slot: Slot,
        direction: Direction,
        packet: &Packet,
    ) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        if cluster.peers.iter().all(|peer| peer.gone.is_none()) {
            return false;
        }
        let lost = cluster.lost_legs_of(slot, self.flows[slot].opened());
        let Segment::Tcp(segment) = packet.segment else { return false };
        let Tracker::Tcp(tcp) = self.flows[slot].tracker() else { return false };
        let tells = segment.flags.ack && segment.payload == 0;
        if !lost[direction.reversed().index()]
            || lost[direction.index()]
            || !tells
            || !tcp.is_revived_by(direction, &segment)
        {
            return false;
        }
        let connection = Connection { keys: self.keys(slot), tcp };
        let stands = (direction, segment.acknowledgement, segment.sequence);
        if self.reset_both(now, &connection, Some(stands)) {
            self.remove_flow(now, slot, CloseReason::LegLost);
        }
        true
    }

    /// Tells both sides that the connection is over, each at what it may expect next: what it has acknowledged,
    /// all that was sent to it, and what the other has just said. Whether all of it has left.
    fn reset_both(
        &mut self,
        now: Time,
        connection: &Connection,
        stands: Option<(Direction, u32, u32)>,
    ) -> bool {
        let Connection { keys, tcp } = connection;
        let mut have_left = true;
        for side in Direction::BOTH {
            let known = tcp.expected(side).zip(tcp.expected(side.reversed()));
            let Some(([acknowledged, sent], [_, has_sent])) = known else { continue };
            let told = match stands {
                Some((teller, expects, _)) if teller == side => expects,
                Some((_, _, next)) => next,
                None => sent,
            };
            let key = keys[side.index()].reversed();
            let at = [acknowledged, sent, told];
            for (place, sequence) in at.into_iter().enumerate() {
                if !at[..place].contains(&sequence)
                    && let Some(frame) = reply::tcp_reset_to(&key, sequence, has_sent)
                {
                    have_left &= self.send_routed(now, frame);
                }
            }
        }
        have_left
    }

    fn keys(&self, slot: Slot) -> [FlowKey; 2] {
        Direction::BOTH.map(|way| self.flows.key(slot, way))
    }
}

impl Cluster {
    /// Which sides of a flow of this node's send by a machine that has gone.
    fn lost_legs_of(&self, slot: Slot, opened: Time) -> [bool; 2] {
        let share = self.shares.get(slot);
        let is_from_here = share.birth == Birth::of(share.term, self.me());
        self.lost_legs(share.legs, is_from_here.then_some(opened))
    }

    /// The same of a connection that is known to have been opened then. After the machine had gone, it goes by one that
    /// is there again, and of which this node has not heard yet.
    fn lost_legs(&self, legs: [NodeId; 2], opened: Option<Time>) -> [bool; 2] {
        legs.map(|leg| {
            let peer = self.peers.iter().find(|peer| peer.node == leg);
            let gone = peer.and_then(|peer| peer.gone);
            let is_lost = gone.is_some_and(|gone| opened.is_none_or(|opened| opened <= gone));
            self.config.reset_lost && is_lost
        })
    }

    /// None of the peer's addresses answers.
    pub(super) fn note_gone(&mut self, now: Time, node: NodeId) {
        if let Some(peer) = self.peer(node) {
            peer.gone = peer.gone.or(Some(now));
            peer.search = peer.search.or(Some(Search::new(now)));
        }
    }

    /// The peer is there again.
    pub(super) fn note_back(&mut self, node: NodeId) {
        if let Some(peer) = self.peer(node) {
            peer.gone = None;
            peer.search = None;
        }
    }
}
