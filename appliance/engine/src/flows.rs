//! The flow table: one entry per connection, found by either of its two wire keys. NAT is the case
//! in which they differ; there is no NAT table beside it.

use std::hash::Hasher;

use gabion_rules::{NatId, RuleId, ZoneId};
use siphasher::sip::SipHasher13;

use crate::event::{FlowId, FlowReport, FlowState, Generation, Usage};
use crate::hash::KeyedHash;
use crate::index::Index;
use crate::nat::MappingId;
use crate::neighbours::Hop;
use crate::rewrite::Rewrite;
use crate::tcp::{TcpState, TcpTracker};
use crate::translate::Lease;
use crate::{Address, Direction, FlowKey, InterfaceId, Time};

/// A place in the table; reused after the flow has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u32);

/// A connection, or what stands for one.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    /// Packets from the originator, as they come in.
    pub(crate) original: FlowKey,
    /// Packets from the responder, as they come in.
    pub(crate) reply: FlowKey,
    pub(crate) sides: [Side; 2],
    pub(crate) admission: Admission,
    pub(crate) tracker: Tracker,
    /// Whether it counts against the half-open limits.
    pub(crate) half_open: bool,
    /// Whether its opening was logged, and its end is to be.
    pub(crate) logged: bool,
    pub(crate) lease: Lease,
    /// The mapping whose external endpoint it came in by.
    pub(crate) guest_of: Option<MappingId>,
    /// Whether its source became the node's own address.
    pub(crate) is_from_own_address: bool,
    /// The topology under which it was last looked at.
    pub(crate) epoch: u32,
    pub(crate) opened: Time,
    pub(crate) expires: Time,
}

/// What the packets of one direction need; index with [`Direction`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) ingress: InterfaceId,
    pub(crate) rewrite: Rewrite,
    pub(crate) hop: Hop,
    pub(crate) usage: Usage,
}

/// Which policy let the flow in, and how. Ids are those of `generation`'s rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) generation: Generation,
    pub(crate) from: ZoneId,
    pub(crate) to: ZoneId,
    pub(crate) rule: RuleId,
    pub(crate) destination: DestinationChoice,
    pub(crate) source: SourceChoice,
}

/// Where the flow's destination came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DestinationChoice {
    AsSent,
    Rule(NatId),
    /// The external endpoint of somebody's mapping, open to others (RFC 4787 section 5).
    Mapping,
}

/// Where the flow's translated source came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceChoice {
    AsSent,
    Rule(NatId),
    /// The packet leaves the way it came: without the node's address as its source, the answer
    /// would not come back this way (RFC 4787 REQ-9).
    Hairpin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracker {
    Tcp(TcpTracker),
    Udp { replied: bool },
    Icmp { replied: bool },
    Other { replied: bool },
}

impl Flow {
    pub(crate) const fn side(&self, direction: Direction) -> &Side {
        &self.sides[direction.index()]
    }

    pub(crate) const fn side_mut(&mut self, direction: Direction) -> &mut Side {
        &mut self.sides[direction.index()]
    }

    /// The key of packets of a direction as they come in.
    pub(crate) const fn key(&self, direction: Direction) -> &FlowKey {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// The zone that packets of a direction come from.
    pub(crate) const fn zone(&self, direction: Direction) -> ZoneId {
        match direction {
            Direction::Original => self.admission.from,
            Direction::Reply => self.admission.to,
        }
    }

    /// Whether it is over or, other than TCP's, was never answered: nobody misses it. Handshakes that
    /// are not complete have a list of their own.
    pub(crate) fn is_expendable(&self) -> bool {
        match &self.tracker {
            Tracker::Tcp(tcp) => tcp.state() == TcpState::Closed,
            Tracker::Udp { replied } | Tracker::Icmp { replied } | Tracker::Other { replied } => {
                !replied
            }
        }
    }

    pub(crate) fn state(&self) -> FlowState {
        match &self.tracker {
            Tracker::Tcp(tcp) => FlowState::Tcp(tcp.state()),
            Tracker::Udp { replied } | Tracker::Icmp { replied } | Tracker::Other { replied } => {
                if *replied {
                    FlowState::Replied
                } else {
                    FlowState::Unreplied
                }
            }
        }
    }

    pub(crate) fn report(&self) -> FlowReport {
        let admission = &self.admission;
        FlowReport {
            id: self.id,
            original: self.original,
            reply: self.reply,
            from: admission.from,
            to: admission.to,
            generation: admission.generation,
            rule: admission.rule,
            destination_nat: match admission.destination {
                DestinationChoice::Rule(id) => Some(id),
                DestinationChoice::AsSent | DestinationChoice::Mapping => None,
            },
            source_nat: match admission.source {
                SourceChoice::Rule(id) => Some(id),
                SourceChoice::AsSent | SourceChoice::Hairpin => None,
            },
            state: self.state(),
            original_usage: self.side(Direction::Original).usage,
            reply_usage: self.side(Direction::Reply).usage,
            opened: self.opened,
            expires: self.expires,
        }
    }
}

/// All flows; memory is allocated once.
#[derive(Debug)]
pub(crate) struct FlowTable {
    /// Grows up to its capacity, which it has from the start.
    slots: Vec<Option<Flow>>,
    /// Slots that were used and are free again.
    free: Vec<u32>,
    capacity: u32,
    /// Each flow twice: its slot, doubled, plus one for the reply key.
    index: Index,
    /// Seeded, so that nobody outside can choose tuples that collide.
    hash: KeyedHash,
}

impl FlowTable {
    pub(crate) fn new(capacity: u32, key: [u8; 16]) -> Self {
        Self {
            slots: Vec::with_capacity(capacity as usize),
            free: Vec::with_capacity(capacity as usize),
            capacity,
            index: Index::new(2 * capacity as usize),
            hash: KeyedHash::new(key),
        }
    }

    pub(crate) fn find(&self, key: &FlowKey) -> Option<(Slot, Direction)> {
        let entry = self.index.find(self.hash.flow(key), |entry| self.entry_key(entry) == key)?;
        let direction = if entry & 1 == 0 { Direction::Original } else { Direction::Reply };
        Some((Slot(entry >> 1), direction))
    }

    /// Adds a flow; `None` when the table has no place for it. The caller has seen that neither key
    /// is taken.
    pub(crate) fn insert(&mut self, flow: Flow) -> Option<Slot> {
        let slot = self.free.last().copied().or_else(|| self.fresh())?;
        let hashes = [flow.original, flow.reply].map(|key| self.hash.flow(&key));
        if !self.index.insert(hashes[0], slot << 1) {
            return None;
        }
        if !self.index.insert(hashes[1], slot << 1 | 1) {
            self.index.remove(hashes[0], slot << 1);
            return None;
        }
        if self.free.pop().is_some() {
            self.slots[slot as usize] = Some(flow);
        } else {
            self.slots.push(Some(flow));
        }
        Some(Slot(slot))
    }

    /// The first slot that was never used.
    fn fresh(&self) -> Option<u32> {
        let slot = self.slots.len() as u32;
        (slot < self.capacity).then_some(slot)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Flow> {
        let flow = self.slots.get_mut(slot.0 as usize)?.take()?;
        for (side, key) in (0u32..).zip([flow.original, flow.reply]) {
            self.index.remove(self.hash.flow(&key), slot.0 << 1 | side);
        }
        self.free.push(slot.0);
        Some(flow)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Flow> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Flow> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    pub(crate) fn len(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    fn entry_key(&self, entry: u32) -> &FlowKey {
        let flow = self.slots[(entry >> 1) as usize].as_ref();
        let flow = flow.expect("the index names flows only");
        if entry & 1 == 0 { &flow.original } else { &flow.reply }
    }
}

impl std::ops::Index<Slot> for FlowTable {
    type Output = Flow;

    /// # Panics
    /// Where the slot is free: slots come from `find` and `insert` and do not outlive their flow.
    fn index(&self, slot: Slot) -> &Flow {
        self.get(slot).expect("the slot holds a flow")
    }
}

impl std::ops::IndexMut<Slot> for FlowTable {
    fn index_mut(&mut self, slot: Slot) -> &mut Flow {
        self.get_mut(slot).expect("the slot holds a flow")
    }
}

/// A pick that follows from the key, and from a secret.
pub(crate) fn hash(seed: [u8; 16], key: &FlowKey) -> u64 {
    KeyedHash::new(seed).flow(key)
}

pub(crate) fn hash_address(seed: [u8; 16], address: Address) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&seed);
    hasher.write(&address.octets());
    hasher.finish()
}

#[cfg(test)]
mod tests;
