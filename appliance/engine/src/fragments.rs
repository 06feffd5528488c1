//! Datagrams in pieces: every fragment is kept until the datagram is whole and sound, then all go on
//! as they came, in order. Nothing of an incomplete datagram ever passes (RFC 1858, 3128, 5722, 6946,
//! 7112; RFC 4787 REQ-14), none is larger than it was sent.

use std::time::Duration;

use crate::InterfaceId;
use crate::limits::Limits;
use crate::packet::Packet;
use crate::time::Time;
use crate::verdict::DropReason;

/// The datagrams that are waited for.
#[derive(Debug)]
pub struct Fragments {}

/// What became of a fragment.
#[derive(Debug)]
pub enum Reassembly {
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
pub struct KeptFragment {
    pub bytes: Vec<u8>,
    pub packet: Packet,
}

impl Fragments {
    /// `key` seeds the hash.
    pub fn new(_limits: &Limits, _key: [u8; 16]) -> Self {
        unimplemented!()
    }

    /// Takes a fragment (`packet.fragment` is `Some`). Fragments of one datagram come in by one
    /// interface. `timeout` runs from the first fragment that was seen.
    pub fn handle_fragment(
        &mut self,
        _now: Time,
        _from: InterfaceId,
        _bytes: &[u8],
        _packet: &Packet,
        _timeout: Duration,
    ) -> Reassembly {
        unimplemented!()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        unimplemented!()
    }

    /// Gives up one datagram that is overdue and returns how many fragments went with it; call
    /// until `None`.
    pub fn poll_expired(&mut self, _now: Time) -> Option<u32> {
        unimplemented!()
    }

    /// Fragments kept now.
    pub fn held(&self) -> u32 {
        unimplemented!()
    }
}
