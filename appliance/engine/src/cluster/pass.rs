//! After the view has changed: flows' keys are registered where they are to be looked for now, copies of
//! flows whose owner has gone get another home, and what nobody owns any more is taken out.

use std::time::Duration;

use super::channel::Item;
use super::message::{Claim, Message, Rank, Registration};
use super::record::Record;
use super::rendezvous::Pair;
use super::{Cluster, NodeId};
use crate::flows::Slot;
use crate::recheck::FLOWS_PER_TURN;
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
        } else {
            cluster.copy_orphans();
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
        let Some(cluster) = &mut self.cluster else { return };
        let Some(sweep) = cluster.sweeps.front_mut() else { return };
        let Sweep { owner, buckets, round, at } = *sweep;
        let places = cluster.directory.places();
        let end = at.saturating_add(FLOWS_PER_TURN).min(places);
        sweep.at = end;
        for place in at..end {
            let Some(entry) = cluster.directory.entry_at(place).copied() else { continue };
            let is_let_go = entry.claim.owner == owner
                && buckets & bucket(&entry.key) != 0
                && entry.round.wrapping_sub(round).cast_signed() < 0;
            let is_left = !cluster.is_live(entry.claim.owner, entry.incarnation)
                && now.since(entry.heard) > ORPHAN_LIFE
                && cluster.directory.replica(&entry.key).is_none_or(|kept| kept.expires <= now);
            if is_let_go || is_left {
                cluster.directory.forget(&entry.key);
                cluster.directory.take_replica(&entry.key);
            }
        }
        if end == places {
            cluster.sweeps.pop_front();
        }
    }
}

impl Cluster {
    /// Flows of dead owners that this node would adopt are kept by one more, so that its own death does not
    /// lose them.
    fn copy_orphans(&mut self) {
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
            if self.director(&first) == self.me() {
                let next = self.rendezvous.holder(&first, self.directors, self.me());
                if let Some(next) = next {
                    self.tell(next, Message::Record(record));
                }
            }
            self.register_orphan(&record);
        }
        self.orphans = (end < places).then_some(end);
    }

    /// Whoever directs the keys of a copy is told where it is. Whoever owns the flow in truth, and was only
    /// silent, has the larger claim.
    fn register_orphan(&mut self, record: &Record) {
        let (first, second) = (record.first(), record.second());
        let claim = Claim { rank: Rank::Closed, term: record.term, owner: self.me() };
        for key in [Some(first), Some(second).filter(|second| *second != first)] {
            let Some(key) = key else { continue };
            let director = self.director(&key);
            let round = self.peer(director).map_or(0, |peer| peer.round);
            let first = (key != first).then_some(first);
            self.tell(director, Message::Register(Registration { key, first, claim, round }));
        }
    }

    /// Says something to a peer until it has come.
    pub(super) fn tell(&mut self, to: NodeId, message: Message) {
        if let Some(peer) = self.peer(to) {
            peer.channel.tell(Item::Said(message));
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
            if std::mem::take(&mut peer.owes_round) {
                let (buckets, round) = (u64::MAX, peer.round);
                peer.channel.tell(Item::Said(Message::Told { buckets, round }));
            }
        }
    }
}

/// The bit of a key's bucket.
fn bucket(key: &Pair) -> u64 {
    1 << (crate::hash::keyed([0; 16], key) % u64::from(u64::BITS))
}
