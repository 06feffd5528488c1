//! Why a node does not hold a session with a peer.

use gabion_engine::NodeId;

/// What is wrong with a peer. Names are stable: people alert on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its certificate is not taken: {0}")]
    Certificate(String),
    #[error(
        "it is of the cluster `{theirs}`, this node of `{ours}`: look at cluster.name and cluster.members"
    )]
    Cluster { ours: String, theirs: String },
    #[error(
        "it speaks versions {} to {} of the protocol, this node {} to {}: bring the older one up to date",
        theirs.0, theirs.1, ours.0, ours.1
    )]
    Incompatible { ours: (u8, u8), theirs: (u8, u8) },
    #[error(
        "it has {theirs} workers, this node {ours}: all members have as many, so set node.workers there or here"
    )]
    Workers { ours: u8, theirs: u8 },
    #[error(
        "node {node} is there already, with incarnation {seen}, and this one has {theirs}: two machines have one cluster.node, or one has lost its node.state_dir and is to be restarted"
    )]
    Duplicate { node: NodeId, seen: u64, theirs: u64 },
    #[error("what it says is not understood: {0}")]
    Malformed(&'static str),
}

impl Refusal {
    /// Every label, for metrics.
    pub const LABELS: [&'static str; 5] = [
        "peer-certificate",
        "peer-cluster",
        "peer-incompatible",
        "peer-duplicate",
        "peer-malformed",
    ];

    pub const fn label(&self) -> &'static str {
        match self {
            Self::Certificate(_) => Self::LABELS[0],
            Self::Cluster { .. } => Self::LABELS[1],
            Self::Incompatible { .. } | Self::Workers { .. } => Self::LABELS[2],
            Self::Duplicate { .. } => Self::LABELS[3],
            Self::Malformed(_) => Self::LABELS[4],
        }
    }
}
