//! Endpoint-independent mappings (RFC 4787 section 4.1), with the flows that use each counted.

use gabion_rules::{Filtering, NatId};

use crate::address::Endpoint;

/// A mapping in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(pub u32);

/// One mapping: the internal endpoint and the external one that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    pub internal: Endpoint,
    pub external: Endpoint,
    pub protocol: u8,
    pub rule: NatId,
    pub filtering: Filtering,
    /// Flows that use the mapping; it goes with the last.
    pub flows: u32,
}

/// All mappings, found by either endpoint; at most `capacity`, allocated once.
#[derive(Debug)]
pub struct Mappings {}

impl Mappings {
    /// `key` seeds the hash.
    pub fn new(_capacity: u32, _key: [u8; 16]) -> Self {
        unimplemented!()
    }

    pub fn get(&self, _id: MappingId) -> &Mapped {
        unimplemented!()
    }

    /// By (protocol, internal endpoint, NAT rule).
    pub fn find_internal(
        &self,
        _protocol: u8,
        _internal: Endpoint,
        _rule: NatId,
    ) -> Option<MappingId> {
        unimplemented!()
    }

    /// By (protocol, external endpoint).
    pub fn find_external(&self, _protocol: u8, _external: Endpoint) -> Option<MappingId> {
        unimplemented!()
    }

    /// Any mapping of the internal address under the rule: its external address is used again
    /// (paired pooling, RFC 4787 REQ-2).
    pub fn paired_address(
        &self,
        _internal: crate::Address,
        _rule: NatId,
    ) -> Option<crate::Address> {
        unimplemented!()
    }

    /// Adds a mapping with no flow yet; `None` when the table is full.
    pub fn insert(&mut self, _mapping: Mapped) -> Option<MappingId> {
        unimplemented!()
    }

    pub fn retain(&mut self, _id: MappingId) {
        unimplemented!()
    }

    /// One flow less; the mapping is removed and returned when it was the last.
    pub fn release(&mut self, _id: MappingId) -> Option<Mapped> {
        unimplemented!()
    }

    pub fn len(&self) -> u32 {
        unimplemented!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
