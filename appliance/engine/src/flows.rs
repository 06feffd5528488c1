//! Flows: one per connection, found by either of its two wire keys. NAT is the case in which they
//! differ; there is no NAT table beside it.
//!
//! Here is what a flow is. `table` holds all of them and finds them, each in the three lines of the
//! cache of an `entry`.

mod entry;
mod table;

use gabion_rules::{NatId, RuleId, ZoneId};

use crate::event::{FlowId, FlowReport, FlowState, Generation, Usage};
use crate::hash::KeyedHash;
use crate::nat::MappingId;
use crate::neighbours::NeighbourId;
use crate::tcp::TcpTracker;
use crate::translate::Lease;
use crate::{Address, Direction, FlowKey, InterfaceId, Time};

pub(crate) use table::{FlowTable, Guess};

/// A place in the table; reused after the flow has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u32);

/// A connection, or what stands for one, spread out: what the table keeps is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Whether it is in the queue of flows that make room first when the table is full: it is over, or
    /// its originator has not yet sent again after an answer, which tells a host from an invented
    /// address. Handshakes that are not complete have a list of their own.
    pub(crate) expendable: bool,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) ingress: InterfaceId,
    /// Where they go next, resolved once and again when the topology has changed; `None` until the
    /// first packet needs it.
    pub(crate) hop: Option<NeighbourId>,
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
    /// The same, not open to a sender from inside: no packet of the flow passes, but it opens the
    /// sender's own mapping.
    Filtered,
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
    Udp {
        replied: bool,
    },
    Icmp {
        replied: bool,
        /// Whether the rules let the side that was asked ask as well.
        both_ask: bool,
    },
    /// SCTP and DCCP: followed by ports, kept as long as TCP connections.
    Association {
        replied: bool,
    },
    Other {
        replied: bool,
    },
}

impl Flow {
    pub(crate) const fn side(&self, direction: Direction) -> &Side {
        &self.sides[direction.index()]
    }

    /// The key of packets of a direction as they come in.
    pub(crate) const fn key(&self, direction: Direction) -> &FlowKey {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    pub(crate) fn report(&self) -> FlowReport {
        let admission = &self.admission;
        FlowReport {
            id: self.id,
            original: self.original,
            reply: self.reply,
            interface: self.side(Direction::Original).ingress,
            from: admission.from,
            to: admission.to,
            generation: admission.generation,
            rule: admission.rule,
            destination_nat: match admission.destination {
                DestinationChoice::Rule(id) => Some(id),
                DestinationChoice::AsSent
                | DestinationChoice::Mapping
                | DestinationChoice::Filtered => None,
            },
            source_nat: match admission.source {
                SourceChoice::Rule(id) => Some(id),
                SourceChoice::AsSent | SourceChoice::Hairpin => None,
            },
            state: self.tracker.state(),
            original_usage: self.side(Direction::Original).usage,
            reply_usage: self.side(Direction::Reply).usage,
            opened: self.opened,
            expires: self.expires,
        }
    }
}

impl Tracker {
    pub(crate) fn state(&self) -> FlowState {
        match self {
            Tracker::Tcp(tcp) => FlowState::Tcp(tcp.state()),
            Tracker::Udp { replied }
            | Tracker::Icmp { replied, .. }
            | Tracker::Association { replied }
            | Tracker::Other { replied } => {
                if *replied {
                    FlowState::Replied
                } else {
                    FlowState::Unreplied
                }
            }
        }
    }
}

/// A pick that follows from the key, and from a secret.
pub(crate) fn hash(seed: [u8; 16], key: &FlowKey) -> u64 {
    KeyedHash::new(seed).flow(key)
}

pub(crate) fn hash_address(seed: [u8; 16], address: Address) -> u64 {
    KeyedHash::new(seed).address(address)
}
