//! The fast path: programs in the kernel move packets of flows that the engine has decided, and hand it the rest.
//!
//! ARCHITECTURE.md, "Fast path", has the design. `bpf/` has the programs, `layout` what they share with the node,
//! `table` the flows, `program` loading and attaching.

mod between;
mod datapath;
mod device;
mod door;
mod doors;
mod early;
mod exits;
mod flow;
mod hook;
mod index;
#[expect(unsafe_code, reason = "rustix makes no TAP devices, and asks devices nothing")]
mod ioctl;
mod layout;
#[expect(unsafe_code, reason = "tables are memory shared with programs in the kernel")]
mod mapping;
mod pins;
mod ports;
mod program;
mod questions;
mod refusal;
mod remains;
mod shards;
mod table;
mod trial;
mod usage;

pub use between::SyncLink;
pub use datapath::{Afterlife, EbpfDatapath, OpenedWorkers};
pub use doors::DoorsDatapath;
pub use exits::Exit;
pub use flow::{
    FlowEntry, FlowPlace, FlowRemains, FlowUsage, Head, HopId, InstallFlowError, NextHop, Past,
    RelayEntry, TcpAnswer, TcpWindow, WireEndpoint, WireKey,
};
pub use hook::{Hook, HookChoice};
pub use pins::{OpenPinsError, Pins, detach};
pub use program::{FastPathLimits, Program, Programs};
pub use refusal::OpenFastPathError;
pub use shards::{ClaimKeysError, ShardTable};
pub use table::FlowTable;
pub use trial::{TRIAL_INTERFACE, Trial, TrialResult};

#[cfg(test)]
mod tests;
