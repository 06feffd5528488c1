//! TCP handshakes that are not complete, and who may begin one more when the limit is reached.
//!
//! A flood of SYNs with invented sources fills any limit in no time. To refuse whoever comes then would
//! let the flood win, and to make room for whoever comes would let it through to the server. So from
//! half of a limit on a newcomer has to show that somebody is there: its source has completed a handshake
//! lately, or has met a challenge (`challenge`). The other half is for those; when that is full too, they
//! take the place of the handshake that has stood open for the longest time, if that has had its chance.
//! Everybody else is challenged, without state.
//!
//! To some the challenge does not come, or their answer does not. They send the same SYN again, as every
//! TCP does after a second (RFC 6298 section 2.1) and a flood of invented sources does not, and take the
//! place of the oldest in the first half. Who repeats each invented SYN can contend with them there; that
//! takes knowledge of this rule, twice the packets, and a second for each, and still nobody who was let in
//! loses the place before [`REPEATER_WAITS_FOR`].

use std::hash::Hash;
use std::time::Duration;

use gabion_rules::FloodLimits;

use crate::address::SourceNetwork;
use crate::chains::{HasKey, Keyed};
use crate::challenge::Challenges;
use crate::flows::Slot;
use crate::hash::keyed;
use crate::links::{Links, List};
use crate::places::Places;
use crate::recent::Recent;
use crate::{DropReason, Endpoint, FlowKey, Time};

/// How long a source that has completed a handshake is trusted to complete another.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// How long a refused SYN may be repeated: past the third repetition of a TCP that waits 1, 2 and 4 s.
const REPEATED_WITHIN: Duration = Duration::from_secs(10);

/// Refused SYNs that are remembered, 4 MiB: at 50,000 a second those of ten seconds, at 200,000 still
/// 98 of 100 until they are repeated. It does not follow the size of tables: floods do not either.
const REFUSED_MARKS: u32 = 1 << 19;

/// Sources that are remembered, 512 KiB.
const KNOWN_MARKS: u32 = 1 << 16;

/// What comes sooner is a copy that the network made, not a repetition.
const REPEATED_AFTER: Duration = Duration::from_millis(200);

/// How long a handshake has stood open before one that is repeated takes its place: RFC 6298 gives a
/// round trip so long before it is measured.
const REPEATER_WAITS_FOR: Duration = Duration::from_secs(1);

/// The same for a source that is known. Less, so that it finds a place where repeaters contend.
const KNOWN_WAITS_FOR: Duration = Duration::from_millis(500);

/// All handshakes that are not complete.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    places: Places<Place>,
    /// By the flow's slot: its place, plus one; 0 for none.
    place_of: Vec<u32>,
    /// All of them, oldest first, and those to each destination.
    all: List,
    order: Links,
    order_of_destination: Links,
    by_destination: Keyed<Destination>,
    refused: Recent,
    known: Recent,
    key: [u8; 16],
    pub(crate) challenges: Challenges,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    flow: Slot,
    destination: Endpoint,
    since: Time,
}

impl Place {
    fn has_had(&self, now: Time, chance: Duration) -> bool {
        now.since(self.since) >= chance
    }
}

/// So many of a limit are for sources that are not known, too.
const fn for_anybody(limit: u32) -> u32 {
    limit.div_ceil(2)
}

#[derive(Debug, Clone, Copy)]
struct Destination {
    endpoint: Endpoint,
    count: u32,
    queue: List,
}

impl HasKey for Destination {
    type Key = Endpoint;

    fn key(&self) -> Endpoint {
        self.endpoint
    }
}

/// A SYN that wants to begin a handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer {
    /// As it came in.
    pub(crate) key: FlowKey,
    /// Where it goes, after destination NAT.
    pub(crate) destination: Endpoint,
    /// Its initial sequence number: a repetition has the same.
    pub(crate) sequence: u32,
}

impl HalfOpen {
    /// For a table of `flows`; the keys are for its hashes, and for those that others see.
    pub(crate) fn new(flows: u32, [key, seen]: [[u8; 16]; 2]) -> Self {
        Self {
            places: Places::new(flows as usize),
            place_of: vec![0; flows as usize],
            all: List::default(),
            order: Links::new(flows),
            order_of_destination: Links::new(flows),
            by_destination: Keyed::new(flows, key),
            refused: Recent::new(REFUSED_MARKS, REPEATED_WITHIN),
            known: Recent::new(KNOWN_MARKS, KNOWN_FOR),
            key,
            challenges: Challenges::new(seen),
        }
    }

    /// Whether one more handshake may begin, and the flow whose place it takes, if any.
    ///
    /// # Errors
    /// `SynChallenged` where the source is to show that it is there, which a repetition of the SYN does too;
    /// `HalfOpenLimit` where nothing helps but time.
    pub(crate) fn admit(
        &mut self,
        now: Time,
        limits: &FloodLimits,
        newcomer: &Newcomer,
    ) -> Result<Option<Slot>, DropReason> {
        let Some(oldest) = self.in_the_way(limits, for_anybody, newcomer) else { return Ok(None) };
        let source = SourceNetwork::from(newcomer.key.source.address);
        if self.known.age(now, self.hash(&source)).is_some() {
            return match self.in_the_way(limits, |limit| limit, newcomer) {
                Some(oldest) if oldest.has_had(now, KNOWN_WAITS_FOR) => Ok(Some(oldest.flow)),
                Some(_) => Err(DropReason::HalfOpenLimit),
                None => Ok(None),
            };
        }
        let syn = self.hash(&(newcomer.key, newcomer.sequence));
        match self.refused.age(now, syn) {
            Some(age) if age >= REPEATED_AFTER && oldest.has_had(now, REPEATER_WAITS_FOR) => {
                return Ok(Some(oldest.flow));
            }
            Some(_) => {}
            None => self.refused.note(now, syn),
        }
        Err(DropReason::SynChallenged)
    }

    /// The oldest of those that fill a part of a limit.
    fn in_the_way(
        &self,
        limits: &FloodLimits,
        part: fn(u32) -> u32,
        newcomer: &Newcomer,
    ) -> Option<Place> {
        let oldest = match self.by_destination.get(&newcomer.destination) {
            Some(there) if there.count >= part(limits.half_open_per_destination) => {
                there.queue.first()
            }
            Some(_) | None if self.len() >= part(limits.half_open) => self.all.first(),
            Some(_) | None => None,
        };
        oldest.map(|place| self.places[place])
    }

    /// A flow's handshake has begun, or has begun anew.
    pub(crate) fn add(&mut self, now: Time, flow: Slot, destination: Endpoint) {
        let place = Place { flow, destination, since: now };
        let index = self.places.put(place);
        self.place_of[flow.0 as usize] = index + 1;
        self.order.append(&mut self.all, index);
        let fresh = Destination { endpoint: destination, count: 0, queue: List::default() };
        if let Some(there) = self.by_destination.get_or_insert(fresh) {
            there.count += 1;
            self.order_of_destination.append(&mut there.queue, index);
        }
    }

    /// A flow's handshake is complete, or the flow has ended.
    pub(crate) fn take(&mut self, flow: Slot) {
        let Some(index) = std::mem::take(&mut self.place_of[flow.0 as usize]).checked_sub(1) else {
            return;
        };
        let destination = self.places[index].destination;
        self.places.give_back(index);
        self.order.remove(&mut self.all, index);
        let Some(there) = self.by_destination.get_mut(&destination) else { return };
        there.count -= 1;
        self.order_of_destination.remove(&mut there.queue, index);
        if there.count == 0 {
            self.by_destination.remove(&destination);
        }
    }

    /// The source has completed a handshake: it is no invention.
    pub(crate) fn know(&mut self, now: Time, source: SourceNetwork) {
        let mark = self.hash(&source);
        self.known.note(now, mark);
    }

    /// The flow whose handshake has stood open for the longest time, and since when.
    pub(crate) fn oldest(&self) -> Option<(Slot, Time)> {
        let place = self.places[self.all.first()?];
        Some((place.flow, place.since))
    }

    /// Places of handshakes, taken or free.
    pub(crate) const fn places(&self) -> u32 {
        self.places.used()
    }

    /// The flow whose handshake has a place.
    pub(crate) fn flow_at(&self, place: u32) -> Option<Slot> {
        let flow = self.places.at(place)?.flow;
        (self.place_of[flow.0 as usize] == place + 1).then_some(flow)
    }

    pub(crate) fn len(&self) -> u32 {
        self.places.len() as u32
    }

    fn hash<T: Hash>(&self, of: &T) -> u64 {
        keyed(self.key, of)
    }
}

#[cfg(test)]
mod tests;
