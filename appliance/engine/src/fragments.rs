//! Datagrams in pieces: every fragment is kept until the datagram is whole and sound, then all go on
//! as they came, in order. Nothing of an incomplete datagram ever passes (RFC 1858, 3128, 5722, 6946,
//! 7112; RFC 4787 REQ-14), none is larger than it was sent.
//!
//! A datagram that can not become whole any more is dropped at once, and its key stays spoiled until
//! its timeout: what still comes of it is dropped for the same reason.
//!
//! One source has a part of the table and no more. When many fill it all the same, the datagram that
//! has waited longest gives way: the pieces of a good one come within milliseconds of each other, and
//! those of a flood (CVE-2018-5391) never come. Refusing newcomers instead would let a few hundred
//! packets a second from forged sources keep everybody's fragments out.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use siphasher::sip::SipHasher13;

use crate::InterfaceId;
use crate::address::{Address, Family, SourceNetwork};
use crate::limits::Limits;
use crate::packet::{Fragment, Packet};
use crate::time::Time;
use crate::verdict::DropReason;

/// The datagrams that are waited for.
#[derive(Debug)]
pub(crate) struct Fragments {
    datagrams: HashMap<Key, Datagram, Keyed>,
    /// Every datagram once, by the time at which it is given up.
    deadlines: BTreeSet<(Time, Key)>,
    /// What each source holds; none that holds nothing.
    sources: HashMap<SourceNetwork, Share, Keyed>,
    total: Share,
    held: u32,
    /// Fragments that have given way to others and are not counted as dropped yet.
    given_way: u32,
    limits: Limits,
}

/// What became of a fragment.
#[derive(Debug)]
pub(crate) enum Reassembly {
    /// Kept. `Verdict::Held`.
    Held,
    /// The datagram is whole: its fragments in order, the first with its transport header. The one
    /// that completed it is among them.
    Complete(Vec<KeptFragment>),
    /// This fragment and `with` kept ones are dropped for the reason.
    Dropped { reason: DropReason, with: u32 },
}

/// A fragment as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptFragment {
    pub(crate) bytes: Vec<u8>,
    pub(crate) packet: Packet,
}

/// What the fragments of one datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    from: InterfaceId,
    source: Address,
    destination: Address,
    /// IPv4 only: the fragments of one IPv6 datagram may differ in it.
    protocol: u8,
    identification: u32,
}

/// What is kept of all sources, or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Share {
    datagrams: u32,
    bytes: u32,
}

#[derive(Debug)]
struct Datagram {
    deadline: Time,
    /// By offset. They do not overlap and lie within `length`.
    pieces: BTreeMap<u32, KeptFragment>,
    /// Bytes of payload in `pieces`.
    received: u32,
    /// Bytes of payload in all, once the last fragment has come.
    length: Option<u32>,
    /// What the pieces take of the limit.
    cost: u32,
    /// The reason for which the datagram was dropped; it holds no pieces then.
    spoiled: Option<DropReason>,
}

/// How a fragment fits those that are there.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    New,
    /// The same bytes in the same place.
    Duplicate,
    Overlap,
    /// It lies behind the end of the datagram, or ends it elsewhere.
    BeyondEnd,
}

/// One source may keep one part in so many of the table.
const PART_OF_SOURCE: u32 = 4;

/// What keeping a fragment takes beside its bytes.
const OVERHEAD: u32 = size_of::<KeptFragment>() as u32;

impl Fragments {
    /// `key` seeds the hash.
    pub(crate) fn new(limits: &Limits, key: [u8; 16]) -> Self {
        Self {
            datagrams: HashMap::with_hasher(Keyed(key)),
            deadlines: BTreeSet::new(),
            sources: HashMap::with_hasher(Keyed(key)),
            total: Share::default(),
            held: 0,
            given_way: 0,
            limits: *limits,
        }
    }

    /// Takes a fragment (`packet.fragment` is `Some`). Fragments of one datagram come in by one
    /// interface. `timeout` runs from the first fragment that was seen.
    ///
    /// # Panics
    /// When the packet is no fragment.
    pub(crate) fn handle_fragment(
        &mut self,
        now: Time,
        from: InterfaceId,
        bytes: &[u8],
        packet: &Packet,
        timeout: Duration,
    ) -> Reassembly {
        let fragment = packet.fragment.expect("the caller has seen that it is a fragment");
        let key = Key::of(from, packet, fragment);
        let cost = bytes.len() as u32 + OVERHEAD;
        let known = self.datagrams.get(&key);
        if let Some(reason) = known.and_then(|datagram| datagram.spoiled) {
            return Reassembly::Dropped { reason, with: 0 };
        }
        match known.map_or(Fit::New, |datagram| datagram.fit(bytes, packet, fragment)) {
            Fit::Duplicate => {
                return Reassembly::Dropped { reason: DropReason::FragmentDuplicate, with: 0 };
            }
            Fit::Overlap => return self.spoil(&key, DropReason::FragmentOverlap),
            Fit::BeyondEnd => return self.spoil(&key, DropReason::FragmentInvalid),
            Fit::New => {}
        }
        let pieces = known.map_or(0, |datagram| datagram.pieces.len());
        let crowded = pieces >= self.limits.fragments_per_datagram as usize;
        if crowded || !self.make_room(&key, cost) {
            return self.spoil(&key, DropReason::FragmentTableFull);
        }
        let datagram = match self.datagrams.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let deadline = now + timeout;
                self.deadlines.insert((deadline, key));
                self.sources.entry(key.source_network()).or_default().datagrams += 1;
                self.total.datagrams += 1;
                entry.insert(Datagram::until(deadline))
            }
        };
        datagram.keep(bytes, packet, fragment, cost);
        let is_whole = datagram.length == Some(datagram.received);
        self.take(&key, cost);
        if is_whole { Reassembly::Complete(self.remove(&key)) } else { Reassembly::Held }
    }

    /// How many fragments have given way to others since the last call.
    pub(crate) const fn take_given_way(&mut self) -> u32 {
        std::mem::replace(&mut self.given_way, 0)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Gives up one datagram that is overdue and returns how many fragments went with it; call
    /// until `None`.
    pub(crate) fn poll_expired(&mut self, now: Time) -> Option<u32> {
        let &(deadline, key) = self.deadlines.first()?;
        (deadline <= now).then(|| self.remove(&key).len() as u32)
    }

    /// Fragments kept now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// Datagrams that are waited for, or spoiled.
    pub(crate) fn len(&self) -> u32 {
        self.total.datagrams
    }

    /// Makes room for a fragment of this cost, and for its datagram if that is new; false where its
    /// source has its part already.
    fn make_room(&mut self, key: &Key, cost: u32) -> bool {
        let share = self.sources.get(&key.source_network()).copied().unwrap_or_default();
        let part = self.part_of_source();
        let new = u32::from(!self.datagrams.contains_key(key));
        if share.datagrams + new > part.datagrams || share.bytes + cost > part.bytes {
            return false;
        }
        while self.total.datagrams + new > self.limits.fragmented_datagrams
            || self.total.bytes + cost > self.limits.fragment_bytes
        {
            let oldest = self.deadlines.iter().map(|&(_, other)| other).find(|other| other != key);
            let Some(oldest) = oldest else { return false };
            self.given_way += self.remove(&oldest).len() as u32;
        }
        true
    }

    /// What one source may keep: its part of the table, and room for one datagram in any case.
    fn part_of_source(&self) -> Share {
        const ONE_DATAGRAM: u32 = 1 << 17;
        let bytes = self.limits.fragment_bytes;
        Share {
            datagrams: self.limits.fragmented_datagrams.div_ceil(PART_OF_SOURCE),
            bytes: (bytes / PART_OF_SOURCE).max(ONE_DATAGRAM).min(bytes),
        }
    }

    fn take(&mut self, key: &Key, cost: u32) {
        self.held += 1;
        self.total.bytes += cost;
        self.sources.entry(key.source_network()).or_default().bytes += cost;
    }

    /// Drops the datagram and keeps its key until the timeout.
    fn spoil(&mut self, key: &Key, reason: DropReason) -> Reassembly {
        let Some(datagram) = self.datagrams.get_mut(key) else {
            return Reassembly::Dropped { reason, with: 0 };
        };
        let cost = std::mem::take(&mut datagram.cost);
        let with = std::mem::take(&mut datagram.pieces).len() as u32;
        datagram.spoiled = Some(reason);
        self.give_back(key, Share { datagrams: 0, bytes: cost }, with);
        Reassembly::Dropped { reason, with }
    }

    /// Removes the datagram and returns its pieces in order.
    fn remove(&mut self, key: &Key) -> Vec<KeptFragment> {
        let Some(datagram) = self.datagrams.remove(key) else { return Vec::new() };
        self.deadlines.remove(&(datagram.deadline, *key));
        let share = Share { datagrams: 1, bytes: datagram.cost };
        self.give_back(key, share, datagram.pieces.len() as u32);
        datagram.pieces.into_values().collect()
    }

    fn give_back(&mut self, key: &Key, share: Share, fragments: u32) {
        self.held -= fragments;
        self.total.subtract(share);
        if let Entry::Occupied(mut entry) = self.sources.entry(key.source_network()) {
            entry.get_mut().subtract(share);
            if *entry.get() == Share::default() {
                entry.remove();
            }
        }
    }
}

impl Datagram {
    fn until(deadline: Time) -> Self {
        let pieces = BTreeMap::new();
        Self { deadline, pieces, received: 0, length: None, cost: 0, spoiled: None }
    }

    fn fit(&self, bytes: &[u8], packet: &Packet, fragment: Fragment) -> Fit {
        let end = fragment.offset + fragment.length;
        if let Some(kept) = self.pieces.get(&fragment.offset) {
            let is_same = kept.packet.fragment == packet.fragment
                && kept.payload() == payload(bytes, packet, fragment);
            return if is_same { Fit::Duplicate } else { Fit::Overlap };
        }
        let before = self.pieces.range(..fragment.offset).next_back();
        let after = self.pieces.range(fragment.offset..).next();
        if before.is_some_and(|(_, kept)| kept.end() > fragment.offset)
            || after.is_some_and(|(&offset, _)| offset < end)
        {
            return Fit::Overlap;
        }
        let fits_end = match (self.length, fragment.more) {
            (Some(length), true) => end < length,
            (Some(_), false) => false,
            (None, true) => true,
            (None, false) => after.is_none(),
        };
        if fits_end { Fit::New } else { Fit::BeyondEnd }
    }

    fn keep(&mut self, bytes: &[u8], packet: &Packet, fragment: Fragment, cost: u32) {
        let kept = KeptFragment { bytes: bytes.to_vec(), packet: *packet };
        self.pieces.insert(fragment.offset, kept);
        self.received += fragment.length;
        self.cost += cost;
        if !fragment.more {
            self.length = Some(fragment.offset + fragment.length);
        }
    }
}

impl KeptFragment {
    fn payload(&self) -> &[u8] {
        let fragment = self.packet.fragment.expect("only fragments are kept");
        payload(&self.bytes, &self.packet, fragment)
    }

    fn end(&self) -> u32 {
        self.packet.fragment.map_or(0, |fragment| fragment.offset + fragment.length)
    }
}

/// The bytes that the fragment brings of its datagram.
fn payload<'a>(bytes: &'a [u8], packet: &Packet, fragment: Fragment) -> &'a [u8] {
    let start = packet.end.saturating_sub(fragment.length as usize);
    bytes.get(start..packet.end).unwrap_or_default()
}

impl Key {
    fn of(from: InterfaceId, packet: &Packet, fragment: Fragment) -> Self {
        let protocol = match packet.source.family() {
            Family::Ipv4 => packet.protocol,
            Family::Ipv6 => 0,
        };
        let Packet { source, destination, .. } = *packet;
        Self { from, source, destination, protocol, identification: fragment.identification }
    }

    fn source_network(&self) -> SourceNetwork {
        SourceNetwork::from(self.source)
    }
}

impl Share {
    fn subtract(&mut self, other: Self) {
        self.datagrams -= other.datagrams;
        self.bytes -= other.bytes;
    }
}

/// SipHash-1-3 under a secret key: whoever chooses identifications does not choose buckets.
#[derive(Debug, Clone)]
struct Keyed([u8; 16]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

#[cfg(test)]
mod tests;
