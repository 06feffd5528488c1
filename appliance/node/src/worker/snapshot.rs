//! All counters at one moment, of one packet thread or of all.

use gabion_datapath::PortCounters;
use gabion_datapath::ebpf::{Exit, Hook};
use gabion_engine::{Counters, Generation, RuleCounters, TableUse};

use crate::cluster::{ClusterSnapshot, add_snapshot};

/// All counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub generation: Generation,
    pub counters: Counters,
    /// Indexed by `RuleId` of `generation`'s rule set.
    pub rules: Vec<RuleCounters>,
    pub tables: Vec<TableUse>,
    /// In the order of the configured interfaces.
    pub ports: Vec<PortCounters>,
    /// What became of packets in the kernel, where programs move them.
    pub exits: Vec<(Exit, u64)>,
    /// Where programs stand, by port.
    pub hooks: Vec<Vec<Hook>>,
    /// `None`: the node stands alone.
    pub cluster: Option<ClusterSnapshot>,
    /// Of each packet thread.
    pub shares: Vec<WorkerShare>,
}

/// What of the node's work one packet thread has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerShare {
    pub frames_in: u64,
    pub handed_over: u64,
    pub flows: u64,
}

impl Snapshot {
    /// The sum of all threads' counters; `None` if a policy has come into force between them.
    pub(super) fn merge(snapshots: Vec<Self>) -> Option<Self> {
        let mut snapshots = snapshots.into_iter();
        let mut whole = snapshots.next()?;
        for one in snapshots {
            if one.generation != whole.generation {
                return None;
            }
            add_counters(&mut whole.counters, &one.counters);
            for (sum, rule) in whole.rules.iter_mut().zip(one.rules) {
                sum.hits += rule.hits;
                sum.usage.packets += rule.usage.packets;
                sum.usage.bytes += rule.usage.bytes;
                sum.last_hit = sum.last_hit.max(rule.last_hit);
            }
            for (sum, table) in whole.tables.iter_mut().zip(one.tables) {
                sum.used += table.used;
                sum.limit += table.limit;
            }
            for (sum, port) in whole.ports.iter_mut().zip(one.ports) {
                add_port(sum, &port);
            }
            if let Some((sum, one)) = whole.cluster.as_mut().zip(one.cluster.as_ref()) {
                add_snapshot(sum, one);
            }
            whole.shares.extend(one.shares);
        }
        Some(whole)
    }
}

fn add_counters(sum: &mut Counters, one: &Counters) {
    let Counters {
        frames_in,
        forwarded,
        to_peers,
        to_workers,
        local,
        answered,
        dropped,
        rejected,
        held,
        events_lost,
        answers_sent,
        answers_limited,
        evicted,
    } = one;
    for (sum, one) in [
        (&mut sum.frames_in, frames_in),
        (&mut sum.forwarded, forwarded),
        (&mut sum.to_peers, to_peers),
        (&mut sum.to_workers, to_workers),
        (&mut sum.local, local),
        (&mut sum.answered, answered),
        (&mut sum.held, held),
        (&mut sum.events_lost, events_lost),
        (&mut sum.answers_sent, answers_sent),
        (&mut sum.answers_limited, answers_limited),
        (&mut sum.evicted, evicted),
    ] {
        *sum += one;
    }
    sum.dropped.iter_mut().zip(dropped).for_each(|(sum, one)| *sum += one);
    sum.rejected.iter_mut().zip(rejected).for_each(|(sum, one)| *sum += one);
}

const fn add_port(sum: &mut PortCounters, one: &PortCounters) {
    let PortCounters { received, sent, ring_drops, truncated, vlan_tagged, transmit_drops } = *one;
    sum.received += received;
    sum.sent += sent;
    sum.ring_drops += ring_drops;
    sum.truncated += truncated;
    sum.vlan_tagged += vlan_tagged;
    sum.transmit_drops += transmit_drops;
}
