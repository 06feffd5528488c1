//! The section `[cluster]`: who the members are, where they are and how they know each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use gabion_engine::NodeId;
use toml::Spanned;

use super::Health;
use super::check::{Checker, span};
use super::written::{Written, WrittenCluster};
use crate::cluster::{PORT_STEP, Workers};

/// The cluster that the node is a member of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: String,
    pub node: NodeId,
    /// This node among them, all of one family, no two the same.
    pub members: BTreeMap<NodeId, IpAddr>,
    /// Of each node.
    pub workers: Workers,
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ports: ClusterPorts,
    /// `None`: as the interface that has this node's address.
    pub sync_mtu: Option<u16>,
    pub heartbeat: Duration,
    pub heartbeats_missed: u32,
    pub reset_lost: bool,
    pub renew: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterPorts {
    pub sync: u16,
    pub session: u16,
    pub wrapped: u16,
    /// Where a silent member's machine is asked; nobody listens there.
    pub machine: u16,
}

impl Cluster {
    /// This node's address.
    ///
    /// # Panics
    /// When the node is not among the members, which a checked configuration rules out.
    pub fn address(&self) -> IpAddr {
        self.members[&self.node]
    }
}

/// RFC 1035 section 2.3.4.
const LABEL_BYTES: usize = 63;

impl Checker<'_> {
    pub(super) fn cluster(
        &mut self,
        written: &WrittenCluster,
        health: Health,
        workers: u16,
    ) -> Option<Cluster> {
        let node = self.optional_number(&written.node, "cluster.node");
        let node = node.and_then(|node| u8::try_from(node).ok()).map(NodeId);
        let sync_mtu = self.optional_number(&written.sync_mtu, "cluster.sync_mtu");
        let ports = self.ports(written);
        let heartbeat = self.number(&written.heartbeat_ms, "cluster.heartbeat_ms");
        let heartbeats_missed = self.small(&written.heartbeats_missed, "cluster.heartbeats_missed");
        let reset_lost = self.switch(&written.reset_lost, "cluster.reset_lost");
        let renew = self.number(&written.renew_s, "cluster.renew_s");
        let members = self.members(written, node);
        let Some(name) = self.optional(&written.name, "cluster.name") else {
            self.no_name(written);
            return None;
        };
        if !is_label(&name) {
            self.refuse(span(&written.name), "cluster.name", &name);
        }
        let place = span(&written.name);
        if written.node.is_none() {
            self.missing(place.clone(), "cluster.node", "write this node's number, 1 to 16");
        }
        if written.members.is_empty() {
            let advice = "write `members = [\"1=192.0.2.1\", \"2=192.0.2.2\"]`";
            self.missing(place.clone(), "cluster.members", advice);
        }
        self.machine_port(written, ports, health);
        self.workers_of_members(written, &members, ports, workers);
        let mut file = |value: &Written<String>, key: &str| {
            if value.is_none() {
                self.missing(place.clone(), key, "`gabion pki init --cluster` makes certificates");
            }
            PathBuf::from(self.optional(value, key).unwrap_or_default())
        };
        Some(Cluster {
            ca: file(&written.ca, "cluster.ca"),
            certificate: file(&written.certificate, "cluster.certificate"),
            key: file(&written.key, "cluster.key"),
            name,
            // A wrong or missing one has been noted.
            node: node.unwrap_or_default(),
            members,
            workers: Workers(u8::try_from(workers).unwrap_or(1).max(1)),
            ports,
            sync_mtu: sync_mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            heartbeat: Duration::from_millis(heartbeat),
            heartbeats_missed,
            reset_lost,
            renew: Duration::from_secs(renew),
        })
    }

    fn ports(&mut self, written: &WrittenCluster) -> ClusterPorts {
        let ports = ClusterPorts {
            sync: self.short(&written.sync_port, "cluster.sync_port"),
            session: self.short(&written.session_port, "cluster.session_port"),
            wrapped: self.short(&written.wrapped_port, "cluster.wrapped_port"),
            machine: self.short(&written.machine_port, "cluster.machine_port"),
        };
        if ports.sync == ports.wrapped {
            let place = span(&written.wrapped_port).or(span(&written.sync_port));
            let message = format!(
                "cluster.sync_port and cluster.wrapped_port are both {}; give each its own",
                ports.sync
            );
            self.problem(place, message);
        }
        ports
    }

    /// Each worker of each node is a member to the engines, and has ports of its own.
    fn workers_of_members(
        &mut self,
        written: &WrittenCluster,
        members: &BTreeMap<NodeId, IpAddr>,
        ports: ClusterPorts,
        workers: u16,
    ) {
        let last = members.keys().next_back().copied().unwrap_or_default();
        if workers <= 1 {
            return;
        }
        let most = u16::from(NodeId::MAX) / u16::from(last.0).max(1);
        if workers > most {
            let message = format!(
                "node.workers = {workers} and cluster.members goes up to {last}: a cluster has {} workers in all, so set node.workers = {most} at all members, or give them lower numbers",
                NodeId::MAX
            );
            self.problem(span(&written.name), message);
        }
        let more = (workers - 1).saturating_mul(PORT_STEP);
        let is_step = ports.sync.abs_diff(ports.wrapped).is_multiple_of(PORT_STEP);
        let highest = ports.sync.max(ports.wrapped);
        if is_step || highest.checked_add(more).is_none() {
            let message = format!(
                "cluster.sync_port {} and cluster.wrapped_port {}: each worker of {workers} has them {PORT_STEP} higher than the one before; choose others",
                ports.sync, ports.wrapped
            );
            self.problem(span(&written.sync_port).or(span(&written.name)), message);
        }
    }

    /// Nobody may listen at the machine's port.
    fn machine_port(&mut self, written: &WrittenCluster, ports: ClusterPorts, health: Health) {
        let listeners = [
            ("cluster.session_port", ports.session),
            ("health.port", health.http_port),
            ("health.tcp_port", health.tcp_port),
        ];
        if let Some((key, port)) = listeners.into_iter().find(|(_, port)| *port == ports.machine) {
            let message =
                format!("cluster.machine_port and {key} are both {port}; give each its own");
            self.problem(span(&written.machine_port).or(span(&written.name)), message);
        }
    }

    fn members(
        &mut self,
        written: &WrittenCluster,
        node: Option<NodeId>,
    ) -> BTreeMap<NodeId, IpAddr> {
        let mut members: BTreeMap<NodeId, IpAddr> = BTreeMap::new();
        for text in &written.members {
            let Some((number, address)) = self.member(text) else { continue };
            let clash = members.iter().find(|(_, other)| **other == address);
            if let Some((other, _)) = clash.filter(|(other, _)| **other != number) {
                let own = if Some(number) == node || Some(*other) == node {
                    "; a node is not its own peer"
                } else {
                    ""
                };
                let message = format!(
                    "cluster.members: {other} and {number} have the same address {address}{own}; give each member its own"
                );
                self.problem(Some(text.span()), message);
            } else if members.contains_key(&number) {
                let message =
                    format!("cluster.members: {number} is there twice; give each member its own");
                self.problem(Some(text.span()), message);
            } else if let Some((other, of_other)) =
                members.first_key_value().filter(|(_, first)| first.is_ipv4() != address.is_ipv4())
            {
                let message = format!(
                    "cluster.members: {other} is at {of_other} and {number} at {address}; all members have IPv4 addresses, or all have IPv6"
                );
                self.problem(Some(text.span()), message);
            } else {
                members.insert(number, address);
            }
        }
        if let (Some(node), Some(first)) = (node, written.members.first())
            && !members.contains_key(&node)
        {
            let message = format!(
                "cluster.members: this node, cluster.node = {node}, is not among them; add \"{node}=ADDRESS\""
            );
            self.problem(Some(first.span()), message);
        }
        members
    }

    fn member(&mut self, text: &Spanned<String>) -> Option<(NodeId, IpAddr)> {
        let is_host = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
            // An address of one link alone does not say which.
            IpAddr::V6(v6) => {
                !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local()
            }
        };
        let member = text.get_ref().split_once('=').and_then(|(number, address)| {
            let number = number.trim().parse().ok().filter(|n| (1..=NodeId::MAX).contains(n))?;
            Some((NodeId(number), address.trim().parse().ok().filter(is_host)?))
        });
        if member.is_none() {
            let message = format!(
                "cluster.members = \"{}\": write NUMBER=ADDRESS with a number from 1 to {}, such as \"1=192.0.2.1\"",
                text.get_ref(),
                NodeId::MAX
            );
            self.problem(Some(text.span()), message);
        }
        member
    }

    /// Without a name there is no cluster; then there may be nothing of one.
    fn no_name(&mut self, written: &WrittenCluster) {
        let texts = [&written.ca, &written.certificate, &written.key].map(span);
        let numbers = [
            &written.node,
            &written.sync_port,
            &written.session_port,
            &written.wrapped_port,
            &written.machine_port,
            &written.sync_mtu,
            &written.heartbeat_ms,
            &written.heartbeats_missed,
            &written.renew_s,
        ]
        .map(span);
        let members = written.members.first().map(Spanned::span);
        let switch = [span(&written.reset_lost)];
        let first = texts.into_iter().chain(numbers).chain(switch).flatten().chain(members);
        // A wrong name has been noted.
        if written.name.is_none()
            && let Some(first) = first.min_by_key(|place| place.start)
        {
            self.missing(Some(first), "cluster.name", "write the cluster's name");
        }
    }

    fn missing(&mut self, place: Option<Range<usize>>, key: &str, advice: &str) {
        self.problem(place, format!("{key} is missing: {advice}"));
    }
}

fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES).contains(&name.len())
        && name.bytes().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
