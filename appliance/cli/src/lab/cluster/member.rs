//! The nodes of a cluster's lab: their configuration, and what is done to them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use gabion_api::v1::{
    ClusterStatusRequest, ClusterStatusResponse, CommitRequest, CountersRequest, GetRequest,
    SetDrainingRequest, StatusRequest,
};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use tonic::Code;

use super::balancer::Mode;
use super::network::{self, EXT, INT, NODES, PEERS};
use super::platform::METADATA;
use super::stage::Setup;
use crate::connect::Node;
use crate::lab::build::Lab;
use crate::lab::machine::{BOOT, CustomData, Image, Machine, Membership, Named, Nic};
use crate::lab::node::{
    Moving, NodePlace, NodePlan, PKI, lacks_only_policy, look_for_binaries, make_certificates,
};
use crate::lab::process::Running;

/// The policy that all nodes have.
pub(crate) const POLICY: &str = include_str!("policy.yaml");

/// Switches it on and waits until it lacks nothing but a policy.
fn start_machine(machine: &Machine, lab: &Lab) -> Result<Running> {
    let mut running = machine.start(lab)?;
    let answers = || machine.status().is_ok_and(|status| lacks_only_policy(&status));
    let came = running.wait_within(BOOT, answers);
    came.with_context(|| format!("its console:\n{}", machine.console().last_words()))?;
    Ok(running)
}

/// What nodes have unless they are told otherwise (docs/configuration.md).
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Translated instructions take their time, and two machines share two processors.
const HEARTBEAT_OF_MACHINES: Duration = Duration::from_millis(500);

/// The time in which a member says twice that it lives.
pub(crate) const fn heartbeat(setup: &Setup<'_>) -> Duration {
    if setup.image.is_some() { HEARTBEAT_OF_MACHINES } else { HEARTBEAT }
}

/// How long a node may take to be ready, its join included.
const READY: Duration = Duration::from_secs(30);

/// Whether the nodes know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Together<'a> {
    Cluster,
    /// The control: each stands alone.
    Alone,
    /// These words start another firewall.
    Instead(&'a [String]),
}

/// How a node fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Failing {
    /// The daemon gets SIGKILL; the machine lives
    Kill,
    /// All links go down, and the daemon is gone
    PowerOff,
    /// The daemon gets SIGSTOP
    Stop,
    /// The same, and after 6 s SIGCONT, whatever the balancers do
    Freeze,
}

/// One node; its process may come and go.
#[derive(Debug)]
pub(crate) struct Member {
    number: u8,
    firewall: Firewall,
    running: Option<Running>,
    /// By SIGSTOP: it is there and answers nothing.
    is_stopped: bool,
}

/// What makes a firewall of a node.
#[derive(Debug)]
enum Firewall {
    Gabiond(NodePlace),
    /// The same in a virtual machine that boots the image.
    Machine(Box<Machine>),
    /// Another program, to compare with: run with the node's number, how many there are, and a folder of its own. It
    /// is a firewall once it answers probes, and stays in the foreground.
    Other(Vec<String>),
}

/// Makes the certificates of all nodes and writes their configurations.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn prepare(lab: &Lab, setup: &Setup<'_>, bin_dir: &Path) -> Result<Vec<Member>> {
    let Setup { nodes, together, mode, datapath, workers, has_platform, .. } = *setup;
    if let Together::Instead(words) = together {
        return (0..nodes).map(|number| other(lab, number, nodes, words)).collect();
    }
    let names: Vec<_> = (0..nodes).map(certified_as).collect();
    make_certificates(&lab.directory().join(PKI), &names)?;
    if let Some(image) = &setup.image {
        return (0..nodes).map(|number| machine(lab, setup, image, number)).collect();
    }
    look_for_binaries(bin_dir)?;
    (0..nodes)
        .map(|number| {
            let mut more = configuration(lab, number, nodes, (together, mode));
            if has_platform {
                more += &format!("\n[azure]\nscheduled_events = true\nmetadata = \"{METADATA}\"\n");
            }
            let plan = NodePlan {
                host: NODES[usize::from(number)],
                interfaces: &[("ext", EXT), ("int", INT)],
                more: Cow::Owned(more),
            };
            let moving = Moving { datapath, workers };
            let place = NodePlace::prepare(lab, plan, moving, bin_dir)?;
            Ok(Member::new(number, Firewall::Gabiond(place)))
        })
        .collect()
}

fn other(lab: &Lab, number: u8, nodes: u8, words: &[String]) -> Result<Member> {
    let directory = lab.make_directory(NODES[usize::from(number)])?.display().to_string();
    let more = [(number + 1).to_string(), nodes.to_string(), directory];
    let words = words.iter().cloned().chain(more).collect();
    Ok(Member::new(number, Firewall::Other(words)))
}

/// Where the API of a machine is served: at its address between the nodes.
const API_PORT: u16 = 4450;

/// A machine has its interfaces in this order, the one to the other nodes first.
const NICS: [&str; 3] = [PEERS, EXT, INT];

fn machine(lab: &Lab, setup: &Setup<'_>, image: &Image, number: u8) -> Result<Member> {
    let name = NODES[usize::from(number)];
    let nics =
        NICS.iter().map(|device| Nic::in_place_of(lab, name, device)).collect::<Result<_>>()?;
    let at = network::peer_address(number);
    // Asked from the namespace that its cables go through.
    let asked = (name, (at, API_PORT).into());
    let machine = Machine::prepare(lab, name, (nics, Named::ByLinkAddress), image.clone(), asked)?;
    let members = (0..setup.nodes).map(|node| (node + 1, network::peer_address(node))).collect();
    let data = CustomData {
        name,
        membership: (setup.together == Together::Cluster).then_some(Membership {
            cluster: CLUSTER,
            number: number + 1,
            members,
        }),
        machine: &machine,
        pki: &lab.directory().join(PKI),
        policy: None,
        settings: json!({
            "limits": { "flows": 65_536, "mappings": 65_536 },
            "cluster": {
                "reset_lost": setup.mode == Mode::Pin,
                "heartbeat_ms": heartbeat(setup).as_millis() as u64,
            },
        }),
    };
    machine.provide(&format!("lab-{}", number + 1), Some(&data.text()?))?;
    Ok(Member::new(number, Firewall::Machine(Box::new(machine))))
}

/// The cluster's name, in certificates too.
const CLUSTER: &str = "lab";

fn certified_as(number: u8) -> String {
    let name = NODES[usize::from(number)];
    format!("{name}=127.0.0.1,{},{name}.{CLUSTER}", network::peer_address(number))
}

/// A table that is large enough for every scenario and small enough for four nodes on one machine.
const LIMITS: &str = "\n[limits]\nflows = 65536\nmappings = 65536\n";

fn configuration(
    lab: &Lab,
    number: u8,
    nodes: u8,
    (together, mode): (Together<'_>, Mode),
) -> String {
    let mut text = format!("\n[management]\ninterfaces = [\"{PEERS}\"]\n{LIMITS}");
    if together == Together::Cluster {
        let members: Vec<_> = (0..nodes)
            .map(|node| format!("\"{}={}\"", node + 1, network::peer_address(node)))
            .collect();
        let pki = lab.directory().join(PKI);
        let pki = pki.display();
        let name = NODES[usize::from(number)];
        text += &format!(
            r#"
[cluster]
name = "{CLUSTER}"
node = {own}
members = [{members}]
ca = "{pki}/ca.pem"
certificate = "{pki}/{name}.pem"
key = "{pki}/{name}.key"
# What the load balancer moves is not to be reset.
reset_lost = {pins}
"#,
            pins = mode == Mode::Pin,
            own = number + 1,
            members = members.join(", "),
        );
    }
    text
}

impl Member {
    const fn new(number: u8, firewall: Firewall) -> Self {
        Self { number, firewall, running: None, is_stopped: false }
    }

    /// Its API; `None` for a firewall that is none of ours.
    fn connect(&self) -> Result<Option<Node>> {
        match &self.firewall {
            Firewall::Gabiond(place) => Ok(Some(place.connect()?)),
            Firewall::Machine(machine) => Ok(Some(machine.connect()?)),
            Firewall::Other(_) => Ok(None),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        NODES[usize::from(self.number)]
    }

    /// Whether it can be asked anything.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some() && !self.is_stopped
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub(crate) fn start(&mut self, lab: &Lab) -> Result<()> {
        ensure!(self.running.is_none(), "{} is running already", self.name());
        let running = match &self.firewall {
            Firewall::Gabiond(place) => place.start(lab)?.0,
            Firewall::Machine(machine) => start_machine(machine, lab)?,
            Firewall::Other(words) => {
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                Running::start(lab, self.name(), self.name(), &words)?
            }
        };
        self.running = Some(running);
        Ok(())
    }

    /// Commits the policy unless one is in force.
    ///
    /// # Errors
    /// If the node refuses it.
    pub(crate) fn push(&self) -> Result<()> {
        let Some(mut node) = self.connect()? else { return Ok(()) };
        let there = node.ask(async |api| api.get(GetRequest { revision: None }).await);
        if there.is_ok() {
            return Ok(());
        }
        let request = CommitRequest {
            policy: POLICY.to_owned(),
            expected_revision: 0,
            comment: "gabion lab".to_owned(),
        };
        node.call(async move |api| api.commit(request).await)?;
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// If it takes too long, with its reasons.
    pub(crate) fn wait_ready(&self) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let Some(mut node) = self.connect()? else { return Ok(begin.elapsed()) };
            let status = node.call(async |api| api.status(StatusRequest {}).await)?;
            if status.ready {
                return Ok(begin.elapsed());
            }
            let reasons = status.reasons.join(", ");
            ensure!(begin.elapsed() < READY, "{} is not ready: {reasons}", self.name());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The cluster as it sees it; `None` for a firewall that is none of ours, or stands alone.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn cluster(&self) -> Result<Option<ClusterStatusResponse>> {
        let Some(mut node) = self.connect()? else { return Ok(None) };
        match node.ask(async |api| api.cluster_status(ClusterStatusRequest {}).await) {
            Ok(status) => Ok(Some(status)),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// What it has dropped so far, by reason.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let Some(mut node) = self.connect()? else { return Ok(BTreeMap::new()) };
        let counters = node.call(async |api| api.counters(CountersRequest {}).await)?;
        Ok(counters.drops.into_iter().map(|drop| (drop.name, drop.value)).collect())
    }

    /// How often an event has had it drain, as its log says.
    pub(crate) fn drained_for_events(&self) -> usize {
        const TOLD: &str = "a scheduled event has this node drain";
        match &self.firewall {
            Firewall::Gabiond(place) => place.event_log().matches(TOLD).count(),
            Firewall::Machine(_) | Firewall::Other(_) => 0,
        }
    }

    /// Has it hand its flows over, or stop to.
    ///
    /// # Errors
    /// If it cannot.
    pub(crate) fn set_draining(&self, draining: bool) -> Result<()> {
        let Some(mut node) = self.connect()? else { bail!("{} is not ours to drain", self.name()) };
        let request = SetDrainingRequest { draining };
        node.call(async move |api| api.set_draining(request).await)?;
        Ok(())
    }

    /// Makes it fail.
    ///
    /// # Errors
    /// If it is not running, or the kernel refuses.
    pub(crate) fn fail(&mut self, lab: &Lab, by: Failing) -> Result<()> {
        let running = self.running.as_ref().context("the node is not running")?;
        match by {
            Failing::Stop | Failing::Freeze => {
                kill_process(running.pid(), Signal::STOP)?;
                self.is_stopped = true;
                Ok(())
            }
            Failing::Kill => self.end(Signal::KILL),
            Failing::PowerOff => {
                // All at once, though links go one after another; and nobody hears the process end.
                kill_process(running.pid(), Signal::STOP)?;
                lab.cut_off(self.name())?;
                self.end(Signal::KILL)
            }
        }
    }

    /// Gives its machine power again; it is not started yet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn power_on(&self, lab: &Lab) -> Result<()> {
        lab.plug_in(self.name())
    }

    /// Ends it with a signal.
    ///
    /// # Errors
    /// If it is not running, or does not end.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        let running = self.running.take().context("the node is not running")?;
        running.end(signal).map(|_| ())
    }

    /// Lets a stopped node go on.
    ///
    /// # Errors
    /// If it is not running.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let running = self.running.as_ref().context("the node is not running")?;
        kill_process(running.pid(), Signal::CONT)?;
        self.is_stopped = false;
        Ok(())
    }
}

impl Member {
    /// What it has printed last.
    pub(crate) fn last_words(&self) -> String {
        self.running.as_ref().map(Running::last_words).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A stopped process ends only when it goes on.
        if self.running.is_some() {
            let _ = self.resume();
        }
    }
}
