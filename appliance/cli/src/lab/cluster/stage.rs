//! A cluster's lab with everything in it. Dropping it ends the traffic first and removes the lab last.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use gabion_api::v1::ClusterStatusResponse;

use super::balancer::{Balancer, By, Change, Mode, Plan, Probing};
use super::dice::Dice;
use super::failover::Detected;
use super::member::{self, Member, Together};
use super::network::{self, CLIENT, EXTERNAL, INTERNAL, NODES, OUTER, PEERS, SERVER, SYNC};
use super::platform::Platform;
use super::relay::{Conditions, Relay};
use super::traffic::{Errand, Live, Servers, Side, State, Told, run_once, served_addresses};
use crate::lab::build::{Lab, Offloads};
use crate::lab::machine::Image;
use crate::lab::namespace::{Lifetime, Namespace};
use crate::lab::node::{Datapath, HEALTH_HTTP_PORT, HEALTH_TCP_PORT};
use crate::lab::stage::{look_for_programs, own_directory};

/// How a cluster's lab is to be built.
#[derive(Debug, Clone)]
pub(crate) struct Setup<'a> {
    pub(crate) name: String,
    pub(crate) scenario: &'static str,
    pub(crate) nodes: u8,
    pub(crate) offloads: Offloads,
    pub(crate) datapath: Datapath,
    pub(crate) workers: u16,
    pub(crate) bin_dir: Option<PathBuf>,
    /// Nodes are machines that boot this.
    pub(crate) image: Option<Image>,
    /// Machines are told of planned events.
    pub(crate) has_platform: bool,
    pub(crate) together: Together<'a>,
    pub(crate) mode: Mode,
    pub(crate) probing: Probing,
    pub(crate) conditions: Conditions,
    pub(crate) seed: u64,
}

/// The lab at work.
#[derive(Debug)]
pub(crate) struct Stage {
    /// External and internal.
    pub(crate) balancers: [Balancer; 2],
    pub(crate) relay: Relay,
    pub(crate) platform: Option<Platform>,
    servers: [Servers; 2],
    /// Of the nodes between each other.
    pub(crate) heartbeat: Duration,
    pub(crate) members: Vec<Member>,
    pub(crate) lab: Lab,
}

impl Stage {
    /// Builds the lab and starts everything but the nodes.
    ///
    /// # Errors
    /// If something is missing on this machine or does not start.
    pub(crate) fn build(setup: &Setup<'_>) -> Result<Self> {
        look_for_programs(&["ip", "setpriv"])?;
        let bin_dir = match &setup.bin_dir {
            Some(directory) => std::path::absolute(directory)?,
            None => own_directory()?,
        };
        let topology = network::topology(setup.nodes);
        let lab =
            Lab::build(&setup.name, setup.scenario, topology, setup.offloads, Lifetime::Bound)?;
        let members = member::prepare(&lab, setup, &bin_dir)?;
        let mut dice = Dice::new(setup.seed);
        let devices = &NODES[..usize::from(setup.nodes)];
        // The relay reads frames.
        for node in devices {
            lab.cut_wrapped_superframes(node, PEERS)?;
        }
        let relay = Relay::start(&lab, SYNC, devices, setup.conditions.clone(), dice.next())?;
        let balancers = [
            Balancer::start(&lab, plan(setup, Side::Client, &mut dice))?,
            Balancer::start(&lab, plan(setup, Side::Server, &mut dice))?,
        ];
        let servers = |host, side| Servers::start(&lab.namespace(host), served_addresses(side));
        let servers = [servers(CLIENT, Side::Client)?, servers(SERVER, Side::Server)?];
        let start = || Platform::start(&lab, setup.nodes);
        let platform = setup.has_platform.then(start).transpose()?;
        let heartbeat = member::heartbeat(setup);
        Ok(Self { balancers, relay, platform, servers, heartbeat, members, lab })
    }

    /// Starts nodes, gives them the policy, and waits until both load balancers send packets to them.
    ///
    /// # Errors
    /// If one does not come up.
    pub(crate) fn start_nodes(&mut self, nodes: std::ops::Range<usize>) -> Result<()> {
        for node in nodes.clone() {
            self.members[node].start(&self.lab)?;
        }
        for node in nodes.clone() {
            self.members[node].push()?;
        }
        for node in nodes {
            self.members[node].wait_ready()?;
            self.wait_up(node, true)?;
        }
        Ok(())
    }

    /// Waits until both load balancers see a node up, or down. Returns how long it took.
    ///
    /// # Errors
    /// If they do not within ten seconds.
    pub(crate) fn wait_up(&self, node: usize, is_up: bool) -> Result<Duration> {
        self.wait_up_within(node, is_up, Duration::from_secs(10))
    }

    /// The same, with more patience.
    ///
    /// # Errors
    /// If they do not within that time.
    pub(crate) fn wait_up_within(
        &self,
        node: usize,
        is_up: bool,
        patience: Duration,
    ) -> Result<Duration> {
        let begin = Instant::now();
        let agree = || self.balancers.iter().all(|balancer| balancer.table().is_up(node) == is_up);
        while !agree() {
            let name = self.members[node].name();
            let state = if is_up { "up" } else { "down" };
            ensure!(
                begin.elapsed() < patience,
                "the load balancers do not see {name} {state}:\n{}",
                self.members[node].last_words()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(begin.elapsed())
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.balancers.iter().all(|balancer| balancer.table().is_up(node))
    }

    /// Waits until both load balancers and the other nodes have noticed that a node failed at `since`, or for as
    /// long as `patience`.
    pub(crate) fn detection(&self, node: usize, since: Instant, patience: Duration) -> Detected {
        let mut detected = Detected::default();
        while since.elapsed() < patience {
            detected.balancers = detected.balancers.or_else(|| self.noticed(node, since));
            if detected.peers.is_none() && self.is_forgotten(node) {
                detected.peers = Some(since.elapsed());
            }
            if detected.balancers.is_some() && detected.peers.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        detected
    }

    /// How long after `since` the later of the load balancers found a node down.
    fn noticed(&self, node: usize, since: Instant) -> Option<Duration> {
        let noticed = self.balancers.iter().map(|balancer| {
            let down = |change: &Change| change.node == node && !change.is_up && change.at > since;
            balancer.changes().into_iter().find(down)
        });
        let last = noticed.collect::<Option<Vec<_>>>()?.iter().map(|change| change.at).max()?;
        Some(last - since)
    }

    /// Whether no other node takes this one for alive.
    fn is_forgotten(&self, node: usize) -> bool {
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != node);
        let mut views = others
            .filter(|(_, member)| member.is_running())
            .map(|(_, member)| member.cluster().ok().flatten().map(|status| status.view));
        let number = node as u32 + 1;
        views.all(|view| view.is_some_and(|view| !view.contains(&number)))
    }

    /// What all running nodes say of the cluster; nothing where there is none.
    ///
    /// # Errors
    /// If one does not answer.
    pub(crate) fn statuses(&self) -> Result<Vec<ClusterStatusResponse>> {
        let running = self.members.iter().filter(|member| member.is_running());
        let statuses = running.map(Member::cluster).collect::<Result<Vec<_>>>()?;
        Ok(statuses.into_iter().flatten().collect())
    }

    /// What running nodes have dropped, for a check that fails: `node-1 tcp-not-syn 17`.
    pub(crate) fn drops(&self) -> String {
        let running = self.members.iter().filter(|member| member.is_running());
        let of_each = running.map(|member| {
            let drops = member.drops().unwrap_or_default();
            let drops = drops.into_iter().filter(|(_, count)| *count > 0);
            let drops = drops.map(|(reason, count)| format!(" {reason} {count}"));
            format!("{}:{}", member.name(), drops.collect::<String>())
        });
        of_each.collect::<Vec<_>>().join(", ")
    }

    /// Packets that nodes have handed to their owners so far.
    ///
    /// # Errors
    /// If a node does not answer.
    pub(crate) fn forwarded(&self) -> Result<u64> {
        let statuses = self.statuses()?;
        let peers = statuses.iter().flat_map(|status| &status.members);
        Ok(peers.map(|peer| peer.wrapped_out).sum())
    }

    /// How many of how many established flows another node keeps a copy of.
    ///
    /// # Errors
    /// If a node does not answer.
    pub(crate) fn coverage(&self) -> Result<[u64; 2]> {
        let statuses = self.statuses()?;
        Ok(statuses.iter().fold([0, 0], |[covered, all], status| {
            [covered + status.covered, all + status.established]
        }))
    }

    /// Waits until all nodes see each other and keep copies of each other's flows. Returns how long it took, if it
    /// happened within `patience`.
    ///
    /// # Errors
    /// If a node does not answer.
    pub(crate) fn converge(&self, patience: Duration) -> Result<Option<Duration>> {
        let begin = Instant::now();
        let running = self.members.iter().filter(|member| member.is_running()).count();
        while begin.elapsed() < patience {
            let statuses = self.statuses()?;
            let agrees = |status: &ClusterStatusResponse| {
                status.view.len() == running && status.covered * 1_000 >= status.established * 999
            };
            if statuses.len() == running && statuses.iter().all(agrees) {
                return Ok(Some(begin.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// Drains a node and waits until it owns nothing that lives and the load balancers send it nothing new.
    ///
    /// # Errors
    /// If it still owns flows after a minute.
    pub(crate) fn drain(&self, node: usize) -> Result<Duration> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        let member = &self.members[node];
        member.set_draining(true)?;
        self.wait_up(node, false)?;
        loop {
            let left = member.cluster()?.map_or(0, |status| status.owned - status.closing);
            if left == 0 {
                return Ok(begin.elapsed());
            }
            ensure!(begin.elapsed() < PATIENCE, "{} still owns {left} flows", member.name());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Connections that are to live and are open where they were accepted.
    pub(crate) fn live_at_servers(&self) -> usize {
        self.servers.iter().map(Servers::live).sum()
    }

    pub(crate) fn site(&self, side: Side) -> Namespace {
        self.lab.namespace(match side {
            Side::Client => CLIENT,
            Side::Server => SERVER,
        })
    }

    /// Begins errands of both sides at a rate.
    pub(crate) fn begin_once(&self, errands: Vec<Errand>, per_second: f64) -> Newcomers {
        let stop = Arc::<AtomicBool>::default();
        let threads = split(errands)
            .map(|(side, some)| run_once(&self.site(side), some, per_second, Arc::clone(&stop)));
        Newcomers { stop, threads }
    }

    /// Opens live connections of both sides and waits until all are open.
    ///
    /// # Errors
    /// If one does not open.
    pub(crate) fn open_live(
        &self,
        errands: Vec<Errand>,
        per_second: f64,
        pace: Duration,
    ) -> Result<AllLive> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let live = split(errands)
            .map(|(side, some)| Live::open(&self.site(side), some, per_second / 2.0, pace));
        for side in &live {
            side.wait_open(PATIENCE).with_context(|| format!("drops: {}", self.drops()))?;
        }
        Ok(AllLive(live))
    }

    /// Of a connection: the nodes to which the two load balancers sent the beginner's packets and the answers.
    pub(crate) fn ways(
        &self,
        errand: &Errand,
        local: Option<SocketAddr>,
        seen_as: Option<SocketAddr>,
    ) -> Option<[usize; 2]> {
        let [asking, answering] = errand.tuples(local, seen_as)?;
        let (there, back) = match errand.side() {
            Side::Client => (0, 1),
            Side::Server => (1, 0),
        };
        let there = self.balancers[there].table().node_of(&asking)?;
        let back = self.balancers[back].table().node_of(&answering)?;
        Some([there, back])
    }
}

/// Connections that come one after the other.
#[derive(Debug)]
pub(crate) struct Newcomers {
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<Result<Vec<Told>>>; 2],
}

impl Newcomers {
    /// Begins no more and waits for those that have begun.
    ///
    /// # Errors
    /// If a thread fails; a connection that fails is no error.
    pub(crate) fn end(self) -> Result<Vec<Told>> {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// If a thread fails; a connection that fails is no error.
    pub(crate) fn wait(self) -> Result<Vec<Told>> {
        let mut told = Vec::new();
        for thread in self.threads {
            told.extend(thread.join().map_err(|_| anyhow!("the traffic panicked"))??);
        }
        told.sort_by_key(|one| one.errand.number);
        Ok(told)
    }
}

/// Live connections of both sides.
#[derive(Debug)]
pub(crate) struct AllLive([Live; 2]);

impl AllLive {
    pub(crate) fn mark(&self) {
        self.0.iter().for_each(Live::mark);
    }

    pub(crate) fn look(&self) -> Vec<State> {
        self.0.iter().flat_map(Live::look).collect()
    }

    /// # Errors
    /// If a thread failed.
    pub(crate) fn end(self) -> Result<Vec<State>> {
        let mut states = Vec::new();
        for live in self.0 {
            states.extend(live.end()?);
        }
        Ok(states)
    }
}

fn split(errands: Vec<Errand>) -> [(Side, Vec<Errand>); 2] {
    let (client, server) = errands.into_iter().partition(|errand| errand.side() == Side::Client);
    [(Side::Client, client), (Side::Server, server)]
}

fn plan(setup: &Setup<'_>, side: Side, dice: &mut Dice) -> Plan {
    let (host, probed) = match side {
        Side::Client => (EXTERNAL, 0),
        Side::Server => (INTERNAL, 1),
    };
    let port = match setup.probing.by {
        By::Http => HEALTH_HTTP_PORT,
        By::Tcp => HEALTH_TCP_PORT,
    };
    let target = |node| SocketAddr::new(network::probed_addresses(node)[probed], port);
    Plan {
        host,
        outer: OUTER,
        nodes: (0..setup.nodes).map(|node| (NODES[usize::from(node)], target(node))).collect(),
        key: [dice.next(), dice.next()],
        mode: setup.mode,
        probing: setup.probing,
    }
}
