//! The node put together: what is started, in which order, and how it ends.
//!
//! Threads: `packets` (engine and datapath; `packets-1` and on where there are several), `records` (the event log), two of tokio for everything else.
//! Tasks: the network's follower, the guard's supervisor, probes, metrics, the API's servers, the calendar,
//! and the service manager's. All are cancelled at the end; each says in its module why it may be.
//!
//! Nothing passes before the policy that was in force is in force again and the guard has said that it is
//! in place; the gate closes the moment it says otherwise.

mod crew;
mod devices;

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gabion_datapath::ebpf::{
    self, Afterlife, DoorsDatapath, EbpfDatapath, FastPathLimits, FlowTable, OpenFastPathError,
    OpenPinsError, OpenedWorkers, Pins, SyncLink,
};
use gabion_datapath::netlink::{NetworkWatch, StartNetworkWatchError};
use gabion_datapath::{Datapath, Loopback, OpenDatapathError, UserspaceDatapath, UserspaceLimits};
use gabion_engine::{ClusterStatus, EngineConfig, Interface, Network};
use rustls::time_provider::DefaultTimeProvider;
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use self::crew::{Crew, part_of};
use self::devices::wait_for_devices;
use crate::azure::metadata::Metadata;
use crate::azure::{Counts, Pace, ScheduledEvents};
use crate::clock::Clock;
use crate::cluster::{Identity, Member, PreparedCluster, StartClusterError};
use crate::config::{Config, DatapathKind};
use crate::control::{self, ApiListeners, Control, ListenError, ServeError};
use crate::drain::Drain;
use crate::generations::Generations;
use crate::guard::{Guard, GuardProgramError, GuardState};
use crate::health::{BindProbeError, Devices, Health};
use crate::metrics::{self, ListenMetricsError, Metrics};
use crate::network::{Follower, Picture};
use crate::policy::{self, FirstPolicy, Policies, Surroundings};
use crate::readiness::Readiness;
use crate::record::{OpenLogError, Reader, Recorder};
use crate::store::{Disk, LockStateError, Notice, OpenStoreError, StateLock, Store, Stored};
use crate::worker::{Command, NEIGHBOURS_DEPTH, NeighbourWanted, WorkerGone, WorkerHandle};

/// How often it is looked whether a new day has begun.
const CALENDAR_EVERY: Duration = Duration::from_secs(60);

/// What the API's servers have at the end, in which they cut off by themselves what is left.
const API_GRACE: Duration = Duration::from_millis(400);

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Lock(#[from] LockStateError),
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    #[error(transparent)]
    Guard(#[from] GuardProgramError),
    #[error(transparent)]
    Health(#[from] BindProbeError),
    #[error(transparent)]
    Metrics(#[from] ListenMetricsError),
    #[error(transparent)]
    Api(#[from] ListenError),
    #[error(
        "interface {name}: device {device} does not exist; check [interfaces] or wait longer with node.device_wait_ms"
    )]
    NoDevice { name: String, device: String },
    #[error("{0}")]
    FirstPolicy(String),
    #[error("{0}")]
    HalfADevice(String),
    #[error(transparent)]
    Cluster(#[from] StartClusterError),
    #[error(transparent)]
    Log(#[from] OpenLogError),
    #[error("{0}{source}", source = cause(.0))]
    Datapath(#[from] OpenDatapathError),
    #[error("the datapath `ebpf`: {0}; node.datapath = \"userspace\" needs no programs")]
    FastPath(#[source] OpenFastPathError),
    #[error("node.pin_dir: {0}")]
    Pins(#[from] OpenPinsError),
    #[error("cannot watch the kernel's network: {0}{source}", source = cause(.0))]
    Network(#[from] StartNetworkWatchError),
    #[error("cannot start the packet thread: {0}")]
    Worker(#[source] std::io::Error),
    #[error("the system gives no random numbers")]
    Random,
    #[error(transparent)]
    Stopping(#[from] WorkerGone),
}

/// Reads the files that a configuration names and that a start would read.
///
/// # Errors
/// The first that is not as it must be; of the first policy, everything that is wrong with it.
pub fn check_files(config: &Config) -> Result<(), StartError> {
    control::check_tls(&config.api)?;
    if let Some(cluster) = &config.cluster {
        Identity::read(cluster, Arc::new(DefaultTimeProvider)).map_err(StartClusterError::from)?;
    }
    policy::check_first(config).map_err(StartError::FirstPolicy)
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |source| format!(": {source}"))
}

/// Everything that needs privilege or can be refused, opened before anything runs.
#[derive(Debug)]
pub struct Prepared {
    config: Config,
    _lock: StateLock,
    store: Store,
    stored: Option<Stored>,
    first_policy: Option<FirstPolicy>,
    notices: Vec<Notice>,
    api: ApiListeners,
    metrics: Option<std::net::TcpListener>,
    cluster: Option<PreparedCluster>,
    /// Of the datapath `ebpf`: files in /dev and capabilities that are given up later.
    fast: Option<OpenedWorkers>,
    readiness: Arc<Readiness>,
    clock: Clock,
}

impl Prepared {
    /// Opens what is to be opened. Needs a runtime's context, starts no thread.
    ///
    /// # Errors
    /// The first thing that is not as it must be, by name.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let clock = Clock;
        let lock = StateLock::take(&config.node.state_dir)?;
        let (store, stored, notices) =
            Store::open(Disk, &config.node.state_dir, config.node.revisions_kept)?;
        Health::new(&config, Arc::new(Readiness::new(config.node.stall))).check_ports()?;
        if config.moves() {
            guard(&config).check_program()?;
            wait_for_devices(&config)?;
        }
        let metrics = config.metrics.map(metrics::bind).transpose()?;
        // What is damaged is not replaced by what was in force long before it.
        let first_policy =
            (stored.is_none() && notices.is_empty()).then(|| FirstPolicy::read(&config));
        // Others are not to count on a node that is held.
        let cluster = config.cluster.clone().filter(|_| config.node.hold.is_none());
        let cluster = cluster.map(|cluster| {
            let boot = random()?;
            Ok::<_, StartError>(PreparedCluster::new(&config, cluster, boot)?)
        });
        let mut cluster = cluster.transpose()?;
        // A header of the kernel's does not say which worker of a node it is for.
        let alone = cluster.as_ref().filter(|_| config.node.workers == 1);
        let sync = alone.map(PreparedCluster::sync_link);
        let api = control::bind(&config.api)?;
        let fast = match config.node.datapath {
            _ if !config.moves() => None,
            DatapathKind::Ebpf => Some(open_fast_path(&config, sync)?),
            DatapathKind::Auto => open_fast_path(&config, sync)
                .inspect_err(|error| {
                    tracing::warn!("{error}; until then every packet goes through gabiond")
                })
                .ok(),
            DatapathKind::Userspace | DatapathKind::Null => None,
        };
        if let (Some(cluster), Some(opened)) = (&mut cluster, &fast) {
            cluster.set_unwraps(opened.first.unwraps());
        }
        if fast.is_none() && config.node.datapath != DatapathKind::Null {
            end_earlier_programs(&config)?;
        }
        let workers = fast.as_ref().map_or(1, |opened| opened.tables.len() as u16);
        if workers < config.node.workers {
            tracing::warn!(
                "node.workers = {}: without programs there is one, as nobody else could tell whose a packet is",
                config.node.workers
            );
        }
        let readiness = Readiness::of_workers(config.node.stall, workers);
        let readiness = Arc::new(readiness.held(config.node.hold.clone()));
        if cluster.is_some() {
            // Until the engine says otherwise.
            readiness.cluster(Some(&ClusterStatus::default()));
        }
        let _lock = lock;
        Ok(Self {
            config,
            _lock,
            store,
            stored,
            first_policy: first_policy.flatten(),
            notices,
            api,
            metrics,
            cluster,
            fast,
            readiness,
            clock,
        })
    }

    /// Starts the node with the datapath of its configuration.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(mut self) -> Result<Node, StartError> {
        let devices = devices(&self.config);
        if let Some(OpenedWorkers { first, others, tables }) = self.fast.take() {
            return self.start_with(first, others, tables).await;
        }
        match self.config.node.datapath {
            _ if !self.config.moves() => {
                let ports = u16::try_from(devices.len()).unwrap_or(u16::MAX);
                let (datapath, _) = Loopback::new(ports).map_err(StartError::Worker)?;
                self.start_with(datapath, Vec::new(), Vec::new()).await
            }
            DatapathKind::Userspace | DatapathKind::Auto | DatapathKind::Ebpf => {
                let datapath = UserspaceDatapath::open(&devices, rings(&self.config))?;
                self.start_with(datapath, Vec::new(), Vec::new()).await
            }
            DatapathKind::Null => {
                let ports = u16::try_from(devices.len()).unwrap_or(u16::MAX);
                let (datapath, _) = Loopback::new(ports).map_err(StartError::Worker)?;
                self.start_with(datapath, Vec::new(), Vec::new()).await
            }
        }
    }

    async fn start_with<D: Datapath + Send + 'static>(
        self,
        datapath: D,
        others: Vec<DoorsDatapath>,
        tables: Vec<FlowTable>,
    ) -> Result<Node, StartError> {
        let Self { config, readiness, clock, .. } = self;
        let generations = Generations::default();
        let interfaces = config.interfaces.clone();
        let reader =
            Reader { clock, generations: generations.clone(), interfaces: interfaces.clone() };
        let (recorder, records) = Recorder::start(&config.log, reader)?;
        let (neighbours, wanted) = mpsc::channel(NEIGHBOURS_DEPTH);
        let engine = engine(&config, self.cluster.as_ref(), 1 + others.len())?;
        let secret = random()?;
        let (links, membership) = self.cluster.map(|cluster| cluster.split(secret)).unzip();
        let crew = Crew {
            engine,
            interfaces: interfaces.clone(),
            clock,
            readiness: Arc::clone(&readiness),
            recorder: recorder.clone(),
            neighbours,
            challenge_key: random()?,
        };
        let (worker, packets) =
            crew.start(datapath, others, tables, links).map_err(StartError::Worker)?;
        let around = Surroundings {
            interfaces,
            generations,
            worker: worker.clone(),
            recorder: recorder.clone(),
            readiness: Arc::clone(&readiness),
        };
        let policies = Arc::new(Policies::new(self.store, around.clone()));
        let mut node = Node {
            tasks: JoinSet::new(),
            api: JoinSet::new(),
            readiness,
            worker,
            recorder,
            member: None,
            packets,
            records,
            _lock: self._lock,
        };
        let addresses = node.connect(&config, wanted).await?;
        // Waits for the packet thread, which makes large tables for seconds; probes are answered
        // meanwhile. Nothing passes without a policy.
        policies.restore(self.stored, self.first_policy, &self.notices).await?;
        let member = membership.map(|membership| {
            let (member, running) = membership.start(&around, Arc::clone(&policies), addresses);
            node.tasks.spawn(async { running.await.map_err(ServeError::from) });
            member
        });
        node.member.clone_from(&member);
        let drain = Arc::new(Drain::new(&around, member.is_some()));
        let counts = node.follow_events(&config, &around, &drain, clock);
        if let Some(listener) = self.metrics {
            let (around, policies) = (around.clone(), Arc::clone(&policies));
            let (member, events, last) = (member.clone(), counts, Mutex::default());
            let metrics = Metrics { around, policies, member, events, last };
            node.tasks.spawn(metrics.serve(listener));
        }
        node.tasks.spawn(follow_calendar(Arc::clone(&policies)));
        let control = control(config, around, policies, member, drain, clock);
        node.api.spawn(self.api.serve(control));
        Ok(node)
    }
}

fn control(
    config: Config,
    around: Surroundings,
    policies: Arc<Policies>,
    member: Option<Member>,
    drain: Arc<Drain>,
    clock: Clock,
) -> Control {
    let Surroundings { interfaces, generations, worker, recorder, readiness } = around;
    Control {
        node: config.node.name,
        interfaces,
        policies,
        worker,
        generations,
        recorder,
        readiness,
        watchers: Arc::new(Semaphore::new(config.api.watchers)),
        clock,
        drain,
        member,
    }
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    tasks: JoinSet<Result<(), ServeError>>,
    /// Ends by itself when the node stops.
    api: JoinSet<Result<(), ServeError>>,
    readiness: Arc<Readiness>,
    worker: WorkerHandle,
    recorder: Recorder,
    member: Option<Member>,
    packets: Vec<JoinHandle<()>>,
    records: JoinHandle<()>,
    _lock: StateLock,
}

impl Node {
    /// Joins the node to the kernel: its network, its devices and the guard of its stack. Returns the addresses of its data
    /// interfaces.
    async fn connect(
        &mut self,
        config: &Config,
        wanted: mpsc::Receiver<NeighbourWanted>,
    ) -> Result<watch::Receiver<Vec<IpAddr>>, StartError> {
        let (addresses, known_addresses) = watch::channel(Vec::new());
        let devices = watch::Sender::new(Devices::new());
        let health = Health::new(config, Arc::clone(&self.readiness));
        let probes = devices.subscribe();
        self.tasks.spawn(async move {
            health.serve(probes).await;
            Ok(())
        });
        if config.node.datapath == DatapathKind::Null {
            // Nothing to guard, and nothing passes: that is what probes have to hear.
            devices.send_replace(Devices::from([("lo".to_owned(), 1)]));
            self.worker.send_all(|| Command::SetNetwork(bare_network(config))).await?;
            self.readiness.network(Err("node.datapath is `null`: no packet moves".to_owned()));
            self.readiness.guard_in_place(true);
            return Ok(known_addresses);
        }
        let (watch, events) = NetworkWatch::start().await?;
        let picture =
            Picture::new(config.interfaces.clone(), config.host_ports(), config.host_services());
        let follower = Follower {
            picture,
            worker: self.worker.clone(),
            readiness: Arc::clone(&self.readiness),
            devices,
            addresses,
            neighbours_max: usize::try_from(config.limits.neighbours).unwrap_or(usize::MAX),
        };
        self.tasks.spawn(async move {
            follower.run(watch, events, wanted).await;
            Ok(())
        });
        let (worker, readiness) = (self.worker.clone(), Arc::clone(&self.readiness));
        let recorder = self.recorder.clone();
        let mut in_place = false;
        let report = move |state: GuardState| {
            let now = state == GuardState::InPlace;
            // Packets pass no earlier than the log says, and none does any more when it says so.
            if !now {
                worker.set_gate(false);
            }
            if std::mem::replace(&mut in_place, now) != now {
                recorder.node(match state {
                    GuardState::InPlace => "the guard is in place: packets may pass".to_owned(),
                    GuardState::Missing(why) => {
                        format!("the guard is missing: {why}: nothing passes")
                    }
                });
            }
            if now {
                worker.set_gate(true);
            }
            readiness.guard_in_place(now);
        };
        if config.interfaces.is_empty() {
            // Held, and nobody knows which interfaces are ours.
            self.readiness.guard_in_place(true);
            return Ok(known_addresses);
        }
        let guard = guard(config);
        self.tasks.spawn(async move {
            guard.supervise(report).await;
            Ok(())
        });
        Ok(known_addresses)
    }

    /// Follows what Azure has planned for this machine, if that is wanted.
    fn follow_events(
        &mut self,
        config: &Config,
        around: &Surroundings,
        drain: &Arc<Drain>,
        clock: Clock,
    ) -> Option<Arc<Counts>> {
        let address = config.azure.scheduled_events?;
        let counts = Arc::new(Counts::default());
        let events = ScheduledEvents {
            metadata: Metadata { address },
            pace: Pace::AZURE,
            clock,
            worker: around.worker.clone(),
            drain: Arc::clone(drain),
            member: self.member.clone(),
            readiness: Arc::clone(&around.readiness),
            recorder: around.recorder.clone(),
            counts: Arc::clone(&counts),
        };
        self.tasks.spawn(async move {
            events.run().await;
            Ok(())
        });
        Some(counts)
    }

    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
    }

    /// Opens the log files anew, and reads the cluster's certificates again.
    pub fn reload(&self) {
        self.recorder.reopen();
        let Some(member) = &self.member else { return };
        self.recorder.node(match member.read_certificates() {
            Ok(()) => "the cluster's certificates have been read again".to_owned(),
            Err(error) => format!("{error}: those that were read before stay"),
        });
    }

    /// Returns when a part of the node has failed that it cannot do without.
    pub async fn failed(&mut self) -> String {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.tasks.join_next() => ended,
                Some(ended) = self.api.join_next() => ended,
                else => std::future::pending().await,
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Stops: probes say so, requests get a moment to end, packets end, and what was recorded is written.
    pub async fn stop(mut self) {
        self.readiness.stop();
        self.recorder.node("the node is stopping");
        // Probes are answered until everything else has ended.
        let servers = async { while self.api.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(API_GRACE, servers).await;
        self.worker.stop();
        let packets = self.packets;
        let join = move || packets.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
        self.tasks.shutdown().await;
        self.recorder.stop();
        let records = self.records;
        let _ = tokio::task::spawn_blocking(move || records.join()).await;
    }
}

fn guard(config: &Config) -> Guard {
    let devices = config.interfaces.iter().map(|interface| interface.device.clone()).collect();
    Guard::new(&config.guard_program, devices, &config.host_ports(), config.azure.host_services)
}

/// Interfaces without devices, for a node that moves no packets.
fn bare_network(config: &Config) -> Network {
    let interface = |name: &str| Interface {
        name: name.to_owned(),
        mac: [0; 6],
        mtu: 1_500,
        up: true,
        addresses: Vec::new(),
    };
    let interfaces = config.interfaces.iter().map(|data| interface(&data.name)).collect();
    Network { interfaces, ..Network::default() }
}

async fn follow_calendar(policies: Arc<Policies>) -> Result<(), ServeError> {
    loop {
        tokio::time::sleep(CALENDAR_EVERY).await;
        if policies.follow_calendar().await.is_err() {
            return Ok(());
        }
    }
}

fn engine(
    config: &Config,
    cluster: Option<&PreparedCluster>,
    workers: usize,
) -> Result<EngineConfig, StartError> {
    Ok(EngineConfig {
        limits: part_of(config.limits, workers),
        seed: random()?,
        cluster: cluster.map(PreparedCluster::engine),
    })
}

fn devices(config: &Config) -> Vec<&str> {
    config.interfaces.iter().map(|interface| interface.device.as_str()).collect()
}

fn rings(config: &Config) -> UserspaceLimits {
    UserspaceLimits { ring_mebibytes: config.node.ring_mebibytes, ..UserspaceLimits::RECOMMENDED }
}

fn open_fast_path(config: &Config, sync: Option<SyncLink>) -> Result<OpenedWorkers, StartError> {
    let limits = FastPathLimits {
        flows: config.limits.flows,
        // As much as the engine has for flows of other nodes.
        relays: if sync.is_some() { config.limits.flows / 4 } else { 0 },
        hops: config.limits.neighbours,
        workers: config.node.workers,
    };
    let seed = [u64::from_ne_bytes(random()?), u64::from_ne_bytes(random()?)];
    let pins = match Pins::open(&config.node.pin_dir) {
        Ok(pins) => Some(pins),
        Err(error @ OpenPinsError::Taken(_)) => return Err(error.into()),
        Err(error) => {
            tracing::warn!("{error}; until then flows end with gabiond");
            None
        }
    };
    let afterlife = Afterlife { pins, unconfirmed: config.node.fail_closed_after };
    let mut opened = EbpfDatapath::open_workers(
        &devices(config),
        rings(config),
        limits,
        seed,
        afterlife,
        config.node.hook,
        sync,
    )
    .map_err(StartError::FastPath)?;
    opened.tables[0].set_host_ports(&config.host_ports());
    Ok(opened)
}

/// Programs of before would move what this process knows nothing of.
fn end_earlier_programs(config: &Config) -> Result<(), StartError> {
    match ebpf::detach(&config.node.pin_dir) {
        // Another node's, of another network namespace.
        Ok(_) | Err(OpenPinsError::Taken(_)) => Ok(()),
        Err(error @ (OpenPinsError::Mount { .. } | OpenPinsError::Make { .. })) => {
            Err(error.into())
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| StartError::Random)?;
    Ok(bytes)
}
