//! After the view has changed: flows' keys are registered where they are to be looked for now, copies of
//! flows whose owner has gone get another home, and what nobody owns any more is taken out.

use std::time::Duration;

use super::channel::Item;
use super::digests;
use super::directory::Replica;
use super::message::{Claim, End, Message, Rank, Registration};
use super::record::Record;
use super::rendezvous::Pair;
use super::share::SIDES;
use super::{Cluster, NodeId};
use crate::flows::Slot;
use crate::recheck::FLOWS_PER_TURN;
use crate::translate::Translator;
use crate::{Engine, Time};

/// How long a key is remembered whose owner has gone, and of whose flow there is no copy.
const ORPHAN_LIFE: Duration = Duration::from_secs(60);

/// What a peer has let go: its keys of these buckets that it has told of in earlier rounds only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sweep {
    pub(crate) owner: NodeId,
    pub(crate) buckets: u64,
    pub(crate) round: u32,
    /// Where to go on.
    pub(crate) at: u32,
}

impl Engine {
    /// Looks at some flows' holders; when all were looked at and everything has come, peers have been
    /// told all that they are to know.
    pub(super) fn go_on_with_pass(&mut self) {
        let Self { cluster: Some(cluster), flows, translator, .. } = self else { return };
        if let Some(from) = cluster.pass {
            let end = from.saturating_add(FLOWS_PER_TURN).min(flows.slots());
            for slot in (from..end).map(Slot) {
                let Some(entry) = flows.get(slot) else { continue };
                let id = entry.id();
                for side in 0..SIDES as u8 {
                    cluster.place(translator, flows, slot, id, side);
                }
            }
            cluster.pass = (end < flows.slots()).then_some(end);
        } else {
            cluster.copy_orphans(translator);
        }
        cluster.finish_rounds();
    }

    /// Now and then the dead are looked for, whose keys nobody lets go.
    pub(super) fn look_for_orphans(&mut self, now: Time) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        if now.since(cluster.swept) >= ORPHAN_LIFE / 2 {
            cluster.swept = now;
            let (owner, buckets, round) = (NodeId(0), 0, 0);
            cluster.sweeps.push_back(Sweep { owner, buckets, round, at: 0 });
        }
    }

    /// Takes out what peers have let go, and what the dead have left.
    pub(super) fn sweep_directory(&mut self, now: Time) {
        let Self { cluster: Some(cluster), translator, .. } = self else { return };
        let Some(sweep) = cluster.sweeps.front_mut() else { return };
        let Sweep { owner, buckets, round, at } = *sweep;
        let places = cluster.directory.places().max(cluster.directory.replica_places());
        let end = at.saturating_add(FLOWS_PER_TURN).min(places);
        sweep.at = end;
        let mut let_go = Vec::new();
        for place in at..end {
            if let Some(replica) = cluster.directory.replica_at(place).copied()
                && replica.expires <= now
            {
                cluster.drop_copy(translator, &replica);
            }
            let Some(entry) = cluster.directory.entry_at(place) else { continue };
            // What is over, and copies of the dead's, are told of with all the rest only.
            let is_told = buckets == u64::MAX || entry.claim.rank > Rank::Closed;
            let is_let_go = entry.claim.owner == owner
                && is_told
                && buckets & digests::bit(entry.claim.term) != 0
                && entry.round.wrapping_sub(round).cast_signed() < 0;
            let is_left = !cluster.is_live(entry.claim.owner, entry.incarnation)
                && now.since(entry.heard) > ORPHAN_LIFE
                && cluster.directory.replica(&entry.key).is_none_or(|kept| kept.expires <= now);
            if is_let_go || is_left {
                let_go.push(entry.key);
            }
        }
        if end == places {
            cluster.sweeps.pop_front();
        }
        for key in let_go {
            self.forget_entry(now, &key);
            if let Some(cluster) = &mut self.cluster
                && cluster.directory.replica(&key).is_some_and(|kept| kept.record.first() == key)
            {
                cluster.directory.take_replica(&key);
            }
        }
    }
}

impl Engine {
    /// Nobody owns the key any more, as far as this node is to know.
    pub(super) fn forget_entry(&mut self, now: Time, key: &Pair) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.directory.forget(key) {
            self.free_port(now, key);
        }
    }
}

impl Cluster {
    /// Flows of dead owners that this node would adopt are kept by one more, so that its own death does not
    /// lose them.
    fn copy_orphans(&mut self, translator: &Translator) {
        let Some(from) = self.orphans else { return };
        let places = self.directory.replica_places();
        let end = from.saturating_add(FLOWS_PER_TURN).min(places);
        for place in from..end {
            let Some(replica) = self.directory.replica_at(place).copied() else { continue };
            if self.is_live(replica.owner, replica.incarnation) {
                continue;
            }
            let record = replica.record;
            let first = record.first();
            // Other workers of his machine may be there still, and keep none.
            let left = self.directors.without_all(self.machines.around(replica.owner));
            if self.rendezvous.director(&first, left) == Some(self.me())
                && let Some(next) = self.holder_elsewhere(&first)
            {
                self.tell(next, Message::Record(record));
            }
            self.register_orphan(translator, &record);
        }
        self.orphans = (end < places).then_some(end);
    }

    /// Whoever directs the keys of a copy is told where it is, and whoever gave its port out that it is in
    /// use. Whoever owns the flow in truth, and was only silent, has the larger claim.
    fn register_orphan(&mut self, translator: &Translator, record: &Record) {
        let Record { term, birth, .. } = *record;
        let claim = Claim { rank: Rank::Copy, term, owner: self.me(), birth };
        let first = record.first();
        for (key, to) in self.concerned(translator, record) {
            let round = self.peer(to).map_or(0, |peer| peer.round);
            let first = (key != first).then_some(first);
            self.tell(to, Message::Register(Registration { key, first, claim, round }));
        }
    }

    /// The copy has been kept for as long as the flow could have lived.
    pub(super) fn drop_copy(&mut self, translator: &Translator, replica: &Replica) {
        let Replica { record, owner, incarnation, .. } = replica;
        self.directory.take_replica(&record.first());
        if self.is_live(*owner, *incarnation) {
            return;
        }
        let end = End { birth: record.birth, term: record.term, is_over: false };
        for (key, to) in self.concerned(translator, record) {
            self.tell(to, Message::Gone { key, end });
        }
    }

    /// Who is asked for the keys of a flow, and who gave its port out.
    fn concerned(&self, translator: &Translator, record: &Record) -> [(Pair, NodeId); 3] {
        let (first, second) = (record.first(), record.second());
        let giver = translator.owner_of(&record.reply).filter(|giver| self.is_alive(*giver));
        [
            (first, self.director(&first)),
            (second, self.director(&second)),
            (second, giver.unwrap_or(self.me())),
        ]
    }

    /// Says something to a peer until it has come.
    pub(super) fn tell(&mut self, to: NodeId, message: Message) {
        if let Some(peer) = self.peer(to) {
            peer.channel.tell(Item::Said(message));
        }
    }

    /// A peer does not keep what it is to keep: it is told again of all in these buckets, and of copies of the
    /// dead's where these are all.
    pub(super) fn begin_round(&mut self, peer: NodeId, buckets: u64) {
        let Some(peer) = self.peer(peer) else { return };
        peer.round = peer.round.wrapping_add(1);
        peer.owes |= buckets;
        peer.told &= buckets != u64::MAX;
        let is_all = peer.owes == u64::MAX;
        self.pass = Some(0);
        if is_all {
            self.orphans = Some(0);
        }
    }

    /// A peer's sums of what it has registered here.
    pub(super) fn hear_digest(&mut self, from: NodeId, part: u8, sums: &[u32; digests::PART]) {
        let ours = self.directory.sums(from);
        let Some(peer) = self.peer(from) else { return };
        let buckets = peer.watch.compare(part, sums, &ours);
        if buckets != 0 {
            peer.channel.tell(Item::Said(Message::Pull { buckets }));
        }
    }

    /// Who has heard of everything is told so.
    fn finish_rounds(&mut self) {
        if self.pass.is_some() || self.orphans.is_some() {
            return;
        }
        for peer in &mut self.peers {
            if !self.view.contains(peer.node) || !peer.channel.is_idle() {
                continue;
            }
            peer.told = true;
            let (buckets, round) = (std::mem::take(&mut peer.owes), peer.round);
            if buckets != 0 {
                peer.channel.tell(Item::Said(Message::Told { buckets, round }));
            }
        }
    }
}
