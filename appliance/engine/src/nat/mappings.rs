//! Endpoint-independent mappings (RFC 4787 section 4.1), with the flows that use each counted.

use std::hash::Hasher;

use gabion_rules::NatId;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::address::Endpoint;

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

/// All mappings, found by either endpoint; at most `capacity`, allocated once.
#[derive(Debug)]
pub(crate) struct Mappings {
    slots: Vec<Option<Mapped>>,
    free: Vec<u32>,
    by_internal: HashTable<u32>,
    by_external: HashTable<u32>,
    key: [u8; 16],
}

impl Mappings {
    /// `key` seeds the hash.
    pub(crate) fn new(capacity: u32, key: [u8; 16]) -> Self {
        let places = capacity as usize;
        // Twice the room: a table more than half full grows when removals have left their marks.
        let room = 2 * places;
        Self {
            slots: vec![None; places],
            free: (0..capacity).rev().collect(),
            by_internal: HashTable::with_capacity(room),
            by_external: HashTable::with_capacity(room),
            key,
        }
    }

    /// # Panics
    /// When the mapping has gone: ids are held by flows, which keep it.
    pub(crate) fn get(&self, id: MappingId) -> &Mapped {
        stored(&self.slots, id.0)
    }

    /// By (protocol, internal endpoint, NAT rule).
    pub(crate) fn find_internal(
        &self,
        protocol: u8,
        internal: Endpoint,
        rule: NatId,
    ) -> Option<MappingId> {
        let hash = hash_internal(self.key, protocol, internal, rule);
        let same = |&slot: &u32| {
            let mapped = stored(&self.slots, slot);
            (mapped.protocol, mapped.internal, mapped.rule) == (protocol, internal, rule)
        };
        self.by_internal.find(hash, same).copied().map(MappingId)
    }

    /// By (protocol, external endpoint).
    pub(crate) fn find_external(&self, protocol: u8, external: Endpoint) -> Option<MappingId> {
        let same = |&slot: &u32| {
            let mapped = stored(&self.slots, slot);
            (mapped.protocol, mapped.external) == (protocol, external)
        };
        let hash = hash_external(self.key, protocol, external);
        self.by_external.find(hash, same).copied().map(MappingId)
    }

    /// Adds a mapping with no flow yet; `None` when the table is full.
    pub(crate) fn insert(&mut self, mapping: Mapped) -> Option<MappingId> {
        let slot = self.free.pop()?;
        self.slots[slot as usize] = Some(mapping);
        let Self { slots, by_internal, by_external, key, .. } = self;
        let internal =
            |mapped: &Mapped| hash_internal(*key, mapped.protocol, mapped.internal, mapped.rule);
        let external = |mapped: &Mapped| hash_external(*key, mapped.protocol, mapped.external);
        by_internal.insert_unique(internal(&mapping), slot, |&slot| internal(stored(slots, slot)));
        by_external.insert_unique(external(&mapping), slot, |&slot| external(stored(slots, slot)));
        Some(MappingId(slot))
    }

    pub(crate) fn retain(&mut self, id: MappingId) {
        if let Some(mapped) = &mut self.slots[id.0 as usize] {
            mapped.flows += 1;
        }
    }

    pub(crate) fn retain_for_guest(&mut self, id: MappingId) {
        if let Some(mapped) = &mut self.slots[id.0 as usize] {
            mapped.guests += 1;
        }
    }

    /// The inside has answered a guest, and so uses the mapping (RFC 4787 REQ-6).
    pub(crate) fn adopt(&mut self, id: MappingId) {
        if let Some(mapped) = &mut self.slots[id.0 as usize] {
            mapped.guests = mapped.guests.saturating_sub(1);
            mapped.flows += 1;
        }
    }

    /// One flow less; the mapping is removed and returned when it was the last of both kinds.
    pub(crate) fn release(&mut self, id: MappingId) -> Option<Mapped> {
        let mapped = self.slots[id.0 as usize].as_mut()?;
        mapped.flows = mapped.flows.saturating_sub(1);
        self.remove_unused(id)
    }

    /// The same for a guest.
    pub(crate) fn release_guest(&mut self, id: MappingId) -> Option<Mapped> {
        let mapped = self.slots[id.0 as usize].as_mut()?;
        mapped.guests = mapped.guests.saturating_sub(1);
        self.remove_unused(id)
    }

    fn remove_unused(&mut self, id: MappingId) -> Option<Mapped> {
        let gone = self.slots[id.0 as usize].filter(|mapped| mapped.flows + mapped.guests == 0)?;
        let internal = hash_internal(self.key, gone.protocol, gone.internal, gone.rule);
        let external = hash_external(self.key, gone.protocol, gone.external);
        for (index, hash) in [(&mut self.by_internal, internal), (&mut self.by_external, external)]
        {
            if let Ok(entry) = index.find_entry(hash, |&slot| slot == id.0) {
                entry.remove();
            }
        }
        self.free.push(id.0);
        self.slots[id.0 as usize].take()
    }

    pub(crate) fn len(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }
}

fn stored(slots: &[Option<Mapped>], slot: u32) -> &Mapped {
    slots[slot as usize].as_ref().expect("indices and flows name live mappings only")
}

fn hash_internal(key: [u8; 16], protocol: u8, internal: Endpoint, rule: NatId) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    write_endpoint(&mut hasher, protocol, internal);
    hasher.write_u16(rule.0);
    hasher.finish()
}

fn hash_external(key: [u8; 16], protocol: u8, external: Endpoint) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    write_endpoint(&mut hasher, protocol, external);
    hasher.finish()
}

fn write_endpoint(hasher: &mut SipHasher13, protocol: u8, endpoint: Endpoint) {
    hasher.write(&endpoint.address.octets());
    hasher.write_u16(endpoint.port);
    hasher.write_u8(protocol);
}

#[cfg(test)]
mod tests;
