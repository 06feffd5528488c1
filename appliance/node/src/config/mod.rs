//! The node's own settings: one TOML file, read once at start, checked as a whole.
//!
//! `written` is the file as it stands, [`Config`] what it means; only the second travels. All
//! mistakes are reported at once, each with its line, the value and what is allowed.

mod check;
mod cluster;
mod settings;
mod written;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gabion_datapath::ebpf::HookChoice;
use gabion_engine::Limits;

use crate::azure;

pub use cluster::{Cluster, ClusterPorts};
pub use settings::{Kind, SETTINGS, Setting, reference};

/// The configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node: Node,
    /// In the order of their names; a data interface's number is its index.
    pub interfaces: Vec<DataInterface>,
    /// Devices that the host keeps for itself.
    pub management: Vec<String>,
    pub api: Api,
    pub health: Health,
    pub metrics: Option<SocketAddr>,
    pub limits: Limits,
    pub log: Log,
    /// `None`: the node stands alone.
    pub cluster: Option<Cluster>,
    pub azure: Azure,
    pub guard_program: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Why nothing may pass whatever else is configured.
    pub hold: Option<String>,
    /// What comes into force where there has never been a policy.
    pub first_policy: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub revisions_kept: usize,
    /// How long the packet thread may stand still before the node is not ready.
    pub stall: Duration,
    pub user: Option<String>,
    pub datapath: DatapathKind,
    /// Where programs of the datapath `ebpf` stand.
    pub hook: HookChoice,
    /// Where tables and programs of the datapath `ebpf` are kept over a restart.
    pub pin_dir: PathBuf,
    /// How long established flows go on without gabiond; `None` for ever.
    pub fail_closed_after: Option<Duration>,
    /// How long the start waits for data devices.
    pub device_wait: Duration,
    pub ring_mebibytes: u16,
    /// Packet threads, each with a part of the flows.
    pub workers: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatapathKind {
    /// `Ebpf` where the kernel allows, else `Userspace`.
    Auto,
    Ebpf,
    Userspace,
    /// Moves nothing: for trying the API without privilege.
    Null,
}

/// A logical interface and the device that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataInterface {
    pub name: String,
    pub device: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    pub unix_socket: PathBuf,
    /// `None`: the API is served over the Unix socket only.
    pub tls: Option<ApiTls>,
    pub message_bytes: usize,
    pub connections: usize,
    pub streams: u32,
    pub watchers: usize,
}

/// Never without a client CA: the API over the network asks every client for its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    pub listen: Vec<SocketAddr>,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    pub http_port: u16,
    pub tcp_port: u16,
    pub connections: usize,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub journald: bool,
    pub json: Option<PathBuf>,
    pub queue: usize,
    pub level: tracing::Level,
}

/// What the node does because it is on Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Azure {
    /// Where it asks what is planned; `None`: nowhere.
    pub scheduled_events: Option<SocketAddr>,
    /// Whether the host speaks with the platform's services over data interfaces too.
    pub host_services: bool,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}; name another file with --config", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One mistake in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// From 1; `None` where something is missing from the whole file.
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or with everything that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Checks the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        check::check(text, file).map_err(ConfigError::Invalid)
    }

    /// Whether the node has anything to do with packets.
    pub fn moves(&self) -> bool {
        self.node.datapath != DatapathKind::Null && self.node.hold.is_none()
    }

    /// The TCP ports on which load balancers' probes are answered.
    pub fn probe_ports(&self) -> [u16; 2] {
        [self.health.http_port, self.health.tcp_port]
    }

    /// Whose answers are the host's on data interfaces.
    pub fn host_services(&self) -> Vec<IpAddr> {
        let services = if self.azure.host_services { &azure::SERVICES[..] } else { &[] };
        services.iter().copied().map(IpAddr::V4).collect()
    }

    /// The TCP ports on which the host itself answers on data interfaces.
    pub fn host_ports(&self) -> Vec<u16> {
        let machine = self.cluster.as_ref().map(|cluster| cluster.ports.machine);
        self.probe_ports().into_iter().chain(machine).collect()
    }
}

#[cfg(test)]
mod tests;
