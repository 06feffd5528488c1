//! A packet's life, sans-IO: no clock, socket, thread or file. Time and randomness are arguments.

mod address;
pub mod build;
mod checksum;
mod counters;
mod engine;
mod event;
mod frame;
mod limits;
mod network;
mod time;
mod verdict;

// In the order in which a packet meets them.
mod fragments;
mod nat;
mod packet;
mod quote;
mod reply;
mod rewrite;
mod sanity;
mod tcp;
mod timers;

pub use address::{Address, Direction, Endpoint, Family, FlowKey};
pub use counters::{Counters, RuleCounters, TableUse};
pub use engine::{
    Engine, EngineConfig, Explanation, FlowChange, Neighbour, Outcome, Probe, Step, Transmit,
};
pub use event::{
    CloseReason, Decided, Denial, Event, FlowId, FlowReport, FlowState, Generation, Usage,
};
pub use frame::{Checksum, Frame, Offload, SegmentKind, Segments};
pub use limits::Limits;
pub use network::{Interface, Network, NextHop, Route};
pub use tcp::TcpState;
pub use time::Time;
pub use verdict::{DropReason, Verdict};

/// A data interface of the node: index into the network that the shell describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u16);
