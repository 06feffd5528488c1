//! Which ports a node gives out of addresses that all members of a cluster share: blocks of 64, each with
//! one owner, whoever is alive (docs/cluster.md section 5). Just so the workers of a node share all addresses.

use std::num::NonZeroU16;
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
    /// Addresses that source NAT uses: those of pools, which every member has, and for workers alone the node's own. Sorted
    /// and apart.
    shared: Vec<RangeInclusive<Address>>,
    /// The machine's own, where several members are its workers. Sorted and apart.
    own: Vec<RangeInclusive<Address>>,
    /// Whether this node knows which of its ports others use who have adopted flows.
    is_open: bool,
}

#[derive(Debug)]
enum Dealt {
    ToNodes {
        node: NodeId,
        configured: View,
        rendezvous: Rendezvous,
        /// The members that are workers of this machine, in their order; nobody where there is one.
        beside: Vec<NodeId>,
    },
    /// Of every address, whether it is known to be used or not.
    ToWorkers { me: WorkerId, workers: u16 },
}

impl Blocks {
    /// Of a node that has just started: closed, and no address is shared yet.
    pub(crate) fn new(cluster: &ClusterConfig) -> Self {
        Self {
            dealt: Dealt::ToNodes {
                node: cluster.node,
                configured: cluster.members.iter().copied().chain([cluster.node]).collect(),
                rendezvous: Rendezvous::new(cluster.secret),
                beside: cluster.beside(),
            },
            shared: Vec::new(),
            own: Vec::new(),
            is_open: false,
        }
    }

    /// Of one of several workers: open, as each knows of its own ports.
    pub(crate) fn of_worker(me: WorkerId, workers: u16) -> Self {
        let (shared, own) = (Vec::new(), Vec::new());
        Self { dealt: Dealt::ToWorkers { me, workers }, shared, own, is_open: true }
    }

    /// Whether workers share all addresses, and nobody else.
    pub(super) const fn are_of_worker(&self) -> bool {
        matches!(self.dealt, Dealt::ToWorkers { .. })
    }

    /// Says which addresses are pools', and which the node's own.
    pub(super) fn set_shared(
        &mut self,
        pools: Vec<RangeInclusive<Address>>,
        own: Vec<RangeInclusive<Address>>,
    ) {
        (self.shared, self.own) = (pools, own);
    }

    pub(super) const fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn is_shared(&self, address: Address) -> bool {
        is_in(&self.shared, address)
    }

    /// The member that gives out a port of an address; `None` where the address is not shared.
    pub(super) fn owner(&self, address: Address, port: u16) -> Option<NodeId> {
        let is_used = self.is_shared(address) || is_in(&self.own, address);
        is_used.then(|| self.member(address, port / BLOCK)).flatten()
    }

    /// The worker of this node that gives out a port of an address; `None` where source NAT does not use the address, or
    /// where another node has the port.
    pub(super) fn worker(&self, address: Address, port: u16) -> Option<WorkerId> {
        match &self.dealt {
            Dealt::ToNodes { beside, .. } => {
                let owner = self.owner(address, port)?;
                let place = beside.iter().position(|member| *member == owner)?;
                Some(WorkerId(place as u16))
            }
            Dealt::ToWorkers { workers, .. } => {
                self.is_shared(address).then(|| worker_of(port / BLOCK, *workers))
            }
        }
    }

    /// Whether no other member gives the port out.
    pub(super) fn is_ours(&self, address: Address, port: u16) -> bool {
        match self.dealt {
            Dealt::ToNodes { node, .. } => {
                self.member(address, port / BLOCK).is_none_or(|owner| owner == node)
            }
            Dealt::ToWorkers { me, workers } => worker_of(port / BLOCK, workers) == me,
        }
    }

    /// Whether it is this machine's, by whichever of its workers.
    pub(super) fn is_of_machine(&self, address: Address, port: u16) -> bool {
        self.are_of_worker() || self.is_ours(address, port) || self.worker(address, port).is_some()
    }

    /// What this node or worker gives out of an address; `None` where it gives out all.
    pub(super) fn owned(&self, address: Address) -> Option<Box<Owned>> {
        let is_ours = |block: u16| match &self.dealt {
            Dealt::ToNodes { node, .. } => self.member(address, block) == Some(*node),
            Dealt::ToWorkers { me, workers } => worker_of(block, *workers) == *me,
        };
        let is_shared = self.is_shared(address);
        let is_dealt = match &self.dealt {
            Dealt::ToNodes { beside, .. } => is_shared || !beside.is_empty(),
            Dealt::ToWorkers { .. } => true,
        };
        is_dealt.then(|| {
            let mut owned = Box::new(Owned { blocks: [0; BLOCKS / 64], is_shared });
            for block in (0..BLOCKS as u16).filter(|block| is_ours(*block)) {
                owned.blocks[usize::from(block / 64)] |= 1 << (block % 64);
            }
            owned
        })
    }

    /// Whether what is owned of an address is so still, as far as it is a pool's or not.
    pub(super) fn is_as_before(&self, address: Address, owned: Option<&Owned>) -> bool {
        self.are_of_worker()
            || owned.is_some_and(|owned| owned.is_shared) == self.is_shared(address)
    }

    /// The member that gives out a block: of a pool's address any, of every other one a worker of this machine.
    fn member(&self, address: Address, block: u16) -> Option<NodeId> {
        let Dealt::ToNodes { configured, rendezvous, beside, .. } = &self.dealt else {
            return None;
        };
        if self.is_shared(address) {
            return rendezvous.block_owner(address, block, *configured);
        }
        let workers = NonZeroU16::new(beside.len() as u16)?;
        beside.get(usize::from(block % workers)).copied()
    }
}

fn is_in(ranges: &[RangeInclusive<Address>], address: Address) -> bool {
    let behind = ranges.partition_point(|range| *range.end() < address);
    ranges.get(behind).is_some_and(|range| range.contains(&address))
}

/// Blocks go round, so that each worker has some of any range that has as many.
const fn worker_of(block: u16, workers: u16) -> WorkerId {
    WorkerId(block % workers)
}

/// Blocks of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owned {
    /// One bit for each.
    blocks: [u64; BLOCKS / 64],
    /// Whether the others are other members', whichever machine they are on.
    is_shared: bool,
}

impl Owned {
    pub(super) const fn has(&self, block: usize) -> bool {
        self.blocks[block / 64] & 1 << (block % 64) != 0
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
            let owned = Owned { blocks: words, is_shared: true };
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
                blocks.set_shared(vec![address..=address], Vec::new());
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
                    blocks.set_shared(vec![address..=address], Vec::new());
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

    proptest! {
        /// Of an address that is no pool's the workers of a machine have all ports between them, of a pool's all members.
        #[test]
        fn every_port_has_one_member_of_a_machine(
            secret: [u8; 16], workers in 2..=4_u8, octets: [u8; 4], port: u16, kind in 0..3,
        ) {
            let address = Address::from(octets);
            let all: Vec<NodeId> = (1..=2 * workers).map(NodeId).collect();
            let (here, there) = all.split_at(usize::from(workers));
            let of = |node: &NodeId| {
                let machines = vec![here.to_vec(), there.to_vec()];
                let cluster = ClusterConfig { machines, ..cluster(*node, &all, secret) };
                let mut blocks = Blocks::new(&cluster);
                let used = |at| if kind == at { vec![address..=address] } else { Vec::new() };
                blocks.set_shared(used(1), used(2));
                blocks
            };
            let is_owner = |node: &&NodeId| {
                let blocks = of(node);
                let has = blocks.owned(address).is_some_and(|owned| owned.has(usize::from(port / BLOCK)));
                assert_eq!(has, blocks.is_ours(address, port));
                assert_eq!(blocks.owner(address, port).is_some(), kind != 0);
                assert!(!has || kind == 0 || blocks.owner(address, port) == Some(**node));
                assert!(!has || blocks.is_of_machine(address, port));
                has
            };
            let owners = |of: &[NodeId]| of.iter().filter(is_owner).count();
            let (here, there) = (owners(here), owners(there));
            prop_assert_eq!((here + there, here == there), if kind == 1 { (1, false) } else { (2, true) });
        }
    }

    fn cluster(node: NodeId, members: &[NodeId], secret: [u8; 16]) -> ClusterConfig {
        ClusterConfig {
            node,
            members: members.to_vec(),
            machines: Vec::new(),
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
        blocks.set_shared(vec![address(4)..=address(6), address(9)..=address(9)], Vec::new());
        let shared: Vec<u8> = (0..12).filter(|host| blocks.is_shared(address(*host))).collect();
        assert_eq!(shared, [4, 5, 6, 9]);
    }
}
