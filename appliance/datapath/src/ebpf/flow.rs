//! Flows that the programs move without asking, in the datapath's own words.
//!
//! The engine decides and the node installs; an entry is a cache of the engine's decision and holds all that the
//! decision depends on. Packets that an entry does not cover go to the engine.

use std::net::IpAddr;
use std::time::Duration;

use crate::{LinkAddress, Port};

/// An address with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireEndpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// What the packets of one direction of a flow show where they come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireKey {
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    pub source: WireEndpoint,
    pub destination: WireEndpoint,
}

/// Where packets go next: a place, and which of those who had it in turn. The tenancy is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopId {
    pub place: u32,
    pub tenancy: u16,
}

/// What leads packets to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The kernel's number of the interface.
    pub interface: u32,
    /// Of our interface.
    pub source: LinkAddress,
    /// Of the neighbour.
    pub destination: LinkAddress,
    /// Bytes of the largest IP packet that the way out takes.
    pub mtu: u16,
}

/// What one side of a TCP connection may send, as the engine knows it: `Side` of engine/src/tcp/window.rs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpWindow {
    /// One beyond the highest sequence number that this side has sent.
    pub end: u32,
    /// Its highest acknowledgement.
    pub ack: u32,
    /// The furthest right edge that it has granted.
    pub edge: u32,
    /// The largest window that it has granted, scaled.
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

/// The replier's SYN, as the programs have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpAnswer {
    pub sequence: u32,
    /// The scale that it offers.
    pub shift: Option<u8>,
}

/// A flow to be moved without asking. Pairs are in the order original, reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// The judgement that it comes from: used only while it is the table's.
    pub stamp: u32,
    /// Packets of a direction leave with the other's key, turned round.
    pub keys: [WireKey; 2],
    /// Zones that packets of each direction come from.
    pub zones: [u16; 2],
    pub hops: [HopId; 2],
    /// For TCP: the windows of the initiator and of the responder; that of one who has not answered yet is empty.
    pub tcp: Option<[TcpWindow; 2]>,
    /// What stands before packets of a direction that another node hands over; its number is in it.
    pub legs: [Option<Head>; 2],
}

/// GENEVE and its option, as they stand before a packet between nodes.
pub type Head = [u8; 32];

/// A flow of another node's, to which packets are to be handed over without asking. Pairs as in `FlowEntry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayEntry {
    pub stamp: u32,
    /// As packets of each direction come in.
    pub keys: [WireKey; 2],
    /// The zone that packets of a direction come from, and what is put before them; `None` where they go to the engine.
    pub ways: [Option<(u16, Head)>; 2],
    /// The node's number.
    pub peer: u8,
    /// Bytes of the largest packet, or segment, that fits.
    pub mtu: u16,
}

/// What was done for a flow since this was asked last. Pairs as in `FlowEntry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowUsage {
    /// As the wire counts them: a superframe is as many as it has segments.
    pub packets: [u64; 2],
    /// Of IP packets.
    pub bytes: [u64; 2],
    /// CLOCK_MONOTONIC at the last packet, or up to 1.1 s later; zero before the first.
    pub last_seen: [Duration; 2],
    pub tcp: [TcpWindow; 2],
    pub answer: Option<TcpAnswer>,
}

/// Where a flow is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowPlace(pub u32);

/// Why a flow was not installed. It goes on through the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstallFlowError {
    #[error("the table of the fast path is full at {limit} flows")]
    Full { limit: u32 },
    #[error("the index has no room for one of the keys")]
    NoRoom,
    #[error("another flow has one of the keys, or one that looks the same")]
    KeyTaken,
    #[error("only TCP and UDP between addresses of one family can be moved")]
    NotMovable,
}

/// What a later process wants to know of a flow, and the programs have no use for. Pairs as in `FlowEntry`; times are
/// those of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    pub opened: Duration,
    /// When this was noted, which a packet was the reason for.
    pub seen: Duration,
    /// That packets of each direction come in by; `None` where that is no port any more.
    pub ingress: Option<[Port; 2]>,
    /// All that was ever done for the flow.
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}

/// A flow that an earlier process has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRemains {
    pub keys: [WireKey; 2],
    pub tcp: Option<[TcpWindow; 2]>,
    /// No later than this was its last packet.
    pub seen: Duration,
    pub past: Past,
}
