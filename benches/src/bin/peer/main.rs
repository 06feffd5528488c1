//! The appliance against the kernel's own firewall, on the same topology.
//!
//! Client, node and server stand in namespaces, everything is pinned to one CPU, and the arms are
//! measured in turn, there and back (A B B A), so that what drifts, drifts for all. Only ratios
//! within a pair are claimed. Whatever was built is removed at the end, on failure and on Ctrl-C.

mod arms;
mod cases;
mod cluster;
mod flood;
mod forwarding;
mod lab;
mod load;
mod machine;
mod measure;
mod packets;
mod process;
mod profile;
mod ratio;
mod replace;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use tokio::signal::unix::{SignalKind, signal};

use arms::{Appliance, Arm, ConntrackSize};
use cases::Case;
use lab::{ArmKind, Datapath, Lab, System};
use machine::Machine;
use report::{Outcome, Report};

/// Compares the appliance with nftables, conntrack and masquerade (root; Linux network namespaces)
///
/// Exit code: 0 when all gates are met, 1 when one is missed or the run failed, 2 when the run is void.
#[derive(Debug, Parser)]
struct Options {
    /// Pairs of samples for each metric
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=200))]
    pairs: u32,
    /// Length of a sample
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// What to measure [default: everything]
    #[arg(long, value_delimiter = ',', value_name = "WHAT",
        value_parser = PossibleValuesParser::new(cases::all().iter().map(|case| case.id)))]
    only: Vec<String>,
    /// By what the appliance moves packets [default: either beside the other; ebpf where there is but one]
    #[arg(long, value_enum, value_delimiter = ',')]
    datapath: Vec<Datapath>,
    /// Instead: replaces policies of so many rules under load, and says what became of the packets
    #[arg(long, value_name = "RULES", value_parser = clap::value_parser!(u32).range(3..=100_000))]
    replace: Option<u32>,
    /// Instead: two nodes between load balancers, beside conntrackd and source NAT, so many rounds
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=100))]
    cluster: Option<u32>,
    /// Instead: a connection whose packets come to another node than its own, beside the same path without a cluster
    #[arg(long)]
    forwarding: bool,
    /// Instead: SYNs at so many times the rate at which a core opens connections, and good clients meanwhile, beside
    /// nftables' SYNPROXY
    #[arg(long, value_name = "TIMES", num_args = 0..=1, default_missing_value = "5")]
    flood: Option<f64>,
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
    /// Writes page, plots and all samples into a directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Writes all samples and results of the other modes as one JSON object
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
    let datapath = options.datapath.first().copied().unwrap_or(Datapath::Ebpf);
    if let Some(rules) = options.replace {
        let kind = ArmKind::of(System::Gabion(datapath));
        let is_clean = replace::measure(rules as usize, kind, &appliance, &interrupt)?;
        return Ok(if is_clean { Outcome::Met } else { Outcome::Missed });
    }
    if options.forwarding {
        return forwarding::compare(options, &machine, &appliance.with(datapath), &interrupt);
    }
    if let Some(times) = options.flood {
        let appliance = appliance.with(datapath);
        return flood::compare(times, options, &machine, &appliance, &interrupt);
    }
    compare(options, machine, &appliance, &interrupt)
}

/// The comparison with the kernel's firewall.
fn compare(
    options: &Options,
    machine: Machine,
    appliance: &Appliance,
    interrupt: &Interrupt,
) -> anyhow::Result<Outcome> {
    let cases = options.cases();
    let mut kinds: Vec<ArmKind> = cases.iter().flat_map(|case| case.arms.clone()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // Dropped in the opposite order: programs, then namespaces, then the kernel's settings.
    let _conntrack = ConntrackSize::raise()?;
    let lab = Lab::build(&kinds)?;
    let arms = kinds
        .iter()
        .map(|&kind| Arm::set_up(&lab, kind, appliance, interrupt))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut measured = Vec::new();
    for case in &cases {
        measured.extend(measure::measure(case, &arms, options, interrupt)?);
    }
    let has_programs =
        |kind: &ArmKind| matches!(kind.datapath(), Some(Datapath::Ebpf | Datapath::Xdp));
    let stages = if kinds.iter().any(has_programs) { profile::stages()? } else { Vec::new() };
    let report = Report {
        stages,
        machine,
        command: command(),
        load_after: machine::load(),
        seconds_per_sample: options.seconds,
        node_settings: appliance.settings.clone(),
        measured,
    };
    if let Some(directory) = &options.report {
        report.write(directory)?;
    }
    println!("{}", report.page());
    if let Some(directory) = &options.report {
        println!("The same with plots and all samples: {}", directory.display());
    }
    Ok(report.outcome())
}

/// As it can be given again, wherever the program is.
fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("peer {}", words.join(" "))
}

impl Options {
    /// What is wanted, in the order in which it is measured.
    fn cases(&self) -> Vec<Case> {
        let datapaths: &[Datapath] = match (self.without_gabion, self.datapath.is_empty()) {
            (true, _) => &[],
            (false, true) => &[Datapath::Userspace, Datapath::Ebpf, Datapath::Xdp],
            (false, false) => &self.datapath,
        };
        let is_wanted =
            |case: &Case| self.only.is_empty() || self.only.iter().any(|only| only == case.id);
        cases::all().into_iter().filter(is_wanted).filter_map(|case| case.with(datapaths)).collect()
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
