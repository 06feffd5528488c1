//! What the engine tells the shell, drained with `Engine::poll_event`.

use std::time::Duration;

use gabion_rules::{NatId, Query, RuleId, ZoneId};

use crate::tcp::TcpState;
use crate::{Address, DropReason, FlowKey, InterfaceId, Time};

/// The policy revision under which something was decided: rule ids are to be read in its rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// A flow's number, never used twice by one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Something that happened. Log records are limited per rule; what was left out is counted in
/// `Suppressed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    FlowOpened(FlowReport),
    FlowClosed {
        flow: FlowReport,
        why: CloseReason,
    },
    Denied(Denial),
    /// So many records were not written in the last second.
    Suppressed {
        source: LogSource,
        records: u64,
    },
    /// A limit is reached: packets are refused for this reason, or flows make room, from now on.
    LimitReached {
        limit: DropReason,
    },
    /// Nothing has met the limit for a while. So often it was met, over this time.
    LimitOver {
        limit: DropReason,
        times: u64,
        lasted: Duration,
    },
    /// The shell is to have the kernel resolve the address and say so with `handle_neighbour`.
    NeighbourWanted {
        interface: InterfaceId,
        address: Address,
    },
}

/// What log records are limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    Rule {
        generation: Generation,
        rule: RuleId,
    },
    /// A check that no rule was asked about.
    Check(DropReason),
}

/// A flow at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowReport {
    pub id: FlowId,
    /// As the originator's side shows it.
    pub original: FlowKey,
    /// As the replies come in on the responder's side; differs from `original` reversed by NAT.
    pub reply: FlowKey,
    /// By which the first packet came in.
    pub interface: InterfaceId,
    pub from: ZoneId,
    pub to: ZoneId,
    pub generation: Generation,
    pub rule: RuleId,
    pub destination_nat: Option<NatId>,
    pub source_nat: Option<NatId>,
    pub state: FlowState,
    pub original_usage: Usage,
    pub reply_usage: Usage,
    pub opened: Time,
    pub expires: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    Tcp(TcpState),
    Unreplied,
    Replied,
}

impl FlowState {
    /// The name of the state in the API, logs and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp(TcpState::SynSent) => "syn-sent",
            Self::Tcp(TcpState::SynReceived) => "syn-received",
            Self::Tcp(TcpState::Established) => "established",
            Self::Tcp(TcpState::Closing) => "closing",
            Self::Tcp(TcpState::Closed) => "closed",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

/// Packets and bytes of IP in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub packets: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing came for as long as its state allows.
    Idle,
    /// Both sides closed, or one reset.
    Closed,
    /// The policy in force no longer permits it.
    Revoked,
    /// A new connection took its tuple.
    Reopened,
    /// A limit was reached and it was over or had not shown that it lives: it made room for another.
    Evicted,
    /// Another node owns it now.
    HandedOver,
    /// One side was reached no more after the death of the flow's owner, and both were told.
    LegLost,
}

impl CloseReason {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Closed => "closed",
            Self::Revoked => "revoked",
            Self::Reopened => "reopened",
            Self::Evicted => "evicted",
            Self::HandedOver => "handed-over",
            Self::LegLost => "leg-lost",
        }
    }
}

/// A packet that a rule, or a check before the rules, refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    pub at: Time,
    pub reason: DropReason,
    pub interface: InterfaceId,
    pub source: Address,
    pub destination: Address,
    /// What the rules were asked, where they were.
    pub decided: Option<Decided>,
}

/// What the rules were asked and which of them answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    pub generation: Generation,
    pub rule: RuleId,
    pub query: Query,
}
