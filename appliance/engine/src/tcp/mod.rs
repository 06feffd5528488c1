//! TCP as a firewall between the endpoints sees it: connection state and windows.
//!
//! Follows RFC 9293, RFC 5961, RFC 7857 section 2 and G. van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter" (2001) for the window rules.

use gabion_rules::Timeouts;
use std::time::Duration;

use crate::address::Direction;
use crate::packet::TcpSegment;
use crate::verdict::DropReason;

/// The state of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// SYN seen from the originator.
    SynSent,
    /// SYN seen from both (SYN-ACK, or simultaneous open), not yet acknowledged.
    SynReceived,
    Established,
    /// A FIN was seen from either side.
    Closing,
    /// An exact RST, or both FINs acknowledged. Kept for a while so that the tuple is not taken by
    /// a stray segment; a SYN may open it anew.
    Closed,
}

/// Connection state and both windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpTracker {}

/// What an accepted segment means for the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpEffect {
    /// Nothing but a refreshed timer.
    Continue,
    /// The segment is to pass, but proves nothing (challenge ACK, keep-alive off window): the timer
    /// stays.
    NoRefresh,
    /// The state changed.
    Moved { from: TcpState, to: TcpState },
    /// A SYN on a closed connection, acceptable as a new one (RFC 9293 section 3.6.1): forget this
    /// flow and admit the segment as a first packet.
    Reopen,
}

impl TcpTracker {
    /// A tracker for the connection that this SYN opens.
    pub fn open(_syn: &TcpSegment) -> Self {
        unimplemented!()
    }

    /// Checks a segment against state and windows, and moves both where it is acceptable.
    ///
    /// # Errors
    /// `TcpWindow` or `TcpState`; nothing is changed then.
    pub fn handle_segment(
        &mut self,
        _direction: Direction,
        _segment: &TcpSegment,
    ) -> Result<TcpEffect, DropReason> {
        unimplemented!()
    }

    pub fn state(&self) -> TcpState {
        unimplemented!()
    }

    /// Whether `sequence`, quoted in an ICMP error, was sent in `direction` and is not yet
    /// acknowledged (RFC 5927 section 4.1).
    pub fn in_flight(&self, _direction: Direction, _sequence: u32) -> bool {
        unimplemented!()
    }

    /// The idle time after which the flow is given up.
    pub fn timeout(&self, _timeouts: &Timeouts) -> Duration {
        unimplemented!()
    }
}
