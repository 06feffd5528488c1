//! The cluster in the API's messages: what the engine, the packet thread's links and the sessions know, in one.

use std::net::IpAddr;

use gabion_api::v1;
use gabion_engine::{MemberStatus, NodeId, NodeState, Presence};
use tonic::{Response, Status};

use super::{Control, convert, stopping};
use crate::cluster::{ClusterSnapshot, LinkCounts, Member, PeerReport, PolicyMark};
use crate::worker::WorkerGone;

impl Control {
    pub(super) async fn cluster(&self) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        let snapshot = self.worker.snapshot().await.map_err(|WorkerGone| stopping())?;
        let (Some(member), Some(cluster)) = (&self.member, snapshot.cluster) else {
            return Err(Status::failed_precondition(
                "this node stands alone: its gabiond.toml has no [cluster]",
            ));
        };
        let ours = self.policies.in_force().map_or_else(
            || PolicyMark::default().digest_text(),
            |policy| policy.revision.digest.clone(),
        );
        Ok(Response::new(status(member, &cluster, &ours)))
    }
}

fn status(member: &Member, cluster: &ClusterSnapshot, policy: &str) -> v1::ClusterStatusResponse {
    let ClusterSnapshot { status, links, .. } = cluster;
    let alive = status.members.iter().filter(|peer| peer.presence == Presence::Alive);
    let mut view: Vec<u32> =
        alive.map(|peer| peer.node).chain([member.node]).map(|node| node.0.into()).collect();
    view.sort_unstable();
    let members = member.known.reports().into_iter().map(|report| {
        let of_engine = status.members.iter().find(|peer| peer.node == report.node);
        let counts = links.iter().find(|(node, _)| *node == report.node);
        let counts = counts.map_or_else(LinkCounts::default, |(_, counts)| *counts);
        peer(report, &of_engine.cloned().unwrap_or_default(), &counts, policy)
    });
    v1::ClusterStatusResponse {
        cluster: member.cluster.clone(),
        node: number(member.node),
        address: text(member.address),
        state: state(status.state).to_owned(),
        incarnation: member.incarnation,
        view,
        owned: status.owned,
        closing: status.closing,
        replicas: status.replicas,
        directed: status.directed,
        covered: status.coverage.covered,
        established: status.coverage.established,
        sync_mtu: member.sync_mtu.into(),
        warning: member.identity.load().warning().unwrap_or_default(),
        members: members.collect(),
    }
}

fn peer(
    report: PeerReport,
    status: &MemberStatus,
    counts: &LinkCounts,
    policy: &str,
) -> v1::ClusterMember {
    let machine_trouble = report.machine_trouble().unwrap_or_default();
    let of_session = report.policy.map(|mark| mark.digest_text() == policy);
    v1::ClusterMember {
        node: number(report.node),
        address: text(report.address),
        presence: presence(status.presence).to_owned(),
        state: state(status.state).to_owned(),
        incarnation: report.incarnation.max(status.incarnation),
        silent: status.silent.map(convert::duration),
        session: report.session.map(|(age, version, epoch)| v1::ClusterSession {
            age: Some(convert::duration(age)),
            version: version.into(),
            epoch: epoch.into(),
        }),
        trouble: report.trouble.unwrap_or_default(),
        same_policy: of_session.or(status.same_policy),
        revision: report.policy.map_or(0, |mark| mark.revision),
        unacknowledged: status.unacknowledged,
        lag: Some(convert::duration(status.lag)),
        wrapped_out: status.wrapped_out,
        wrapped_in: status.wrapped_in,
        refused: status.refused + counts.refused(),
        datagrams_out: counts.sealed,
        datagrams_in: counts.opened,
        machine: report.machine.label().to_owned(),
        machine_trouble,
    }
}

fn number(node: NodeId) -> u32 {
    node.0.into()
}

fn text(address: IpAddr) -> String {
    address.to_string()
}

pub(crate) const fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
    }
}

const fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Unknown => "unknown",
        Presence::Alive => "alive",
        Presence::Dead => "dead",
    }
}
