//! SYNs of invented sources, at some times the rate at which a core opens connections, and what becomes of good
//! clients' connections meanwhile: with the appliance, and with nftables' SYNPROXY. In turn, and all on one CPU, the
//! attacker too.

mod attack;
mod clients;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::arms::{Appliance, ConntrackSize, Gabiond, open_to_all};
use crate::lab::{CLIENT_ADDRESS, Lab, PREFIX, Place, build_arm, sysctl};
use crate::load::{self, CONNECTION_PORTS, Server};
use crate::machine::{self, Machine};
use crate::process::{join, run, run_line};
use crate::ratio::{Interval, median};
use crate::report::Outcome;
use crate::{Interrupt, Options};

/// P14: the share of good connections that succeed at five times what a core can.
const GATE: f64 = 0.5;
/// Threads that answer.
const SERVERS: usize = 8;
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What stands before the server.
#[derive(Debug)]
struct Arm {
    label: &'static str,
    place: Place,
    _gabiond: Option<Gabiond>,
    server: Option<Server>,
}

/// Of one arm, in one sample.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    syns_per_second: f64,
    good: usize,
    succeeded: usize,
    /// Until the first byte was back, in milliseconds.
    p50: f64,
}

#[derive(Debug, Serialize)]
struct Measured {
    arm: &'static str,
    /// Connections a second that the arm opens when nobody floods.
    connections_per_second: f64,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    load_after: f64,
    /// SYNs a second.
    offered: f64,
    arms: Vec<Measured>,
}

/// Measures and prints; the exit code says whether the gate is met.
///
/// # Errors
/// If an arm does not come up, or good connections fail without a flood.
pub(crate) fn compare(
    times: f64,
    options: &Options,
    machine: &Machine,
    appliance: &Appliance,
    interrupt: &Interrupt,
) -> anyhow::Result<Outcome> {
    // Dropped in the opposite order.
    let _conntrack = ConntrackSize::raise()?;
    let lab = Lab::begin()?;
    let arms = [Arm::synproxy(&lab)?, Arm::gabion(&lab, appliance, interrupt)?];
    let mut measured = Vec::new();
    for arm in &arms {
        let calm = arm.sample(0.0, 1, interrupt)?;
        ensure!(
            calm.succeeded == calm.good,
            "{}: {} of {} connections succeed without a flood",
            arm.label,
            calm.succeeded,
            calm.good
        );
        let connections_per_second = load::connect_to(&arm.place, 1)?;
        measured.push(Measured { arm: arm.label, connections_per_second, samples: Vec::new() });
    }
    let most = measured.iter().map(|arm| arm.connections_per_second).fold(0.0, f64::max);
    let offered = times * most;
    for number in 0..options.pairs {
        let mut order = [0, 1];
        if number % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let sample = arms[at].sample(offered, options.seconds, interrupt)?;
            eprintln!("{number} of {}: {} {sample:?}", options.pairs, arms[at].label);
            measured[at].samples.push(sample);
        }
    }
    let report =
        Report { machine: machine.clone(), load_after: machine::load(), offered, arms: measured };
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.print())
}

impl Arm {
    fn place(label: &str) -> anyhow::Result<Place> {
        let name = |role: &str| format!("{PREFIX}{label}-{role}");
        let [client, node, server] = ["client", "node", "server"].map(name);
        let place = Place { client, node, server, takes_early: false };
        build_arm(&place)?;
        // Invented sources are nobody's and end at the client; its own come and go by themselves.
        run_line(&format!("ip -n {} route add default via {CLIENT_ADDRESS}", place.node))?;
        let newcomers = clients::NEWCOMERS;
        run_line(&format!("ip -n {} route add local {newcomers} dev lo", place.client))?;
        for scope in ["all", "default", "eth0"] {
            sysctl(&place.client, &format!("net.ipv4.conf.{scope}.rp_filter=0"))?;
        }
        Ok(place)
    }

    /// nftables as its own documentation has it.
    fn synproxy(_lab: &Lab) -> anyhow::Result<Self> {
        let place = Self::place("synproxy")?;
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.tcp_syncookies=1",
            "net.ipv4.tcp_timestamps=1",
            "net.netfilter.nf_conntrack_tcp_loose=0",
            "net.netfilter.nf_conntrack_acct=1",
        ] {
            sysctl(&place.node, setting)?;
        }
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), ruleset())?;
        run("ip", &["netns", "exec", &place.node, "nft", "-f", &file.path().to_string_lossy()])?;
        Self { label: "synproxy", place, _gabiond: None, server: None }.serve()
    }

    fn gabion(_lab: &Lab, appliance: &Appliance, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let place = Self::place("gabion")?;
        let gabiond = Gabiond::start(&place.node, "", &open_to_all(), appliance, interrupt)?;
        Self { label: "gabion", place, _gabiond: Some(gabiond), server: None }.serve()
    }

    fn serve(mut self) -> anyhow::Result<Self> {
        self.server = Some(Server::start(&self.place, &CONNECTION_PORTS, SERVERS)?);
        let deadline = Instant::now() + READY_WITHIN;
        while clients::attempt(&self.place, 0).is_none() {
            if Instant::now() > deadline {
                bail!("{}: the server can not be reached", self.label);
            }
        }
        Ok(self)
    }

    /// Good clients for some seconds, and SYNs for as long as any of them tries.
    fn sample(&self, rate: f64, seconds: u32, interrupt: &Interrupt) -> anyhow::Result<Sample> {
        interrupt.check()?;
        let stop = Arc::new(AtomicBool::new(false));
        let attack = attack::begin(&self.place, rate, &stop);
        let took = clients::come(&self.place, Duration::from_secs(seconds.into()));
        stop.store(true, Ordering::Release);
        let syns_per_second = join(attack)?;
        let succeeded: Vec<f64> =
            took.iter().flatten().map(|took| took.as_secs_f64() * 1e3).collect();
        Ok(Sample {
            syns_per_second,
            good: took.len(),
            succeeded: succeeded.len(),
            p50: median(&succeeded).unwrap_or(f64::NAN),
        })
    }
}

fn ruleset() -> String {
    let ports = CONNECTION_PORTS.map(|port| port.to_string()).join(", ");
    format!(
        "table ip bench {{
  chain untracked {{
    type filter hook prerouting priority raw; policy accept;
    iif int tcp flags & (fin | syn | rst | ack) == syn notrack
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state vmap {{ established : accept, related : accept }}
    iif int tcp dport {{ {ports} }} ct state {{ invalid, untracked }} synproxy mss 1460 wscale 7 timestamp sack-perm
  }}
}}
"
    )
}

impl Measured {
    fn each(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(of).collect()
    }

    fn share(&self) -> Option<Interval> {
        Interval::of(&self.each(|sample| sample.succeeded as f64 / sample.good.max(1) as f64))
    }
}

impl Report {
    fn print(&self) -> Outcome {
        let Machine { cpu, cpus, kernel, commit, nftables, load_before, .. } = &self.machine;
        println!("{cpu}, {cpus} CPUs, Linux {kernel}, commit {commit}, {nftables}");
        println!("load {load_before:.1} before, {:.1} after; all on one CPU", self.load_after);
        println!("SYNs offered: {:.0} a second", self.offered);
        println!(
            "| | connections/s, no flood | SYNs/s sent | good that succeed | p50 to the first byte, ms |"
        );
        println!("|---|---|---|---|---|");
        for arm in &self.arms {
            let sent = median(&arm.each(|sample| sample.syns_per_second)).unwrap_or_default();
            let share = arm.share().map_or_else(String::new, |Interval { median, low, high }| {
                format!("{median:.3} [{low:.3}, {high:.3}]")
            });
            let p50 = median(&arm.each(|sample| sample.p50)).unwrap_or_default();
            let (label, calm) = (arm.arm, arm.connections_per_second);
            println!("| {label} | {calm:.0} | {sent:.0} | {share} | {p50:.1} |");
        }
        let gabion = self.arms.iter().find(|arm| arm.arm == "gabion");
        let is_met = gabion.and_then(Measured::share).is_some_and(|share| share.low >= GATE);
        if is_met { Outcome::Met } else { Outcome::Missed }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_policy_lets_in_what_good_clients_ask_for() {
        let loaded = gabion_rules::load("flood.yaml", &open_to_all(), None).unwrap();
        assert_eq!(loaded.rule_set.zones().len(), 2);
    }

    #[test]
    fn the_gate_is_held_by_the_lower_end() {
        let arm = |succeeded| Measured {
            arm: "gabion",
            connections_per_second: 1.0,
            samples: vec![Sample { syns_per_second: 5.0, good: 100, succeeded, p50: 1.0 }; 4],
        };
        let outcome = |succeeded| {
            Report {
                machine: Machine::look(),
                load_after: 0.0,
                offered: 5.0,
                arms: vec![arm(succeeded)],
            }
            .print()
        };
        assert_eq!((outcome(50), outcome(49)), (Outcome::Met, Outcome::Missed));
    }
}
