//! A packet's life, sans-IO: no clock, socket, thread or file. Time and randomness are arguments.

// The vocabulary.
mod address;
mod frame;
mod time;
mod verdict;
mod limits;
mod network;
mod event;
mod counters;

// A packet's life, in the order in which it meets the stages.
mod engine;
mod batch;
mod packet;
mod sanity;
mod arrival;
mod answer;
mod ration;
mod fragments;
mod datagrams;
mod quote;
mod icmp_errors;
mod flows;
mod follow;
mod queries;
mod homes;
mod tcp;
mod judge;
mod hairpin;
mod admit;
mod quotas;
mod half_open;
mod challenge;
mod recent;
mod links;
mod tally;
mod nat;
mod translate;
mod forward;
mod neighbours;
mod rewrite;
mod mss;
mod identification;
mod checksum;
mod cut;
mod join;
mod reply;
mod unsolicited;

// Several engines, and several nodes.
mod shards;
mod cluster;

// Beside the path.
mod hash;
mod places;
mod chains;
mod index;
mod timers;
mod commit;
mod fast_path;
mod recheck;
mod journal;
mod pressure;
mod explain;
mod reports;
pub mod build;
pub mod measure;

pub use address::{Address, Direction, Endpoint, Family, FlowKey};
pub use batch::BATCH;
pub use cluster::{
    ClusterConfig, ClusterStatus, Coverage, Datagrams, FlowHeader, MemberStatus, NodeId, NodeState,
    Presence, Session, Unwrapped, WRAPPED_FRAME, Wrapped,
};
pub use counters::{Counters, RuleCounters, TableUse};
pub use engine::{Engine, EngineConfig, Neighbour, Transmit};
pub use event::{
    CloseReason, Decided, Denial, Event, FlowId, FlowReport, FlowState, Generation, LogSource,
    Usage,
};
pub use explain::{Explanation, Probe, Step};
pub use fast_path::{
    FastAnswer, FastFlow, FastHop, FastLeg, FastPast, FastPath, FastPlace, FastRelay, FastRemains,
    FastUsage, FastWay, FastWindow, FastWrap, Resumed,
};
pub use frame::{Checksum, Frame, Offload, SegmentKind, Segments};
pub use judge::Outcome;
pub use limits::Limits;
pub use network::{Interface, Network, NextHop, Route};
pub use packet::{Arp, Fragment, Homes, Packet, Parsed, Segment, TcpFlags, TcpSegment};
pub use shards::{NotClaimed, Shards, WorkerId};
pub use tcp::TcpState;
pub use time::Time;
pub use verdict::{DropReason, Verdict};

/// A data interface of the node: index into the network that the shell describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u16);
