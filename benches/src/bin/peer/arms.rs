//! What is set up in each arm's node: plain forwarding, the kernel's firewall, or the appliance.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::lab::{ArmKind, Datapath, Lab, Place, System, sysctl};
use crate::load::{CONNECTION_PORTS, IPERF_PORT, ROUND_TRIP_PORT};
use crate::packets::SERVICE;
use crate::process::{Running, run};
use crate::{Interrupt, load, machine};

/// Connections that either firewall can hold: four times what most loads leave behind, twice that of a million flows.
const FLOWS: u32 = 1 << 21;
/// How long both firewalls remember a connection that has closed: the appliance's default.
const CLOSED_SECONDS: u32 = 10;
/// Of the kernel's connections: what the appliance has. No flow is to end before it is measured.
const TIMERS: [(&str, u32); 3] =
    [("tcp_timeout_time_wait", CLOSED_SECONDS), ("udp_timeout", 120), ("udp_timeout_stream", 300)];
/// How long gabiond may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Of the first service that nothing asks for.
const FILLER_PORT: u16 = 15_000;
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Where the appliance's programs are, and what its node is told beside what it must be.
#[derive(Debug, Clone)]
pub(crate) struct Appliance {
    pub(crate) programs: PathBuf,
    pub(crate) settings: Vec<String>,
}

impl Appliance {
    /// The same with packets moved by this.
    pub(crate) fn with(&self, datapath: Datapath) -> Self {
        let mut settings = self.settings.clone();
        settings.extend(datapath.settings().iter().copied().map(str::to_owned));
        Self { programs: self.programs.clone(), settings }
    }
}

/// One arm, ready to carry load.
#[derive(Debug)]
pub(crate) struct Arm {
    pub(crate) kind: ArmKind,
    pub(crate) place: Place,
    /// gabiond, before the server that it stands in front of, so that it is stopped first.
    pub(crate) gabiond: Option<Gabiond>,
    _iperf: Running,
}

impl Arm {
    pub(crate) fn set_up(
        lab: &Lab,
        kind: ArmKind,
        appliance: &Appliance,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let place = lab.place(kind);
        let mut gabiond = None;
        match kind.system {
            System::Direct => forward(&place)?,
            System::Peer | System::PeerChain => {
                forward(&place)?;
                let rules = ruleset(kind);
                let file = tempfile::NamedTempFile::new()?;
                fs::write(file.path(), rules)?;
                let path = file.path().to_string_lossy();
                run("ip", &["netns", "exec", &place.node, "nft", "-f", &path])?;
                for (timer, seconds) in TIMERS {
                    let timer = format!("net.netfilter.nf_conntrack_{timer}={seconds}");
                    sysctl(&place.node, &timer)?;
                }
                // Flows have counters in both firewalls.
                sysctl(&place.node, "net.netfilter.nf_conntrack_acct=1")?;
            }
            System::Gabion(datapath) => {
                let (appliance, policy) = (appliance.with(datapath), policy(kind.rules));
                let started = Gabiond::start(&place.node, "", &policy, &appliance, interrupt)?;
                gabiond = Some(started);
            }
        }
        let port = IPERF_PORT.to_string();
        let iperf = Running::start(&place.server, &["iperf3", "-s", "-p", &port], Stdio::null())?;
        load::wait_until_reachable(&place, interrupt)
            .with_context(|| format!("arm {}: the server can not be reached", kind.label()))?;
        Ok(Self { kind, place, gabiond, _iperf: iperf })
    }
}

impl Arm {
    /// Bytes of what grows with flows: the appliance's process, or the kernel's slabs.
    pub(crate) fn memory(&self) -> Option<f64> {
        match &self.gabiond {
            Some(gabiond) => {
                machine::kilobytes(&format!("/proc/{}/status", gabiond.process_id()), "VmRSS:")
            }
            None => machine::kilobytes("/proc/meminfo", "Slab:"),
        }
    }
}

fn forward(place: &Place) -> anyhow::Result<()> {
    sysctl(&place.node, "net.ipv4.ip_forward=1")
}

/// The services that so many rules allow, those of the load last: protocol and port.
fn services(rules: u32) -> Vec<(&'static str, u16)> {
    let used = [IPERF_PORT, ROUND_TRIP_PORT].into_iter().chain(CONNECTION_PORTS);
    let used: Vec<_> = used.map(|port| ("tcp", port)).chain([("udp", SERVICE)]).collect();
    let fillers = (FILLER_PORT..u16::MAX).flat_map(|port| [("tcp", port), ("udp", port)]);
    fillers.take((rules as usize).saturating_sub(used.len())).chain(used).collect()
}

/// The kernel's firewall in its best form: replies and established flows by one verdict map, first
/// packets by one lookup in a concatenated map instead of rules one after the other.
fn ruleset(kind: ArmKind) -> String {
    let services = services(kind.rules);
    let first = if kind.system == System::PeerChain {
        let rule = |(protocol, port): &(&str, u16)| {
            format!("    iif int meta l4proto {protocol} th dport {port} accept\n")
        };
        services.iter().map(rule).collect()
    } else {
        let element =
            |(protocol, port): &(&str, u16)| format!("int . {protocol} . {port} : accept");
        let elements: Vec<String> = services.iter().map(element).collect();
        format!("    iif . meta l4proto . th dport vmap {{ {} }}\n", elements.join(", "))
    };
    format!(
        "table inet bench {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state vmap {{ established : accept, related : accept, invalid : drop }}
{first}  }}
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    oif ext masquerade
  }}
}}
"
    )
}

/// So many rules that permit what the loads ask for: a single one permits everything.
pub(crate) fn rules(count: u32) -> String {
    if count == 1 {
        return "  - { name: all, from: inside, to: outside, action: allow }\n".to_owned();
    }
    services(count)
        .iter()
        .map(|(protocol, port)| {
            format!(
                "  - {{ name: {protocol}-{port}, from: inside, to: outside, service: {protocol}/{port}, action: allow }}\n"
            )
        })
        .collect()
}

/// The same for the appliance.
fn policy(count: u32) -> String {
    let rules = rules(count);
    let settings = format!(
        "  timeouts: {{ tcp-closed: {CLOSED_SECONDS}s }}
  flood: {{ flows-per-source: {FLOWS}, new-flows-per-source-per-second: {FLOWS} }}
"
    );
    masquerade(&settings, &rules)
}

/// A policy that hides the inside behind the node's own address: more lines of its settings, and its rules.
pub(crate) fn masquerade(settings: &str, rules: &str) -> String {
    format!(
        "apiVersion: gabion/v1
zones:
  outside: {{ interfaces: [ext] }}
  inside: {{ interfaces: [int], networks: [10.1.0.0/24] }}
settings:
  default: {{ action: drop }}
{settings}nat:
  - {{ name: out, kind: snat, from: inside, out: outside, address: self }}
rules:
{rules}"
    )
}

/// A policy by which all may connect to the server, as to one that is published.
pub(crate) fn open_to_all() -> String {
    format!(
        "apiVersion: gabion/v1
zones:
  outside: {{ interfaces: [int] }}
  inside: {{ interfaces: [ext], networks: [203.0.113.0/24] }}
settings:
  default: {{ action: drop }}
  flood: {{ flows-per-source: {FLOWS}, new-flows-per-source-per-second: {FLOWS} }}
rules:
  - {{ name: all, from: outside, to: inside, service: tcp/1-65535, action: allow }}
"
    )
}

/// A running gabiond with its policy in force.
#[derive(Debug)]
pub(crate) struct Gabiond {
    // Stopped before its directory goes.
    process: Running,
    gabion: PathBuf,
    socket: PathBuf,
    _directory: TempDir,
}

impl Gabiond {
    /// `more` stands behind what every node is told.
    pub(crate) fn start(
        namespace: &str,
        more: &str,
        policy: &str,
        appliance: &Appliance,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("gab-bench-").tempdir()?;
        let program = |name: &str| find(&appliance.programs, name);
        let socket = directory.path().join("gabiond.sock");
        let config = directory.path().join("gabiond.toml");
        let guard = program("gabion-guard")?;
        let text = configuration(directory.path(), &socket, &guard, &appliance.settings);
        fs::write(&config, text + more)?;
        let policy_file = directory.path().join("policy.yaml");
        fs::write(&policy_file, policy)?;

        let log = directory.path().join("stderr");
        let gabiond = program("gabiond")?;
        let words = [&*gabiond.to_string_lossy(), "--config", &*config.to_string_lossy()];
        let process = Running::start(namespace, &words, Stdio::from(File::create(&log)?))?;
        let gabion = program("gabion")?;
        let mut gabiond = Self { process, gabion, socket, _directory: directory };
        gabiond.push_and_wait(namespace, &policy_file, interrupt).with_context(|| {
            format!("gabiond said: {}", fs::read_to_string(&log).unwrap_or_default().trim())
        })?;
        Ok(gabiond)
    }

    fn push_and_wait(
        &mut self,
        namespace: &str,
        policy: &Path,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut last = "it does not serve its API".to_owned();
        let mut pushed = false;
        loop {
            interrupt.check()?;
            ensure!(!self.process.has_ended()?, "gabiond has ended");
            if !pushed && self.socket.exists() {
                // Refused as long as the node is still starting.
                match self.push(policy) {
                    Ok(()) => pushed = true,
                    Err(error) => last = format!("{error:#}"),
                }
            }
            if pushed {
                match load::health(namespace)? {
                    None => return Ok(()),
                    Some(reason) => last = reason,
                }
            }
            if Instant::now() > deadline {
                bail!("gabiond is not ready: {last}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As an operator would; returns when the policy is in force.
    pub(crate) fn push(&self, policy: &Path) -> anyhow::Result<()> {
        let [gabion, policy, socket] =
            [&*self.gabion, policy, &*self.socket].map(Path::to_string_lossy);
        run(&gabion, &["push", &policy, "--socket", &socket]).map(drop)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }
}

/// A program of the appliance.
pub(crate) fn find(programs: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = programs.join(name);
    ensure!(path.is_file(), "{} is missing: build it in the same profile", path.display());
    Ok(path)
}

fn configuration(directory: &Path, socket: &Path, guard: &Path, settings: &[String]) -> String {
    let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
    format!(
        "[node]\nname = \"bench\"\nstate_dir = {}\n{}\n\
         [interfaces]\next = \"ext\"\nint = \"int\"\n\
         [api]\nunix_socket = {}\n\
         [limits]\nflows = {FLOWS}\nmappings = {FLOWS}\n\
         [log]\njson = {}\n\
         [guard]\nprogram = {}\n",
        quoted(&directory.join("state")),
        settings.join("\n"),
        quoted(socket),
        quoted(&directory.join("events.jsonl")),
        quoted(guard),
    )
}

/// The kernel's connection table, sized for the load and put back when dropped.
#[derive(Debug)]
pub(crate) struct ConntrackSize {
    before: [(&'static str, String); 2],
}

impl ConntrackSize {
    pub(crate) fn raise() -> anyhow::Result<Self> {
        run("modprobe", &["-q", "nf_conntrack"]).ok();
        let read = |path: &'static str| -> anyhow::Result<(&'static str, String)> {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            Ok((path, text.trim().to_owned()))
        };
        let size = Self { before: [read(HASH_SIZE)?, read(CONNTRACK_MAX)?] };
        for (path, before) in &size.before {
            if before.parse::<u32>()? < FLOWS {
                fs::write(path, FLOWS.to_string()).with_context(|| format!("cannot set {path}"))?;
            }
        }
        Ok(size)
    }
}

impl Drop for ConntrackSize {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            if let Err(error) = fs::write(path, before) {
                eprintln!("peer: cannot set {path} back to {before}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_firewalls_have_as_many_rules() {
        let peer = ArmKind::of(System::Peer);
        for count in [10, 1_000, 100_000] {
            assert_eq!(services(count).len(), count as usize);
            assert_eq!(ruleset(peer.rules(count)).matches("int . ").count(), count as usize);
        }
        let chain = ArmKind::of(System::PeerChain);
        assert_eq!(ruleset(chain).matches("th dport").count(), 10);
    }

    #[test]
    fn the_policy_is_valid() {
        for count in [1, 10, 1_000] {
            let loaded = gabion_rules::load("bench.yaml", &policy(count), None).unwrap();
            let defaults = loaded.rule_set.zones().len().pow(2);
            assert_eq!(loaded.rule_set.rules().len() - defaults, count as usize);
        }
    }
}
