//! A packet that another node hands over: it is this node's, or somebody's of whom this one knows, or it
//! waits until somebody registers its key.

use super::announce::slot_of;
use super::consult::FindPassage;
use super::directory::GRANTED;
use super::hand_over::NotWrapped;
use super::message::{Birth, Claim, Message, Rank, Registration};
use super::rendezvous::Pair;
use super::waiting::Asked;
use super::word::rank_of;
use super::wrap::{Flags, Refused, Wrapping};
use super::{Cluster, NodeId, NodeState, View, Wrapped};
use crate::admit::{begins_flow, is_opening};
use crate::event::CloseReason;
use crate::flows::Slot;
use crate::follow::Followed;
use crate::hash::keyed;
use crate::judge::Refusal;
use crate::packet::{Packet, Parsed, Segment, protocol};
use crate::{DropReason, Engine, FlowKey, Frame, InterfaceId, Offload, Time, Verdict};

/// How a wrapped packet came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) by: NodeId,
    /// By which interface it would have come in here.
    pub(super) from: InterfaceId,
    pub(super) wrapping: Wrapping,
}

/// A packet goes from the node that it came to over its director to its owner.
const HOPS_MAX: u8 = 2;

impl Engine {
    /// The next wrapped packet to be sent; its buffer comes back by `recycle`.
    pub fn poll_wrapped(&mut self) -> Option<Wrapped> {
        self.cluster.as_mut()?.wrapped.pop_front()
    }

    /// Takes back a buffer.
    pub fn recycle(&mut self, wrapped: Wrapped) {
        if let Some(cluster) = &mut self.cluster {
            cluster.spare.push(wrapped);
        }
    }

    pub(super) fn open_wrapped(
        &mut self,
        now: Time,
        from: NodeId,
        datagram: &mut [u8],
    ) -> Result<Wrapping, DropReason> {
        let is_open = self.is_open() && self.policy.is_some();
        let cluster = self.cluster.as_mut().ok_or(DropReason::PeerForged)?;
        let peer = cluster.peer(from).ok_or(DropReason::PeerForged)?;
        peer.wrapped_in += 1;
        match peer.tags.check(now, datagram) {
            Ok(_) if !is_open => Err(DropReason::NotReady),
            Ok(opened) => {
                opened.to_frame(datagram, [0; 6], [0; 6]);
                Ok(opened.wrapping)
            }
            Err(refused) => {
                peer.refused += 1;
                Err(match refused {
                    Refused::Malformed => DropReason::PeerMalformed,
                    Refused::Forged => DropReason::PeerForged,
                    Refused::Replayed => DropReason::PeerReplayed,
                })
            }
        }
    }

    /// Decides a packet that stands behind room for link addresses.
    pub(super) fn take_wrapped(
        &mut self,
        now: Time,
        by: NodeId,
        wrapping: Wrapping,
        bytes: &mut [u8],
        offload: Offload,
    ) -> Verdict {
        let mut frame = Frame { bytes, offload };
        let packet = match Packet::parse(&frame) {
            Ok(Parsed::Ip(packet)) => packet,
            Ok(Parsed::Arp(_)) => return Verdict::Drop(DropReason::PeerMalformed),
            Err(reason) => return Verdict::Drop(reason),
        };
        let interface = self.cluster.as_ref().and_then(|cluster| {
            cluster.zones.iter().find(|(zone, _)| *zone == wrapping.zone).map(|(_, found)| *found)
        });
        let Some(from) = interface else { return Verdict::Drop(DropReason::NoZone) };
        if let Err(reason) = self.check_addresses(packet.source, packet.destination) {
            return Verdict::Drop(reason);
        }
        if packet.fragment.is_some() {
            if offload != Offload::default() {
                return Verdict::Drop(DropReason::PeerMalformed);
            }
            return self.take_wrapped_fragment(
                now,
                &Arrived { by, from, wrapping },
                &frame,
                &packet,
            );
        }
        self.pass_wrapped(now, &Arrived { by, from, wrapping }, &mut frame, &packet)
            .unwrap_or_else(|refusal| self.refuse(now, from, frame.bytes, &packet, &refusal))
    }

    fn pass_wrapped(
        &mut self,
        now: Time,
        arrived: &Arrived,
        frame: &mut Frame<'_>,
        packet: &Packet,
    ) -> Result<Verdict, Refusal> {
        let Arrived { from, wrapping, .. } = arrived;
        let Some(key) = self.key_of(frame, packet) else {
            return Err(DropReason::FragmentInvalid.into());
        };
        let pair = Pair::from(key);
        if self.is_repeated(now, wrapping) {
            self.tell_owner(wrapping, pair);
            return Err(DropReason::PeerReplayed.into());
        }
        if let Some((slot, _)) = self
            .flows
            .find(&key)
            .or_else(|| self.adopt_for(now, &key, packet, Some(wrapping.origin)))
            && !self.has_expired(now, slot)
        {
            match self.doubted(now, slot, key) {
                // Who asks has stood still too, and both would ask each other.
                Some(_) if wrapping.flags.has(Flags::MINE) => {
                    return self.pass_on(now, arrived, frame, packet, key);
                }
                Some(errand) => {
                    self.note_handled(now, wrapping);
                    return self.hand_over(now, *from, frame, packet, errand);
                }
                None => {}
            }
            self.note_handled(now, wrapping);
            self.tell_owner(wrapping, pair);
            let find = Self::find_here(Some(wrapping.origin));
            return self.pass(now, *from, frame, packet, find);
        }
        self.pass_on(now, arrived, frame, packet, key)
    }

    /// Finds a flow of this node's, or one that its rules admit now, for a packet that came in by another
    /// node or by this one.
    pub(super) fn find_here(by: Option<NodeId>) -> impl FindPassage {
        move |engine, now, from, packet| {
            let key = packet.key().ok_or(DropReason::FragmentInvalid)?;
            match engine.flows.find(&key) {
                Some((slot, direction))
                    if engine.follow(now, slot, direction, from, packet)? == Followed::Pass =>
                {
                    engine.note_leg(now, slot, direction, by);
                    Ok(engine.passage(slot, direction))
                }
                Some(_) | None => engine.begin(now, from, packet, key, by),
            }
        }
    }

    /// Passes on what is not this node's, or keeps it until somebody says whose it is.
    pub(super) fn pass_on(
        &mut self,
        now: Time,
        arrived: &Arrived,
        frame: &mut Frame<'_>,
        packet: &Packet,
        key: FlowKey,
    ) -> Result<Verdict, Refusal> {
        let way = key;
        let key = Pair::from(key);
        let Some(cluster) = &mut self.cluster else { return Err(DropReason::NoOwner.into()) };
        let Arrived { by, from, wrapping } = *arrived;
        let wrapping = &wrapping;
        let known = cluster.known_owner(now, &key).map(|(owner, _)| owner);
        let others = |node: &NodeId| ![wrapping.origin, by].contains(node);
        if let Some(owner) = known.filter(others) {
            return cluster.pass_to(owner, wrapping, frame, packet);
        }
        if self.is_to_begin(now, from, packet, way) {
            self.note_handled(now, wrapping);
            let find = Self::find_here(Some(wrapping.origin));
            let verdict = self.pass(now, from, frame, packet, find);
            self.tell_owner(wrapping, key);
            return verdict;
        }
        let Some(cluster) = &mut self.cluster else { return Err(DropReason::NoOwner.into()) };
        if let Some(better) = cluster.better_informed(&key, wrapping).filter(others) {
            return cluster.pass_to(better, wrapping, frame, packet);
        }
        let is_director = cluster.is_director_for(&key, by);
        if let Some(elsewhere) = cluster.asked_too(&key, &arrived.wrapping, by) {
            return cluster.pass_to(elsewhere, wrapping, frame, packet);
        }
        if wrapping.flags.has(Flags::MINE)
            && is_director
            && let Some(end) = cluster.directory.ended(now, &key)
        {
            cluster.answer(wrapping, Message::Ended { key, end });
        }
        if wrapping.flags.has(Flags::MINE) && (known.is_some() || is_director) {
            cluster.answer(wrapping, Message::Granted { ask: wrapping.ask });
            return Ok(Verdict::Answered);
        }
        // Also to the one who has it and has not heard so.
        let is_free = known.is_none_or(|owner| owner == wrapping.origin);
        if wrapping.flags.has(Flags::CLAIM) && is_director && is_free {
            cluster.grant(now, wrapping, key);
            return Ok(Verdict::Answered);
        }
        if is_director && known.is_none() {
            let until = now + cluster.hold();
            let held = cluster.waiting.hold(until, key, by, *wrapping, frame);
            return if held { Ok(Verdict::Held) } else { Err(DropReason::PeerQueueFull.into()) };
        }
        if slot_of(&self.flows, &key).is_some() {
            // Of a flow of this node's, but the wrong way: as nobody sends who belongs to it.
            self.note_handled(now, wrapping);
            self.tell_owner(wrapping, key);
            return Err(DropReason::NoOwner.into());
        }
        let Some(cluster) = &mut self.cluster else { return Err(DropReason::NoOwner.into()) };
        let message = Message::NotMine { ask: wrapping.ask, key };
        cluster.answer(wrapping, message);
        if by != wrapping.origin
            && let Some(peer) = cluster.peer(by)
        {
            peer.channel.note(message);
        }
        Err(DropReason::NoOwner.into())
    }

    /// Whether a packet is this node's to judge though it knows of no flow: a connection anew, of which the other
    /// node remembers the last one; or a stranger, whom the mapping here lets in or does not.
    fn is_to_begin(&mut self, now: Time, from: InterfaceId, packet: &Packet, key: FlowKey) -> bool {
        let opens = matches!(&packet.segment, Segment::Tcp(tcp) if is_opening(tcp));
        let was_mistaken = self.was_mistaken(from, packet, key);
        if let Some(slot) = was_mistaken {
            self.remove_flow(now, slot, CloseReason::Reopened);
        }
        let mappings = &self.translator.mappings;
        opens
            || was_mistaken.is_some()
            || mappings.find_external(key.protocol, key.destination).is_some()
    }

    /// An unanswered flow of this node's that began with an answer: its question is this packet, and went by
    /// another node while nobody was sure who directs their key.
    fn was_mistaken(&self, from: InterfaceId, packet: &Packet, key: FlowKey) -> Option<Slot> {
        let slot = slot_of(&self.flows, &Pair::from(key))?;
        let is_unanswered = rank_of(&self.flows[slot].tracker()) == Rank::Opening;
        let may_begin = key.protocol != protocol::TCP
            && begins_flow(&packet.segment).is_ok()
            && self.would_permit(from, packet, key);
        (self.flows.find(&key).is_none() && is_unanswered && may_begin).then_some(slot)
    }

    /// Gives packets that were held for a key to whoever has registered it.
    pub(super) fn release_held(&mut self, now: Time, key: &Pair) {
        let Some(cluster) = &mut self.cluster else { return };
        for mut held in cluster.waiting.release(key) {
            let wrapping =
                Wrapping { flags: held.wrapping.flags.and(Flags::HELD), ..held.wrapping };
            let verdict = if self.is_open() {
                self.take_wrapped(now, held.from, wrapping, &mut held.packet, held.offload)
            } else {
                Verdict::Drop(DropReason::NotReady)
            };
            let verdict = self.queue_if_forwarded(verdict, held.packet, held.offload);
            self.counters.release(verdict, 1);
        }
        let Some(cluster) = &mut self.cluster else { return };
        // What the owner himself was asked about has come to him.
        let owner = cluster.known_owner(now, key).map(|(owner, _)| owner);
        let has_come = |asked: &Asked| Some(asked.to) == owner && !asked.is_uncounted;
        let waits = |asked: &Asked| asked.key == *key && !has_come(asked);
        for asked in cluster.waiting.take_asked_where(waits) {
            self.decide_again(now, asked);
        }
    }

    /// Drops what was held for keys that nobody has registered in time.
    pub(super) fn drop_overdue(&mut self, now: Time) {
        while let Some(cluster) = &mut self.cluster
            && let Some(overdue) = cluster.waiting.poll_overdue(now)
        {
            let count = overdue.len() as u64;
            self.counters.release(Verdict::Drop(DropReason::NoOwner), count);
        }
    }

    /// The key of the flow that a packet is of, or an error about.
    fn key_of(&self, frame: &Frame<'_>, packet: &Packet) -> Option<FlowKey> {
        if let Segment::IcmpError { .. } = packet.segment {
            return crate::quote::Quote::parse(frame, packet)
                .ok()
                .map(|quote| quote.key.reversed());
        }
        packet.key()
    }

    pub(super) fn is_repeated(&self, now: Time, wrapping: &Wrapping) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        wrapping.ask != 0 && cluster.handled.age(now, cluster.mark_of(wrapping)).is_some()
    }

    pub(super) fn note_handled(&mut self, now: Time, wrapping: &Wrapping) {
        if let Some(cluster) = self.cluster.as_mut().filter(|_| wrapping.ask != 0) {
            let mark = cluster.mark_of(wrapping);
            cluster.handled.note(now, mark);
        }
    }

    /// Tells the node that asked whose the packet's flow is.
    fn tell_owner(&mut self, wrapping: &Wrapping, key: Pair) {
        if wrapping.ask != 0 || wrapping.hops != 0 {
            self.tell_hint(wrapping, key);
        }
    }

    /// The same where nobody has asked.
    pub(super) fn tell_hint(&mut self, wrapping: &Wrapping, key: Pair) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let Some(slot) = slot_of(flows, &key) else { return };
        let (term, owner) = (cluster.shares.get(slot).term, cluster.me());
        cluster.answer(wrapping, Message::Hint { ask: wrapping.ask, key, owner, term });
    }
}

impl Cluster {
    /// Hands a wrapped packet on as it came.
    fn pass_to(
        &mut self,
        to: NodeId,
        wrapping: &Wrapping,
        frame: &mut Frame<'_>,
        packet: &Packet,
    ) -> Result<Verdict, Refusal> {
        if wrapping.hops >= HOPS_MAX {
            return Err(DropReason::NoOwner.into());
        }
        let flags = wrapping.flags.without(Flags::UNSUMMED);
        let onward = Wrapping { hops: wrapping.hops + 1, flags, ..*wrapping };
        self.wrap(to, &onward, frame, packet).map_err(NotWrapped::refusal)?;
        Ok(Verdict::ToPeer { node: to })
    }

    fn answer(&mut self, wrapping: &Wrapping, message: Message) {
        if let Some(peer) = self.peer(wrapping.origin) {
            peer.channel.note(message);
        }
    }

    /// Nobody has the key: it is the asker's from now on.
    fn grant(&mut self, now: Time, wrapping: &Wrapping, key: Pair) {
        let origin = wrapping.origin;
        let incarnation = self.incarnation_of(origin);
        let term = self.tick();
        let birth = Birth::of(term, origin);
        let claim = Claim { rank: Rank::Opening, term, owner: origin, birth };
        let registration = Registration { key, first: None, claim, round: GRANTED };
        self.directory.register(now, incarnation, &registration, false);
        self.answer(wrapping, Message::Granted { ask: wrapping.ask });
    }

    /// Whom a node asks that has not yet been told all that it is to know, or was asked by mistake.
    fn better_informed(&self, key: &Pair, wrapping: &Wrapping) -> Option<NodeId> {
        let director = match self.state {
            NodeState::Joining => self.holder_elsewhere(key),
            NodeState::Ready | NodeState::Draining => Some(self.director(key)),
        };
        director.filter(|director| *director != self.me() && wrapping.hops < HOPS_MAX)
    }

    /// Whether this node is a key's director, or is one for a node that takes itself for no member, or no worker of its
    /// machine's.
    fn is_director_for(&self, key: &Pair, by: NodeId) -> bool {
        let left = [View::NONE, View::NONE.with(by), self.machines.around(by)];
        let mut views = left.map(|left| self.directors.without_all(left)).into_iter();
        views.any(|view| self.rendezvous.director(key, view).is_none_or(|node| node == self.me()))
    }

    /// Who else is asked for another worker of this machine that has stood still: the machine may have, as a whole.
    fn asked_too(&self, key: &Pair, wrapping: &Wrapping, by: NodeId) -> Option<NodeId> {
        let is_doubted = wrapping.flags.has(Flags::MINE) && self.is_beside(by);
        is_doubted.then(|| self.holder_elsewhere(key)).flatten()
    }

    /// A process that begins anew numbers what it asks anew.
    fn mark_of(&self, wrapping: &Wrapping) -> u64 {
        let Wrapping { origin, ask, .. } = *wrapping;
        let asker = self.peers.iter().find(|peer| peer.node == origin);
        keyed(self.config.secret, &(origin, asker.map(|peer| peer.incarnation), ask))
    }
}
