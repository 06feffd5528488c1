//! The cluster's part of the daemon, opened and started.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use gabion_datapath::ebpf::SyncLink;
use gabion_datapath::{LocalInterface, PeerPlace, PeerSockets, PeerTraffic, interface_of};
use gabion_engine::{ClusterConfig, NodeId};
use rustls::time_provider::DefaultTimeProvider;
use tokio::sync::watch;

use super::beside::Beside;
use super::hello::{PolicyMark, Reach};
use super::identity::{Identity, IdentityError};
use super::incarnation::{Incarnation, IncarnationError};
use super::known::Known;
use super::links::Links;
use super::machine::Machines;
use super::sessions::{self, Local, OpenSessionsError, SessionChange, Sessions, Told};
use super::workers::Workers;
use crate::config::{self, Config};
use crate::policy::{Policies, Surroundings};
use crate::readiness::Readiness;
use crate::record::Recorder;
use crate::store::Disk;
use crate::worker::{Command, WorkerHandle};

/// Less than this IPv6's smallest packets do not fit into, wrapped: docs/cluster.md section 7.
const SYNC_MTU_MIN: u32 = 1_360;
/// More than this is no link between machines, but the loopback.
const SYNC_MTU_MAX: u32 = 9_216;
const PAUSE: Duration = Duration::from_millis(50);

/// Why the node cannot be a member.
#[derive(Debug, thiserror::Error)]
pub enum StartClusterError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Incarnation(#[from] IncarnationError),
    #[error(transparent)]
    Sessions(#[from] OpenSessionsError),
    #[error(
        "cluster.members: node {node} is this node and its address {address} is on no interface of this machine; look at cluster.node, or wait longer with node.device_wait_ms"
    )]
    NoInterface { node: NodeId, address: IpAddr },
    #[error(
        "cluster.members: this node's address {address} is on {device}, the data interface {name}: members speak over another one, of which the guard keeps off"
    )]
    DataInterface { address: IpAddr, device: String, name: String },
    #[error(
        "{device} has an MTU of {mtu}, and the links between members must carry {SYNC_MTU_MIN}: raise it, or set cluster.sync_mtu if they do"
    )]
    Mtu { device: String, mtu: u32 },
    #[error(
        "cluster.{setting} {port} on {address}: {source}; free the port or change it at all members"
    )]
    Socket { setting: &'static str, port: u16, address: IpAddr, source: io::Error },
    #[error("cannot look for the interface of {address}: {source}")]
    Interfaces { address: IpAddr, source: io::Error },
}

/// Everything of the cluster that needs privilege or can be refused.
#[derive(Debug)]
pub struct PreparedCluster {
    settings: config::Cluster,
    identity: Identity,
    incarnation: Incarnation<Disk>,
    boot: [u8; 16],
    sync_mtu: u16,
    /// That has this node's address.
    interface: String,
    /// Whether the datapath takes what another's has wrapped.
    unwraps: bool,
    /// One for each worker.
    sockets: Vec<PeerSockets>,
    listener: std::net::TcpListener,
}

impl PreparedCluster {
    /// Opens what is to be opened. `boot` is drawn anew at every start.
    ///
    /// # Errors
    /// [`StartClusterError`].
    pub fn new(
        config: &Config,
        settings: config::Cluster,
        boot: [u8; 16],
    ) -> Result<Self, StartClusterError> {
        let identity = Identity::read(&settings, Arc::new(DefaultTimeProvider))?;
        let address = settings.address();
        let interface = wait_for_interface(&settings, config.node.device_wait)?;
        if let Some(data) = config.interfaces.iter().find(|data| data.device == interface.name) {
            let (device, name) = (interface.name, data.name.clone());
            return Err(StartClusterError::DataInterface { address, device, name });
        }
        let sync_mtu = match (settings.sync_mtu, interface.mtu) {
            (Some(mtu), _) => mtu,
            (None, mtu @ ..SYNC_MTU_MIN) => {
                return Err(StartClusterError::Mtu { device: interface.name, mtu });
            }
            (None, mtu) => u16::try_from(mtu.min(SYNC_MTU_MAX)).unwrap_or(u16::MAX),
        };
        let listener = sessions::bind(address, settings.ports.session)?;
        let workers = (0..settings.workers.0).map(|worker| open_sockets(&settings, worker));
        let sockets = workers.collect::<Result<_, _>>()?;
        // Last: a start that fails has not been one.
        let incarnation = Incarnation::next(Disk, &config.node.state_dir)?;
        let interface = interface.name;
        Ok(Self {
            settings,
            identity,
            incarnation,
            boot,
            sync_mtu,
            interface,
            unwraps: false,
            sockets,
            listener,
        })
    }

    /// What programs have to know of the links between nodes.
    pub fn sync_link(&self) -> SyncLink {
        SyncLink {
            interface: self.interface.clone(),
            address: self.settings.address(),
            port: self.settings.ports.wrapped,
            peers: peers(&self.settings).map(|(node, address)| (node.0, address)).collect(),
            patience: self.patience(),
        }
    }

    /// Says that programs of this node take what those of other nodes have wrapped.
    pub const fn set_unwraps(&mut self, unwraps: bool) {
        self.unwraps = unwraps;
    }

    /// After how much silence a peer is lost.
    fn patience(&self) -> Duration {
        self.settings.heartbeat * self.settings.heartbeats_missed
    }

    /// What the first worker's engine is told; each other one is the member of its place in `machines`.
    pub fn engine(&self) -> ClusterConfig {
        let Workers(count) = self.settings.workers;
        let nodes = self.settings.members.keys();
        let machines: Vec<Vec<_>> =
            nodes.map(|node| self.settings.workers.members(*node).collect()).collect();
        ClusterConfig {
            node: self.settings.workers.member(self.settings.node, 0),
            members: machines.iter().flatten().copied().collect(),
            machines: if count > 1 { machines } else { Vec::new() },
            incarnation: self.incarnation.number(),
            secret: self.identity.secret(),
            sync_mtu: self.sync_mtu,
            heartbeat: self.settings.heartbeat,
            heartbeats_missed: self.settings.heartbeats_missed,
            reset_lost: self.settings.reset_lost,
        }
    }

    /// The packet threads' side, one for each, and what starts the rest once they run. `secret` is drawn anew at every
    /// start.
    pub fn split(self, secret: [u8; 32]) -> (Vec<Links>, Membership) {
        let patience = self.patience();
        let Self { settings, identity, incarnation, boot, sync_mtu, unwraps, .. } = self;
        let (sockets, listener) = (self.sockets, self.listener);
        let number = incarnation.number();
        let known = Arc::new(Known::new(settings.node, number, &settings.members));
        let beside = Beside::new(secret, settings.renew);
        let links = (0..).zip(sockets).map(|(worker, sockets)| {
            let workers = settings.workers;
            let me = workers.member(settings.node, worker);
            let members: Vec<_> = peers_of(&settings, worker).map(|(member, _)| member).collect();
            let known = Arc::clone(&known);
            let links = Links::of_worker(sockets, &members, known, patience, workers, me);
            links.speak_beside(number, beside.clone())
        });
        let links = links.collect();
        let membership = Membership {
            settings,
            identity,
            incarnation,
            boot,
            sync_mtu,
            unwraps,
            listener,
            known,
        };
        (links, membership)
    }
}

fn open_sockets(settings: &config::Cluster, worker: u8) -> Result<PeerSockets, StartClusterError> {
    let address = settings.address();
    let ports = Workers::ports(settings.ports, worker);
    let peers: Vec<_> = peers_of(settings, worker).map(|(_, place)| place).collect();
    PeerSockets::open_at(PeerPlace { address, ports }, &peers).map_err(|(traffic, source)| {
        let (setting, port) = match traffic {
            PeerTraffic::Sync => ("sync_port", ports.sync),
            PeerTraffic::Wrapped => ("wrapped_port", ports.wrapped),
        };
        StartClusterError::Socket { setting, port, address, source }
    })
}

/// All members but one worker of this node, in the order in which its sockets are given them.
fn peers_of(settings: &config::Cluster, worker: u8) -> impl Iterator<Item = (NodeId, PeerPlace)> {
    let (workers, ports) = (settings.workers, settings.ports);
    let me = workers.member(settings.node, worker);
    let members = settings.members.iter().flat_map(move |(node, address)| {
        workers.members(*node).map(move |member| {
            let ports = Workers::ports(ports, workers.worker_of(member));
            (member, PeerPlace { address: *address, ports })
        })
    });
    members.filter(move |(member, _)| *member != me)
}

/// The other nodes.
fn peers(settings: &config::Cluster) -> impl Iterator<Item = (NodeId, IpAddr)> {
    let members = settings.members.iter().map(|(node, address)| (*node, *address));
    members.filter(|(node, _)| *node != settings.node)
}

fn wait_for_interface(
    settings: &config::Cluster,
    mut left: Duration,
) -> Result<LocalInterface, StartClusterError> {
    let address = settings.address();
    loop {
        let found = interface_of(address)
            .map_err(|source| StartClusterError::Interfaces { address, source })?;
        if let Some(interface) = found {
            return Ok(interface);
        }
        if left.is_zero() {
            return Err(StartClusterError::NoInterface { node: settings.node, address });
        }
        std::thread::sleep(PAUSE.min(left));
        left = left.saturating_sub(PAUSE);
    }
}

/// A member that is about to be one.
#[derive(Debug)]
pub struct Membership {
    settings: config::Cluster,
    identity: Identity,
    incarnation: Incarnation<Disk>,
    boot: [u8; 16],
    sync_mtu: u16,
    unwraps: bool,
    listener: std::net::TcpListener,
    known: Arc<Known>,
}

/// What those who ask are told of the member beside what the packet thread knows.
#[derive(Debug, Clone)]
pub struct Member {
    pub cluster: String,
    pub node: NodeId,
    pub address: IpAddr,
    pub incarnation: u64,
    pub sync_mtu: u16,
    pub known: Arc<Known>,
    pub identity: Arc<ArcSwap<Identity>>,
    settings: config::Cluster,
}

impl Member {
    /// Reads CA, certificate and key again; sessions are renewed with them.
    ///
    /// # Errors
    /// When they cannot be used; those before stay.
    pub fn read_certificates(&self) -> Result<(), IdentityError> {
        let identity = self.identity.load().read_again(&self.settings)?;
        self.identity.store(Arc::new(identity));
        peers(&self.settings).for_each(|(peer, _)| self.known.renew(peer));
        Ok(())
    }
}

impl Membership {
    /// Speaks with the peers until cancelled.
    ///
    /// # Errors
    /// When the runtime refuses the socket.
    pub fn start(
        self,
        around: &Surroundings,
        policies: Arc<Policies>,
        addresses: watch::Receiver<Vec<IpAddr>>,
    ) -> (Member, impl Future<Output = io::Result<()>> + Send + 'static) {
        let Self { settings, identity, incarnation, boot, sync_mtu, unwraps, listener, known } =
            self;
        let Surroundings { worker, recorder, readiness, .. } = around.clone();
        let (policy, receiver) = watch::channel(PolicyMark::default());
        let (reach, own) = watch::channel(Reach::default());
        let identity = Arc::new(ArcSwap::from_pointee(identity));
        let member = Member {
            settings: settings.clone(),
            cluster: settings.name.clone(),
            node: settings.node,
            address: settings.address(),
            incarnation: incarnation.number(),
            sync_mtu,
            known: Arc::clone(&known),
            identity: Arc::clone(&identity),
        };
        if let Some(warning) = identity.load().warning() {
            recorder.node(warning);
        }
        let local = Local {
            cluster: settings.name,
            node: settings.node,
            incarnation: incarnation.number(),
            boot,
            versions: Local::VERSIONS,
            members: settings.members,
            port: settings.ports.session,
            renew: settings.renew,
            policy: receiver,
            reach: own.clone(),
            unwraps,
            workers: settings.workers,
        };
        let incarnation = Mutex::new(incarnation);
        let told = Arc::new(Daemon { worker, recorder, incarnation });
        let machines = Machines {
            own,
            session_port: settings.ports.session,
            known: Arc::clone(&known),
            told: Arc::clone(&told),
        };
        let running = async move {
            let sessions = Sessions::new(local, identity, known, told);
            tokio::select! {
                ended = sessions.run(listener) => ended,
                () = machines.run() => Ok(()),
                () = follow_policy(&policies, &readiness, &policy) => Ok(()),
                () = follow_addresses(addresses, settings.ports.machine, &reach) => Ok(()),
            }
        };
        (member, running)
    }
}

/// Tells the peers which policy is in force.
async fn follow_policy(
    policies: &Policies,
    readiness: &Readiness,
    policy: &watch::Sender<PolicyMark>,
) {
    let mut changes = readiness.changes();
    loop {
        let mark = policies.in_force().map_or_else(PolicyMark::default, |in_force| PolicyMark {
            revision: in_force.revision.number,
            digest: digest(&in_force.revision.digest),
        });
        policy.send_if_modified(|last| std::mem::replace(last, mark) != mark);
        changes.next().await;
    }
}

/// Tells the peers where this machine can be asked.
async fn follow_addresses(
    mut addresses: watch::Receiver<Vec<IpAddr>>,
    port: u16,
    reach: &watch::Sender<Reach>,
) {
    loop {
        let addresses_now = addresses.borrow_and_update().clone();
        reach.send_replace(Reach { port, addresses: addresses_now });
        if addresses.changed().await.is_err() {
            // The network is no longer watched, which is said elsewhere.
            std::future::pending::<()>().await;
        }
    }
}

/// A digest out of its hexadecimal text.
fn digest(text: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok();
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    digest
}

/// Where the sessions' news go.
#[derive(Debug)]
struct Daemon {
    worker: WorkerHandle,
    recorder: Recorder,
    incarnation: Mutex<Incarnation<Disk>>,
}

impl Told for Daemon {
    async fn session(&self, change: SessionChange) {
        // A thread that has ended needs no keys.
        let _ = self.worker.send_all(|| Command::Session(change.clone())).await;
    }

    fn event(&self, message: String) {
        self.recorder.node(message);
    }

    fn outgrown(&self, seen: u64) {
        let mut incarnation = self.incarnation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = incarnation.outgrow(seen) {
            tracing::error!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let text: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest(&text), std::array::from_fn(|at| at as u8));
    }
}
