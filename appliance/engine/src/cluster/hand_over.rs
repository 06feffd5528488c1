//! A packet on its way to another node, and what waits for word from there.

use std::time::Duration;

use super::consult::{Errand, FindPassage, Question};
use super::strict::STRICT_HOLD;
use super::waiting::{Asked, HOLD, HOLD_MAX};
use super::wrap::{self, Flags, TooBig, Wrapping};
use super::{ASK_LIFE, Cluster, NodeId, WRAPPED_MAX, Wrapped};
use crate::judge::Refusal;
use crate::packet::{Packet, Parsed};
use crate::reply::IcmpError;
use crate::{DropReason, Engine, Frame, InterfaceId, Offload, Time, Verdict};

/// How often a packet is asked about before nothing more is expected of it.
const TRIES: u8 = 4;

/// How many packets of a flow are kept while their owner is silent: what TCP says anew may come before it says again
/// what was lost, without which the rest is no use.
const KEPT_IN_SILENCE: u16 = 8;

impl Engine {
    /// Hands a packet to the node that owns its flow, or asks whose it is.
    pub(crate) fn hand_over(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        packet: &Packet,
        errand: Errand,
    ) -> Result<Verdict, Refusal> {
        let Some(cluster) = &mut self.cluster else { return Err(DropReason::NoOwner.into()) };
        let Errand { to, key, question } = errand;
        let waits = to == cluster.me() || matches!(question, Question::Claim | Question::Mine);
        // It may be lost there, and is more use here when that is known.
        let may_be_lost = || {
            // Whoever is asked may send it on to a silent owner.
            let is_asked = question != Question::None;
            (cluster.is_silent(now, to) || is_asked && cluster.is_somebody_silent(now))
                && cluster.waiting.asked_about(&key) < KEPT_IN_SILENCE
                && cluster.waiting.has_room(frame.bytes.len())
        };
        let keeps = match question {
            Question::None => may_be_lost(),
            Question::Whose => waits || cluster.waiting.asked_about(&key) == 0 || may_be_lost(),
            Question::Claim | Question::Mine | Question::Known => true,
        };
        let mut ask = 0;
        if keeps {
            let asked = Asked {
                is_uncounted: waits,
                is_fragment: packet.fragment.is_some(),
                question: question.of_copy(),
                ..Asked::new(now, key, to, from, frame.bytes.to_vec(), frame.offload)
            };
            let due = now + cluster.patience(to, question);
            let kept = cluster.waiting.ask(due, asked);
            ask = kept.ok_or(DropReason::PeerQueueFull)?;
        }
        if to != cluster.me() {
            let wrapping = cluster.wrapping(from, ask, question);
            if let Err(error) = cluster.wrap(to, &wrapping, frame, packet) {
                cluster.waiting.take_asked(ask);
                return Err(error.refusal());
            }
        }
        if ask == 0
            && packet.fragment.is_none()
            && let Some(key) = packet.key()
        {
            self.offer_relay(from, key, to);
        }
        Ok(if waits { Verdict::Held } else { Verdict::ToPeer { node: to } })
    }

    /// Asks again about packets to which nobody has answered, and gives up on those that were asked about
    /// often enough.
    pub(crate) fn ask_again(&mut self, now: Time) {
        while let Some(cluster) = &mut self.cluster
            && let Some((number, asked)) = cluster.waiting.poll_due(now)
        {
            let waits_here = asked.question == Question::Known;
            let is_last = asked.tries + 1 >= TRIES;
            let is_enough = is_last && !cluster.is_somebody_silent(now);
            if waits_here || is_enough || cluster.is_alone() || cluster.is_old(now, &asked) {
                self.give_up(now, asked);
                continue;
            }
            let known = cluster.known_owner(now, &asked.key);
            // Who gave the packet's port out is asked again, as long as he lives, and not the director.
            let before = Some(asked.to).filter(|to| cluster.is_alive(*to));
            let to = known.map(|(owner, _)| owner).or(before);
            let to = to.unwrap_or_else(|| cluster.director(&asked.key));
            if to == cluster.me() {
                self.give_up(now, asked);
                continue;
            }
            let Asked { from, question, offload, .. } = asked;
            let mut bytes = asked.frame.clone();
            let due = match is_last {
                // Whose it is may be known when the silence is over.
                true => now + cluster.config.heartbeat,
                false => now + cluster.patience(to, question) * (u32::from(asked.tries) + 2),
            };
            let again = Asked { tries: (asked.tries + 1).min(TRIES - 1), to, ..asked };
            cluster.waiting.ask_again(due, number, again);
            let wrapping = cluster.wrapping(from, number, question);
            let mut frame = Frame { bytes: &mut bytes, offload };
            if let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) {
                // What does not fit now did not the first time.
                let _ = cluster.wrap(to, &wrapping, &mut frame, &packet);
            }
        }
    }

    /// The view has changed: packets that were sent to a node which was dead by then, or may have been sent on to it,
    /// go their way anew.
    pub(super) fn recall_waiting(&mut self, now: Time) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.has_stood_still(now, ASK_LIFE) {
            // They may be as old as that, and would bring back what has ended meanwhile.
            return;
        }
        let (view, me) = (cluster.view, cluster.me());
        // What waits here has waited for whoever has come.
        let is_moved = |asked: &Asked| match asked.to == me {
            true => asked.question == Question::Claim,
            false => asked.question == Question::Whose || !view.contains(asked.to),
        };
        for asked in cluster.waiting.take_asked_where(is_moved) {
            if self.cluster.as_ref().is_some_and(|cluster| cluster.is_old(now, &asked)) {
                self.give_up(now, asked);
            } else {
                self.decide_again(now, asked);
            }
        }
    }

    /// Nobody has answered: the rules decide about what may be decided here. What a node that lives was asked
    /// about may be an answer: it is not to be taken for a question because word of it was lost.
    fn give_up(&mut self, now: Time, asked: Asked) {
        let is_theirs = |cluster: &Cluster| asked.to != cluster.me() && cluster.is_alive(asked.to);
        match asked.question {
            Question::Claim if self.cluster.as_ref().is_some_and(is_theirs) => {
                self.counters.release(Verdict::Drop(DropReason::NoOwner), 1);
            }
            Question::Claim | Question::Mine => self.decide_here(now, asked),
            Question::Known => self.end_wait(now, asked),
            Question::Whose | Question::None if asked.is_uncounted => {
                self.counters.release(Verdict::Drop(DropReason::NoOwner), 1);
            }
            Question::Whose | Question::None => {}
        }
    }

    /// A packet that waited is this node's to decide.
    pub(crate) fn decide_here(&mut self, now: Time, asked: Asked) {
        self.decide_asked(now, asked, Self::find_here(None));
    }

    /// A packet that waited goes its way anew: more is known by now.
    pub(crate) fn decide_again(&mut self, now: Time, asked: Asked) {
        self.decide_asked(now, asked, Self::find_passage);
    }

    fn decide_asked(&mut self, now: Time, mut asked: Asked, find: impl FindPassage) {
        let mut frame = Frame { bytes: &mut asked.frame, offload: asked.offload };
        let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) else { return };
        if !asked.is_uncounted {
            self.counters.recall_from_peer();
        }
        let verdict = if self.is_open() {
            self.pass_or_refuse(now, asked.from, &mut frame, &packet, find)
        } else {
            Verdict::Drop(DropReason::NotReady)
        };
        let verdict = self.queue_if_forwarded(verdict, asked.frame, asked.offload);
        self.counters.release(verdict, 1);
    }

    /// How long packets may be that other nodes may have to hand over; `None` where there are none.
    pub(crate) fn wrapped_mtu(&self) -> Option<u32> {
        let cluster = self.cluster.as_ref().filter(|cluster| !cluster.peers.is_empty())?;
        Some(cluster.wrapped_mtu())
    }

    /// What came in by no ring leaves by the queue.
    pub(crate) fn queue_if_forwarded(
        &mut self,
        verdict: Verdict,
        bytes: Vec<u8>,
        offload: Offload,
    ) -> Verdict {
        if let Verdict::Forward { out } = verdict
            && !self.enqueue(out, bytes, offload)
        {
            return Verdict::Drop(DropReason::TransmitQueueFull);
        }
        verdict
    }
}

impl Cluster {
    /// How long an answer from a node may take; and at the director itself, a registration that is on its
    /// way.
    pub(super) fn patience(&self, to: NodeId, question: Question) -> Duration {
        let patience = |peer: &super::Peer| peer.channel.patience();
        if to != self.me() {
            return self.peers.iter().find(|peer| peer.node == to).map_or(HOLD, patience);
        }
        match question {
            Question::Claim => {
                let alive = self.peers.iter().filter(|peer| self.is_alive(peer.node));
                alive.map(patience).max().unwrap_or(self.patience_with_silence())
            }
            Question::Known => STRICT_HOLD,
            Question::None | Question::Whose | Question::Mine => self.hold(),
        }
    }

    /// How long this node as a director waits for the word of an owner.
    pub(super) fn hold(&self) -> Duration {
        let alive = self.peers.iter().filter(|peer| self.is_alive(peer.node));
        let slowest = alive.map(|peer| peer.channel.usual_patience()).max().unwrap_or_default();
        (slowest * 4).clamp(HOLD, HOLD_MAX)
    }

    /// Whether a packet of somebody's flow has waited for so long that its sender has said it again, or the flow
    /// may have ended meanwhile: it would bring it back where its end has not been heard of. An owner's death is
    /// found out sooner.
    fn is_old(&self, now: Time, asked: &Asked) -> bool {
        matches!(asked.question, Question::Whose | Question::None)
            && now.since(asked.since) > self.patience_with_silence() + self.config.heartbeat
    }

    fn wrapping(&self, from: InterfaceId, ask: u32, question: Question) -> Wrapping {
        let flags = match question {
            Question::None | Question::Whose | Question::Known => Flags::default(),
            Question::Claim => Flags::CLAIM,
            Question::Mine => Flags::MINE,
        };
        let zone = self.zones.iter().find(|(_, interface)| *interface == from);
        let zone = zone.map_or_else(Default::default, |(zone, _)| *zone);
        Wrapping { flags, hops: 0, zone, ask, origin: self.me() }
    }

    /// How long a packet may be that goes to another node.
    const fn wrapped_mtu(&self) -> u32 {
        wrap::inner_mtu(self.config.sync_mtu)
    }

    /// Wraps a packet and queues it.
    pub(super) fn wrap(
        &mut self,
        to: NodeId,
        wrapping: &Wrapping,
        frame: &mut Frame<'_>,
        packet: &Packet,
    ) -> Result<(), NotWrapped> {
        let mtu = self.wrapped_mtu();
        let mut wrapped = self.spare.pop().unwrap_or_default();
        let stride = wrap::wrap(&mut wrapped.bytes, wrapping, frame, packet, mtu);
        self.send_wrapped(to, wrapped, stride.map_err(|TooBig { mtu }| NotWrapped::TooBig { mtu }))
    }

    fn send_wrapped(
        &mut self,
        to: NodeId,
        mut wrapped: Wrapped,
        stride: Result<usize, NotWrapped>,
    ) -> Result<(), NotWrapped> {
        let is_full = self.wrapped.len() >= WRAPPED_MAX;
        let stamped = stride.and_then(|stride| {
            let peer = self.peer(to).filter(|_| !is_full).ok_or(NotWrapped::QueueFull)?;
            if !peer.tags.stamp(&mut wrapped.bytes, stride) {
                return Err(NotWrapped::NoSession);
            }
            peer.wrapped_out += wrapped.bytes.len().div_ceil(stride) as u64;
            Ok(stride)
        });
        match stamped {
            Ok(stride) => {
                (wrapped.to, wrapped.stride) = (to, stride);
                self.wrapped.push_back(wrapped);
                Ok(())
            }
            Err(error) => {
                self.spare.push(wrapped);
                Err(error)
            }
        }
    }
}

/// Why a packet does not go to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotWrapped {
    QueueFull,
    NoSession,
    TooBig { mtu: u32 },
}

impl NotWrapped {
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::QueueFull => DropReason::PeerQueueFull.into(),
            Self::NoSession => DropReason::NoOwner.into(),
            Self::TooBig { mtu } => {
                Refusal::answered(DropReason::TooBig, IcmpError::TooBig { mtu })
            }
        }
    }
}
