//! Flows that a datapath moves without asking the engine, in the datapath's own words.
//!
//! The engine decides and the node installs; an entry is a cache of the engine's decision and holds
//! all that the decision depends on. Packets that an entry does not cover (SYN, FIN, RST, out of
//! window, larger than the MTU, TTL at its end) go the slow way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::Port;

/// Names a flow towards the datapath; the node gives the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkAddress(pub [u8; 6]);

/// An address with a port, or with the identifier of an ICMP query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireEndpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// What the packets of one direction of a flow show on one side of the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireKey {
    /// IP protocol number; ICMP and ICMPv6 stand for their queries.
    pub protocol: u8,
    pub source: WireEndpoint,
    pub destination: WireEndpoint,
}

/// One direction of a flow: how it comes in and how it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowPath {
    pub in_port: Port,
    pub arrives: WireKey,
    /// Equal to `arrives` when nothing is translated.
    pub leaves: WireKey,
    pub out_port: Port,
    /// Of our interface at `out_port`.
    pub source_mac: LinkAddress,
    /// Of the next hop.
    pub destination_mac: LinkAddress,
    /// Bytes of the largest IP packet that the way out takes.
    pub mtu: u16,
}

/// What one side of a TCP connection may send, as the engine knows it (RFC 9293 section 3.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpWindow {
    /// Sequence number after the last octet that this side has sent.
    pub end: u32,
    /// Sequence number after the last octet that the other side permits.
    pub permitted_end: u32,
    /// Largest window that this side has announced, scaled.
    pub largest_window: u32,
    /// Shift of this side's announcements; `None` without the option (RFC 7323 section 2).
    pub scale: Option<u8>,
}

/// A flow to be moved without asking. Pairs are in the order original, reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    pub id: FlowId,
    /// Of the policy that admitted the flow: entries of another generation than the datapath's
    /// are not used.
    pub generation: u32,
    pub paths: [FlowPath; 2],
    /// For TCP: the windows of the initiator and of the responder.
    pub tcp: Option<[TcpWindow; 2]>,
}

/// What the datapath has done for a flow since it was installed. Pairs as in `FlowEntry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowUsage {
    pub packets: [u64; 2],
    /// Of whole frames.
    pub bytes: [u64; 2],
    /// CLOCK_MONOTONIC at the last packet; `None` before the first.
    pub last_seen: Option<Duration>,
    pub tcp: Option<[TcpWindow; 2]>,
}

/// Why a flow was not installed. It goes on through the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstallFlowError {
    #[error("the datapath's flow table is full at {limit} flows")]
    Full { limit: u32 },
    #[error("another flow has one of the keys")]
    KeyTaken,
    #[error("the kernel refuses the flow: errno {0}")]
    Refused(i32),
}

/// The part of a datapath that moves flows without asking.
pub trait FlowOffload {
    /// Makes the datapath move the flow; an entry with the same id is replaced and its usage kept.
    ///
    /// # Errors
    /// The flow is not installed, and nothing else has changed.
    fn install(&mut self, flow: &FlowEntry) -> Result<(), InstallFlowError>;

    /// Takes the flow back and tells what was done for it; `None` if it is not installed.
    fn remove(&mut self, id: FlowId) -> Option<FlowUsage>;

    /// What was done for the flow so far; `None` if it is not installed.
    fn usage(&mut self, id: FlowId) -> Option<FlowUsage>;

    /// Tells the usage of every installed flow, read in bulk.
    fn for_each_usage(&mut self, visit: &mut dyn FnMut(FlowId, FlowUsage));

    /// From now on, uses entries of this generation only; the others stay until removed or replaced.
    fn set_generation(&mut self, generation: u32);
}

/// Flows installed in memory and moved by nobody: the offload of test devices.
#[derive(Debug, Clone)]
pub struct RecordedFlows {
    limit: u32,
    generation: u32,
    flows: BTreeMap<FlowId, (FlowEntry, FlowUsage)>,
}

impl RecordedFlows {
    pub const fn new(limit: u32) -> Self {
        Self { limit, generation: 0, flows: BTreeMap::new() }
    }

    pub const fn generation(&self) -> u32 {
        self.generation
    }

    pub fn entries(&self) -> impl Iterator<Item = &FlowEntry> {
        self.flows.values().map(|(entry, _)| entry)
    }

    /// Sets what `usage` and `remove` tell of a flow. Returns whether it is installed.
    pub fn set_usage(&mut self, id: FlowId, usage: FlowUsage) -> bool {
        self.flows.get_mut(&id).map(|(_, kept)| *kept = usage).is_some()
    }

    fn key_taken(&self, flow: &FlowEntry) -> bool {
        let keys = flow.paths.map(|path| (path.in_port, path.arrives));
        self.entries().filter(|other| other.id != flow.id).any(|other| {
            other.paths.iter().any(|path| keys.contains(&(path.in_port, path.arrives)))
        })
    }
}

impl FlowOffload for RecordedFlows {
    fn install(&mut self, flow: &FlowEntry) -> Result<(), InstallFlowError> {
        if self.key_taken(flow) {
            return Err(InstallFlowError::KeyTaken);
        }
        if let Some((entry, usage)) = self.flows.get_mut(&flow.id) {
            *entry = *flow;
            usage.tcp = flow.tcp;
            return Ok(());
        }
        if self.flows.len() >= self.limit as usize {
            return Err(InstallFlowError::Full { limit: self.limit });
        }
        self.flows.insert(flow.id, (*flow, FlowUsage { tcp: flow.tcp, ..FlowUsage::default() }));
        Ok(())
    }

    fn remove(&mut self, id: FlowId) -> Option<FlowUsage> {
        self.flows.remove(&id).map(|(_, usage)| usage)
    }

    fn usage(&mut self, id: FlowId) -> Option<FlowUsage> {
        self.flows.get(&id).map(|(_, usage)| *usage)
    }

    fn for_each_usage(&mut self, visit: &mut dyn FnMut(FlowId, FlowUsage)) {
        for (id, (_, usage)) in &self.flows {
            visit(*id, *usage);
        }
    }

    fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
    }
}

#[cfg(test)]
mod tests;
