//! The configuration as written: every value optional, with its place in the file.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

pub(super) type Written<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenConfig {
    pub(super) node: WrittenNode,
    pub(super) interfaces: BTreeMap<String, Spanned<String>>,
    pub(super) management: WrittenManagement,
    pub(super) api: WrittenApi,
    pub(super) health: WrittenHealth,
    pub(super) metrics: WrittenMetrics,
    pub(super) limits: WrittenLimits,
    pub(super) log: WrittenLog,
    pub(super) cluster: WrittenCluster,
    pub(super) azure: WrittenAzure,
    pub(super) guard: WrittenGuard,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenNode {
    pub(super) name: Written<String>,
    pub(super) hold: Written<String>,
    pub(super) first_policy: Written<String>,
    pub(super) state_dir: Written<String>,
    pub(super) revisions: Written<i64>,
    pub(super) stall_ms: Written<i64>,
    pub(super) user: Written<String>,
    pub(super) datapath: Written<String>,
    pub(super) hook: Written<String>,
    pub(super) pin_dir: Written<String>,
    pub(super) fail_closed_after_s: Written<i64>,
    pub(super) device_wait_ms: Written<i64>,
    pub(super) ring_mib: Written<i64>,
    pub(super) workers: Written<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenManagement {
    pub(super) interfaces: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenApi {
    pub(super) listen: Vec<Spanned<String>>,
    pub(super) unix_socket: Written<String>,
    pub(super) certificate: Written<String>,
    pub(super) key: Written<String>,
    pub(super) client_ca: Written<String>,
    pub(super) message_bytes: Written<i64>,
    pub(super) connections: Written<i64>,
    pub(super) streams: Written<i64>,
    pub(super) watchers: Written<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenHealth {
    pub(super) port: Written<i64>,
    pub(super) tcp_port: Written<i64>,
    pub(super) connections: Written<i64>,
    pub(super) timeout_ms: Written<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenMetrics {
    pub(super) listen: Written<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenLimits {
    pub(super) flows: Written<i64>,
    pub(super) mappings: Written<i64>,
    pub(super) fragmented_datagrams: Written<i64>,
    pub(super) fragments_per_datagram: Written<i64>,
    pub(super) fragment_bytes: Written<i64>,
    pub(super) parked_per_neighbour: Written<i64>,
    pub(super) parked: Written<i64>,
    pub(super) neighbours: Written<i64>,
    pub(super) transmit_queue: Written<i64>,
    pub(super) events: Written<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenLog {
    pub(super) journald: Written<bool>,
    pub(super) json: Written<String>,
    pub(super) queue: Written<i64>,
    pub(super) level: Written<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenCluster {
    pub(super) name: Written<String>,
    pub(super) node: Written<i64>,
    pub(super) members: Vec<Spanned<String>>,
    pub(super) ca: Written<String>,
    pub(super) certificate: Written<String>,
    pub(super) key: Written<String>,
    pub(super) sync_port: Written<i64>,
    pub(super) session_port: Written<i64>,
    pub(super) wrapped_port: Written<i64>,
    pub(super) machine_port: Written<i64>,
    pub(super) sync_mtu: Written<i64>,
    pub(super) heartbeat_ms: Written<i64>,
    pub(super) heartbeats_missed: Written<i64>,
    pub(super) reset_lost: Written<bool>,
    pub(super) renew_s: Written<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenAzure {
    pub(super) scheduled_events: Written<Choice>,
    pub(super) metadata: Written<String>,
    pub(super) host_services: Written<Choice>,
}

/// Yes, no, or a word that says by what it is decided.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Choice {
    Plain(bool),
    Word(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenGuard {
    pub(super) program: Written<String>,
}
