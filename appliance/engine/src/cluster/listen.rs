//! What peers say.

use std::time::Duration;

use super::announce::{key_of, slot_of};
use super::consult::Question;
use super::directory::{Hint, Registered, Replica};
use super::message::{Claim, End, Heartbeat, Message, Rank, Registration, messages};
use super::pass::Sweep;
use super::record::Record;
use super::rendezvous::Pair;
use super::share::SIDES;
use super::word::rank_of;
use super::{Cluster, NodeId};
use crate::event::CloseReason;
use crate::flows::Slot;
use crate::{Direction, DropReason, Engine, Time, Verdict};

impl Engine {
    /// Takes a sync datagram of a peer, opened and found authentic.
    pub fn handle_peer(&mut self, now: Time, from: NodeId, datagram: &[u8]) {
        let Some(peer) = self.cluster.as_mut().and_then(|cluster| cluster.peer(from)) else {
            return;
        };
        // All or nothing: a datagram that does not parse changes nothing.
        if messages(datagram).any(|message| message.is_err()) {
            peer.refused += 1;
            return;
        }
        if !peer.session {
            return;
        }
        // Before what they say of this node, whom they have not heard.
        if let Some(cluster) = &mut self.cluster {
            cluster.notice_pause(now);
        }
        for message in messages(datagram).flatten() {
            self.hear(now, from, message);
        }
    }

    fn hear(&mut self, now: Time, from: NodeId, message: Message) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        match message {
            Message::Heartbeat(beat) => self.hear_heartbeat(now, from, &beat),
            Message::Number(number) => {
                if let Some(peer) = cluster.peer(from) {
                    peer.channel.receive(number);
                }
            }
            Message::Acknowledgement { highest, before } => {
                let Cluster { peers, shares, heard_ends, .. } = cluster;
                if let Some(peer) = peers.iter_mut().find(|peer| peer.node == from) {
                    peer.channel.acknowledge(now, highest, before, |item| {
                        Cluster::came(shares, heard_ends, flows, from, item);
                    });
                }
                self.end_rests(now, from);
            }
            Message::Register(registration) => self.hear_registration(now, from, &registration),
            Message::Owned { key, claim } => self.hear_owned(now, key, claim),
            Message::Ended { key, end } => self.hear_ended(now, key, end),
            Message::Elsewhere { key, term } => {
                cluster.hear(term);
                cluster.directory.drop_replica(&key, term);
                if cluster.directory.entry(&key).is_some_and(|entry| entry.claim.term <= term) {
                    self.forget_entry(now, &key);
                }
            }
            Message::Gone { key, end } => self.hear_gone(now, from, key, end),
            Message::Record(record) => self.hear_record(now, from, record),
            Message::Handover(record) => self.hear_handover(now, from, record),
            Message::Taken { key, accepted, term } => {
                self.hear_taken(now, from, key, accepted, term);
            }
            Message::Hint { ask, key, owner, term } => {
                self.hear_hint(now, ask, Hint { key, owner, term });
            }
            Message::Granted { ask } => self.hear_granted(now, ask),
            Message::NotMine { ask, key } => self.hear_not_mine(now, from, ask, key),
            Message::Digest { part, sums } => cluster.hear_digest(from, part, &sums),
            Message::Pull { buckets } => cluster.begin_round(from, buckets),
            Message::Told { buckets, round } => {
                if let Some(peer) = cluster.peer(from) {
                    peer.round_in = round;
                }
                cluster.sweeps.push_back(Sweep { owner: from, buckets, round, at: 0 });
            }
        }
    }

    fn hear_heartbeat(&mut self, now: Time, from: NodeId, beat: &Heartbeat) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.hear(beat.clock);
        let me = cluster.me();
        let Some(peer) = cluster.peer(from) else { return };
        if beat.incarnation != peer.incarnation {
            // Of the process that was there before, or of one whose session does not stand yet.
            return;
        }
        let is_late = |last: u32| beat.number.wrapping_sub(last).cast_signed() <= 0;
        if peer.last_beat.is_some_and(is_late) {
            return;
        }
        peer.last_beat = Some(beat.number);
        peer.heard = Some(now);
        peer.state = super::presence::state_of(beat.state);
        peer.hears_us = beat.heard.contains(me);
        peer.has_told = beat.told && peer.hears_us;
        peer.policy = Some(beat.policy);
        let has_lost_us = std::mem::replace(&mut peer.lost_us, beat.losses) != beat.losses;
        cluster.note_back(from);
        if has_lost_us && cluster.is_alive(from) {
            // What it had to say of our flows when it took us for dead was never said.
            cluster.begin_round(from, u64::MAX);
        }
        self.look_around(now);
    }

    fn hear_registration(&mut self, now: Time, from: NodeId, registration: &Registration) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let Registration { key, claim, .. } = *registration;
        cluster.hear(claim.term);
        if claim.owner != from {
            return;
        }
        if let Some(slot) = slot_of(flows, &key) {
            let ours = cluster.claim(flows, slot);
            if ours.beats(&claim) {
                cluster.tell(from, Message::Owned { key, claim: ours });
                return;
            }
            self.lose(now, slot, key, claim);
        }
        let Some(cluster) = &mut self.cluster else { return };
        let incarnation = cluster.incarnation_of(from);
        let known =
            cluster.directory.entry(&key).map(|entry| (entry.claim.owner, entry.incarnation));
        let is_live = known
            .is_some_and(|(owner, then)| owner != cluster.me() && cluster.is_live(owner, then));
        let registered = cluster.directory.register(now, incarnation, registration, is_live);
        match registered {
            Registered::Yes => {}
            Registered::InPlaceOf(loser) => {
                cluster.tell(loser.owner, Message::Owned { key, claim });
            }
            Registered::No(claim) => cluster.tell(from, Message::Owned { key, claim }),
            Registered::Ended(end) => cluster.tell(from, Message::Ended { key, end }),
            Registered::Full => {}
        }
        if matches!(registered, Registered::Yes | Registered::InPlaceOf(_)) {
            if known.is_none() {
                self.hold_port(now, &key);
            }
            self.release_held(now, &key);
        }
    }

    /// The flow is the node's that a hint names.
    pub(super) fn lose_to(&mut self, now: Time, slot: Slot, hint: Hint) {
        let Some(cluster) = &self.cluster else { return };
        let Hint { key, owner, term } = hint;
        let birth = cluster.shares.get(slot).birth;
        self.lose(now, slot, key, Claim { rank: Rank::Open, term, owner, birth });
    }

    /// The flow is another node's, who claims this key of it.
    fn lose(&mut self, now: Time, slot: Slot, key: Pair, claim: Claim) {
        let [first, second] = Direction::BOTH.map(|way| Pair::from(self.flows.key(slot, way)));
        let Some(cluster) = &mut self.cluster else { return };
        let Claim { rank, term, owner, birth } = claim;
        let share = cluster.shares.get(slot);
        let is_over = rank == Rank::Closed && birth == share.birth;
        let was_over = rank_of(&self.flows[slot].tracker()) == Rank::Closed;
        cluster.tell_what_was_seen(now, &self.flows, slot, owner);
        let ways = self.ways_here(slot);
        self.tell_nothing(slot);
        self.remove_flow(now, slot, CloseReason::HandedOver);
        let Some(cluster) = &mut self.cluster else { return };
        if is_over || was_over {
            // No offer and no copy that is still on its way brings it back; nor does who had it before, where it gives
            // way to the next connection of these addresses.
            let term = if is_over { term } else { share.term };
            let end = End { birth: share.birth, term, is_over: true };
            cluster.directory.bury(now, None, first, end);
        }
        cluster.note_hint(now, Hint { key, owner, term });
        // Its port is in use there from now on, even before the new owner has said so.
        let incarnation = cluster.incarnation_of(owner);
        let round = cluster.peer(owner).map_or(0, |peer| peer.round_in);
        if self.external_of(&second).is_some()
            && let Some(cluster) = &mut self.cluster
            && cluster.directory.entry(&second).is_none()
        {
            let registration = Registration { key: second, first: None, claim, round };
            cluster.directory.register(now, incarnation, &registration, false);
            self.hold_port(now, &second);
        }
        if birth == share.birth && !was_over && rank > Rank::Closed {
            self.go_on_handing_over(now, ways, Hint { key, owner, term });
        }
    }

    fn hear_owned(&mut self, now: Time, key: Pair, claim: Claim) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        cluster.hear(claim.term);
        let own = slot_of(flows, &key).filter(|_| claim.owner != cluster.me());
        let Some(slot) = own else { return };
        if claim.beats(&cluster.claim(flows, slot)) {
            self.lose(now, slot, key, claim);
        } else {
            // It has shown more by now than its director knows.
            for side in 0..=1 {
                cluster.say(flows, slot, side);
            }
        }
    }

    /// A flow has ended: what is kept of it is void. It may be this node's too, which has taken it over, or
    /// from whom it was taken, without knowing.
    fn hear_gone(&mut self, now: Time, from: NodeId, key: Pair, end: End) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        cluster.hear(end.term);
        let was = cluster.directory.entry(&key).is_some();
        cluster.directory.bury(now, Some(from), key, end);
        cluster.directory.drop_hint(&key);
        let own = slot_of(flows, &key).map(|slot| (slot, cluster.shares.get(slot)));
        if was && cluster.directory.entry(&key).is_none() {
            self.free_port(now, &key);
        }
        if let Some((slot, share)) = own
            && end.ends(share.birth, share.term)
        {
            self.end_with(now, slot, end);
        }
    }

    /// A flow of this node's has ended at another owner's.
    fn end_with(&mut self, now: Time, slot: Slot, end: End) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let keys: [_; SIDES] = std::array::from_fn(|side| key_of(flows, slot, side as u8));
        for (key, holder) in keys.into_iter().zip(cluster.shares.get(slot).holders) {
            if let Some((key, holder)) = key.zip(holder) {
                cluster.tell(holder, Message::Gone { key, end });
            }
        }
        for key in keys.into_iter().take(2).flatten() {
            cluster.directory.bury(now, None, key, end);
        }
        self.tell_nothing(slot);
        self.remove_flow(now, slot, CloseReason::HandedOver);
    }

    /// A flow that had the key before is remembered as ended: it was this one, or this one is later.
    fn hear_ended(&mut self, now: Time, key: Pair, end: End) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        cluster.hear(end.term);
        let Some(slot) = slot_of(flows, &key) else { return };
        let share = cluster.shares.get(slot);
        // Of one that was taken over while this node stood still, only a later one's end may be known.
        let is_old = share.doubt != cluster.pauses && share.term <= end.term;
        if end.ends(share.birth, share.term) || is_old {
            self.end_with(now, slot, end);
            return;
        }
        if share.term > end.term {
            return;
        }
        let renewed = cluster.tick();
        if let Some(share) = cluster.shares.get_mut(slot) {
            share.term = renewed;
        }
        for side in 0..=1 {
            cluster.say(flows, slot, side);
        }
    }

    fn hear_record(&mut self, now: Time, from: NodeId, record: Record) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        cluster.hear(record.term);
        if let Some(slot) = slot_of(flows, &record.first())
            && cluster.shares.get(slot).term > record.term
        {
            self.learn_from(now, slot, &record);
            return;
        }
        let incarnation = cluster.incarnation_of(from);
        let expires = now + Duration::from_millis(record.remaining.into());
        cluster.directory.keep(now, Replica { record, owner: from, incarnation, expires });
    }

    fn hear_hint(&mut self, now: Time, ask: u32, hint: Hint) {
        self.drop_relay(&hint.key);
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        cluster.hear(hint.term);
        let asked = if ask == 0 { None } else { cluster.waiting.take_asked(ask) };
        let rest = match &asked {
            Some(asked) if asked.is_fragment => cluster.waiting.take_fragments_about(&asked.key),
            Some(_) | None => Vec::new(),
        };
        match slot_of(flows, &hint.key) {
            // It stood still, and somebody else has taken the flow over; or opened it, while more has been seen
            // of it here, and gives way to that at this moment: claims decide.
            Some(slot) if cluster.shares.get(slot).term < hint.term => {
                for side in 0..=1 {
                    cluster.say(flows, slot, side);
                }
            }
            Some(_) => {}
            None => cluster.note_hint(now, hint),
        }
        let all = asked.iter().chain(&rest);
        let waited = all.filter(|asked| asked.is_uncounted).count() as u64;
        self.counters.release(Verdict::ToPeer { node: hint.owner }, waited);
    }

    fn hear_granted(&mut self, now: Time, ask: u32) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        let Some(asked) = cluster.waiting.take_asked(ask) else { return };
        let rest = cluster.waiting.take_asked_about(&asked.key);
        if asked.question == Question::Mine
            && let Some(slot) = slot_of(flows, &asked.key)
        {
            let pauses = cluster.pauses;
            if let Some(share) = cluster.shares.get_mut(slot) {
                share.doubt = pauses;
            }
        }
        for asked in std::iter::once(asked).chain(rest) {
            self.decide_here(now, asked);
        }
    }

    fn hear_not_mine(&mut self, now: Time, from: NodeId, ask: u32, key: Pair) {
        self.drop_relay(&key);
        let Some(cluster) = &mut self.cluster else { return };
        cluster.directory.drop_hint(&key);
        if cluster.directory.entry(&key).is_some_and(|entry| entry.claim.owner == from) {
            self.forget_entry(now, &key);
        }
        let Some(cluster) = &mut self.cluster else { return };
        let asked = if ask == 0 { None } else { cluster.waiting.take_asked(ask) };
        if asked.is_some_and(|asked| asked.is_uncounted) {
            self.counters.release(Verdict::Drop(DropReason::NoOwner), 1);
        }
    }
}
