//! Endpoint-independent mappings (RFC 4787 section 4.1), with the flows that use each counted.

use gabion_rules::NatId;

use crate::address::Endpoint;
use crate::chains::Chains;
use crate::hash::keyed;
use crate::places::Places;
use crate::{Address, Family};

/// A mapping in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MappingId(pub u32);

/// One mapping: the internal endpoint and the external one that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub internal: Endpoint,
    pub external: Endpoint,
    pub protocol: u8,
    pub rule: NatId,
    /// Flows from inside that use the mapping.
    pub flows: u32,
    /// Flows of strangers that came in by it. They keep the external endpoint from being given to
    /// somebody else, and open it to nobody.
    pub guests: u32,
}

/// All mappings, found by either endpoint; at most `capacity`. Memory is allocated once, and used as
/// mappings come.
#[derive(Debug)]
pub(crate) struct Mappings {
    entries: Places<Entry>,
    /// The addresses of mappings whose addresses do not fit into an entry.
    wide: Places<Ends>,
    capacity: usize,
    by_internal: Chains,
    by_external: Chains,
    key: [u8; 16],
}

/// A mapping as it is kept: there may be one for each flow.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Internal and external; of a wide mapping, twice the place where its addresses are.
    addresses: [[u8; 4]; 2],
    ports: [u16; 2],
    rule: NatId,
    flows: Count,
    guests: Count,
    /// The protocol, below two marks.
    kind: u8,
}

const _: () = assert!(size_of::<Entry>() == 22);

/// Internal and external address.
type Ends = [Address; 2];

/// Of `kind`: the protocols that have ports for NAT to change are below.
const WIDE: u8 = 1 << 7;
const TAKEN: u8 = 1 << 6;

/// Of flows, which are one more than this at most, and not all of one mapping.
#[derive(Debug, Clone, Copy, Default)]
struct Count([u8; 3]);

impl Count {
    const fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }

    fn change(&mut self, by: i32) {
        let [a, b, c, _] = self.get().saturating_add_signed(by).min((1 << 24) - 1).to_le_bytes();
        self.0 = [a, b, c];
    }
}

impl Mappings {
    /// `key` seeds the hash.
    pub(crate) fn new(capacity: u32, key: [u8; 16]) -> Self {
        let places = capacity as usize;
        Self {
            entries: Places::new(places),
            wide: Places::new(places),
            capacity: places,
            by_internal: Chains::new(places),
            by_external: Chains::new(places),
            key,
        }
    }

    /// # Panics
    /// When the mapping has gone: ids are held by flows, which keep it.
    pub(crate) fn get(&self, id: MappingId) -> Mapped {
        self.read(id).expect("indices and flows name live mappings only")
    }

    /// By (protocol, internal endpoint, NAT rule).
    pub(crate) fn find_internal(
        &self,
        protocol: u8,
        internal: Endpoint,
        rule: NatId,
    ) -> Option<MappingId> {
        let is = |id| {
            let entry = &self.entries[id];
            entry.rule == rule && self.is(entry, 0, protocol, internal)
        };
        self.by_internal.find(keyed(self.key, &(protocol, internal, rule)), is).map(MappingId)
    }

    /// By (protocol, external endpoint).
    pub(crate) fn find_external(&self, protocol: u8, external: Endpoint) -> Option<MappingId> {
        let is = |id| self.is(&self.entries[id], 1, protocol, external);
        self.by_external.find(keyed(self.key, &(protocol, external)), is).map(MappingId)
    }

    /// Adds a mapping with no flow yet; `None` when the table is full.
    pub(crate) fn insert(&mut self, mapping: Mapped) -> Option<MappingId> {
        let Mapped { internal, external, protocol, rule, .. } = mapping;
        if self.len() as usize == self.capacity {
            return None;
        }
        let entry = self.pack(&mapping);
        let id = self.entries.put(entry);
        self.by_internal.insert(keyed(self.key, &(protocol, internal, rule)), id);
        self.by_external.insert(keyed(self.key, &(protocol, external)), id);
        Some(MappingId(id))
    }

    pub(crate) fn retain(&mut self, id: MappingId) {
        self.entries[id.0].flows.change(1);
    }

    pub(crate) fn retain_for_guest(&mut self, id: MappingId) {
        self.entries[id.0].guests.change(1);
    }

    /// The inside has answered a guest, and so uses the mapping (RFC 4787 REQ-6).
    pub(crate) fn adopt(&mut self, id: MappingId) {
        let entry = &mut self.entries[id.0];
        entry.guests.change(-1);
        entry.flows.change(1);
    }

    /// One flow less; the mapping is removed and returned when it was the last of both kinds.
    pub(crate) fn release(&mut self, id: MappingId) -> Option<Mapped> {
        self.entries[id.0].flows.change(-1);
        self.remove_unused(id)
    }

    /// The same for a guest.
    pub(crate) fn release_guest(&mut self, id: MappingId) -> Option<Mapped> {
        self.entries[id.0].guests.change(-1);
        self.remove_unused(id)
    }

    fn remove_unused(&mut self, id: MappingId) -> Option<Mapped> {
        let gone = self.read(id).filter(|mapped| mapped.flows + mapped.guests == 0)?;
        let internal = keyed(self.key, &(gone.protocol, gone.internal, gone.rule));
        self.by_internal.remove(internal, id.0);
        self.by_external.remove(keyed(self.key, &(gone.protocol, gone.external)), id.0);
        let entry = &mut self.entries[id.0];
        if entry.kind & WIDE != 0 {
            self.wide.give_back(u32::from_le_bytes(entry.addresses[0]));
        }
        entry.kind = 0;
        self.entries.give_back(id.0);
        Some(gone)
    }

    pub(crate) const fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    fn pack(&mut self, mapping: &Mapped) -> Entry {
        let Mapped { internal, external, protocol, rule, flows, guests } = *mapping;
        debug_assert!(protocol < TAKEN);
        let ends = [internal.address, external.address];
        let narrow = ends.each_ref().map(|end| end.wire_bytes().first_chunk().copied());
        let (addresses, wide) = match narrow {
            [Some(internal), Some(external)] if ends.iter().all(is_short) => {
                ([internal, external], 0)
            }
            _ => ([self.wide.put(ends).to_le_bytes(); 2], WIDE),
        };
        let mut entry = Entry {
            addresses,
            ports: [internal.port, external.port],
            rule,
            flows: Count::default(),
            guests: Count::default(),
            kind: protocol | TAKEN | wide,
        };
        entry.flows.change(flows as i32);
        entry.guests.change(guests as i32);
        entry
    }

    fn read(&self, id: MappingId) -> Option<Mapped> {
        let entry = &self.entries[id.0];
        let [internal, external] = [0, 1].map(|side| self.end(entry, side));
        (entry.kind & TAKEN != 0).then_some(Mapped {
            internal,
            external,
            protocol: entry.protocol(),
            rule: entry.rule,
            flows: entry.flows.get(),
            guests: entry.guests.get(),
        })
    }

    fn is(&self, entry: &Entry, side: usize, protocol: u8, end: Endpoint) -> bool {
        entry.ports[side] == end.port
            && entry.protocol() == protocol
            && self.end(entry, side).address == end.address
    }

    fn end(&self, entry: &Entry, side: usize) -> Endpoint {
        let stored = entry.addresses[side];
        let address = if entry.kind & WIDE != 0 {
            self.wide[u32::from_le_bytes(stored)][side]
        } else {
            Address::from(stored)
        };
        Endpoint { address, port: entry.ports[side] }
    }
}

impl Entry {
    const fn protocol(&self) -> u8 {
        self.kind & (TAKEN - 1)
    }
}

fn is_short(address: &Address) -> bool {
    address.family() == Family::Ipv4
}

#[cfg(test)]
mod tests;
