//! The cluster as JSON.

use std::time::Duration;

use gabion_api::v1::{ClusterMember, ClusterStatusResponse};
use serde::Serialize;

/// A node's view of its cluster.
#[derive(Debug, Serialize)]
pub(super) struct ClusterJson {
    cluster: String,
    node: u32,
    address: String,
    state: String,
    incarnation: u64,
    view: Vec<u32>,
    owned: u64,
    closing: u64,
    replicas: u64,
    directed: u64,
    covered: u64,
    established: u64,
    /// 1 where nothing is to be covered.
    coverage: f64,
    sync_mtu: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    warning: String,
    members: Vec<MemberJson>,
}

#[derive(Debug, Serialize)]
struct MemberJson {
    node: u32,
    address: String,
    presence: String,
    state: String,
    incarnation: u64,
    silent_seconds: Option<f64>,
    session: Option<SessionJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    trouble: String,
    same_policy: Option<bool>,
    revision: u64,
    unacknowledged: u64,
    lag_seconds: f64,
    wrapped_out: u64,
    wrapped_in: u64,
    refused: u64,
    datagrams_out: u64,
    datagrams_in: u64,
    machine: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    machine_trouble: String,
}

#[derive(Debug, Serialize)]
struct SessionJson {
    seconds: f64,
    version: u32,
    epoch: u32,
}

impl From<&ClusterStatusResponse> for ClusterJson {
    fn from(status: &ClusterStatusResponse) -> Self {
        Self {
            cluster: status.cluster.clone(),
            node: status.node,
            address: status.address.clone(),
            state: status.state.clone(),
            incarnation: status.incarnation,
            view: status.view.clone(),
            owned: status.owned,
            closing: status.closing,
            replicas: status.replicas,
            directed: status.directed,
            covered: status.covered,
            established: status.established,
            coverage: coverage(status),
            sync_mtu: status.sync_mtu,
            warning: status.warning.clone(),
            members: status.members.iter().map(MemberJson::from).collect(),
        }
    }
}

impl From<&ClusterMember> for MemberJson {
    fn from(member: &ClusterMember) -> Self {
        let seconds = |length: Option<_>| span(length).map(|length| length.as_secs_f64());
        Self {
            node: member.node,
            address: member.address.clone(),
            presence: member.presence.clone(),
            state: member.state.clone(),
            incarnation: member.incarnation,
            silent_seconds: seconds(member.silent),
            session: member.session.as_ref().map(|session| SessionJson {
                seconds: seconds(session.age).unwrap_or_default(),
                version: session.version,
                epoch: session.epoch,
            }),
            trouble: member.trouble.clone(),
            same_policy: member.same_policy,
            revision: member.revision,
            unacknowledged: member.unacknowledged,
            lag_seconds: seconds(member.lag).unwrap_or_default(),
            wrapped_out: member.wrapped_out,
            wrapped_in: member.wrapped_in,
            refused: member.refused,
            datagrams_out: member.datagrams_out,
            datagrams_in: member.datagrams_in,
            machine: member.machine.clone(),
            machine_trouble: member.machine_trouble.clone(),
        }
    }
}

pub(super) fn span(length: Option<prost_types::Duration>) -> Option<Duration> {
    length?.try_into().ok()
}

/// The share of established flows that have a live copy.
pub(super) fn coverage(status: &ClusterStatusResponse) -> f64 {
    if status.established == 0 { 1.0 } else { status.covered as f64 / status.established as f64 }
}
