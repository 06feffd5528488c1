//! Which node gets a packet: the pure part of a load balancer.

use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use super::tuple::{Phase, Seen, Tuple};

/// What happens to established TCP when its node's probe fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// It stays where it is, as at Azure's load balancers
    Pin,
    /// It goes to a live node with its next packet
    Steer,
}

/// What an operator says of a node, whatever the probe does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Admin {
    /// New connections
    Up,
    /// No new connections; established TCP goes on, in either mode
    Down,
}

/// A flow that has had no packet for so long is forgotten: Azure's default.
pub(crate) const IDLE: Duration = Duration::from_secs(240);

/// Flows that are remembered; what comes beyond them goes by the hash alone.
const FLOWS_MAX: usize = 1 << 17;

/// The nodes behind a load balancer and the flows that it has given them.
#[derive(Debug)]
pub(crate) struct Table {
    key: [u64; 2],
    mode: Mode,
    nodes: Vec<Node>,
    flows: HashMap<Tuple, Entry>,
    /// Flows that went to another node than before.
    moved: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    is_up: bool,
    admin: Option<Admin>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    node: usize,
    is_established: bool,
    used: Instant,
}

impl Node {
    fn takes_new(self) -> bool {
        match self.admin {
            Some(Admin::Up) => true,
            Some(Admin::Down) => false,
            None => self.is_up,
        }
    }
}

impl Table {
    /// A load balancer whose probes have found no node up yet.
    pub(crate) fn new(key: [u64; 2], mode: Mode, nodes: usize) -> Self {
        let nodes = vec![Node::default(); nodes];
        Self { key, mode, nodes, flows: HashMap::new(), moved: 0 }
    }

    /// The node for a packet; `None` if there is no node for it.
    pub(crate) fn choose(&mut self, now: Instant, seen: &Seen) -> Option<usize> {
        let Seen { tuple, phase } = *seen;
        let known = self.flows.get(&tuple).copied().filter(|entry| now - entry.used < IDLE).filter(
            // A SYN on an established flow begins another with the same ports.
            |entry| !(phase == Phase::Opening && entry.is_established),
        );
        let staying = known.filter(|entry| self.stays(entry));
        let node = match staying {
            Some(entry) => entry.node,
            None => self.hashed(&tuple)?,
        };
        self.moved += u64::from(known.is_some_and(|entry| entry.node != node));
        let is_established = phase == Phase::Established || known.is_some_and(|e| e.is_established);
        if self.flows.len() < FLOWS_MAX || self.flows.contains_key(&tuple) {
            self.flows.insert(tuple, Entry { node, is_established, used: now });
        }
        Some(node)
    }

    /// Says what a probe has found.
    pub(crate) fn set_up(&mut self, node: usize, is_up: bool) {
        self.nodes[node].is_up = is_up;
    }

    pub(crate) fn set_admin(&mut self, node: usize, admin: Option<Admin>) {
        self.nodes[node].admin = admin;
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].is_up
    }

    /// The node to which a flow went last.
    pub(crate) fn node_of(&self, tuple: &Tuple) -> Option<usize> {
        self.flows.get(tuple).map(|entry| entry.node)
    }

    /// Flows that went to another node than before.
    pub(crate) const fn moved(&self) -> u64 {
        self.moved
    }

    fn stays(&self, entry: &Entry) -> bool {
        let node = self.nodes[entry.node];
        let alternatives = self.nodes.iter().any(|node| node.takes_new());
        match (self.mode, entry.is_established) {
            (Mode::Pin, true) => true,
            (Mode::Steer, true) => node.is_up || !alternatives,
            (Mode::Pin | Mode::Steer, false) => node.takes_new(),
        }
    }

    /// Of the nodes that take new flows, the one that the keyed hash names.
    fn hashed(&self, tuple: &Tuple) -> Option<usize> {
        let takers: Vec<_> = (0..self.nodes.len()).filter(|&n| self.nodes[n].takes_new()).collect();
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        tuple.hash(&mut hasher);
        let count = u64::try_from(takers.len()).ok().filter(|count| *count > 0)?;
        takers.get((hasher.finish() % count) as usize).copied()
    }
}

#[cfg(test)]
mod tests;
