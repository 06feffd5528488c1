//! Workers of a node as members of the cluster: their numbers and ports, and all of them as one node again.
//!
//! Operators, certificates and sessions know nodes. The engines know members: worker 0 of node 1 is member 1, and those of
//! the other nodes follow, as many of each. With one worker a node and its member have one number.

use std::collections::BTreeMap;

use gabion_datapath::PeerPorts;
use gabion_engine::{ClusterStatus, Coverage, MemberStatus, NodeId, NodeState, Presence};

use super::links::{ClusterSnapshot, LinkCounts};
use crate::config::ClusterPorts;

/// From one worker's ports to the next one's: sync and wrapped ports of all stay apart.
pub const PORT_STEP: u16 = 16;

/// How many workers each node has; the same at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers(pub u8);

impl Workers {
    pub fn member(self, node: NodeId, worker: u8) -> NodeId {
        NodeId(node.0.saturating_sub(1).saturating_mul(self.0).saturating_add(worker + 1))
    }

    /// All members of a node, in the order of its workers.
    pub fn members(self, node: NodeId) -> impl Iterator<Item = NodeId> {
        (0..self.0).map(move |worker| self.member(node, worker))
    }

    pub const fn node_of(self, member: NodeId) -> NodeId {
        NodeId(member.0.saturating_sub(1) / self.0 + 1)
    }

    pub const fn worker_of(self, member: NodeId) -> u8 {
        member.0.saturating_sub(1) % self.0
    }

    /// Where a worker of any node is spoken with.
    pub const fn ports(ports: ClusterPorts, worker: u8) -> PeerPorts {
        let more = worker as u16 * PORT_STEP;
        PeerPorts { sync: ports.sync + more, wrapped: ports.wrapped + more }
    }

    /// What one engine says of members, of nodes. Other workers of its own node are none.
    pub fn status_of_nodes(self, status: ClusterStatus) -> ClusterStatus {
        let node = self.node_of(status.node);
        let mut nodes: BTreeMap<NodeId, MemberStatus> = BTreeMap::new();
        for member in status.members {
            let member = MemberStatus { node: self.node_of(member.node), ..member };
            if member.node == node {
                continue;
            }
            match nodes.get_mut(&member.node) {
                Some(known) => add_member(known, &member),
                None => {
                    nodes.insert(member.node, member);
                }
            }
        }
        ClusterStatus { node, members: nodes.into_values().collect(), ..status }
    }

    /// What has gone between one worker and members, of nodes.
    pub fn counts_of_nodes(
        self,
        own: NodeId,
        counts: impl Iterator<Item = (NodeId, LinkCounts)>,
    ) -> Vec<(NodeId, LinkCounts)> {
        let mut nodes: BTreeMap<NodeId, LinkCounts> = BTreeMap::new();
        for (member, counts) in counts.filter(|(member, _)| self.node_of(*member) != own) {
            add_counts(nodes.entry(self.node_of(member)).or_default(), counts);
        }
        nodes.into_iter().collect()
    }
}

/// Adds what another worker of the same node says.
pub fn add_status(sum: &mut ClusterStatus, one: &ClusterStatus) {
    let ClusterStatus { node: _, state, members, owned, closing, replicas, directed, coverage } =
        one;
    sum.state = least(sum.state, *state);
    sum.owned += owned;
    sum.closing += closing;
    sum.replicas += replicas;
    sum.directed += directed;
    let Coverage { covered, established } = coverage;
    sum.coverage.covered += covered;
    sum.coverage.established += established;
    for (sum, member) in sum.members.iter_mut().zip(members) {
        add_member(sum, member);
    }
}

/// Adds what another worker of the same node knows.
pub fn add_snapshot(sum: &mut ClusterSnapshot, one: &ClusterSnapshot) {
    add_status(&mut sum.status, &one.status);
    for ((_, sum), (_, counts)) in sum.links.iter_mut().zip(&one.links) {
        add_counts(sum, *counts);
    }
    for (sum, one) in [(&mut sum.sync, one.sync), (&mut sum.wrapped, one.wrapped)] {
        sum.received += one.received;
        sum.sent += one.sent;
        sum.truncated += one.truncated;
        sum.strangers += one.strangers;
        sum.send_drops += one.send_drops;
    }
}

/// A node is as well as the worst of its workers.
fn add_member(sum: &mut MemberStatus, one: &MemberStatus) {
    let MemberStatus {
        node: _,
        presence,
        state,
        incarnation,
        silent,
        unacknowledged,
        lag,
        wrapped_out,
        wrapped_in,
        refused,
        same_policy,
    } = one;
    sum.presence = match (sum.presence, presence) {
        (Presence::Dead, _) | (_, Presence::Dead) => Presence::Dead,
        (Presence::Unknown, _) | (_, Presence::Unknown) => Presence::Unknown,
        (Presence::Alive, Presence::Alive) => Presence::Alive,
    };
    sum.state = least(sum.state, *state);
    sum.incarnation = sum.incarnation.max(*incarnation);
    sum.silent = sum.silent.zip(*silent).map(|(one, other)| one.max(other));
    sum.unacknowledged += unacknowledged;
    sum.lag = sum.lag.max(*lag);
    sum.wrapped_out += wrapped_out;
    sum.wrapped_in += wrapped_in;
    sum.refused += refused;
    sum.same_policy = sum.same_policy.zip(*same_policy).map(|(one, other)| one && other);
}

const fn least(one: NodeState, other: NodeState) -> NodeState {
    match (one, other) {
        (NodeState::Joining, _) | (_, NodeState::Joining) => NodeState::Joining,
        (NodeState::Draining, _) | (_, NodeState::Draining) => NodeState::Draining,
        (NodeState::Ready, NodeState::Ready) => NodeState::Ready,
    }
}

fn add_counts(sum: &mut LinkCounts, one: LinkCounts) {
    let LinkCounts { sealed, opened, malformed, unknown_epoch, forged, replayed, early, unsent } =
        one;
    sum.sealed += sealed;
    sum.opened += opened;
    sum.malformed += malformed;
    sum.unknown_epoch += unknown_epoch;
    sum.forged += forged;
    sum.replayed += replayed;
    sum.early += early;
    sum.unsent += unsent;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_one_worker_of_one_node() {
        for workers in (1..=NodeId::MAX).map(Workers) {
            let nodes = (1..=NodeId::MAX / workers.0).map(NodeId);
            let members: Vec<_> = nodes
                .flat_map(|node| workers.members(node).map(move |member| (node, member)))
                .collect();
            let numbers: Vec<_> = members.iter().map(|(_, member)| member.0).collect();
            assert_eq!(numbers, (1..=members.len() as u8).collect::<Vec<_>>());
            for (node, member) in members {
                assert_eq!(workers.node_of(member), node);
                assert_eq!(workers.member(node, workers.worker_of(member)), member);
            }
        }
    }

    #[test]
    fn a_node_is_as_well_as_its_worst_worker() {
        let member = |number, presence| MemberStatus {
            node: NodeId(number),
            presence,
            state: NodeState::Ready,
            wrapped_out: 1,
            ..MemberStatus::default()
        };
        // Worker 1 of node 1 of three nodes with two workers each.
        let members = vec![
            member(1, Presence::Alive),
            member(3, Presence::Alive),
            member(4, Presence::Dead),
            member(5, Presence::Alive),
            member(6, Presence::Alive),
        ];
        let status = ClusterStatus { node: NodeId(2), members, ..ClusterStatus::default() };
        let of_nodes = Workers(2).status_of_nodes(status);
        let found: Vec<_> = of_nodes
            .members
            .iter()
            .map(|node| (node.node.0, node.presence, node.wrapped_out))
            .collect();
        assert_eq!(of_nodes.node, NodeId(1));
        assert_eq!(found, [(2, Presence::Dead, 2), (3, Presence::Alive, 2)]);
        let mut sum = of_nodes.clone();
        add_status(&mut sum, &of_nodes);
        assert_eq!(sum.members[1].wrapped_out, 4);
    }
}
