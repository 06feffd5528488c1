//! Several nodes as one firewall: docs/cluster.md.
//!
//! Owner, director and forwarder of a flow follow from arithmetic over the members that this node takes for
//! alive. The shell moves two kinds of bytes between nodes and understands neither: sync datagrams, which it
//! seals and opens, and wrapped packets, which carry a tag of their own.

mod member;
#[allow(dead_code)] // Until the messages that ask it are here.
mod rendezvous;
#[allow(dead_code, unused_imports)] // Until packets are handed over.
mod wrap;

use std::time::Duration;

use crate::{Engine, Time, Verdict};

pub use member::{Coverage, MemberStatus, NodeId, NodeState, Presence};

/// What is fixed for a node's life in its cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    pub node: NodeId,
    /// All members that are configured, this node among them; at most [`NodeId::MAX`].
    pub members: Vec<NodeId>,
    /// Larger at every start of this node.
    pub incarnation: u64,
    /// Keys the choice of directors; the same at all members.
    pub secret: [u8; 16],
    /// The largest IP packet that the links between nodes carry.
    pub sync_mtu: u16,
    /// How often a node says that it lives; a peer that missed `heartbeats_missed` of these is dead.
    pub heartbeat: Duration,
    pub heartbeats_missed: u32,
}

/// What the shell knows of its session with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// The peer has shown who it is. The tag of wrapped packets is made with `send` and checked with `receive`; those of
    /// the session before are taken for a while longer.
    Up { incarnation: u64, epoch: u8, send: [u8; 16], receive: [u8; 16] },
    /// The peer's process has gone: its address refuses or has reset the session.
    Lost,
}

/// A packet for its owner, or for the director that knows it: one or more UDP payloads for port 6081.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrapped {
    pub to: NodeId,
    /// Datagrams of `stride` bytes each, the last one of what is left.
    pub bytes: Vec<u8>,
    pub stride: usize,
}

/// Where in a wrapped datagram the frame begins that `handle_wrapped` makes of it.
pub const WRAPPED_FRAME: usize = 18;

/// What `gabion cluster status` shows of the engine's side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterStatus {
    pub node: NodeId,
    pub state: NodeState,
    pub members: Vec<MemberStatus>,
    /// Flows that this node owns, and of which it keeps a copy for others.
    pub owned: u64,
    pub replicas: u64,
    pub directed: u64,
    pub coverage: Coverage,
}

/// The order of calls is the engine's: `poll_peer` and `poll_wrapped` are drained with the others.
impl Engine {
    /// Takes a sync datagram of a peer, opened and found authentic.
    pub fn handle_peer(&mut self, _now: Time, _from: NodeId, _datagram: &[u8]) {}

    /// Takes the UDP payload of a peer's wrapped packet. What is forwarded stands from [`WRAPPED_FRAME`] on.
    pub fn handle_wrapped(&mut self, _now: Time, _from: NodeId, _datagram: &mut [u8]) -> Verdict {
        Verdict::Drop(crate::DropReason::NotReady)
    }

    /// Takes what the shell has learnt of its session with a peer.
    pub fn handle_session(&mut self, _now: Time, _peer: NodeId, _session: Session) {}

    /// Writes the next sync datagram in place of what `datagram` holds, and says for whom.
    pub fn poll_peer(&mut self, _now: Time, _datagram: &mut Vec<u8>) -> Option<NodeId> {
        None
    }

    /// The next wrapped packet to be sent; its buffer comes back by `recycle`.
    pub fn poll_wrapped(&mut self) -> Option<Wrapped> {
        None
    }

    /// Takes back a buffer.
    pub fn recycle(&mut self, _wrapped: Wrapped) {}

    /// Begins to hand this node's flows over; or stops to.
    pub fn set_draining(&mut self, _now: Time, _draining: bool) {}

    /// `None` for a node that stands alone.
    pub fn cluster_status(&self, _now: Time) -> Option<ClusterStatus> {
        None
    }
}
