//! Tables alone, as benchmarks look at them. An engine has the same inside.

use std::ops::RangeInclusive;

use gabion_rules::{RuleId, ZoneId};

use crate::event::{FlowId, Generation};
use crate::flows::{
    Admission, DestinationChoice, Flow, FlowTable, Guess, Side, SourceChoice, Tracker,
};
use crate::nat::{PortAllocator, Reuse, Wanted};
use crate::packet::protocol;
use crate::translate::Lease;
use crate::{BATCH, FlowKey, InterfaceId, Time, Usage};

/// A flow table whose flows are never used.
#[derive(Debug)]
pub struct Flows(FlowTable);

impl Flows {
    /// Room for so many flows; `key` seeds the hash.
    pub fn new(capacity: u32, key: [u8; 16]) -> Self {
        Self(FlowTable::new(capacity, key))
    }

    /// Adds a flow with these keys, neither of which is there; `false` if there is no room.
    pub fn insert(&mut self, original: FlowKey, reply: FlowKey) -> bool {
        self.0.insert(&bare(original, reply)).is_some()
    }

    /// How many of the keys are there, looked up one after the other.
    pub fn count_singly(&self, keys: &[FlowKey]) -> usize {
        keys.iter().filter(|key| self.0.find(key).is_some()).count()
    }

    /// The same, looked up together as the engine does for a batch of frames.
    pub fn count_batch(&self, keys: &[FlowKey; BATCH]) -> usize {
        let hashes = keys.each_ref().map(|key| self.0.hash(key));
        let mut guesses = [Guess::default(); BATCH];
        self.0.guess(&hashes, &mut guesses);
        let mut found = 0;
        for ((hash, guess), key) in hashes.into_iter().zip(guesses).zip(keys) {
            found += usize::from(self.0.find_guessed(hash, guess, key).is_some());
        }
        found
    }
}

/// The ports of one external address.
#[derive(Debug)]
pub struct Ports(PortAllocator);

impl Ports {
    /// All ports are free; `seed` decides upon their order.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(PortAllocator::new(seed, None))
    }

    /// Takes a port out of `range`, if there is one.
    pub fn allocate(&mut self, range: &RangeInclusive<u16>) -> Option<u16> {
        let wanted = Wanted {
            address: EXTERNAL.into(),
            protocol: protocol::TCP,
            range,
            port: *range.end(),
            reuse: Reuse::AtOnce,
        };
        self.0.allocate(Time::ZERO, &wanted)
    }

    /// Gives a port back.
    pub fn release(&mut self, port: u16) {
        self.0.release(Time::ZERO, EXTERNAL.into(), protocol::TCP, port);
    }
}

const EXTERNAL: [u8; 4] = [203, 0, 113, 7];

/// A flow of which nothing but its keys matters.
pub(crate) fn bare(original: FlowKey, reply: FlowKey) -> Flow {
    let side = Side { ingress: InterfaceId(0), hop: None, usage: Usage::default() };
    Flow {
        id: FlowId(1),
        original,
        reply,
        sides: [side, side],
        admission: Admission {
            generation: Generation(1),
            from: ZoneId(0),
            to: ZoneId(1),
            rule: RuleId(0),
            destination: DestinationChoice::AsSent,
            source: SourceChoice::AsSent,
        },
        tracker: Tracker::Udp { replied: false },
        half_open: false,
        expendable: false,
        logged: false,
        lease: Lease::Nothing,
        guest_of: None,
        is_from_own_address: false,
        epoch: 1,
        opened: Time::ZERO,
        expires: Time::ZERO,
    }
}
