//! What a node knows of keys that others own: as the director of a key, as the backup of a flow, and as one
//! who was told.

use std::time::Duration;

use super::NodeId;
use super::aging::Aging;
use super::digests::Sums;
use super::message::{Claim, End, Rank, Registration, Term};
use super::record::Record;
use super::rendezvous::{Pair, View};
use crate::Time;
use crate::chains::{HasKey, Keyed};

/// A key that somebody has registered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Pair,
    /// Where the flow's record is kept, if that is another key's place.
    pub(crate) first: Option<Pair>,
    pub(crate) claim: Claim,
    /// The owner's, at the time.
    pub(crate) incarnation: u64,
    /// The round of the owner's in which it was last told of.
    pub(crate) round: u32,
    pub(crate) heard: Time,
}

/// A flow that this node keeps for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) record: Record,
    pub(crate) owner: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) expires: Time,
}

/// The second key of a replica that has one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Second {
    key: Pair,
    first: Pair,
}

/// Whose a key is, as somebody has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) key: Pair,
    pub(crate) owner: NodeId,
    pub(crate) term: Term,
}

/// A key whose flow has ended: what is older is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tombstone {
    key: Pair,
    end: End,
}

macro_rules! keyed {
    ($($thing:ty: |$this:ident| $key:expr;)+) => {
        $(impl HasKey for $thing {
            type Key = Pair;

            fn key(&self) -> Pair {
                let $this = self;
                $key
            }
        })+
    };
}

keyed! {
    Entry: |entry| entry.key;
    Replica: |replica| replica.record.first();
    Second: |second| second.key;
    Hint: |hint| hint.key;
    Tombstone: |tombstone| tombstone.key;
}

/// How long a hint is good that nobody uses.
const HINT_LIFE: Duration = Duration::from_secs(300);
/// How long it is remembered at least that a flow has ended: nothing is on its way for so long.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(120);

/// What an owner's incarnation has registered here.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    incarnation: u64,
    sums: Sums,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Directory {
    entries: Keyed<Entry>,
    /// Of the entries of each owner but those of flows that are over.
    sums: [Counted; NodeId::MAX as usize],
    replicas: Keyed<Replica>,
    seconds: Keyed<Second>,
    hints: Aging<Hint>,
    tombstones: Aging<Tombstone>,
}

/// The round of a key that was granted to whoever claimed it, until he registers it himself.
pub(crate) const GRANTED: u32 = u32::MAX;

fn place_of(node: NodeId) -> usize {
    usize::from(node.0).wrapping_sub(1)
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    Yes,
    /// It was, in place of this live one.
    InPlaceOf(Claim),
    /// A larger claim is there.
    No(Claim),
    /// This flow, or the one that had the key before, has ended so.
    Ended(End),
    /// There is no room.
    Full,
}

impl Directory {
    pub(crate) fn new(now: Time, flows: u32, secret: [u8; 16]) -> Self {
        Self {
            // A flow has two keys at most.
            entries: Keyed::new(flows.saturating_mul(2), secret),
            sums: [Counted::default(); NodeId::MAX as usize],
            replicas: Keyed::new(flows, secret),
            seconds: Keyed::new(flows, secret),
            hints: Aging::new(now, flows / 4, HINT_LIFE, secret),
            tombstones: Aging::new(now, flows / 4, TOMBSTONE_LIFE, secret),
        }
    }

    pub(crate) fn entry(&self, key: &Pair) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Takes a registration, unless somebody has a larger claim; `is_live` says whether the one who has
    /// the key here is there still.
    pub(crate) fn register(
        &mut self,
        now: Time,
        incarnation: u64,
        registration: &Registration,
        is_live: bool,
    ) -> Registered {
        let Registration { key, first, claim, round } = *registration;
        if let Some(Tombstone { end, .. }) = self.tombstones.get(now, &key)
            && (end.ends(claim.birth, claim.term) || end.term >= claim.term)
        {
            return Registered::Ended(end);
        }
        let mut loser = None;
        if let Some(known) = self.entries.get(&key) {
            let held = known.claim;
            if (held.owner, known.incarnation) == (claim.owner, incarnation) {
                if held.term > claim.term && known.round != GRANTED {
                    // What is older came late.
                    return Registered::Yes;
                }
            } else if is_live {
                if held.beats(&claim) {
                    return Registered::No(held);
                }
                loser = Some(held);
            }
        }
        let entry = Entry { key, first, claim, incarnation, round, heard: now };
        let before = self.entries.get(&key).copied();
        match self.entries.get_or_insert(entry) {
            Some(place) => *place = entry,
            None => return Registered::Full,
        }
        if let Some(before) = before {
            self.discount(&before);
        }
        if let Some(sums) = self.sums_of(&entry) {
            sums.add(claim.term, first.is_some());
        }
        if self.hints.peek(&key).is_some_and(|hint| hint.term < claim.term) {
            self.hints.remove(&key);
        }
        loser.map_or(Registered::Yes, Registered::InPlaceOf)
    }

    /// A flow of this owner's has ended: what was known of it at this term or before is forgotten. What
    /// others say of the key stays, unless it is over for all.
    pub(crate) fn bury(&mut self, now: Time, owner: Option<NodeId>, key: Pair, end: End) {
        let is_ended = |claim: Claim| {
            Some(claim.owner) == owner && claim.term <= end.term
                || end.is_over && claim.birth == end.birth
        };
        if self.entries.get(&key).is_some_and(|entry| is_ended(entry.claim)) {
            self.forget(&key);
        }
        self.drop_replica(&key, end.term);
        if self.replica(&key).is_some_and(|kept| {
            kept.record.first() == key && end.ends(kept.record.birth, kept.record.term)
        }) {
            self.take_replica(&key);
        }
        let known = self.tombstones.get(now, &key).map(|buried| buried.end);
        let end = match known.filter(|known| known.birth == end.birth) {
            Some(known) => {
                End { term: known.term.max(end.term), is_over: known.is_over || end.is_over, ..end }
            }
            None => end,
        };
        self.tombstones.put(now, Tombstone { key, end });
    }

    /// A copy of this term or an earlier one is of no use any more. It is kept where the first key is: that the
    /// second one is elsewhere says nothing of it.
    pub(crate) fn drop_replica(&mut self, key: &Pair, term: Term) {
        let is_old = |kept: &Replica| kept.record.first() == *key && kept.record.term <= term;
        if self.replica(key).is_some_and(is_old) {
            self.take_replica(key);
        }
    }

    /// How the last flow of the key has ended, as far as that is remembered.
    pub(crate) fn ended(&mut self, now: Time, key: &Pair) -> Option<End> {
        self.tombstones.get(now, key).map(|buried| buried.end)
    }

    /// Whether there was an entry.
    pub(crate) fn forget(&mut self, key: &Pair) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.discount(&entry);
        true
    }

    /// What is known here of an owner's flows.
    pub(crate) fn sums(&self, owner: NodeId) -> Sums {
        self.sums.get(place_of(owner)).map(|counted| counted.sums).unwrap_or_default()
    }

    /// An owner has begun anew: what it registered before is not its own any more.
    pub(crate) fn begin(&mut self, owner: NodeId, incarnation: u64) {
        if let Some(counted) = self.sums.get_mut(place_of(owner)) {
            *counted = Counted { incarnation, sums: Sums::default() };
        }
    }

    fn discount(&mut self, entry: &Entry) {
        if let Some(sums) = self.sums_of(entry) {
            sums.take(entry.claim.term, entry.first.is_some());
        }
    }

    /// Where the entry counts.
    fn sums_of(&mut self, entry: &Entry) -> Option<&mut Sums> {
        let counted = self.sums.get_mut(place_of(entry.claim.owner))?;
        let is_counted =
            entry.claim.rank > Rank::Closed && entry.incarnation == counted.incarnation;
        is_counted.then_some(&mut counted.sums)
    }

    /// Keeps a record, unless a newer one is there or the flow has ended; whether it is kept.
    pub(crate) fn keep(&mut self, now: Time, replica: Replica) -> bool {
        let record = &replica.record;
        let (first, second) = (record.first(), record.second());
        let is_ended = |end: End| end.ends(record.birth, record.term) || end.term >= record.term;
        if self.tombstones.get(now, &first).is_some_and(|buried| is_ended(buried.end)) {
            return false;
        }
        let order = |record: &Record| (record.term, record.version);
        match self.replicas.get(&first).map(|kept| kept.record) {
            Some(kept) if order(&kept) > order(record) => return false,
            Some(kept) if kept.second() != second => {
                self.take_replica(&first);
            }
            Some(_) | None => {}
        }
        if second != first {
            match self.seconds.get_or_insert(Second { key: second, first }) {
                Some(place) => place.first = first,
                None => return false,
            }
        }
        match self.replicas.get_or_insert(replica) {
            Some(place) => *place = replica,
            None => return false,
        }
        true
    }

    /// By either of its keys.
    pub(crate) fn replica(&self, key: &Pair) -> Option<&Replica> {
        let first = self.seconds.get(key).map_or(*key, |second| second.first);
        self.replicas.get(&first)
    }

    pub(crate) fn take_replica(&mut self, key: &Pair) -> Option<Replica> {
        let first = self.seconds.get(key).map_or(*key, |second| second.first);
        let replica = self.replicas.remove(&first)?;
        self.seconds.remove(&replica.record.second());
        Some(replica)
    }

    pub(crate) fn hint(&mut self, now: Time, key: &Pair) -> Option<Hint> {
        self.hints.get(now, key)
    }

    pub(crate) fn peek_hint(&self, key: &Pair) -> Option<&Hint> {
        self.hints.peek(key)
    }

    /// Believes the largest term of those that are alive, whether it was told or registered.
    pub(crate) fn note_hint(&mut self, now: Time, view: View, hint: Hint) {
        let known = self.hints.get(now, &hint.key).filter(|known| view.contains(known.owner));
        let claim = self.entries.get(&hint.key).map(|entry| entry.claim);
        let claim = claim.filter(|claim| view.contains(claim.owner));
        if known.is_none_or(|known| known.term <= hint.term)
            && claim.is_none_or(|claim| claim.term <= hint.term)
        {
            self.hints.put(now, hint);
        }
    }

    pub(crate) fn drop_hint(&mut self, key: &Pair) {
        self.hints.remove(key);
    }

    pub(crate) const fn entries(&self) -> usize {
        self.entries.len()
    }

    pub(crate) const fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// How many places of entries there are, to walk over them.
    pub(crate) fn places(&self) -> u32 {
        self.entries.places()
    }

    pub(crate) fn replica_places(&self) -> u32 {
        self.replicas.places()
    }

    pub(crate) fn entry_at(&self, place: u32) -> Option<&Entry> {
        self.entries.at(place)
    }

    pub(crate) fn replica_at(&self, place: u32) -> Option<&Replica> {
        self.replicas.at(place)
    }
}
