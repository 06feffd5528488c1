//! Whether the node may be given traffic, and what stands in the way.
//!
//! One value, written by whoever knows (policy, guard, network, packet thread, shutdown) and read by
//! the health endpoint, the API, metrics and systemd's watchdog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gabion_engine::{ClusterStatus, DropReason, NodeState, Presence, WorkerId};
use tokio::sync::watch;

use crate::azure::Notice;
use crate::cluster::add_status;

/// What stands in the way of readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// By its configuration, with the reason.
    Held(String),
    NoPolicy,
    GuardMissing,
    /// With the interface and what is wrong with it.
    DatapathNotProved(String),
    WorkerStalled,
    /// The node has not learnt yet what the others know; with how far it is.
    Syncing(String),
    /// Its flows are handed over; with how many are left.
    Draining(String),
    Stopping,
}

impl Obstacle {
    /// The name in the API, in metrics and in the body of a probe's answer.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::NoPolicy => "no-policy",
            Self::GuardMissing => "guard-missing",
            Self::DatapathNotProved(_) => "datapath-not-proved",
            Self::WorkerStalled => "worker-stalled",
            Self::Syncing(_) => "syncing",
            Self::Draining(_) => "draining",
            Self::Stopping => "stopping",
        }
    }

    /// Every label, for metrics.
    pub const LABELS: [&'static str; 8] = [
        "held",
        "no-policy",
        "guard-missing",
        "datapath-not-proved",
        "worker-stalled",
        "syncing",
        "draining",
        "stopping",
    ];

    /// What to look at.
    pub fn detail(&self) -> &str {
        match self {
            Self::NoPolicy => "no policy is in force: gabion push",
            Self::GuardMissing => "the guard of the host's stack is not in place",
            Self::Held(why)
            | Self::DatapathNotProved(why)
            | Self::Syncing(why)
            | Self::Draining(why) => why,
            Self::WorkerStalled => "a packet thread does not turn",
            Self::Stopping => "the node is stopping",
        }
    }
}

/// The state that readiness follows from; not ready until everything has been said.
#[derive(Debug)]
pub struct Readiness {
    started: Instant,
    stall: Duration,
    /// Why the node is held, from its start to its end.
    hold: Option<String>,
    policy: AtomicBool,
    guard: AtomicBool,
    stopping: AtomicBool,
    /// A node that stands alone has its probes sent away.
    withdrawn: AtomicBool,
    /// Nanoseconds from `started` to each packet thread's last turn. Before the first it has as long as
    /// for any other; what it has proved by then is another matter.
    heartbeats: Box<[AtomicU64]>,
    paths: Mutex<Paths>,
    /// How far the node is in its cluster; `None` where it is ready, or stands alone.
    cluster: Mutex<Workers>,
    /// Limits that are reached now: the node is ready, and somebody should know.
    limits: Mutex<BTreeSet<(DropReason, WorkerId)>>,
    /// What is planned for this machine and others of its set.
    planned: Mutex<Vec<Notice>>,
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct Paths {
    network: Result<(), String>,
    datapath: Result<(), String>,
}

impl Readiness {
    /// Of a node with one packet thread.
    pub fn new(stall: Duration) -> Self {
        Self::of_workers(stall, 1)
    }

    pub fn of_workers(stall: Duration, workers: u16) -> Self {
        Self {
            started: Instant::now(),
            stall,
            hold: None,
            policy: AtomicBool::new(false),
            guard: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            heartbeats: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            paths: Mutex::new(Paths {
                network: Err("the network is not known yet".to_owned()),
                datapath: Err("the data interfaces are not open yet".to_owned()),
            }),
            cluster: Mutex::default(),
            limits: Mutex::default(),
            planned: Mutex::default(),
            changes: watch::Sender::new(()),
        }
    }

    /// Of a node that is never ready if there is a reason.
    #[must_use]
    pub fn held(self, hold: Option<String>) -> Self {
        Self { hold, ..self }
    }

    /// Why the node is held, if it is.
    pub fn hold(&self) -> Option<&str> {
        self.hold.as_deref()
    }

    pub fn policy_in_force(&self) {
        self.policy.store(true, Ordering::Release);
        self.changes.send_replace(());
    }

    pub fn guard_in_place(&self, in_place: bool) {
        self.guard.store(in_place, Ordering::Release);
        self.changes.send_replace(());
    }

    /// What the kernel last told of the data interfaces.
    pub fn network(&self, known: Result<(), String>) {
        self.path(|paths| &mut paths.network, known);
    }

    /// What the datapath last found when it tried its ports.
    pub fn datapath(&self, proof: Result<(), String>) {
        self.path(|paths| &mut paths.datapath, proof);
    }

    fn path(&self, which: fn(&mut Paths) -> &mut Result<(), String>, found: Result<(), String>) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let last = which(&mut paths);
        if *last != found {
            *last = found;
            self.changes.send_replace(());
        }
    }

    /// How far the node is in its cluster.
    pub fn cluster(&self, status: Option<&ClusterStatus>) {
        for worker in (0..).map(WorkerId).take(self.heartbeats.len()) {
            self.cluster_of(worker, status.cloned().unwrap_or_default());
        }
    }

    /// How far one packet thread is: the node is as far as all are.
    pub fn cluster_of(&self, worker: WorkerId, status: ClusterStatus) {
        let mut known = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.obstacle();
        known.0.insert(worker, status);
        let label = |obstacle: &Option<Obstacle>| obstacle.as_ref().map(Obstacle::label);
        let has_changed = label(&before) != label(&known.obstacle());
        drop(known);
        if has_changed {
            self.changes.send_replace(());
        }
    }

    /// A packet thread's share of a limit is reached from now on, or no longer.
    pub fn limit(&self, worker: WorkerId, limit: DropReason, is_reached: bool) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if is_reached {
            limits.insert((limit, worker));
        } else {
            limits.remove(&(limit, worker));
        }
    }

    /// The limits that are reached now; none of them makes the node less ready.
    pub fn limits_reached(&self) -> Vec<DropReason> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reached: Vec<_> = limits.iter().map(|(limit, _)| *limit).collect();
        reached.dedup();
        reached
    }

    /// A node that stands alone wants no more traffic, or wants it again.
    pub fn withdraw(&self, withdrawn: bool) {
        self.withdrawn.store(withdrawn, Ordering::Release);
        self.changes.send_replace(());
    }

    /// What is planned from now on; none of it makes the node less ready by itself.
    pub fn planned(&self, notices: Vec<Notice>) {
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = notices;
    }

    /// What is planned for this machine and others of its set.
    pub fn notices(&self) -> Vec<Notice> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.changes.send_replace(());
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Returns when the node stops.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<'_> {
        let mut changes = self.changes();
        async move {
            while !self.is_stopping() {
                changes.next().await;
            }
        }
    }

    /// The only packet thread has turned.
    pub fn beat(&self) {
        self.beat_of(WorkerId(0));
    }

    /// A packet thread has turned.
    pub fn beat_of(&self, worker: WorkerId) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(heartbeat) = self.heartbeats.get(usize::from(worker.0)) {
            heartbeat.store(now, Ordering::Release);
        }
    }

    /// Whether every packet thread turned lately.
    pub fn worker_turns(&self) -> bool {
        let beats = self.heartbeats.iter().map(|beat| beat.load(Ordering::Acquire));
        let first = Duration::from_nanos(beats.min().unwrap_or(0));
        self.started.elapsed().saturating_sub(first) < self.stall
    }

    /// Everything that stands in the way; empty when ready.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let datapath = self.what_is_wrong_with_paths();
        [
            self.hold.clone().map(Obstacle::Held),
            (!self.policy.load(Ordering::Acquire)).then_some(Obstacle::NoPolicy),
            (!self.guard.load(Ordering::Acquire)).then_some(Obstacle::GuardMissing),
            datapath.map(Obstacle::DatapathNotProved),
            (!self.worker_turns()).then_some(Obstacle::WorkerStalled),
            self.cluster.lock().unwrap_or_else(PoisonError::into_inner).obstacle(),
            self.withdrawn.load(Ordering::Acquire).then(|| {
                Obstacle::Draining("new connections go elsewhere until it is over".to_owned())
            }),
            self.stopping.load(Ordering::Acquire).then_some(Obstacle::Stopping),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn what_is_wrong_with_paths(&self) -> Option<String> {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.network.clone().and_then(|()| paths.datapath.clone()).err()
    }

    pub fn is_ready(&self) -> bool {
        self.obstacles().is_empty()
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// To be told of changes from now on.
    pub fn changes(&self) -> Changes {
        Changes { changes: self.changes.subscribe(), stall: self.stall }
    }
}

/// How far each packet thread is in its cluster; of a node that stands alone, nothing.
#[derive(Debug, Default)]
struct Workers(BTreeMap<WorkerId, ClusterStatus>);

impl Workers {
    fn obstacle(&self) -> Option<Obstacle> {
        let mut statuses = self.0.values();
        let mut whole = statuses.next()?.clone();
        statuses.for_each(|status| add_status(&mut whole, status));
        what_is_missing(&whole)
    }
}

/// What keeps a member of a cluster from being ready.
fn what_is_missing(status: &ClusterStatus) -> Option<Obstacle> {
    let alive = status.members.iter().filter(|member| member.presence == Presence::Alive);
    let (alive, others) = (alive.count(), status.members.len());
    match status.state {
        NodeState::Ready => None,
        NodeState::Joining => Some(Obstacle::Syncing(format!(
            "{alive} of {others} other members are there, and this node learns what they know: gabion cluster status"
        ))),
        NodeState::Draining => {
            let left = status.owned.saturating_sub(status.closing);
            Some(Obstacle::Draining(format!("{left} flows are left to hand over")))
        }
    }
}

/// Waits for changes of readiness; none is missed between two calls.
#[derive(Debug)]
pub struct Changes {
    changes: watch::Receiver<()>,
    stall: Duration,
}

impl Changes {
    /// Returns once readiness may have changed. A stall announces itself to nobody, so this also
    /// returns every `stall` / 2.
    pub async fn next(&mut self) {
        let _ = tokio::time::timeout(self.stall / 2, self.changes.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(readiness: &Readiness) -> Vec<&'static str> {
        readiness.obstacles().iter().map(Obstacle::label).collect()
    }

    #[test]
    fn ready_takes_all_and_each_alone_is_in_the_way() {
        let readiness = Readiness::new(Duration::from_secs(3600));
        assert_eq!(labels(&readiness), &Obstacle::LABELS[1..4]);
        readiness.policy_in_force();
        assert_eq!(labels(&readiness), &Obstacle::LABELS[2..4]);
        readiness.guard_in_place(true);
        readiness.network(Ok(()));
        readiness.datapath(Ok(()));
        readiness.beat();
        assert!(readiness.is_ready());
        readiness.guard_in_place(false);
        assert_eq!(labels(&readiness), ["guard-missing"]);
        readiness.guard_in_place(true);
        readiness.datapath(Err("interface ext (eth1) is down".into()));
        assert_eq!(readiness.obstacles()[0].detail(), "interface ext (eth1) is down");
        readiness.datapath(Ok(()));
        readiness.stop();
        assert_eq!(labels(&readiness), ["stopping"]);
    }

    #[test]
    fn what_is_held_is_never_ready() {
        let readiness = Readiness::new(Duration::from_secs(3600)).held(Some("no data".into()));
        readiness.policy_in_force();
        readiness.guard_in_place(true);
        readiness.network(Ok(()));
        readiness.datapath(Ok(()));
        readiness.beat();
        assert_eq!(readiness.obstacles(), [Obstacle::Held("no data".into())]);
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_thread_that_does_not_turn_is_noticed() {
        let readiness = Readiness::new(Duration::ZERO);
        readiness.beat();
        assert!(labels(&readiness).contains(&"worker-stalled"));
    }
}
