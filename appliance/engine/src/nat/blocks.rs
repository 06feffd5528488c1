//! Which ports a node gives out of addresses that all members of a cluster share: blocks of 64, each with
//! one owner, whoever is alive (docs/cluster.md section 5). Just so the workers of a node share all addresses.

use std::ops::RangeInclusive;

use crate::cluster::{Rendezvous, View};
use crate::{Address, ClusterConfig, NodeId, WorkerId};

/// Ports of one block: as many as a word has bits.
const BLOCK: u16 = 64;

/// Of one address.
const BLOCKS: usize = 1_024;

/// Who owns which block.
#[derive(Debug)]
pub(crate) struct Blocks {
    dealt: Dealt,
    /// Addresses that source NAT uses: those of pools, which every member has, and for workers the node's own. Sorted and apart.
    shared: Vec<RangeInclusive<Address>>,
    /// Whether this node knows which of its ports others use who have adopted flows.
    is_open: bool,
}

#[derive(Debug)]
enum Dealt {
    ToNodes {
        node: NodeId,
        configured: View,
        rendezvous: Rendezvous,
    },
    /// Of every address, whether it is known to be used or not.
    ToWorkers {
        me: WorkerId,
        workers: u16,
    },
}

impl Blocks {
    /// Of a node that has just started: closed, and no address is shared yet.
    pub(crate) fn new(cluster: &ClusterConfig) -> Self {
        Self {
            dealt: Dealt::ToNodes {
                node: cluster.node,
                configured: cluster.members.iter().copied().chain([cluster.node]).collect(),
                rendezvous: Rendezvous::new(cluster.secret),
            },
            shared: Vec::new(),
            is_open: false,
        }
    }

    /// Of one of several workers: open, as each knows of its own ports.
    pub(crate) const fn of_worker(me: WorkerId, workers: u16) -> Self {
        Self { dealt: Dealt::ToWorkers { me, workers }, shared: Vec::new(), is_open: true }
    }

    /// Whether the node's own addresses are shared too.
    pub(super) const fn are_of_worker(&self) -> bool {
        matches!(self.dealt, Dealt::ToWorkers { .. })
    }

    pub(super) fn set_shared(&mut self, shared: Vec<RangeInclusive<Address>>) {
        self.shared = shared;
    }

    pub(super) const fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn is_shared(&self, address: Address) -> bool {
        let behind = self.shared.partition_point(|range| *range.end() < address);
        self.shared.get(behind).is_some_and(|range| range.contains(&address))
    }

    /// The member that gives out a port of an address; `None` where the address is not shared.
    pub(super) fn owner(&self, address: Address, port: u16) -> Option<NodeId> {
        let Dealt::ToNodes { configured, rendezvous, .. } = &self.dealt else { return None };
        let owner = || rendezvous.block_owner(address, port / BLOCK, *configured);
        self.is_shared(address).then(owner).flatten()
    }

    /// The worker that gives out a port of an address; `None` where source NAT does not use the address.
    pub(super) fn worker(&self, address: Address, port: u16) -> Option<WorkerId> {
        let Dealt::ToWorkers { workers, .. } = self.dealt else { return None };
        self.is_shared(address).then(|| worker_of(port / BLOCK, workers))
    }

    /// Whether no other member gives the port out.
    pub(super) fn is_ours(&self, address: Address, port: u16) -> bool {
        match self.dealt {
            Dealt::ToNodes { node, .. } => {
                self.owner(address, port).is_none_or(|owner| owner == node)
            }
            Dealt::ToWorkers { me, workers } => worker_of(port / BLOCK, workers) == me,
        }
    }

    /// What this node or worker gives out of an address; `None` where it gives out all.
    pub(super) fn owned(&self, address: Address) -> Option<Box<Owned>> {
        (self.are_of_worker() || self.is_shared(address)).then(|| {
            let is_ours = |block: u16| match &self.dealt {
                Dealt::ToNodes { node, configured, rendezvous } => {
                    rendezvous.block_owner(address, block, *configured) == Some(*node)
                }
                Dealt::ToWorkers { me, workers } => worker_of(block, *workers) == *me,
            };
            let mut owned = Box::new(Owned([0; BLOCKS / 64]));
            for block in (0..BLOCKS as u16).filter(|block| is_ours(*block)) {
                owned.0[usize::from(block / 64)] |= 1 << (block % 64);
            }
            owned
        })
    }
}

/// Blocks go round, so that each worker has some of any range that has as many.
const fn worker_of(block: u16, workers: u16) -> WorkerId {
    WorkerId(block % workers)
}

/// One bit for each block of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owned([u64; BLOCKS / 64]);

impl Owned {
    pub(super) const fn has(&self, block: usize) -> bool {
        self.0[block / 64] & 1 << (block % 64) != 0
    }

    /// The port if it is in an owned block, else one of the next that is, as far as the range goes, and
    /// round to it again; `None` where no block of the range is.
    pub(super) fn from(&self, port: u16, (first, last): (u16, u16)) -> Option<u16> {
        let [start, begin, end] = [port, first, last].map(|port| port / BLOCK);
        let block =
            (start..=end).chain(begin..start).find(|block| self.has(usize::from(*block)))?;
        Some((block * BLOCK + port % BLOCK).clamp(first, last))
    }
}

/// The ports of a range that may be given out, numbered in their order.
#[derive(Debug)]
pub(super) struct Share {
    range: (u16, u16),
    /// Where not all are.
    blocks: Option<Box<[u16]>>,
    /// Ports of the first block that lie before the range.
    skipped: u32,
    count: u32,
}

impl Share {
    pub(super) fn new((first, last): (u16, u16), owned: Option<&Owned>) -> Self {
        let Some(owned) = owned else {
            let count = u32::from(last - first) + 1;
            return Self { range: (first, last), blocks: None, skipped: 0, count };
        };
        let blocks: Box<[u16]> =
            (first / BLOCK..=last / BLOCK).filter(|block| owned.has(usize::from(*block))).collect();
        let before = |port: u16| u32::from(port % BLOCK);
        let skipped = if blocks.first() == Some(&(first / BLOCK)) { before(first) } else { 0 };
        let behind = if blocks.last() == Some(&(last / BLOCK)) {
            before(BLOCK - 1 - last % BLOCK)
        } else {
            0
        };
        let count = blocks.len() as u32 * u32::from(BLOCK) - skipped - behind;
        Self { range: (first, last), blocks: Some(blocks), skipped, count }
    }

    pub(super) const fn range(&self) -> (u16, u16) {
        self.range
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// The port of a number below `count`.
    pub(super) fn port(&self, number: u32) -> u16 {
        match &self.blocks {
            None => self.range.0 + number as u16,
            Some(blocks) => {
                let place = number + self.skipped;
                let block = blocks[(place / u32::from(BLOCK)) as usize];
                block * BLOCK + (place % u32::from(BLOCK)) as u16
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against every port looked at alone.
        #[test]
        fn a_share_has_the_ports_of_owned_blocks(
            words: [u64; BLOCKS / 64], ends: [u16; 2], is_short: bool, has_all: bool,
        ) {
            let first = ends[0].min(ends[1]);
            let last = if is_short { first.saturating_add(ends[1] % 200) } else { ends[0].max(ends[1]) };
            let owned = Owned(words);
            let is_there = |port: &u16| has_all || owned.has(usize::from(port / BLOCK));
            let expected: Vec<u16> = (first..=last).filter(is_there).collect();
            let share = Share::new((first, last), Some(&owned).filter(|_| !has_all));
            prop_assert_eq!(share.count() as usize, expected.len());
            let ports: Vec<u16> = (0..share.count()).map(|number| share.port(number)).collect();
            prop_assert_eq!(&ports, &expected);
            let start = first + ends[1] % (last - first).max(1);
            let from = owned.from(start, (first, last));
            let in_block = |port: &u16| owned.has(usize::from(port / BLOCK));
            prop_assert_eq!(from.is_some(), (first..=last).any(|port| in_block(&port)));
            prop_assert!(from.is_none_or(|port| (first..=last).contains(&port) && in_block(&port)));
            prop_assert!(!in_block(&start) || from == Some(start));
        }

        /// S2: whichever members are alive, each port is one node's to give out.
        #[test]
        fn every_port_has_one_owner(
            secret: [u8; 16], members in 1..=NodeId::MAX, octets: [u8; 4], port: u16,
        ) {
            let address = Address::from(octets);
            let all: Vec<NodeId> = (1..=members).map(NodeId).collect();
            let mut owners = Vec::new();
            for node in &all {
                let mut blocks = Blocks::new(&cluster(*node, &all, secret));
                prop_assert_eq!(blocks.owner(address, port), None);
                prop_assert!(blocks.owned(address).is_none());
                blocks.set_shared(vec![address..=address]);
                let owned = blocks.owned(address);
                if owned.is_some_and(|owned| owned.has(usize::from(port / BLOCK))) {
                    owners.push(Some(*node));
                }
                owners.push(blocks.owner(address, port));
            }
            prop_assert_eq!(owners.len(), all.len() + 1);
            prop_assert!(owners[0].is_some() && owners.iter().all(|owner| *owner == owners[0]));
        }
    }

    proptest! {
        #[test]
        fn every_port_has_one_worker(workers in 1..=32_u16, octets: [u8; 4], port: u16, is_used: bool) {
            let address = Address::from(octets);
            let mut owners = Vec::new();
            for me in (0..workers).map(WorkerId) {
                let mut blocks = Blocks::of_worker(me, workers);
                if is_used {
                    blocks.set_shared(vec![address..=address]);
                }
                let owned = blocks.owned(address).expect("workers share every address");
                let has = owned.has(usize::from(port / BLOCK));
                prop_assert_eq!(has, blocks.is_ours(address, port));
                prop_assert!(!has || blocks.worker(address, port).is_none_or(|worker| worker == me));
                prop_assert_eq!(blocks.worker(address, port).is_some(), is_used);
                owners.extend(has.then_some(me));
            }
            prop_assert_eq!(owners.len(), 1);
        }
    }

    fn cluster(node: NodeId, members: &[NodeId], secret: [u8; 16]) -> ClusterConfig {
        ClusterConfig {
            node,
            members: members.to_vec(),
            incarnation: 1,
            secret,
            sync_mtu: 1_500,
            heartbeat: std::time::Duration::from_millis(100),
            heartbeats_missed: 4,
            reset_lost: true,
        }
    }

    #[test]
    fn addresses_between_pools_are_nobodys() {
        let address = |host: u8| Address::from([203, 0, 113, host]);
        let mut blocks = Blocks::new(&cluster(NodeId(1), &[NodeId(2)], [7; 16]));
        blocks.set_shared(vec![address(4)..=address(6), address(9)..=address(9)]);
        let shared: Vec<u8> = (0..12).filter(|host| blocks.is_shared(address(*host))).collect();
        assert_eq!(shared, [4, 5, 6, 9]);
    }
}
