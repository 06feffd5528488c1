//! The appliance's userspace datapath against the kernel's own firewall, on the same topology.
//!
//! Client, node and server stand in namespaces, everything is pinned to one CPU, and the arms are
//! measured in turn, there and back (A B B A), so that what drifts, drifts for all. Only ratios
//! within a pair are claimed. Whatever was built is removed at the end, on failure and on Ctrl-C.

mod arms;
mod cluster;
mod forwarding;
mod lab;
mod load;
mod machine;
mod process;
mod ratio;
mod replace;
mod report;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use arms::{Appliance, Arm, ConntrackSize};
use lab::{ArmKind, Lab, set_segmentation};
use load::Metric;
use machine::{Machine, PacketThread, PacketThreadShare, Ticks};
use report::{Group, MetricReport, Outcome, Report};

/// Compares the appliance with nftables, conntrack and masquerade (root; Linux network namespaces)
///
/// Exit code: 0 when the gate is met, 1 when it is missed or the run failed, 2 when the run is void.
#[derive(Debug, Parser)]
struct Options {
    /// Pairs of samples for each metric
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=200))]
    pairs: u32,
    /// Length of a sample
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// What to measure [default: everything]
    #[arg(long, value_delimiter = ',', value_name = "METRIC")]
    only: Vec<Metric>,
    /// Instead: replaces policies of so many rules under load, and says what became of the packets
    #[arg(long, value_name = "RULES", value_parser = clap::value_parser!(u32).range(3..=100_000))]
    replace: Option<u32>,
    /// Instead: two nodes between load balancers, beside conntrackd and source NAT, so many rounds
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=100))]
    cluster: Option<u32>,
    /// Instead: a connection whose packets come to another node than its own, beside the same path without a cluster
    #[arg(long)]
    forwarding: bool,
    /// A node of that comparison, in the namespace that this is run in
    #[arg(long, hide = true, value_enum)]
    as_node: Option<cluster::Kind>,
    /// What the lab says to such a node
    #[arg(hide = true, requires = "as_node")]
    node: Vec<String>,
    /// Leaves the appliance out: the kernel's two arms and the control
    #[arg(long)]
    without_gabion: bool,
    /// Where gabiond, gabion and gabion-guard are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// A line for the section [node] of gabiond's settings, such as `ring_mib = 8`
    #[arg(long, value_name = "LINE")]
    node_setting: Vec<String>,
    /// Writes all samples and results as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(Outcome::Met) => ExitCode::SUCCESS,
        Ok(Outcome::Missed) => ExitCode::FAILURE,
        Ok(Outcome::Void) => ExitCode::from(2),
        Err(error) => {
            eprintln!("peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<Outcome> {
    if let Some(kind) = options.as_node {
        cluster::run_node(kind, &options.node)?;
        return Ok(Outcome::Met);
    }
    let interrupt = Interrupt::install()?;
    let machine = Machine::look();
    let programs = match &options.programs {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?.parent().context("no directory")?.to_owned(),
    };
    if let Some(rounds) = options.cluster {
        cluster::compare(&programs, rounds, options.json.as_deref(), &interrupt)?;
        return Ok(Outcome::Met);
    }
    process::go_first()?;
    let appliance = Appliance { programs, settings: options.node_setting.clone() };
    if let Some(rules) = options.replace {
        let is_clean = replace::measure(rules as usize, &appliance, &interrupt)?;
        return Ok(if is_clean { Outcome::Met } else { Outcome::Missed });
    }
    if options.forwarding {
        return forwarding::compare(options, &machine, &appliance, &interrupt);
    }
    let kinds: Vec<ArmKind> = ArmKind::ALL
        .into_iter()
        .filter(|&kind| kind != ArmKind::Gabion || !options.without_gabion)
        .collect();
    // Dropped in the opposite order: programs, then namespaces, then the kernel's settings.
    let _conntrack = ConntrackSize::raise()?;
    let lab = Lab::build(&kinds)?;
    let arms = kinds
        .iter()
        .map(|&kind| Arm::set_up(&lab, kind, &appliance, &interrupt))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let wanted = if options.only.is_empty() { &Metric::ALL[..] } else { &options.only };
    let mut metrics = Vec::new();
    for &metric in wanted {
        metrics.push(measure(metric, &arms, options, &interrupt)?);
    }
    let report = Report {
        machine,
        load_after: machine::load(),
        seconds_per_sample: options.seconds,
        node_settings: appliance.settings,
        metrics,
    };
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    report.print();
    Ok(report.outcome())
}

/// All samples of one metric.
fn measure(
    metric: Metric,
    arms: &[Arm],
    options: &Options,
    interrupt: &Interrupt,
) -> anyhow::Result<MetricReport> {
    for arm in arms {
        set_segmentation(&arm.place, metric.segmentation())?;
    }
    let mut progress = Progress::new(metric, options.pairs);
    let mut shares = Vec::new();
    // The first is cold: sockets, slabs, neighbours. It is not kept.
    measure_group(metric, arms.iter(), 1, interrupt, &mut Vec::new())?;
    let mut groups = Vec::new();
    for pair in 0..options.pairs {
        let seconds = options.seconds;
        let group = if pair % 2 == 0 {
            measure_group(metric, arms.iter(), seconds, interrupt, &mut shares)?
        } else {
            measure_group(metric, arms.iter().rev(), seconds, interrupt, &mut shares)?
        };
        progress.show(pair, &group);
        groups.push(group);
    }
    progress.end();
    Ok(MetricReport::new(metric, groups, &shares))
}

fn measure_group<'a>(
    metric: Metric,
    arms: impl Iterator<Item = &'a Arm>,
    seconds: u32,
    interrupt: &Interrupt,
    shares: &mut Vec<PacketThreadShare>,
) -> anyhow::Result<Group> {
    let mut group = Group::default();
    for arm in arms {
        let thread =
            || arm.gabiond.as_ref().and_then(|gabiond| PacketThread::of(gabiond.process_id()));
        let (before, ticks, start) = (thread(), Ticks::now(), Instant::now());
        let value = metric
            .measure(&arm.place, seconds, interrupt)
            .with_context(|| format!("{} in arm {}", metric.name(), arm.kind.label()))?;
        group.stolen = group.stolen.max(Ticks::now().stolen_since(ticks));
        if let (Some(before), Some(after)) = (before, thread()) {
            shares.push(after.share_since(before, start.elapsed().as_secs_f64()));
        }
        group.values.insert(arm.kind.label(), value);
    }
    Ok(group)
}

/// One line that is written again while it is a terminal, else a line for each group.
struct Progress {
    metric: Metric,
    pairs: u32,
    terminal: bool,
}

impl Progress {
    fn new(metric: Metric, pairs: u32) -> Self {
        let terminal = std::io::stderr().is_terminal();
        eprintln!("{}: {}", metric.name(), metric.offered());
        Self { metric, pairs, terminal }
    }

    fn show(&mut self, pair: u32, group: &Group) {
        let values: Vec<String> = group
            .values
            .iter()
            .map(|(arm, value)| format!("{arm} {value:.*}", self.metric.decimals()))
            .collect();
        let line = format!(
            "  pair {:>3} of {}   {}  {}",
            pair + 1,
            self.pairs,
            values.join("   "),
            self.metric.unit()
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Whether somebody wants the run to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP end the run in an orderly way.
    fn install() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&flag);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _guard = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal)
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                let [interrupt, terminate, hangup] = &mut signals[..] else { return };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                raised.store(true, Ordering::Release);
            });
        });
        Ok(Self(flag))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.is_set() {
            bail!("interrupted; everything is removed");
        }
        Ok(())
    }
}
