//! What the node knows of the other members and how it speaks with them: docs/cluster.md sections 6 to 8.
//!
//! The modules stand in the order in which two nodes meet: who this node is, what it says first, the session that
//! proves it, the sessions with all peers, and the packet thread's side, which seals, opens and sends. What the
//! datagrams mean is the engine's business.

mod identity;
mod incarnation;

mod hello;
mod message;
mod refusal;
mod session;
mod known;
mod sessions;
mod machine;

pub mod seal;
mod workers;
mod beside;
mod links;
mod start;

pub use hello::{PolicyMark, Reach};
pub use identity::{Identity, IdentityError};
pub use incarnation::{Incarnation, IncarnationError};
pub use known::{Known, PeerReport};
pub use links::{ClusterSnapshot, Leaving, LinkCounts, Links};
pub use machine::{Hearing, Machine};
pub use refusal::Refusal;
pub use session::{Keys, KeysOfWorkers};
pub use sessions::{Local, OpenSessionsError, SessionChange, Sessions, Told, bind};
pub use start::{Member, Membership, PreparedCluster, StartClusterError};
pub use workers::{PORT_STEP, Workers, add_snapshot, add_status};
