//! Scenarios with several nodes between two load balancers.

mod dice;
mod network;

mod balancer;
mod relay;

mod traffic;

mod member;
mod stage;

mod survey;

mod asymmetric;
mod failover;
mod maintenance;
mod planned;
mod platform;

mod show;
mod story;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::builder::ArgPredicate;
use serde_json::{Map, Value, json};

use self::balancer::{Admin, By, Mode, Probing, Transport};
use self::maintenance::Reboots;
use self::member::{Failing, Together};
#[cfg(test)]
pub(crate) use self::network::topology;
use self::relay::Conditions;
use self::show::Screen;
use self::stage::{Setup, Stage};
use self::survey::Population;
use self::traffic::{Family, Kind, Mix};
use super::build::Offloads;
use super::machine::Image;
use super::node::Datapath;
use super::report::{self, Findings, Page};

/// The scenarios of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Asymmetric,
    Failover,
    Drain,
    Restart,
    Maintenance,
    Join,
    Partition,
    Race,
    Story,
}

impl Scenario {
    pub(crate) const ALL: [Self; 9] = [
        Self::Asymmetric,
        Self::Failover,
        Self::Drain,
        Self::Restart,
        Self::Maintenance,
        Self::Join,
        Self::Partition,
        Self::Race,
        Self::Story,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Asymmetric => "asymmetric",
            Self::Failover => "failover",
            Self::Drain => "drain",
            Self::Restart => "restart",
            Self::Maintenance => "maintenance",
            Self::Join => "join",
            Self::Partition => "partition",
            Self::Race => "race",
            Self::Story => "story",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Asymmetric => "Answers that come by another node",
            Self::Failover => "A node fails under live connections",
            Self::Drain => "A node hands its connections over",
            Self::Restart => "All nodes are restarted, one after the other",
            Self::Maintenance => "The platform announces that it reboots machines, and does",
            Self::Join => "A node joins while the others work",
            Self::Partition => "The nodes lose sight of each other",
            Self::Race => "New connections against a slow and lossy network between the nodes",
            Self::Story => {
                "Many nodes, one wall: connections outlive the nodes that they go through"
            }
        }
    }

    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }
}

/// What scenarios with several nodes can be told.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Scenarios with load balancers")]
pub(crate) struct Options {
    /// What the load balancers do with established TCP when a node's probe fails
    #[arg(long, value_enum, default_value_t = Mode::Pin, default_value_if("scenario", "story", "steer"))]
    balancer: Mode,

    /// How a node fails
    #[arg(long, value_enum, default_value_t = Failing::Kill)]
    by: Failing,

    /// Whose machines `maintenance` reboots
    #[arg(long, value_enum, default_value_t = Reboots::One)]
    reboots: Reboots,

    /// The administrative state that the first node gets at both load balancers before it is drained
    #[arg(long, value_enum, value_name = "STATE")]
    admin_state: Option<Admin>,

    /// How many connections [default: the scenario's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: Option<u32>,

    /// New connections a second
    #[arg(long, default_value_t = 100.0, value_parser = parse_rate)]
    per_second: f64,

    /// Milliseconds between two questions of a live connection
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(5..=10_000))]
    pace: u64,

    /// One address family alone [default: both; v4 of machines, which the lab gives no other addresses]
    #[arg(long, value_enum, default_value_if("image", ArgPredicate::IsPresent, "v4"))]
    family: Option<Family>,

    /// Delay of each frame between the nodes, in milliseconds: 5, or 0-20 for any in between
    #[arg(long, value_name = "MS")]
    sync_delay: Option<Delay>,

    /// Frames between the nodes that are lost, in per cent
    #[arg(long, value_name = "PER CENT", value_parser = parse_per_cent)]
    sync_loss: Option<f64>,

    /// Seed of hashes, contents, delays and losses
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// The probes of the load balancers
    #[arg(long, value_enum, default_value_t = By::Http)]
    probe: By,

    /// Milliseconds between two probes of a node [default: 50; 200 of machines]
    #[arg(long, default_value_t = 50, default_value_if("image", ArgPredicate::IsPresent, "200"), hide_default_value = true, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    probe_interval: u64,

    /// Probes in a row without an answer until a node is down
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    probe_threshold: u32,

    /// The control: nodes that know nothing of each other
    #[arg(long)]
    alone: bool,

    /// Another firewall to compare with, word by word: run on each node with its number, how many there are, and a folder
    #[arg(long, value_name = "WORD", allow_hyphen_values = true, conflicts_with = "alone")]
    instead: Vec<String>,
}

/// A delay, or the range of one.
#[derive(Debug, Clone)]
struct Delay(RangeInclusive<u64>);

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LONGEST_MS: u64 = 1_000;
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u64>().ok().filter(|ms| *ms <= LONGEST_MS);
        match (number(least), number(most)) {
            (Some(least), Some(most)) if least <= most => Ok(Self(least * 1_000..=most * 1_000)),
            _ => Err(format!("write 5 or 0-20: milliseconds up to {LONGEST_MS}")),
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=5_000.0).contains(rate));
    rate.ok_or_else(|| "between 0.1 and 5,000 a second".to_owned())
}

fn parse_per_cent(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "between 0 and 100".to_owned())
}

/// What every scenario is told.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: String,
    pub(crate) nodes: u8,
    pub(crate) bin_dir: Option<PathBuf>,
    pub(crate) offloads: Offloads,
    pub(crate) datapath: Datapath,
    pub(crate) workers: u16,
    /// Nodes are machines that boot this.
    pub(crate) image: Option<Image>,
    pub(crate) json: Option<&'a Path>,
    pub(crate) options: &'a Options,
}

/// Builds the lab, runs the scenario, removes the lab and reports.
///
/// # Errors
/// If the lab cannot be built, or a check failed.
pub(crate) fn run(scenario: Scenario, wanted: &Wanted<'_>) -> Result<()> {
    let page = Page::beside(wanted.json);
    page.title(scenario.title());
    page.line("");
    page.line(&network::drawing(wanted.nodes));
    if wanted.image.is_some() {
        page.line("  the machines boot one after the other\n");
    }
    let begin = Instant::now();
    let played = play(scenario, wanted);
    let findings = match played {
        Ok(findings) => findings,
        Err(error) => {
            if let Some(path) = wanted.json {
                let mut findings = Findings::default();
                findings.check("lab", "the lab works", false, format!("{error:#}"));
                report::write(path, &findings.json(scenario.name(), about(wanted)))?;
            }
            return Err(error);
        }
    };
    if let Some(path) = wanted.json {
        report::write(path, &findings.json(scenario.name(), about(wanted)))?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    page.close(&findings, &format!("{seconds:.1} s, seed {}", wanted.options.seed))
}

fn play(scenario: Scenario, wanted: &Wanted<'_>) -> Result<Findings> {
    let options = wanted.options;
    let mut stage = Stage::build(&setup(scenario, wanted))?;
    let first = match scenario {
        Scenario::Join => wanted.nodes - 1,
        Scenario::Asymmetric
        | Scenario::Failover
        | Scenario::Drain
        | Scenario::Restart
        | Scenario::Maintenance
        | Scenario::Partition
        | Scenario::Race
        | Scenario::Story => wanted.nodes,
    };
    stage.start_nodes(0..usize::from(first))?;
    let population = population(scenario, options);
    match scenario {
        Scenario::Asymmetric => {
            let errands =
                mix(options, &EVERY_TRANSPORT).errands(options.connections.unwrap_or(1_000));
            asymmetric::run(&stage, errands, options.per_second)
        }
        Scenario::Failover => failover::run(&mut stage, &population, options.by, options.balancer),
        Scenario::Drain => {
            for balancer in &stage.balancers {
                balancer.table().set_admin(0, options.admin_state);
            }
            planned::drain(&mut stage, &population, options.balancer)
        }
        Scenario::Restart => planned::restart(&mut stage, &population),
        Scenario::Maintenance => {
            ensure!(wanted.image.is_none(), "`maintenance` is for daemons, not for machines");
            maintenance::run(&mut stage, &population, options.balancer, options.reboots)
        }
        Scenario::Join => planned::join(&mut stage, &population),
        Scenario::Partition => planned::partition(&mut stage, &population),
        Scenario::Story => {
            let mut screen = Screen::new(Page::beside(wanted.json));
            story::run(&mut stage, &population, &mut screen)
        }
        Scenario::Race => {
            let errands =
                mix(options, &[Transport::Tcp]).errands(options.connections.unwrap_or(1_000));
            asymmetric::run(&stage, errands, options.per_second)
        }
    }
}

/// Of which TCP is tried most.
const EVERY_TRANSPORT: [Transport; 5] =
    [Transport::Tcp, Transport::Tcp, Transport::Udp, Transport::Tcp, Transport::Echo];

fn population(scenario: Scenario, options: &Options) -> Population {
    Population {
        connections: options.connections.unwrap_or(match scenario {
            Scenario::Story => 128,
            Scenario::Asymmetric
            | Scenario::Failover
            | Scenario::Drain
            | Scenario::Restart
            | Scenario::Maintenance
            | Scenario::Join
            | Scenario::Partition
            | Scenario::Race => 500,
        }),
        per_second: options.per_second,
        pace: Duration::from_millis(options.pace),
        mix: mix(options, &[]),
    }
}

fn mix(options: &Options, transports: &[Transport]) -> Mix {
    let families = match options.family {
        Some(family) => vec![family],
        None => vec![Family::V4, Family::V6],
    };
    Mix {
        transports: transports.to_vec(),
        // Half of them with NAT.
        kinds: vec![Kind::Plain, Kind::Dnat, Kind::Plain, Kind::Snat],
        families,
        seed: options.seed,
    }
}

fn setup<'a>(scenario: Scenario, wanted: &Wanted<'a>) -> Setup<'a> {
    let options = wanted.options;
    let mut conditions = match scenario {
        // What the issue of the cluster asks for: 0 to 20 ms, 5 %.
        Scenario::Race => {
            Conditions { delay_us: 0..=20_000, loss_per_cent: 5.0, ..Conditions::GOOD }
        }
        Scenario::Asymmetric
        | Scenario::Failover
        | Scenario::Drain
        | Scenario::Restart
        | Scenario::Maintenance
        | Scenario::Join
        | Scenario::Partition
        | Scenario::Story => Conditions::GOOD,
    };
    if let Some(Delay(range)) = &options.sync_delay {
        conditions.delay_us = range.clone();
    }
    if let Some(share) = options.sync_loss {
        conditions.loss_per_cent = share;
    }
    Setup {
        name: wanted.name.clone(),
        scenario: scenario.name(),
        nodes: wanted.nodes,
        offloads: wanted.offloads,
        datapath: wanted.datapath,
        workers: wanted.workers,
        bin_dir: wanted.bin_dir.clone(),
        image: wanted.image.clone(),
        has_platform: scenario == Scenario::Maintenance,
        together: match options.instead.as_slice() {
            [] if options.alone => Together::Alone,
            [] => Together::Cluster,
            words => Together::Instead(words),
        },
        mode: options.balancer,
        probing: Probing {
            by: options.probe,
            interval: Duration::from_millis(options.probe_interval),
            threshold: options.probe_threshold,
        },
        conditions,
        seed: options.seed,
    }
}

/// What a report says of how it came about.
fn about(wanted: &Wanted<'_>) -> Map<String, Value> {
    let Options { balancer, by, seed, .. } = wanted.options;
    let label = |value: String| value.to_lowercase();
    let about = [
        ("nodes", json!(wanted.nodes)),
        ("balancer", json!(label(format!("{balancer:?}")))),
        ("by", json!(label(format!("{by:?}")))),
        ("seed", json!(seed)),
        ("datapath", json!(wanted.datapath.setting())),
        ("workers", json!(wanted.workers)),
        ("alone", json!(wanted.options.alone)),
    ];
    about.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::Delay;
    use super::member::POLICY;

    #[test]
    fn the_policy_is_valid_and_passes_its_own_tests() {
        gabion_rules::load("cluster", POLICY, None).unwrap_or_else(|problems| panic!("{problems}"));
    }

    #[test]
    fn delays_are_numbers_or_ranges_of_milliseconds() {
        for (text, expected) in [("5", Some(5_000..=5_000)), ("0-20", Some(0..=20_000))] {
            assert_eq!(text.parse().ok().map(|Delay(range)| range), expected);
        }
        for text in ["", "-", "20-0", "1-", "x", "0-1001", "-5"] {
            assert!(text.parse::<Delay>().is_err(), "{text}");
        }
    }
}
