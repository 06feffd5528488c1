//! Who is a member, and what is known of each.

use std::fmt;
use std::time::Duration;

/// A member's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub u8);

impl NodeId {
    /// Members have the numbers 1 to this.
    pub const MAX: u8 = 16;
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeState {
    /// It does not know yet what it is to know: not ready.
    #[default]
    Joining,
    Ready,
    /// It hands its flows over and forwards what still comes.
    Draining,
}

/// Whether a member is taken for alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// Never heard of since the start.
    #[default]
    Unknown,
    Alive,
    Dead,
}

/// A peer, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberStatus {
    pub node: NodeId,
    pub presence: Presence,
    pub state: NodeState,
    pub incarnation: u64,
    /// Since anything was heard of it.
    pub silent: Option<Duration>,
    /// Records for it that have not been acknowledged, and how long the oldest has waited.
    pub unacknowledged: u64,
    pub lag: Duration,
    /// Packets that were handed to it, and taken from it.
    pub wrapped_out: u64,
    pub wrapped_in: u64,
    /// What it sent that was not taken: forged tags, and datagrams that do not parse.
    pub refused: u64,
    /// Whether it has the same policy.
    pub same_policy: Option<bool>,
}

/// How many of the established flows have a live copy elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    pub covered: u64,
    pub established: u64,
}
