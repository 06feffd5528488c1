//! The cluster's numbers.

use std::fmt;

use gabion_engine::{MemberStatus, NodeState, Presence};

use super::{Out, Page};
use crate::cluster::{ClusterSnapshot, LinkCounts, Machine, Member, Refusal};
use crate::control::state_label;

impl Page {
    pub(super) fn cluster(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let (Some(member), Some(cluster)) = (&self.member, &self.snapshot.cluster) else {
            return Ok(());
        };
        own(out, member, cluster)?;
        sessions(out, member)?;
        engine(out, cluster)?;
        links(out, cluster)
    }
}

fn own(out: &mut Out<'_, '_>, member: &Member, cluster: &ClusterSnapshot) -> fmt::Result {
    let status = &cluster.status;
    let states = [NodeState::Joining, NodeState::Ready, NodeState::Draining];
    let states = states.map(|one| ([("state", state_label(one))], u64::from(one == status.state)));
    out.gauge("gabion_cluster_state", "1 for how far the node is", states)?;
    let flows = [
        ("owned", status.owned),
        ("closing", status.closing),
        ("replicas", status.replicas),
        ("directed", status.directed),
    ];
    let flows = flows.map(|(role, count)| ([("role", role)], count));
    out.gauge("gabion_cluster_flows", "Flows by the node's role for them", flows)?;
    let coverage = status.coverage;
    let coverage = [("covered", coverage.covered), ("established", coverage.established)];
    let coverage = coverage.map(|(of, count)| ([("of", of)], count));
    out.gauge(
        "gabion_cluster_coverage",
        "Established flows, and how many of them have a live copy",
        coverage,
    )?;
    let sockets = [("sync", cluster.sync), ("wrapped", cluster.wrapped)];
    let lost = sockets.iter().flat_map(|(traffic, counters)| {
        let labels = |why| [("traffic", *traffic), ("why", why)];
        [
            (labels("not-sent"), counters.send_drops),
            (labels("too-large"), counters.truncated),
            (labels("no-member"), counters.strangers),
        ]
    });
    out.counter(
        "gabion_cluster_datagrams_lost",
        "Datagrams between nodes that were dropped",
        lost,
    )?;
    let ends = member.identity.load().certificate_ends_in();
    let ends = ends.map_or(0, |left| left.max(0).unsigned_abs());
    out.one_gauge(
        "gabion_cluster_certificate_seconds",
        "Until the node's certificate ends, by its clock",
        ends,
    )
}

fn sessions(out: &mut Out<'_, '_>, member: &Member) -> fmt::Result {
    let reports = member.known.reports();
    let up = reports
        .iter()
        .map(|peer| ([("node", peer.node.to_string())], u64::from(peer.session.is_some())));
    out.gauge("gabion_cluster_session", "1 where a session stands with a member", up)?;
    let machines = reports.iter().flat_map(|peer| {
        Machine::LABELS.map(|state| {
            let labels = [("node", peer.node.to_string()), ("state", state.to_owned())];
            (labels, u64::from(peer.machine.label() == state))
        })
    });
    out.gauge("gabion_cluster_machine", "1 for what is known of a member's machine", machines)?;
    let answering =
        reports.iter().map(|peer| ([("node", peer.node.to_string())], peer.answering as u64));
    out.gauge(
        "gabion_cluster_machine_addresses",
        "At how many addresses on data interfaces a member's machine answers",
        answering,
    )?;
    let refused = reports.iter().flat_map(|peer| {
        let counts = Refusal::LABELS.into_iter().zip(peer.refused);
        counts.map(|(reason, count)| {
            ([("node", peer.node.to_string()), ("reason", reason.to_owned())], count)
        })
    });
    out.counter("gabion_cluster_sessions_refused", "Sessions that were refused a member", refused)
}

fn engine(out: &mut Out<'_, '_>, cluster: &ClusterSnapshot) -> fmt::Result {
    type Gauge = (&'static str, &'static str, fn(&MemberStatus) -> u64);
    let gauges: [Gauge; 4] = [
        ("gabion_cluster_alive", "1 for a member that is taken for alive", |member| {
            u64::from(member.presence == Presence::Alive)
        }),
        ("gabion_cluster_same_policy", "1 for a member that has the same policy", |member| {
            u64::from(member.same_policy == Some(true))
        }),
        ("gabion_cluster_unacknowledged", "Records that a member has not acknowledged", |member| {
            member.unacknowledged
        }),
        ("gabion_cluster_lag_microseconds", "How long the oldest of these has waited", |member| {
            u64::try_from(member.lag.as_micros()).unwrap_or(u64::MAX)
        }),
    ];
    for (name, help, value) in gauges {
        let values = cluster.status.members.iter();
        let values = values.map(|member| ([("node", member.node.to_string())], value(member)));
        out.gauge(name, help, values)?;
    }
    let wrapped = cluster.status.members.iter().flat_map(|member| {
        let labels = |way: &str| [("node", member.node.to_string()), ("direction", way.to_owned())];
        [(labels("out"), member.wrapped_out), (labels("in"), member.wrapped_in)]
    });
    out.counter("gabion_cluster_wrapped", "Packets handed to a member, and taken from it", wrapped)
}

fn links(out: &mut Out<'_, '_>, cluster: &ClusterSnapshot) -> fmt::Result {
    let sealed = cluster.links.iter().flat_map(|(node, counts)| {
        let labels = |way: &str| [("node", node.to_string()), ("direction", way.to_owned())];
        [(labels("out"), counts.sealed), (labels("in"), counts.opened)]
    });
    out.counter("gabion_cluster_datagrams", "Sync datagrams to a member, and from it", sealed)?;
    let refused = cluster.links.iter().flat_map(|(node, counts)| {
        let of_engine = cluster.status.members.iter().find(|member| member.node == *node);
        let LinkCounts { malformed, unknown_epoch, forged, replayed, early, .. } = *counts;
        [
            ("malformed", malformed),
            ("unknown-keys", unknown_epoch),
            ("forged", forged),
            ("replayed", replayed),
            ("no-session", early),
            ("not-taken", of_engine.map_or(0, |member| member.refused)),
        ]
        .map(|(why, count)| ([("node", node.to_string()), ("why", why.to_owned())], count))
    });
    out.counter(
        "gabion_cluster_refused",
        "What came from a member's address and was not taken",
        refused,
    )?;
    let unsent = cluster.links.iter();
    let unsent = unsent.map(|(node, counts)| ([("node", node.to_string())], counts.unsent));
    out.counter("gabion_cluster_unsent", "Sync datagrams for which there was no session", unsent)
}
