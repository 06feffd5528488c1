//! What would become of a packet, stage by stage, from the policy alone.

use std::net::IpAddr;

use crate::{Action, RuleId};

/// The stages of a packet's life that the policy governs, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Whether the source may come in from its zone.
    Sanity,
    DestinationNat,
    /// Which zone the destination lies in.
    Route,
    Rules,
    SourceNat,
}

/// What a stage did with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepOutcome {
    Pass,
    Match,
    Miss,
    Translate,
    Drop,
}

/// One stage that the packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub stage: Stage,
    pub outcome: StepOutcome,
    pub detail: String,
    /// The line of the policy that decided, if one did.
    pub line: Option<u32>,
}

/// What would become of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub action: Action,
    /// `None` where the packet ends before the rules are asked.
    pub rule: Option<RuleId>,
    /// Source and destination as the packet leaves, where NAT changes them; port 0 where there is
    /// none. The source is `None` where it is the node's own address, which the policy does not know.
    pub translated: Option<Translated>,
}

/// The addresses of a packet as it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    pub source: Option<IpAddr>,
    pub destination: IpAddr,
    pub destination_port: Option<u16>,
}

/// Why a packet cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    #[error("the policy has no zone or interface `{0}`")]
    UnknownZone(String),
}
