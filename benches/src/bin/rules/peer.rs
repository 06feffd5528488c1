//! nftables with the same rules: what a new UDP packet costs that walks its chain.
//!
//! One socket in a namespace sends to addresses behind its loopback; the chain drops all of it, so
//! that nothing but the way to the chain and the chain itself is paid for, on the sender's core. An
//! empty chain that drops is subtracted. No connection tracking: each packet is a first packet.
//!
//! The peer has its rules in the form that is fastest for it: networks as prefixes, which the kernel
//! compares without a call through a pointer (a range is one, and dear where retpolines are), the
//! destination, which tells rules apart, first.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use gabion_benches::rulesets::{Addresses, Dice, Family, Rule, Service, policy_text};
use gabion_rules::{Query, Transport, ZoneId};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::classify::mean;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// The same rules in one form.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Per first packet, medians; nothing where only the installation was measured.
    classify_ns: Option<f64>,
    /// Nothing where it did not end in [`INSTALL_SECONDS`].
    install_ms: Option<f64>,
}

/// How nftables keeps the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing but the drop at the end.
    Empty,
    /// One rule after the other.
    Chain,
    /// A verdict map of concatenated ranges.
    Map,
}

const RULES: usize = 10_000;
const MANY_RULES: usize = 100_000;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
/// Packets of one sample: a chain of ten thousand rules takes some 50 µs for each.
const PACKETS: usize = 2_000;
const ROUNDS: usize = 7;
/// As `timeout` takes it. A map of 100,000 concatenated ranges is known to take minutes.
const INSTALL_SECONDS: &str = "60";

pub(crate) fn measure() -> anyhow::Result<Report> {
    let (rules, many) = (distinct_rules(RULES), distinct_rules(MANY_RULES));
    let forms = [Form::Empty, Form::Chain, Form::Map];
    let namespaces = [Namespace::build()?, Namespace::build()?, Namespace::build()?];
    let mut senders = Vec::new();
    let mut installs = Vec::new();
    for (namespace, form) in namespaces.iter().zip(forms) {
        let install = namespace.install(&ruleset(&rules, form))?;
        if install.is_none() {
            bail!("nft did not load {RULES} rules as {} in {INSTALL_SECONDS} s", form.label());
        }
        installs.push(install);
        senders.push(namespace.sender()?);
    }
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
        for index in order {
            samples[index].push(send(&senders[index], round as u64)?);
        }
    }
    let [empty, chain, map] = samples.map(median);
    let row = |name: &str, ns: Option<f64>, install_ms| {
        let name = name.to_owned();
        Row { name, classify_ns: ns, install_ms }
    };
    let mut rows = vec![
        row("peer/nftables-chain/10000", Some(chain - empty), installs[1]),
        row("peer/nftables-map/10000", Some(map - empty), installs[2]),
        ours("peer/gabion/10000", &rules),
    ];
    for (name, index, form) in
        [("peer/nftables-chain/100000", 1, Form::Chain), ("peer/nftables-map/100000", 2, Form::Map)]
    {
        rows.push(row(name, None, namespaces[index].install(&ruleset(&many, form))?));
    }
    rows.push(ours("peer/gabion/100000", &many));
    Ok(Report { rows })
}

pub(crate) fn print(report: &Report) {
    crate::print_table(
        &["", "ns per first packet", "install, ms"],
        report.rows.iter().map(|row| {
            let ns = row.classify_ns.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
            let over = || format!("over {INSTALL_SECONDS} s: given up");
            let install = row.install_ms.map_or_else(over, |ms| format!("{ms:.1}"));
            vec![row.name.clone(), ns, install]
        }),
    );
}

/// Rules that do not overlap, so that a verdict map can hold them: one source network, a destination
/// network of eight addresses each, a range of ports.
fn distinct_rules(count: usize) -> Vec<Rule> {
    let rule = |index: usize| {
        let destination = u128::from(network(index));
        let port = first_port(index);
        Rule {
            source: vec![Addresses::prefix(Family::V4, 10 << 24, 8)],
            destination: vec![Addresses::prefix(Family::V4, destination, 29)],
            service: Service::udp((0, u16::MAX), (port, port + 99)),
            is_allow: false,
        }
    };
    (0..count).map(rule).collect()
}

/// In 172.16.0.0/12.
fn network(rule: usize) -> u32 {
    0xac10_0000 + rule as u32 * 8
}

fn first_port(rule: usize) -> u16 {
    (1_024 + rule * 7 % 60_000) as u16
}

fn ours(name: &str, rules: &[Rule]) -> Row {
    let text = policy_text(rules);
    let start = Instant::now();
    let loaded = gabion_rules::load("peer.yaml", &text, None);
    let rule_set = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}")).rule_set;
    let install_ms = Some(start.elapsed().as_secs_f64() * 1e3);
    let trace: Vec<Query> = targets(rules.len(), 100_000, 1)
        .map(|target| Query {
            from: ZoneId(1),
            to: ZoneId(0),
            source: SOURCE.into(),
            destination: (*target.ip()).into(),
            transport: Transport::Udp { source_port: 40_000, destination_port: target.port() },
        })
        .collect();
    let samples = (0..ROUNDS).map(|_| mean(&rule_set, &trace)).collect();
    Row { name: name.to_owned(), classify_ns: Some(median(samples)), install_ms }
}

/// Addresses and ports of rules, each as likely as any other.
fn targets(rules: usize, count: usize, seed: u64) -> impl Iterator<Item = SocketAddrV4> {
    let mut dice = Dice::new(seed);
    (0..count).map(move |_| {
        let rule = dice.below(rules as u64) as usize;
        let address = Ipv4Addr::from_bits(network(rule) + dice.below(8) as u32);
        SocketAddrV4::new(address, first_port(rule) + dice.below(100) as u16)
    })
}

/// Nanoseconds per packet.
fn send(sender: &UdpSocket, seed: u64) -> anyhow::Result<f64> {
    let targets: Vec<SocketAddrV4> = targets(RULES, PACKETS, seed).collect();
    let start = Instant::now();
    for target in &targets {
        // What the output hook drops is an error of the sender.
        if sender.send_to(b"x", target).is_ok() {
            bail!("a packet to {target} was not dropped");
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / targets.len() as f64)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The text for `nft -f`.
fn ruleset(rules: &[Rule], form: Form) -> String {
    let parts = |rule: &Rule| {
        let Service::Udp { destination: (first, last), .. } = rule.service else {
            unreachable!("all rules are for UDP")
        };
        (prefix(&rule.source[0]), prefix(&rule.destination[0]), format!("{first}-{last}"))
    };
    let hook = "type filter hook output priority 0; policy drop;";
    let body = match form {
        Form::Empty => format!("chain walk {{ {hook}\n }}"),
        Form::Chain => {
            let line = |rule: &Rule| {
                let (source, destination, ports) = parts(rule);
                format!("ip daddr {destination} udp dport {ports} ip saddr {source} drop\n")
            };
            format!("chain walk {{ {hook}\n{} }}", rules.iter().map(line).collect::<String>())
        }
        Form::Map => {
            let line = |rule: &Rule| {
                let (source, destination, ports) = parts(rule);
                format!("{source} . {destination} . {ports} : drop,\n")
            };
            let elements: String = rules.iter().map(line).collect();
            format!(
                "map verdicts {{ type ipv4_addr . ipv4_addr . inet_service : verdict; flags interval; elements = {{ {elements} }} }}\nchain walk {{ {hook}\n ip saddr . ip daddr . udp dport vmap @verdicts\n }}"
            )
        }
    };
    format!("table ip peer\ndelete table ip peer\ntable ip peer {{\n{body}\n}}\n")
}

/// A range that is a prefix, as such.
fn prefix(range: &Addresses) -> String {
    let hosts = (range.last - range.first).count_ones();
    format!("{}/{}", Addresses::address(Family::V4, range.first), 32 - hosts)
}

impl Form {
    const fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Chain => "chain",
            Self::Map => "map",
        }
    }
}

/// A namespace with a way to all addresses. It has no name: it lives as long as a process in it,
/// which ends when this one does, however that happens.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn build() -> anyhow::Result<Self> {
        let mut holder = Command::new("unshare");
        // `cat` ends with its input, and its output tells that the namespace stands.
        holder.args(["--net", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut namespace = Self { holder: holder.spawn().context("cannot start `unshare`")? };
        namespace.await_ready()?;
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        namespace.run(&["ip", "addr", "add", &format!("{SOURCE}/32"), "dev", "lo"])?;
        namespace.run(&["ip", "route", "add", "local", "172.16.0.0/12", "dev", "lo"])?;
        Ok(namespace)
    }

    fn await_ready(&mut self) -> anyhow::Result<()> {
        let (Some(input), Some(output)) = (&mut self.holder.stdin, &mut self.holder.stdout) else {
            bail!("`unshare` has no pipes")
        };
        input.write_all(b"x")?;
        output.read_exact(&mut [0]).context("no namespace without root; see --without-peer")
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        let net = format!("--net={}", self.path());
        succeed(words[0], &Command::new("nsenter").arg(net).args(words).output()?)
    }

    /// Milliseconds that `nft -f` takes; `None` where it had to be killed.
    fn install(&self, rules: &str) -> anyhow::Result<Option<f64>> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), rules)?;
        let start = Instant::now();
        let output = Command::new("timeout")
            .args(["--foreground", "--signal=KILL", INSTALL_SECONDS, "nsenter"])
            .arg(format!("--net={}", self.path()))
            .args(["nft", "-f"])
            .arg(file.path())
            .output()?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        // `timeout` ends by the signal that it sends, or with the code that shells give to it.
        let killed = Signal::KILL.as_raw();
        if output.status.signal() == Some(killed) || output.status.code() == Some(128 + killed) {
            return Ok(None);
        }
        succeed("nft", &output)?;
        Ok(Some(took))
    }

    /// A socket that belongs to the namespace.
    fn sender(&self) -> anyhow::Result<UdpSocket> {
        let path = self.path();
        let open = move || -> anyhow::Result<UdpSocket> {
            let namespace = fs::File::open(path)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(UdpSocket::bind((SOURCE, 40_000))?)
        };
        let thread = std::thread::spawn(open);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn succeed(program: &str, output: &Output) -> anyhow::Result<()> {
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
