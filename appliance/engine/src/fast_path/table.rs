//! The datapath's table, as the engine sees it.

use std::fmt::Debug;

use gabion_rules::ZoneId;

use super::FastRemains;
use crate::{Address, Endpoint, FlowHeader, FlowKey, InterfaceId, NodeId, Time, Usage};

/// The datapath's table: memory, no system calls.
pub trait FastPath: Debug + Send {
    /// Has the datapath move the flow; `None` where it cannot, and nothing has changed.
    fn install(&mut self, flow: &FastFlow) -> Option<FastPlace>;

    /// Gives an installed flow another judgement, other next hops, and windows that have moved on. It may not be opening
    /// any more, and a side may have sent its FIN.
    fn renew(&mut self, place: FastPlace, flow: &FastFlow);

    /// Takes the flow back, and with it what was done since the last time it was asked.
    fn remove(&mut self, place: FastPlace) -> FastUsage;

    /// What was done for the flow since the last time it was asked.
    fn take_usage(&mut self, place: FastPlace) -> FastUsage;

    /// Has the datapath hand packets of another node's flow over to it; `None` where it cannot, and nothing has changed.
    fn install_relay(&mut self, _: &FastRelay) -> Option<FastPlace> {
        None
    }

    /// Has them handed over in another way, or to another node.
    fn renew_relay(&mut self, _: FastPlace, _: &FastRelay) {}

    /// Whether packets are handed over to a peer; they come to the engine otherwise.
    fn set_peer(&mut self, _: NodeId, _: bool) {}

    /// Says where packets for a hop go; `None` has them come to the engine.
    fn set_hop(&mut self, hop: FastHop, way: Option<FastWay>);

    /// Says which zone packets of an interface come from; `None` has them come to the engine.
    fn set_zone(&mut self, interface: InterfaceId, zone: Option<ZoneId>);

    /// What the numbers of challenges are made with, should the datapath send some.
    fn set_challenge_state(&mut self, _: [u64; 4]) {}

    /// Unknown sources of SYNs that come from a zone to `destination` are challenged; the datapath may do so for a while,
    /// no longer than two seconds.
    fn challenge(&mut self, _destination: Endpoint, _zone: ZoneId) {}

    /// Whether it may have challenged somebody, for this engine or another of the node's, so lately that the answer is
    /// good.
    fn may_have_challenged(&self) -> bool {
        false
    }

    /// A source is known, for ten minutes; of IPv6, its /64.
    fn know(&mut self, _source: Address) {}

    /// From now on, flows of this judgement only are moved; with zero, none.
    fn set_stamp(&mut self, stamp: u32);

    /// The judgement that an earlier process has left in force; zero for none.
    fn stamp(&self) -> u32 {
        0
    }

    /// How many places there are in which an earlier process may have left a flow. From now on the flows of both are
    /// there, until a judgement is in force.
    fn begin_resuming(&mut self) -> u32 {
        0
    }

    /// The flow that an earlier process has left at a place. What was done for it is taken with it.
    fn remains(&mut self, _: FastPlace) -> Option<FastRemains> {
        None
    }
}

/// Where a flow is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastPlace(pub u32);

/// A flow to be moved; pairs are indexed by [`Direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastFlow {
    pub stamp: u32,
    /// Packets of a direction leave with the other's key, turned round.
    pub keys: [FlowKey; 2],
    /// That packets of each direction come from.
    pub zones: [ZoneId; 2],
    /// `None` where packets of a direction are to come to the engine.
    pub hops: [Option<FastHop>; 2],
    /// Of TCP; that of a replier who has not answered yet is empty.
    pub tcp: Option<[FastWindow; 2]>,
    pub past: FastPast,
    /// Who hands packets of each direction over; `None` where they come in by an interface here.
    pub legs: [Option<FastLeg>; 2],
}

/// What a later process will want to know of a flow, and the datapath has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastPast {
    pub opened: Time,
    pub now: Time,
    /// That packets of each direction come in by.
    pub ingress: [InterfaceId; 2],
    /// All that was ever done for it, but for the packet in hand.
    pub usage: [Usage; 2],
}

/// Packets that a peer hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastLeg {
    pub peer: NodeId,
    /// What stands before each of them.
    pub header: FlowHeader,
}

/// A flow of another node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastRelay {
    pub stamp: u32,
    /// As packets of each direction come in.
    pub keys: [FlowKey; 2],
    /// `None` where packets of a direction are to come to the engine.
    pub ways: [Option<FastWrap>; 2],
    pub peer: NodeId,
    /// Bytes of the largest packet that can be wrapped.
    pub mtu: u32,
}

/// How packets of one direction are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastWrap {
    /// That they come from.
    pub zone: ZoneId,
    /// What is put before them.
    pub header: FlowHeader,
}

/// A next hop. A place is given to another neighbour with another tenancy, which is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastHop {
    pub place: u32,
    pub tenancy: u16,
}

/// What leads packets to a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastWay {
    pub out: InterfaceId,
    pub source: [u8; 6],
    pub destination: [u8; 6],
    pub mtu: u32,
}

/// What one side of a connection has sent and granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FastWindow {
    pub end: u32,
    pub ack: u32,
    pub edge: u32,
    pub window: u32,
    /// By how much its announcements are shifted.
    pub shift: u8,
    /// It has sent its FIN, behind which nothing follows: the last of what lies before `end`.
    pub fin: bool,
    /// Of the originator: nothing but its SYN is known to have been sent. What it sends next begins at `end` and
    /// acknowledges `ack`, or more.
    pub opening: bool,
    /// Of an originator that nobody has answered: it has not offered to scale windows.
    pub unscaled: bool,
}

/// The replier's SYN, as the datapath has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastAnswer {
    pub sequence: u32,
    /// The scale that it offers.
    pub shift: Option<u8>,
}

/// What was done for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FastUsage {
    pub moved: [Usage; 2],
    /// No later than this was the last packet of each direction; the epoch before the first.
    pub seen: [Time; 2],
    pub tcp: [FastWindow; 2],
    /// Of a connection that was handed over before it was answered.
    pub answer: Option<FastAnswer>,
}
