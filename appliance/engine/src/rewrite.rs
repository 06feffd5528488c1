//! Changes addresses, ports and hop limits in place and mends the checksums (RFC 1624).

use crate::address::{Endpoint, FlowKey};
use crate::frame::Frame;
use crate::packet::Packet;

/// What to change in every packet of one direction of a flow; computed once per flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrite {
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
}

impl Rewrite {
    /// The rewrite that turns packets of `from` into packets of `to`; both of one protocol and family.
    pub fn between(_from: &FlowKey, _to: &FlowKey) -> Self {
        unimplemented!()
    }

    pub fn is_identity(&self) -> bool {
        self.source.is_none() && self.destination.is_none()
    }

    /// Rewrites headers and checksums. A later fragment has no transport header: its addresses
    /// change alone. Partial checksums stay partial, a UDP checksum of zero stays zero (IPv4).
    pub fn apply(&self, _frame: &mut Frame<'_>, _packet: &Packet) {
        unimplemented!()
    }
}

/// Takes one from the TTL or hop limit. The caller has seen that it is more than one.
pub fn decrement_hop_limit(_bytes: &mut [u8], _packet: &Packet) {
    unimplemented!()
}

/// Writes the Ethernet addresses of the next link.
pub fn set_link_addresses(_bytes: &mut [u8], _source: [u8; 6], _destination: [u8; 6]) {
    unimplemented!()
}
