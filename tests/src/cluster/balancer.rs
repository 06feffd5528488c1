//! A load balancer: a keyed hash of its own over the nodes that its probes find well.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use gabion_engine::FlowKey;

use super::schedule::Mode;

/// Probes that must fail before a node is left out; one that is answered brings it back.
const THRESHOLD: u32 = 2;

#[derive(Debug)]
pub(super) struct Balancer {
    key: u64,
    mode: Mode,
    failed: Vec<u32>,
    up: Vec<bool>,
    pinned: BTreeMap<FlowKey, usize>,
}

impl Balancer {
    pub(super) fn new(key: u64, mode: Mode, nodes: usize) -> Self {
        Self { key, mode, failed: vec![0; nodes], up: vec![false; nodes], pinned: BTreeMap::new() }
    }

    pub(super) fn probed(&mut self, node: usize, is_well: bool) {
        self.failed[node] = if is_well { 0 } else { self.failed[node] + 1 };
        if is_well || self.failed[node] >= THRESHOLD {
            self.up[node] = is_well;
        }
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.up[node]
    }

    /// The node for a packet; nothing if there is none for what begins now.
    pub(super) fn pick(&mut self, flow: FlowKey, is_tcp: bool, opens: bool) -> Option<usize> {
        let known = self.pinned.get(&flow).copied().filter(|_| is_tcp);
        let stays = match self.mode {
            Mode::Pin => known.filter(|node| !opens || self.up[*node]),
            Mode::Steer => known.filter(|node| self.up[*node]),
        };
        let picked = stays.or_else(|| self.heaviest(&flow)).or(known)?;
        if is_tcp {
            self.pinned.insert(flow, picked);
        }
        Some(picked)
    }

    fn heaviest(&self, flow: &FlowKey) -> Option<usize> {
        let weight = |node: &usize| {
            let mut hasher = DefaultHasher::new();
            (self.key, flow, node).hash(&mut hasher);
            hasher.finish()
        };
        (0..self.up.len()).filter(|node| self.up[*node]).max_by_key(weight)
    }
}
