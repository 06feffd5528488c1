//! The packet quoted in an ICMP error: read with distrust, rewritten with care (RFC 5508 section 4).

use crate::address::{Address, FlowKey};
use crate::frame::Frame;
use crate::packet::Packet;
use crate::verdict::DropReason;

/// What an ICMP error says about the packet that it quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The key of the quoted packet, as it was when the error's sender saw it.
    pub key: FlowKey,
    /// TCP: its sequence number.
    pub sequence: Option<u32>,
    /// Length of the quoted packet as its IP header claims, headers included.
    pub claimed_length: u32,
    /// The MTU that the error announces, for "fragmentation needed" and "packet too big".
    pub mtu: Option<u32>,
    /// The address of the node that sent the error.
    pub reporter: Address,
}

impl Quote {
    /// Reads the quoted packet of an ICMP error (`Segment::IcmpError`).
    ///
    /// # Errors
    /// `IcmpErrorForged` where the quote is truncated, of the wrong family, a later fragment, itself
    /// an ICMP error, or has a wrong header checksum.
    pub fn parse(_frame: &Frame<'_>, _packet: &Packet) -> Result<Self, DropReason> {
        unimplemented!()
    }
}

/// Rewrites the error for the host that sent the quoted packet: the quote becomes what that host
/// sent (`original`, in the quote's direction), the outer destination its address, the outer source
/// `reporter`; all checksums are made right.
pub fn restore(_frame: &mut Frame<'_>, _packet: &Packet, _original: &FlowKey, _reporter: Address) {
    unimplemented!()
}
