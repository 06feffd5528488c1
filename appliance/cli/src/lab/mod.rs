//! `gabion lab`: networks in namespaces, with real programs around real nodes. The demo, the test
//! rig, and a way to try a policy before a VM is paid for.
//!
//! A [`topology`] is a value; [`build`] makes it real and removes it; a [`scenario`] starts
//! servers and nodes in it and checks what becomes of traffic.

mod topology;

mod build;
mod interrupt;
mod namespace;
mod registry;

mod node;
mod process;
mod servers;

mod progress;
mod runner;
mod scenario;
mod stage;

mod path;

mod flood;

mod cluster;

mod boot;
mod machine;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use gabion_image::assemble::Products;

use crate::failure::Failure;
use crate::present::{Grid, print_json, say};

use build::Offloads;
use flood::Load;
use machine::Image;
use namespace::Lifetime;
use node::Datapath;
use registry::{Record, labs};
use scenario::Scenario;
use stage::{Setup, Stage};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Builds a scenario's network with its servers and node, and leaves it up
    Up(Up),
    /// Removes labs that were left up or whose run was interrupted
    Down(Down),
    /// Lists the labs on this machine
    Status(Status),
    /// Runs a scenario: builds its lab, checks what becomes of real traffic, removes the lab
    Run(Box<Run>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Which scenario
    #[arg(default_value = "path", value_parser = clap::builder::PossibleValuesParser::new(names()))]
    scenario: String,

    /// The lab's name; its namespaces are called gab-NAME-HOST
    #[arg(long)]
    name: Option<String>,

    /// How many nodes, with load balancers between them [default: 2 of the scenarios that have them]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4))]
    nodes: Option<u8>,

    /// Where gabiond and gabion-guard are [default: where gabion is]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,

    /// Checksum and segmentation offloads of the links
    #[arg(long, value_enum, default_value_t = Offloads::On)]
    offloads: Offloads,

    /// Who moves packets of settled flows
    #[arg(long, value_enum, default_value_t = Datapath::Userspace)]
    datapath: Datapath,

    /// Packet threads of each node; several need --datapath ebpf
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    workers: u16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    common: Common,

    /// Leaves the node's namespace empty, to run gabiond there by hand
    #[arg(long)]
    no_node: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    /// The lab's name; without it, every lab that no running process owns
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Prints JSON: [{"name","scenario","owner","hosts":[..]}]
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    common: Common,

    /// Writes {"scenario","passed","checks":[{"name","passed","detail","figures"}]} to a file, or `-`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Runs only the checks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Leaves the lab up afterwards
    #[arg(long)]
    keep: bool,

    /// Packets a second of scenarios that flood
    #[arg(long, value_name = "PPS", default_value_t = 25_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,

    /// Seconds that each flood lasts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    cluster: cluster::Options,
}

/// Nodes that are virtual machines.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Virtual machines")]
struct ImageOptions {
    /// The appliance's image: a qcow2 or raw file, or the folder of `make image`; each node is a machine that boots it, in QEMU
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,

    /// Boots the folder's kernel itself, without firmware and boot loader
    #[arg(long, requires = "image")]
    direct: bool,

    /// `boot` alone: no more than the first boot, the policy and traffic
    #[arg(long, requires = "image")]
    quick: bool,

    /// `upgrade` alone: the bundle of another version, of `image build`
    #[arg(long, value_name = "FILE", requires = "image")]
    bundle: Option<PathBuf>,
}

impl ImageOptions {
    fn image(&self) -> Result<Option<Image>> {
        let Some(path) = &self.image else { return Ok(None) };
        if !path.is_dir() {
            if self.direct {
                return Err(Failure::new(format!("--direct: {} is no folder", path.display()))
                    .next("name the folder of `make image`: it has the kernel too")
                    .into());
            }
            return Ok(Some(Image { disk: path.clone(), direct: None }));
        }
        let products = Products::last(path)?;
        let direct = self.direct.then(|| products.direct()).transpose()?;
        Ok(Some(Image { disk: products.qcow2, direct }))
    }
}

/// Runs a subcommand.
///
/// # Errors
/// If the lab cannot be built or removed, or a check fails.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(up) => bring_up(&up),
        Command::Down(down) => take_down(down.name.as_deref()),
        Command::Status(status) => list(&status),
        Command::Run(run) => {
            if boot::NAMES.contains(&&*run.common.scenario) {
                return run_boot(&run);
            }
            if let Some(scenario) = cluster::Scenario::find(&run.common.scenario) {
                return run_cluster(scenario, &run);
            }
            let mut setup = setup(&run.common, run.keep, true)?;
            let time = Duration::from_secs(run.seconds);
            setup.load = Load { packets_per_second: run.rate, time };
            runner::run(find(&run.common.scenario)?, &setup, &run)
        }
    }
}

/// All scenarios.
const SCENARIOS: [&Scenario; 2] = [&path::SCENARIO, &flood::SCENARIO];

fn names() -> Vec<&'static str> {
    let with_balancers = cluster::Scenario::ALL.map(cluster::Scenario::name);
    SCENARIOS
        .map(|scenario| scenario.name)
        .into_iter()
        .chain(with_balancers)
        .chain(boot::NAMES)
        .collect()
}

fn run_cluster(scenario: cluster::Scenario, run: &Run) -> Result<()> {
    must_be_root()?;
    if run.keep || run.only.is_some() {
        return Err(Failure::new("load balancers live in the process that runs them")
            .next("leave out --keep and --only")
            .into());
    }
    let name = match &run.common.name {
        Some(name) => checked_name(name)?,
        None => format!("{}{}", scenario.name(), std::process::id()),
    };
    let wanted = cluster::Wanted {
        name,
        nodes: run.common.nodes.unwrap_or(2),
        bin_dir: run.common.bin_dir.clone(),
        offloads: run.common.offloads,
        datapath: run.common.datapath,
        workers: run.common.workers,
        image: run.image.image()?,
        json: run.json.as_deref(),
        options: &run.cluster,
    };
    cluster::run(scenario, &wanted)
}

fn run_boot(run: &Run) -> Result<()> {
    must_be_root()?;
    let wanted = &run.common.scenario;
    let image = run.image.image()?.ok_or_else(|| {
        Failure::new(format!("`{wanted}` boots an image, and none is given"))
            .next(format!("make image; gabion lab run {wanted} --image target/image"))
    })?;
    let scenario = boot_scenario(run, &image)?;
    let name = match &run.common.name {
        Some(name) => checked_name(name)?,
        None => format!("{}{}", scenario.name(), std::process::id()),
    };
    boot::run(&boot::Wanted {
        name,
        image,
        scenario,
        json: run.json.as_deref(),
        bin_dir: run.common.bin_dir.clone(),
    })
}

fn boot_scenario(run: &Run, image: &Image) -> Result<boot::Scenario> {
    if run.common.scenario != boot::UPGRADE {
        let boot = if run.image.quick { boot::Scenario::QuickBoot } else { boot::Scenario::Boot };
        return Ok(boot);
    }
    if image.direct.is_some() {
        return Err(Failure::new(
            "the boot loader chooses the version, and --direct leaves it out",
        )
        .next("leave out --direct")
        .into());
    }
    let bundle = run.image.bundle.clone().ok_or_else(|| {
        Failure::new("`upgrade` takes the bundle of another version, and none is given")
            .next("image build --label next --only-bundle; --bundle FILE")
    })?;
    Ok(boot::Scenario::Upgrade { bundle })
}

fn find(name: &str) -> Result<&'static Scenario> {
    SCENARIOS.into_iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        Failure::new(format!(
            "`{name}` needs load balancers, which live in the process that runs them"
        ))
        .next(format!("run it: gabion lab run {name}"))
        .into()
    })
}

fn setup(common: &Common, keep: bool, with_node: bool) -> Result<Setup> {
    must_be_root()?;
    if common.nodes.is_some_and(|nodes| nodes > 1) {
        return Err(Failure::new(format!("`{}` has one node", common.scenario))
            .next("gabion lab run asymmetric --nodes 2")
            .into());
    }
    let lifetime = if keep { Lifetime::Detached } else { Lifetime::Bound };
    let name = match (&common.name, keep) {
        (Some(name), _) => checked_name(name)?,
        (None, true) => common.scenario.clone(),
        // Several runs may go on beside each other.
        (None, false) => format!("{}{}", common.scenario, std::process::id()),
    };
    Ok(Setup {
        name,
        lifetime,
        offloads: common.offloads,
        datapath: common.datapath,
        workers: common.workers,
        bin_dir: common.bin_dir.clone(),
        with_node,
        load: Load { packets_per_second: 0, time: Duration::ZERO },
    })
}

fn must_be_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("a lab makes network namespaces, which takes root")
        .next("run it again with sudo"))
}

/// A lab's name becomes part of namespaces' names and of paths.
fn checked_name(name: &str) -> Result<String> {
    const LONGEST: usize = 32;
    let fits = (1..=LONGEST).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !fits {
        return Err(Failure::new(format!(
            "`{name}` is no lab's name: 1 to {LONGEST} lower-case letters and digits"
        ))
        .into());
    }
    Ok(name.to_owned())
}

fn bring_up(up: &Up) -> Result<()> {
    let scenario = find(&up.common.scenario)?;
    let setup = setup(&up.common, true, !up.no_node)?;
    let mut stage = Stage::build(scenario, &setup)?;
    if !up.no_node {
        stage.start_node()?;
        stage.push(scenario.policy)?;
    }
    say(format_args!("{}\n", scenario.drawing))?;
    say(format_args!("The lab `{}` is up. Try:\n", setup.name))?;
    for line in scenario.hints {
        say(format_args!("  {}", line.replace("NS-", &format!("gab-{}-", setup.name))))?;
    }
    if !up.no_node {
        let socket = stage.socket();
        say(format_args!("  gabion show flows --socket {}", socket.display()))?;
    }
    say(format_args!("  gabion lab down {}", setup.name))?;
    stage.keep()
}

fn take_down(name: Option<&str>) -> Result<()> {
    let mut labs = labs()?;
    if let Some(name) = name {
        labs.retain(|lab| lab.name == name);
        if labs.is_empty() {
            return Err(Failure::new(format!("there is no lab called `{name}`"))
                .next("list them with: gabion lab status")
                .into());
        }
    }
    if labs.is_empty() {
        say("There is no lab.")?;
    }
    for lab in labs {
        if name.is_none() && lab.is_running() {
            say(format_args!(
                "{} is at work: left alone (gabion lab down {} ends it).",
                lab.name, lab.name
            ))?;
            continue;
        }
        lab.tear_down()?;
        say(format_args!("{} is gone.", lab.name))?;
    }
    Ok(())
}

fn list(status: &Status) -> Result<()> {
    let labs = labs()?;
    if status.json {
        print_json(&labs)?;
        return Ok(());
    }
    if labs.is_empty() {
        say("There is no lab. Build one: gabion lab up")?;
        return Ok(());
    }
    let mut grid =
        Grid::new(["lab".into(), "scenario".into(), "state".into(), "namespaces".into()]);
    for lab in &labs {
        let spaces: Vec<_> = lab.hosts.iter().map(|host| lab.namespace(host)).collect();
        grid.row([lab.name.clone(), lab.scenario.clone(), state(lab).to_owned(), spaces.join(" ")]);
    }
    say(grid.text())?;
    Ok(())
}

fn state(lab: &Record) -> &'static str {
    match lab.owner {
        None => "up",
        Some(_) if lab.is_running() => "running",
        Some(_) => "left behind",
    }
}
