//! A scenario's lab with everything in it: servers, the node, and the node's API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gabion_api::v1::{
    CommitRequest, CountersRequest, CountersResponse, Flow, FlowFilter, GetRequest, GetResponse,
    ListFlowsRequest, Revision,
};
use rustix::process::{Pid, Signal};
use tonic::Code;

use super::build::{Lab, Offloads};
use super::flood::Load;
use super::namespace::Lifetime;
use super::node::{Datapath, Moving, NodePlace, PKI, look_for_binaries, make_certificates};
use super::process::{Finished, Running, run};
use super::scenario::{Figure, Scenario};
use crate::connect::Node;
use crate::failure::Failure;

/// How a lab is to be built.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) lifetime: Lifetime,
    pub(crate) offloads: Offloads,
    pub(crate) datapath: Datapath,
    pub(crate) workers: u16,
    /// `None` is the directory of this program.
    pub(crate) bin_dir: Option<PathBuf>,
    /// Whether a node is going to be started.
    pub(crate) with_node: bool,
    /// Of scenarios that flood.
    pub(crate) load: Load,
}

/// What a check works with. Dropping it ends the programs first and removes the lab then.
#[derive(Debug)]
pub(crate) struct Stage {
    api: Option<Node>,
    running: Option<Running>,
    place: NodePlace,
    servers: Vec<Running>,
    pub(crate) lab: Lab,
    pub(crate) load: Load,
    /// What the check that is at work has measured.
    pub(crate) figures: Vec<Figure>,
}

impl Stage {
    /// Builds the lab and starts its servers; no node yet.
    ///
    /// # Errors
    /// If something is missing on this machine or does not start.
    pub(crate) fn build(scenario: &Scenario, setup: &Setup) -> Result<Self> {
        look_for_programs(scenario.programs)?;
        let bin_dir = match &setup.bin_dir {
            Some(directory) => std::path::absolute(directory)?,
            None => own_directory()?,
        };
        if setup.with_node {
            look_for_binaries(&bin_dir)?;
        }
        let topology = (scenario.topology)();
        let lab = Lab::build(&setup.name, scenario.name, topology, setup.offloads, setup.lifetime)?;
        let own = format!("{}=127.0.0.1", scenario.node.host);
        make_certificates(&lab.directory().join(PKI), &[own])?;
        make_certificates(&lab.directory().join("stranger"), &["nobody=127.0.0.1".to_owned()])?;
        let moving = Moving { datapath: setup.datapath, workers: setup.workers };
        let place = NodePlace::prepare(&lab, scenario.node.clone(), moving, &bin_dir)?;
        let servers = (scenario.servers)(&lab)?;
        let load = setup.load;
        Ok(Self { api: None, running: None, place, servers, lab, load, figures: Vec::new() })
    }

    /// Starts the node and waits until it is ready, but for a policy.
    ///
    /// # Errors
    /// If it does not come up, or is running already.
    pub(crate) fn start_node(&mut self) -> Result<Duration> {
        ensure!(self.running.is_none(), "{} is running already", self.place.host());
        let (running, took) = self.place.start(&self.lab)?;
        self.running = Some(running);
        self.api = Some(self.place.connect()?);
        Ok(took)
    }

    /// Ends the node with a signal; returns how long it took.
    ///
    /// # Errors
    /// If it was not running, or does not end.
    pub(crate) fn end_node(&mut self, signal: Signal) -> Result<Duration> {
        self.api = None;
        self.running.take().context("no node is running")?.end(signal)
    }

    /// The connection to the node.
    ///
    /// # Errors
    /// If no node is running.
    pub(crate) fn api(&mut self) -> Result<&mut Node> {
        self.api.as_mut().context("no node is running")
    }

    pub(crate) fn is_node_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn node_pid(&self) -> Option<Pid> {
        self.running.as_ref().map(Running::pid)
    }

    pub(crate) fn place(&self) -> &NodePlace {
        &self.place
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// What the node has printed last, if it has ended without having been told to.
    pub(crate) fn obituary(&mut self) -> Option<String> {
        let running = self.running.as_mut()?;
        running.has_ended().then(|| format!("the node has ended: {}", running.last_words()))
    }

    /// Waits until the node says that it is ready.
    ///
    /// # Errors
    /// If it is not within twenty seconds, with its reasons.
    pub(crate) fn wait_ready(&mut self) -> Result<Duration> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let begin = std::time::Instant::now();
        loop {
            let status = self.place.status()?;
            if status.ready {
                return Ok(begin.elapsed());
            }
            ensure!(begin.elapsed() < PATIENCE, "not ready: {}", status.reasons.join(", "));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Commits a policy on top of whatever is in force, and waits until the node is ready.
    ///
    /// # Errors
    /// If the node refuses it.
    pub(crate) fn push(&mut self, policy: &str) -> Result<Revision> {
        let expected = self.in_force()?.map_or(0, |revision| revision.number);
        let request = CommitRequest {
            policy: policy.to_owned(),
            expected_revision: expected,
            comment: "gabion lab".to_owned(),
        };
        let response = self.api()?.call(async move |api| api.commit(request).await)?;
        self.wait_ready()?;
        response.revision.context("the node committed without naming the revision")
    }

    /// The revision in force, if there is one.
    ///
    /// # Errors
    /// If the node does not answer.
    pub(crate) fn in_force(&mut self) -> Result<Option<Revision>> {
        Ok(self.policy()?.and_then(|response| response.revision))
    }

    /// The policy in force, if there is one.
    ///
    /// # Errors
    /// If the node does not answer.
    pub(crate) fn policy(&mut self) -> Result<Option<GetResponse>> {
        match self.api()?.ask(async |api| api.get(GetRequest { revision: None }).await) {
            Ok(response) => Ok(Some(response)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// The node's counters.
    ///
    /// # Errors
    /// If the node does not answer.
    pub(crate) fn counters(&mut self) -> Result<CountersResponse> {
        Ok(self.api()?.call(async |api| api.counters(CountersRequest {}).await)?)
    }

    /// The node's flows that a filter lets pass.
    ///
    /// # Errors
    /// If the node does not answer.
    pub(crate) fn flows(&mut self, filter: FlowFilter) -> Result<Vec<Flow>> {
        let request = ListFlowsRequest { filter: Some(filter), limit: 0 };
        let api = self.api()?;
        let stream = api.call(async move |api| api.list_flows(request).await)?;
        let mut flows = Vec::new();
        api.read(stream, |flow| {
            flows.push(flow);
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(flows)
    }

    /// Runs a program on a host, `seconds` at most.
    ///
    /// # Errors
    /// If it cannot be started; a program that fails is no error.
    pub(crate) fn run(&self, host: &str, program: &[&str], seconds: u64) -> Result<Finished> {
        run(&self.lab, host, program, Duration::from_secs(seconds))
    }

    /// Runs this very tool on a host.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn gabion(&self, host: &str, arguments: &[&str]) -> Result<Finished> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let program = program.to_string_lossy().into_owned();
        let mut line = vec![program.as_str()];
        line.extend(arguments);
        self.run(host, &line, 10)
    }

    /// Leaves everything up when this process ends.
    ///
    /// # Errors
    /// If the lab's record cannot be written.
    pub(crate) fn keep(self) -> Result<()> {
        let Self { api, running, place: _, servers, lab, load: _, figures: _ } = self;
        drop((api, running, servers));
        lab.keep()
    }
}

pub(crate) fn own_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

pub(crate) fn look_for_programs(programs: &[&str]) -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&&str| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    let missing: Vec<_> = programs.iter().filter(|program| !is_there(program)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("this machine lacks {}", missing.join(", ")))
        .next("install what the lab needs: setup/install lab"))
}
