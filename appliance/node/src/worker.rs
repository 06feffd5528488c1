//! A packet thread: one engine, one datapath, one loop. There may be several (`company`).
//!
//! It owns both. Others reach it by [`WorkerHandle`]: commands over a bounded channel
//! (`COMMANDS_DEPTH`; a full one makes the sender wait, never the packets), and the gate, a flag of its
//! own so that closing does not wait behind anything. What comes out goes over bounded channels and is
//! counted, not waited for, when they are full: events to the recorder, neighbours to the network's
//! task. Each turn does a bounded amount of work and then says that it has turned.
//!
//! The thread cannot be cancelled; `Stop` ends it. If it panics the whole process aborts: the guard
//! keeps the host's stack shut, and the service manager starts anew.

mod company;
mod handle;
mod resume;
mod snapshot;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use gabion_datapath::{BATCH, Datapath, FrameMut, Port, ProbeError};
use gabion_engine::{
    Address, Engine, EngineConfig, Event, Explanation, FastPath, FlowReport, Frame, Generation,
    InterfaceId, Neighbour, Network, Offload, Probe, Time, Verdict, WorkerId,
};
use gabion_rules::RuleSet;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::cluster::{Leaving, Links, SessionChange};
use crate::config::DataInterface;
use crate::offload;
use crate::readiness::Readiness;
use crate::record::Recorder;

pub use company::{Company, Meeting};
pub use handle::{Inbox, WorkerGone, WorkerHandle};
pub use snapshot::{Snapshot, WorkerShare};

/// Commands that wait for the packet thread; it takes `COMMANDS_PER_TURN` each turn.
const COMMANDS_DEPTH: usize = 256;
const COMMANDS_PER_TURN: usize = 32;
/// Frames per turn: small enough that commands are looked at every fraction of a millisecond, large
/// enough to spread the cost of a turn.
const FRAMES_PER_TURN: u32 = 256;
const EVENTS_PER_TURN: usize = 1_024;
/// How long the thread sleeps at most: a quarter of the shortest stall limit.
const TICK: Duration = Duration::from_millis(25);
/// How often the ports are tried.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// How often readiness is told how far the node is in its cluster.
const TELL_EVERY: Duration = Duration::from_millis(50);
/// How long a sender waits before it tries a full queue again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);
/// Neighbours that wait to be asked for; one that finds the queue full is wanted again by the next
/// packet.
pub const NEIGHBOURS_DEPTH: usize = 1_024;

/// What the packet thread is asked to do between packets.
#[derive(Debug)]
pub enum Command {
    SetRules {
        generation: Generation,
        rules: Arc<RuleSet>,
        /// The same at members with the same policy.
        hash: u64,
        /// Of all packet threads.
        meeting: Meeting,
        done: oneshot::Sender<LiveFlows>,
    },
    SetNetwork(Network),
    Neighbour {
        interface: InterfaceId,
        address: std::net::IpAddr,
        neighbour: Neighbour,
    },
    Explain {
        probe: Probe,
        /// Who is asked: whoever is found to know answers whatever he knows.
        to: WorkerId,
        answer: oneshot::Sender<Explained>,
    },
    Snapshot {
        answer: oneshot::Sender<Snapshot>,
    },
    Flows {
        from: u32,
        limit: u32,
        answer: oneshot::Sender<FlowPage>,
    },
    Session(SessionChange),
    SetDraining {
        draining: bool,
        done: oneshot::Sender<()>,
    },
    Stop,
}

/// What a packet thread says about a packet.
#[derive(Debug)]
pub enum Explained {
    Here(Generation, Explanation),
    /// That one has its flow, or would decide it.
    AskedOf(WorkerId),
}

/// How many flows were there when a policy came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveFlows(pub u64);

/// Some flows, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowPage {
    pub flows: Vec<FlowReport>,
    pub next: Option<u32>,
    pub now: Time,
}

/// A neighbour that packets wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourWanted {
    pub interface: InterfaceId,
    pub address: Address,
}

/// What the thread is made of.
#[derive(Debug)]
pub struct Worker<D> {
    pub engine: EngineConfig,
    pub datapath: D,
    /// Where the datapath moves flows by itself.
    pub fast_path: Option<Box<dyn FastPath>>,
    /// As many as the datapath has ports, in their order.
    pub interfaces: Vec<DataInterface>,
    pub clock: Clock,
    pub readiness: Arc<Readiness>,
    pub recorder: Recorder,
    pub neighbours: mpsc::Sender<NeighbourWanted>,
    /// `None`: the node stands alone.
    pub links: Option<Links>,
    /// `None`: it is the only one.
    pub company: Option<Company>,
}

impl<D: Datapath + Send + 'static> Worker<D> {
    /// Starts the only thread. The gate is closed.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    pub fn spawn(self) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
        let (handle, inboxes) = WorkerHandle::open([self.datapath.waker()]);
        let inbox = inboxes.into_iter().next().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((handle, self.spawn_at(inbox)?))
    }

    /// Starts the thread that hears what comes here.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    pub fn spawn_at(mut self, inbox: Inbox) -> io::Result<JoinHandle<()>> {
        for handle in self.links.iter().map(Links::handles) {
            handle?.into_iter().for_each(|socket| self.datapath.watch(socket));
        }
        let name = match self.company.as_ref().map(Company::me) {
            None | Some(WorkerId(0)) => "packets".to_owned(),
            Some(WorkerId(number)) => format!("packets-{number}"),
        };
        std::thread::Builder::new().name(name).spawn(move || {
            let _abort = AbortOnPanic;
            Turns::new(self, inbox).run();
        })
    }
}

/// A panic of this thread alone would leave a daemon that answers and moves nothing.
struct AbortOnPanic;

#[expect(clippy::disallowed_methods, reason = "the panic has been logged by then")]
impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The thread's own state.
struct Turns<D> {
    me: WorkerId,
    engine: Engine,
    generation: Generation,
    network_known: bool,
    /// Until there is something to judge flows by, which an earlier process may have left.
    fast_path: Option<Box<dyn FastPath>>,
    start: Time,
    datapath: D,
    interfaces: Vec<DataInterface>,
    commands: Receiver<Command>,
    gate: Arc<AtomicBool>,
    open: bool,
    stopping: bool,
    /// Work was left over: the next turn does not wait.
    busy: bool,
    probe_at: Time,
    links: Option<Links>,
    company: Option<Company>,
    /// When readiness is told of the cluster next.
    told_at: Time,
    clock: Clock,
    readiness: Arc<Readiness>,
    recorder: Recorder,
    neighbours: mpsc::Sender<NeighbourWanted>,
    /// Of the frames in hand; kept for its capacity.
    verdicts: Vec<Verdict>,
}

impl<D: Datapath> Turns<D> {
    fn new(worker: Worker<D>, Inbox { commands, gate }: Inbox) -> Self {
        let mut engine = Engine::new(worker.clock.now(), worker.engine);
        let me = worker.company.as_ref().map_or(WorkerId(0), Company::me);
        if let Some(company) = &worker.company {
            engine.join_shards(company.shards());
        }
        let bytes = gabion_datapath::use_huge_pages();
        // Where the system has not got it, better here than under load. The node is not ready until
        // the first turn has proved the datapath.
        engine.take_memory(|| worker.readiness.beat_of(me));
        tracing::debug!(bytes, "tables made, huge pages asked for");
        Self {
            me,
            engine,
            generation: Generation(0),
            network_known: false,
            fast_path: worker.fast_path,
            start: worker.clock.now(),
            datapath: worker.datapath,
            interfaces: worker.interfaces,
            commands,
            gate,
            open: false,
            stopping: false,
            busy: true,
            probe_at: Time::ZERO,
            links: worker.links,
            company: worker.company,
            told_at: Time::ZERO,
            clock: worker.clock,
            readiness: worker.readiness,
            recorder: worker.recorder,
            neighbours: worker.neighbours,
            verdicts: Vec::with_capacity(BATCH),
        }
    }

    fn run(&mut self) {
        let mut failing = false;
        while !self.stopping {
            match self.turn() {
                Ok(()) => {
                    self.readiness.beat_of(self.me);
                    failing = false;
                }
                // No heartbeat: if it lasts, the node is not ready and the watchdog bites.
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "the datapath fails");
                    }
                    failing = true;
                    std::thread::sleep(TICK);
                }
            }
        }
        // What the kernel moves goes on: the next process takes it over.
    }

    fn turn(&mut self) -> io::Result<()> {
        self.datapath.wait(Some(self.patience()))?;
        self.busy = false;
        // What waits for a neighbour must not leave through a closed gate either.
        self.follow_gate();
        self.obey();
        self.resume_fast_path();
        let now = self.clock.now();
        self.hear_peers(now);
        self.take_handed(now);
        self.receive(now)?;
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
        }
        // Before the frames, which wait for `flush`: what is said of a new flow leaves before its packet.
        if let Some(links) = &mut self.links {
            links.send(now, &mut self.engine);
        }
        self.drain();
        self.datapath.flush()?;
        if self.probe_at <= now {
            self.probe_at = now + PROBE_EVERY;
            // All see the same interfaces.
            if self.me == WorkerId(0) {
                self.prove();
            }
        }
        if self.told_at <= now {
            self.told_at = now + TELL_EVERY;
            self.tell_of_cluster(now);
        }
        Ok(())
    }

    fn follow_gate(&mut self) {
        if !self.waits_for_remains() {
            follow_gate(&self.gate, &mut self.open, &mut self.engine);
        }
    }

    /// Takes what peers have sent.
    fn hear_peers(&mut self, now: Time) {
        let Self { engine, datapath, links: Some(links), .. } = self else { return };
        // Two system calls less for each frame that comes alone.
        if !datapath.watched() {
            return;
        }
        let mut leave = |leaving: Leaving<'_>| {
            let Leaving { out, buffer, frame, offload, is_last } = leaving;
            let (port, vnet) = (Port(out.0), offload::to_vnet(offload));
            // Copied where the frames behind it are still to be read.
            if is_last {
                datapath.transmit_buffer(port, buffer, frame, vnet);
            } else {
                datapath.transmit(port, &buffer[frame], vnet);
            }
        };
        self.busy |= links.receive(now, engine, &mut leave);
    }

    fn tell_of_cluster(&self, now: Time) {
        if let Some(links) = &self.links {
            let status = links.status(now, &self.engine);
            // They see the same peers, and one of them is enough to have a silent one's machine asked.
            if self.me == WorkerId(0) {
                links.tell_hearing(&status);
            }
            self.readiness.cluster_of(self.me, status);
        }
    }

    fn patience(&self) -> Duration {
        if self.busy {
            return Duration::ZERO;
        }
        let due = self.engine.poll_timeout().map(|due| due.since(self.clock.now()));
        due.map_or(TICK, |due| due.min(TICK))
    }

    fn receive(&mut self, now: Time) -> io::Result<()> {
        let waits = self.waits_for_remains();
        let Self { engine, gate, open, verdicts, .. } = self;
        let mut handle = |frames: &mut [FrameMut<'_>]| {
            // For each batch, all of which has come: nothing that comes after the gate has closed
            // passes.
            if !waits {
                follow_gate(gate, open, engine);
            }
            verdicts.clear();
            let count = frames.len();
            let mut rest = frames.iter_mut();
            let mut batch: [(InterfaceId, Frame<'_>); BATCH] =
                std::array::from_fn(|_| rest.next().map_or_else(nothing, borrow));
            engine.handle_frames(now, &mut batch[..count], verdicts);
            for (frame, verdict) in frames.iter_mut().zip(&*verdicts) {
                frame.out = match *verdict {
                    Verdict::Forward { out } => Some(Port(out.0)),
                    Verdict::Queued { .. }
                    | Verdict::ToPeer { .. }
                    | Verdict::ToWorker { .. }
                    | Verdict::Local
                    | Verdict::Answered
                    | Verdict::Held
                    | Verdict::Drop(_)
                    | Verdict::Reject(_) => None,
                };
            }
        };
        let received = self.datapath.receive(FRAMES_PER_TURN, &mut handle)?;
        self.busy |= received == FRAMES_PER_TURN;
        Ok(())
    }

    fn drain(&mut self) {
        while let Some(frame) = self.engine.poll_transmit() {
            let vnet = offload::to_vnet(frame.offload);
            self.datapath.transmit(Port(frame.out.0), &frame.bytes, vnet);
        }
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.engine.poll_event() else { return };
            match event {
                Event::NeighbourWanted { interface, address } => {
                    let _ = self.neighbours.try_send(NeighbourWanted { interface, address });
                }
                Event::LimitReached { limit } => {
                    self.readiness.limit(self.me, limit, true);
                    self.recorder.event(event);
                }
                Event::LimitOver { limit, .. } => {
                    self.readiness.limit(self.me, limit, false);
                    self.recorder.event(event);
                }
                Event::FlowOpened(_)
                | Event::FlowClosed { .. }
                | Event::Denied(_)
                | Event::Suppressed { .. } => self.recorder.event(event),
            }
        }
        self.busy = true;
    }

    fn prove(&mut self) {
        let found = self.datapath.probe().map_err(|error| {
            let named = |device: &str| {
                let name = self.interfaces.iter().find(|interface| interface.device == *device);
                name.map_or("", |interface| &interface.name).to_owned()
            };
            match error {
                ProbeError::PortGone(device) => {
                    format!("interface {}: device {device} does not exist", named(&device))
                }
                ProbeError::PortDown(device) => {
                    format!(
                        "interface {}: device {device} is down or has no carrier",
                        named(&device)
                    )
                }
            }
        });
        self.readiness.datapath(found);
    }

    fn obey(&mut self) {
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else { return };
            self.command(command);
        }
        self.busy = true;
    }

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        // Whoever asked may have gone; its answer is then dropped.
        match command {
            Command::SetRules { generation, rules, hash, meeting, done } => {
                if self.company.is_some() {
                    // Nor do programs move anything meanwhile: zones are all workers'.
                    self.engine.suspend_fast_path();
                    meeting.wait();
                }
                self.engine.set_rules(generation, rules);
                self.engine.set_policy_hash(hash);
                self.generation = generation;
                let _ = done.send(LiveFlows(self.live_flows()));
            }
            Command::SetNetwork(network) => {
                self.engine.set_network(network);
                self.network_known = true;
            }
            Command::Neighbour { interface, address, neighbour } => {
                self.engine.handle_neighbour(now, interface, address, neighbour);
            }
            Command::Explain { probe, to, answer } => {
                let worker = self.engine.worker_of_probe(&probe);
                // Whoever is asked second answers, even if the flow has moved on meanwhile.
                let _ = answer.send(if worker == self.me || to != WorkerId(0) {
                    Explained::Here(self.generation, self.engine.explain(&probe))
                } else {
                    Explained::AskedOf(worker)
                });
            }
            Command::Snapshot { answer } => {
                let _ = answer.send(self.snapshot(now));
            }
            Command::Flows { from, limit, answer } => {
                self.engine.update_flows(now, from, limit);
                let (flows, next) = self.engine.flows(from, limit);
                let _ = answer.send(FlowPage { flows, next, now });
            }
            Command::Session(change) => {
                if let Some(links) = &mut self.links {
                    links.handle_session(now, &change, &mut self.engine);
                }
            }
            Command::SetDraining { draining, done } => {
                self.engine.set_draining(now, draining);
                self.tell_of_cluster(now);
                let _ = done.send(());
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn live_flows(&self) -> u64 {
        let tables = self.engine.table_use();
        tables.iter().find(|table| table.name == "flows").map_or(0, |table| table.used)
    }

    fn snapshot(&self, now: Time) -> Snapshot {
        Snapshot {
            generation: self.generation,
            counters: self.engine.counters().clone(),
            rules: self.engine.rule_counters().to_vec(),
            tables: self.engine.table_use(),
            ports: (0..self.datapath.port_count())
                .map(|port| self.datapath.counters(Port(port)))
                .collect(),
            exits: self.datapath.exits(),
            hooks: self.datapath.hooks(),
            cluster: self.links.as_ref().map(|links| links.snapshot(now, &self.engine)),
            shares: vec![WorkerShare {
                frames_in: self.engine.counters().frames_in,
                handed_over: self.engine.counters().to_workers,
                flows: self.live_flows(),
            }],
        }
    }
}

/// A received frame as the engine takes it.
fn borrow<'a>(frame: &'a mut FrameMut<'_>) -> (InterfaceId, Frame<'a>) {
    let offload = offload::from_vnet(frame.vnet);
    (InterfaceId(frame.from.0), Frame { bytes: frame.bytes, offload })
}

/// Stands where a batch has no frame.
fn nothing<'a>() -> (InterfaceId, Frame<'a>) {
    (InterfaceId(0), Frame { bytes: &mut [], offload: Offload::default() })
}

fn follow_gate(gate: &AtomicBool, open: &mut bool, engine: &mut Engine) {
    if gate.load(Ordering::Acquire) != *open {
        *open = !*open;
        if *open { engine.open() } else { engine.close() }
    }
}

#[cfg(test)]
mod tests;
