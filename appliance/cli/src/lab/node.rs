//! One gabiond in a lab: its configuration, its process, and the API that it serves.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use gabion_api::v1::{StatusRequest, StatusResponse};

use super::build::Lab;
use super::process::Running;
use crate::connect::{Connection, Node};
use crate::failure::Failure;
use crate::pki::{self, Existing, Subjects};

/// Where a node serves what; the same on every node, each has its namespace.
pub(crate) const HEALTH_HTTP_PORT: u16 = 4480;
pub(crate) const HEALTH_TCP_PORT: u16 = 4481;
pub(crate) const METRICS: &str = "127.0.0.1:4490";
pub(crate) const API: &str = "127.0.0.1:4450";

/// Who moves packets of settled flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Datapath {
    /// The node itself, each of them.
    Userspace,
    /// Programs in the kernel.
    Ebpf,
}

impl Datapath {
    pub(crate) const fn setting(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Ebpf => "ebpf",
        }
    }
}

/// What a scenario says about a node.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) host: &'static str,
    /// Logical interface names of the policy, and the devices.
    pub(crate) interfaces: &'static [(&'static str, &'static str)],
    /// More of its configuration.
    pub(crate) more: Cow<'static, str>,
}

const BINARIES: [&str; 2] = ["gabiond", "gabion-guard"];

/// Whether the node's programs are where they should be.
///
/// # Errors
/// If one is not.
pub(crate) fn look_for_binaries(bin_dir: &Path) -> Result<(), Failure> {
    for program in BINARIES.map(|name| bin_dir.join(name)) {
        if !program.is_file() {
            return Err(Failure::new(format!("{} is not there", program.display()))
                .next("build it: make build")
                .next("or say where it is: --bin-dir DIR"));
        }
    }
    Ok(())
}

/// Who moves a node's packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moving {
    pub(crate) datapath: Datapath,
    pub(crate) workers: u16,
}

/// A node's place in a lab; its process may come and go.
#[derive(Debug)]
pub(crate) struct NodePlace {
    plan: NodePlan,
    moving: Moving,
    binary: PathBuf,
    directory: PathBuf,
}

impl NodePlace {
    /// Writes the node's configuration, which names certificates in [`PKI`].
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn prepare(
        lab: &Lab,
        plan: NodePlan,
        moving: Moving,
        bin_dir: &Path,
    ) -> Result<Self> {
        let [binary, guard] = BINARIES.map(|name| bin_dir.join(name));
        let directory = lab.make_directory(plan.host)?;
        let place = Self { plan, moving, binary, directory };
        let pins = match moving.datapath {
            Datapath::Userspace => None,
            Datapath::Ebpf => Some(lab.bpf()?.join(place.plan.host)),
        };
        let text = place.configuration(&guard, &lab.directory().join(PKI), pins.as_deref());
        fs::write(place.configuration_path(), text).context("cannot write gabiond.toml")?;
        Ok(place)
    }

    /// Starts gabiond and waits until it answers and lacks nothing but a policy.
    ///
    /// # Errors
    /// If it does not come up, with what it said.
    pub(crate) fn start(&self, lab: &Lab) -> Result<(Running, Duration)> {
        let program = self.binary.to_string_lossy().into_owned();
        let configuration = self.configuration_path().to_string_lossy().into_owned();
        // Left behind by a node that was killed.
        let _ = fs::remove_file(self.socket());
        let program = [program.as_str(), "--config", &configuration];
        let mut running = Running::start(lab, self.plan.host, self.plan.host, &program)?;
        let took =
            running.wait_until(|| self.status().is_ok_and(|status| lacks_only_policy(&status)))?;
        Ok((running, took))
    }

    /// Connects to the node's API.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn connect(&self) -> Result<Node, Failure> {
        Connection::local(self.socket()).open()
    }

    /// Asks the node how it is.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn status(&self) -> Result<StatusResponse, Failure> {
        self.connect()?.call(async |api| api.status(StatusRequest {}).await)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("gabiond.sock")
    }

    pub(crate) fn host(&self) -> &'static str {
        self.plan.host
    }

    /// The program of the guard.
    pub(crate) fn guard(&self) -> PathBuf {
        self.binary.with_file_name(BINARIES[1])
    }

    /// Where the node keeps its policies.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The node's log of events: JSON lines.
    pub(crate) fn event_log(&self) -> String {
        fs::read_to_string(self.directory.join("events.jsonl")).unwrap_or_default()
    }

    fn configuration_path(&self) -> PathBuf {
        self.directory.join("gabiond.toml")
    }

    fn configuration(&self, guard: &Path, pki: &Path, pins: Option<&Path>) -> String {
        let directory = self.directory.display();
        let NodePlan { host, more, .. } = &self.plan;
        let pki = pki.display();
        let pins = pins.map(|pins| format!("pin_dir = \"{}\"\n", pins.display()));
        let interfaces: String = self
            .plan
            .interfaces
            .iter()
            .map(|(name, device)| format!("{name} = \"{device}\"\n"))
            .collect();
        format!(
            r#"[node]
name = "{host}"
state_dir = "{directory}/state"
datapath = "{datapath}"
workers = {workers}
{pins}
[interfaces]
{interfaces}
[api]
listen = ["{API}"]
unix_socket = "{directory}/gabiond.sock"
certificate = "{pki}/{host}.pem"
key = "{pki}/{host}.key"
client_ca = "{pki}/ca.pem"

[health]
port = {HEALTH_HTTP_PORT}
tcp_port = {HEALTH_TCP_PORT}

[metrics]
listen = "{METRICS}"

[log]
journald = false
json = "{directory}/events.jsonl"

[guard]
program = "{guard}"
{more}"#,
            guard = guard.display(),
            datapath = self.moving.datapath.setting(),
            workers = self.moving.workers,
            pins = pins.unwrap_or_default(),
        )
    }
}

pub(crate) fn lacks_only_policy(status: &StatusResponse) -> bool {
    status.reasons.iter().all(|reason| reason == "no-policy")
}

/// Where a lab's certificates are, below its folder.
pub(crate) const PKI: &str = "pki";

/// Whoever pushes policies to a lab's nodes from outside.
pub(crate) const OPERATOR: &str = "lab";
/// The lab itself: it drains nodes too.
pub(crate) const ADMIN: &str = "lab-admin";

/// A CA of its own for each lab: a certificate for each node, written as `gabion pki` takes them, and
/// one each for [`OPERATOR`] and [`ADMIN`].
///
/// # Errors
/// If they are there already, or cannot be written.
pub(crate) fn make_certificates(directory: &Path, nodes: &[String]) -> Result<()> {
    let nodes = nodes.iter().map(|node| node.parse()).collect::<Result<_, _>>()?;
    let clients = [(OPERATOR, "operator"), (ADMIN, "admin")];
    let clients = clients.map(|(name, role)| format!("{name}={role}").parse());
    let clients = clients.into_iter().collect::<Result<_, _>>()?;
    let subjects = Subjects { nodes, clients };
    let now = time::OffsetDateTime::now_utc();
    pki::init(directory, &subjects, Existing::Refuse, now)?;
    Ok(())
}
