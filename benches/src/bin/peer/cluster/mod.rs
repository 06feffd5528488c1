//! Two nodes between two load balancers: the appliance, conntrackd, and source NAT, under the same workload.
//!
//! `gabion lab run` builds the network, sends the traffic and compares every byte; here the arms are run one after
//! the other, round after round, and what they report is put beside each other.

mod node;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Interrupt;
use crate::machine::{self, Machine};
pub(crate) use node::{Kind, run_node};

/// One firewall that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Arm {
    Gabion,
    Conntrackd,
    Snat,
}

impl Arm {
    const ALL: [Self; 3] = [Self::Gabion, Self::Conntrackd, Self::Snat];

    const fn label(self) -> &'static str {
        match self {
            Self::Gabion => "gabion",
            Self::Conntrackd => "conntrackd",
            Self::Snat => "nftables + SNAT",
        }
    }

    /// What makes the lab use it.
    fn words(self) -> anyhow::Result<Vec<String>> {
        let kind = match self {
            Self::Gabion => return Ok(Vec::new()),
            Self::Conntrackd => "conntrackd",
            Self::Snat => "snat",
        };
        let own = std::env::current_exe()?.display().to_string();
        Ok([own.as_str(), "--as-node", kind].map(|word| format!("--instead={word}")).to_vec())
    }
}

/// A scenario of the lab with the figures that are compared.
struct Workload {
    name: &'static str,
    options: &'static [&'static str],
    figures: &'static [&'static str],
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "asymmetric",
        options: &["asymmetric", "--nodes", "2", "--connections", "500", "--per-second", "50"],
        figures: &["connections", "asymmetric", "failed", "slow", "p50_ms", "p99_ms", "max_ms"],
    },
    Workload {
        name: "failover, steering balancer, links down",
        options: &[
            "failover",
            "--nodes",
            "2",
            "--balancer",
            "steer",
            "--by",
            "power-off",
            "--connections",
            "200",
        ],
        figures: FAILOVER,
    },
    Workload {
        name: "failover, pinning balancer, daemon killed",
        options: &[
            "failover",
            "--nodes",
            "2",
            "--balancer",
            "pin",
            "--by",
            "kill",
            "--connections",
            "200",
        ],
        figures: FAILOVER,
    },
];

const FAILOVER: &[&str] =
    &["connections", "survived", "reset", "stuck", "gap_p50_ms", "gap_max_ms", "detection_ms"];

/// What all runs have reported.
#[derive(Debug, Serialize)]
struct Comparison {
    machine: Machine,
    load_after: f64,
    /// Of each workload and arm, the reports of all rounds.
    workloads: BTreeMap<&'static str, BTreeMap<&'static str, Vec<Value>>>,
}

/// Runs all arms under all workloads, `rounds` times, and prints what became of the connections.
///
/// # Errors
/// If the lab does not run.
pub(crate) fn compare(
    programs: &Path,
    rounds: u32,
    json: Option<&Path>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let machine = Machine::look();
    let mut workloads: BTreeMap<_, BTreeMap<_, Vec<Value>>> = BTreeMap::new();
    for round in 0..rounds {
        for workload in &WORKLOADS {
            for arm in Arm::ALL {
                interrupt.check()?;
                eprintln!("round {} of {rounds}: {}, {}", round + 1, workload.name, arm.label());
                let report = run_until_open(programs, workload, arm, round)
                    .with_context(|| format!("{} with {}", workload.name, arm.label()))?;
                let of_workload = workloads.entry(workload.name).or_default();
                of_workload.entry(arm.label()).or_default().push(report.into());
            }
        }
    }
    let comparison = Comparison { machine, load_after: machine::load(), workloads };
    comparison.print();
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&comparison)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The lab's connections do not all open through conntrackd: then others are tried, and it is said.
fn run_until_open(
    programs: &Path,
    workload: &Workload,
    arm: Arm,
    round: u32,
) -> anyhow::Result<Map<String, Value>> {
    const TRIES: u32 = 4;
    let (first, last) = (round * TRIES + 1, (round + 1) * TRIES);
    for seed in first..last {
        match run_lab(programs, workload, arm, seed) {
            Err(error) if arm == Arm::Conntrackd => eprintln!("  again: {error}"),
            result => return result,
        }
    }
    run_lab(programs, workload, arm, last)
}

fn run_lab(
    programs: &Path,
    workload: &Workload,
    arm: Arm,
    seed: u32,
) -> anyhow::Result<Map<String, Value>> {
    let output = Command::new(programs.join("gabion"))
        .args(["lab", "run"])
        .args(workload.options)
        .args(["--seed", &seed.to_string(), "--json", "-"])
        .args(arm.words()?)
        .stdin(Stdio::null())
        .output()
        .context("gabion does not start; build it: make build")?;
    let report = serde_json::from_slice::<Map<String, Value>>(&output.stdout);
    let report = report.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    if !report.contains_key("connections") {
        bail!("{}", report.get("checks").unwrap_or(&Value::Null));
    }
    Ok(report)
}

impl Comparison {
    fn print(&self) {
        let Machine { cpu, cpus, kernel, commit, load_before, nftables, .. } = &self.machine;
        println!(
            "{cpu}, {cpus} CPUs, Linux {kernel}, {nftables}, commit {commit}, load {load_before} before"
        );
        for workload in &WORKLOADS {
            let Some(arms) = self.workloads.get(workload.name) else { continue };
            println!("\n{}: gabion lab run {}\n", workload.name, workload.options.join(" "));
            println!("| firewall | {} |", workload.figures.join(" | ").replace('_', " "));
            println!("|---|{}", "---|".repeat(workload.figures.len()));
            for (arm, reports) in arms {
                for report in reports {
                    let cells: Vec<_> =
                        workload.figures.iter().map(|name| cell(&report[name])).collect();
                    println!("| {arm} | {} |", cells.join(" | "));
                }
            }
        }
    }
}

fn cell(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { value.to_string() }
}
