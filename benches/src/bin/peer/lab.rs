//! Namespaces: for each arm a client, a node and a server in a row, joined by veth pairs.
//!
//! All arms stand at the same time and idle ones cost next to nothing, so that a measurement can go
//! from one arm to the next without building anything.

use std::fs::File;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::packets::DESTINATIONS;
use crate::process::{run, run_line};

/// Of all names of namespaces.
pub(crate) const PREFIX: &str = "gab-bench-";
/// Held while a lab stands: two at once would measure each other.
const LOCK: &str = "/run/gab-bench.lock";

/// Where the server of each arm listens; arms do not see each other.
pub(crate) const CLIENT_ADDRESS: &str = "10.1.0.2";
pub(crate) const SERVER_ADDRESS: &str = "203.0.113.2";
const NODE_INSIDE: &str = "10.1.0.1";
const NODE_OUTSIDE: &str = "203.0.113.1";

/// What stands between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum System {
    /// The kernel forwards, without a firewall.
    Direct,
    /// nftables, conntrack, masquerade, in its best form.
    Peer,
    /// The same with one rule after the other, as rules must stand that no map can hold.
    PeerChain,
    Gabion(Datapath),
}

/// Who moves packets in the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Datapath {
    Userspace,
    /// At tc.
    Ebpf,
    /// In the driver, with what is left at tc.
    Xdp,
}

impl Datapath {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Ebpf => "ebpf",
            Self::Xdp => "xdp",
        }
    }

    /// Lines of gabiond's settings.
    pub(crate) const fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Userspace => &["datapath = \"userspace\""],
            Self::Ebpf => &["datapath = \"ebpf\"", "hook = \"tc\""],
            Self::Xdp => &["datapath = \"ebpf\"", "hook = \"xdp\""],
        }
    }
}

/// A system with so many rules, once or again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ArmKind {
    pub(crate) system: System,
    pub(crate) rules: u32,
    /// The same as another arm: the A/A control.
    pub(crate) again: bool,
}

/// Of most arms.
const RULES: u32 = 10;

impl ArmKind {
    pub(crate) const fn of(system: System) -> Self {
        Self { system, rules: RULES, again: false }
    }

    pub(crate) const fn rules(self, rules: u32) -> Self {
        Self { rules, ..self }
    }

    pub(crate) const fn again(self) -> Self {
        Self { again: true, ..self }
    }

    pub(crate) fn label(self) -> String {
        let mut label = match self.system {
            System::Direct => "direct".to_owned(),
            System::Peer => "peer".to_owned(),
            System::PeerChain => "peer-chain".to_owned(),
            System::Gabion(datapath) => format!("gabion-{}", datapath.label()),
        };
        if self.rules != RULES {
            label += &format!("-{}", self.rules);
        }
        if self.again {
            label += "-again";
        }
        label
    }

    pub(crate) const fn datapath(self) -> Option<Datapath> {
        match self.system {
            System::Gabion(datapath) => Some(datapath),
            System::Direct | System::Peer | System::PeerChain => None,
        }
    }
}

/// The namespaces of one arm.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) client: String,
    pub(crate) node: String,
    pub(crate) server: String,
    /// Whether the server takes frames as the driver has them: what comes from a driver is no socket buffer, and the price
    /// of making one is not the node's.
    pub(crate) takes_early: bool,
}

impl Place {
    fn of(kind: ArmKind) -> Self {
        let name = |role: &str| format!("{PREFIX}{}-{role}", kind.label());
        let takes_early = kind.datapath() == Some(Datapath::Xdp);
        Self { client: name("client"), node: name("node"), server: name("server"), takes_early }
    }
}

/// All namespaces, removed when dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    _lock: File,
}

impl Lab {
    /// Builds the namespaces of these arms.
    pub(crate) fn build(kinds: &[ArmKind]) -> anyhow::Result<Self> {
        let lab = Self::begin()?;
        for &kind in kinds {
            build_arm(&Place::of(kind))?;
        }
        Ok(lab)
    }

    /// An empty one, after clearing away what a killed run has left.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let lock = File::create(LOCK).with_context(|| format!("cannot create {LOCK}; be root"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another run holds {LOCK}: wait for it to end");
        }
        clear()?;
        // From here on `drop` clears, also when a later step fails.
        Ok(Self { _lock: lock })
    }

    #[expect(clippy::unused_self, reason = "a place exists while the lab does")]
    pub(crate) fn place(&self, kind: ArmKind) -> Place {
        Place::of(kind)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = clear() {
            eprintln!("peer: namespaces {PREFIX}* are left over: {error:#}");
        }
    }
}

fn clear() -> anyhow::Result<()> {
    for line in run("ip", &["netns", "list"])?.lines() {
        let Some(name) = line.split(' ').next().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        // Programs of a run that was killed; those of this run have been ended already.
        for pid in run("ip", &["netns", "pids", name])?.lines() {
            if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        run("ip", &["netns", "del", name])?;
    }
    Ok(())
}

/// A client, a node and a server in a row.
pub(crate) fn build_arm(place: &Place) -> anyhow::Result<()> {
    for namespace in [&place.client, &place.node, &place.server] {
        add(namespace)?;
    }
    cable(&place.client, &place.node, "int", CLIENT_ADDRESS, NODE_INSIDE)?;
    cable(&place.server, &place.node, "ext", SERVER_ADDRESS, NODE_OUTSIDE)?;
    run_line(&format!("ip -n {} route add default via {NODE_INSIDE}", place.client))?;
    run_line(&format!("ip -n {} route add default via {NODE_OUTSIDE}", place.server))?;
    run_line(&format!("ip -n {} route add {DESTINATIONS} via {SERVER_ADDRESS}", place.node))?;
    if place.takes_early {
        // As a card hands frames over: with whole checksums.
        for host in [&place.client, &place.server] {
            run_line(&format!("ip netns exec {host} ethtool -K eth0 tx off"))?;
        }
    }
    settle(place)
}

pub(crate) fn add(namespace: &str) -> anyhow::Result<()> {
    run("ip", &["netns", "add", namespace])?;
    run_line(&format!("ip -n {namespace} link set lo up"))?;
    // Addresses are needed at once, and only those given here.
    sysctl(namespace, "net.ipv6.conf.default.disable_ipv6=1")
}

/// Has both hosts begin each sample alike.
pub(crate) fn settle(place: &Place) -> anyhow::Result<()> {
    // Ports of short connections are free again after a second instead of a minute.
    sysctl(&place.client, "net.ipv4.tcp_tw_reuse=1")?;
    for namespace in [&place.client, &place.server] {
        // No sample is to begin with what the one before has learnt.
        sysctl(namespace, "net.ipv4.tcp_no_metrics_save=1")?;
        // Whatever the host's choice is: one that paces by timers would be measured instead. This
        // one alone is allowed everywhere; streams ask for Linux's default.
        sysctl(namespace, "net.ipv4.tcp_congestion_control=reno")?;
    }
    Ok(())
}

fn cable(host: &str, node: &str, device: &str, ours: &str, theirs: &str) -> anyhow::Result<()> {
    run_line(&format!("ip link add {device} netns {node} type veth peer name eth0 netns {host}"))?;
    run_line(&format!("ip -n {host} address add {ours}/24 dev eth0"))?;
    run_line(&format!("ip -n {node} address add {theirs}/24 dev {device}"))?;
    run_line(&format!("ip -n {host} link set eth0 up"))?;
    run_line(&format!("ip -n {node} link set {device} up"))?;
    Ok(())
}

pub(crate) fn sysctl(namespace: &str, setting: &str) -> anyhow::Result<()> {
    run_line(&format!("ip netns exec {namespace} sysctl -qw {setting}")).map(drop)
}

/// Whether the hosts hand superframes to their cables, or packets of at most 1,500 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segmentation {
    ByTheReceiver,
    ByTheSender,
}

pub(crate) fn set_segmentation(place: &Place, how: Segmentation) -> anyhow::Result<()> {
    let state = match how {
        Segmentation::ByTheReceiver => "on",
        Segmentation::ByTheSender => "off",
    };
    for host in [&place.client, &place.server] {
        run_line(&format!("ip netns exec {host} ethtool -K eth0 tso {state} gso {state}"))?;
    }
    Ok(())
}

/// Whether the node takes frames that the kernel makes without sockets: a veth does so only if it polls.
pub(crate) fn set_polling(place: &Place, is_on: bool) -> anyhow::Result<()> {
    let state = if is_on { "on" } else { "off" };
    run_line(&format!("ip netns exec {} ethtool -K int gro {state}", place.node)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_is_unusual() {
        let ebpf = ArmKind::of(System::Gabion(Datapath::Ebpf));
        assert_eq!(ebpf.label(), "gabion-ebpf");
        assert_eq!(ebpf.rules(1_000).again().label(), "gabion-ebpf-1000-again");
    }
}
