//! One node: its engine, and what its shell does around it.

use std::collections::{BTreeMap, BTreeSet};

use gabion_engine::{
    ClusterConfig, Engine, EngineConfig, Event, Frame, Generation, InterfaceId, Limits, Neighbour,
    NodeId, NodeState, Offload, Session, Time, Verdict, WRAPPED_FRAME, WorkerId, Wrapped,
};

use crate::fast_path::{ModelTable, Moved};
use crate::words;

use super::company::{Board, Place};
use super::{Company, policy};

const LIMITS: Limits = Limits {
    flows: 512,
    mappings: 512,
    fragmented_datagrams: 16,
    fragments_per_datagram: 16,
    fragment_bytes: 65_536,
    parked_per_neighbour: 64,
    parked: 256,
    neighbours: 64,
    transmit_queue: 1_024,
    events: 256,
};

/// Numbers behind the newest that a session's window refuses.
const WINDOW: u64 = 1_024;
/// How long the keys of the session before are taken, in nanoseconds.
const OVERLAP: u64 = 10_000_000_000;
/// Datagrams that one turn may send: a node that says more does not stop.
const TALKATIVE: usize = 5_000;
/// What waits in the rings and sockets of a process that stands still.
const RING: usize = 512;

pub(super) struct Node {
    pub(super) index: usize,
    /// The machine that it is a worker of, and its place there.
    pub(super) machine: usize,
    worker: usize,
    /// All machines' members.
    machines: Vec<Vec<NodeId>>,
    pub(super) engine: Option<Engine>,
    /// A machine that runs refuses what comes for a process that does not.
    pub(super) is_on: bool,
    pub(super) is_paused: bool,
    pub(super) waiting: Vec<Input>,
    pub(super) incarnation: u64,
    clock: Clock,
    pub(super) policy: usize,
    generation: u64,
    pub(super) is_draining: bool,
    pub(super) busy_until: u64,
    pub(super) is_slow: bool,
    pub(super) wakes_at: u64,
    pub(super) sessions: Vec<Option<Ends>>,
    pub(super) corrupt: u64,
    /// Where the kernel moves flows by itself.
    pub(super) fast: Option<ModelTable>,
    /// What is there is an earlier process's.
    takes_over: bool,
}

/// This side of a session.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) number: u64,
    pub(super) peer_incarnation: u64,
    before: Option<(u64, u64)>,
    counter: u64,
    /// By session: what has come.
    seen: BTreeMap<u64, BTreeSet<u64>>,
}

/// A clock that began anywhere, and goes a little wrong.
#[derive(Debug, Clone, Copy)]
struct Clock {
    booted: u64,
    base: u64,
    /// Its nanoseconds in a million of ours.
    rate: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Input {
    Frame {
        from: InterfaceId,
        bytes: Vec<u8>,
    },
    /// By another worker of the machine.
    Handed {
        from: InterfaceId,
        bytes: Vec<u8>,
    },
    Sync {
        from: usize,
        session: u64,
        counter: u64,
        bytes: Vec<u8>,
        is_corrupt: bool,
    },
    Wrapped {
        from: usize,
        bytes: Vec<u8>,
        is_corrupt: bool,
    },
    Up {
        peer: usize,
        number: u64,
        session: Session,
    },
    /// A peer's process has gone, or even its machine.
    Lost {
        peer: usize,
        is_gone: bool,
    },
    Policy(usize),
    Draining(bool),
    Timer,
}

/// What leaves a node, in the order in which it leaves.
#[derive(Debug)]
pub(super) enum Output {
    Sync { to: usize, session: u64, counter: u64, bytes: Vec<u8> },
    Wrapped(Wrapped),
    Frame { out: InterfaceId, bytes: Vec<u8> },
}

/// For so long others wait to hear of a node.
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(400);

impl Node {
    /// The worker of a machine that has this index of all members'.
    pub(super) fn new(index: usize, workers: &[usize], has_fast_path: bool) -> Self {
        let mut members = (1..).map(NodeId);
        let machines: Vec<Vec<_>> =
            workers.iter().map(|count| members.by_ref().take(*count).collect()).collect();
        let place = |(machine, members): (usize, &Vec<NodeId>)| {
            let worker = members.iter().position(|id| usize::from(id.0) == index + 1)?;
            Some((machine, worker))
        };
        let (machine, worker) = machines.iter().enumerate().find_map(place).unwrap();
        Self {
            index,
            machine,
            worker,
            machines,
            engine: None,
            is_on: true,
            is_paused: false,
            waiting: Vec::new(),
            incarnation: 0,
            clock: Clock { booted: 0, base: 0, rate: 1_000_000 },
            policy: 0,
            generation: 0,
            is_draining: false,
            busy_until: 0,
            is_slow: false,
            wakes_at: u64::MAX,
            sessions: vec![None; workers.iter().sum()],
            corrupt: 0,
            fast: has_fast_path.then(ModelTable::default),
            takes_over: false,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        NodeId(self.index as u8 + 1)
    }

    /// A process begins, with nothing but its configuration and the policy on its disk.
    pub(super) fn start(
        &mut self,
        now: u64,
        company: Company,
        board: &Board,
        random: &mut crate::random::Random,
    ) {
        let ten_years = 10 * 365 * 86_400 * 1_000_000_000;
        self.clock = Clock {
            booted: now,
            base: random.below(ten_years),
            rate: random.between(950_000, 1_050_000),
        };
        self.incarnation += 1;
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&random.key());
        seed[16..].copy_from_slice(&random.key());
        let members = (1..=self.sessions.len() as u8).map(NodeId).collect();
        let cluster = ClusterConfig {
            node: self.id(),
            members,
            machines: self.machines.clone(),
            incarnation: self.incarnation,
            secret: [7; 16],
            sync_mtu: 1_500,
            heartbeat: std::time::Duration::from_millis(100),
            heartbeats_missed: 4,
            reset_lost: true,
        };
        let cluster = (company == Company::Peers).then_some(cluster);
        let config = EngineConfig { limits: LIMITS, seed, cluster };
        let mut engine = Engine::new(self.time(now), config);
        let workers = self.machines[self.machine].len() as u16;
        if workers > 1 {
            let (me, board) = (WorkerId(self.worker as u16), board.clone());
            engine.join_shards(Box::new(Place { me, workers, board }));
        }
        engine.set_network(policy::network(self.machine as u8 + 1));
        self.generation += 1;
        engine.set_rules(Generation(self.generation), policy::rules(self.policy));
        engine.open();
        (self.takes_over, self.engine) = (self.fast.is_some(), Some(engine));
        (self.is_on, self.is_paused, self.is_draining) = (true, false, false);
        self.busy_until = now;
    }

    /// Everything that was in memory is gone.
    pub(super) fn stop(&mut self, stays_on: bool) {
        self.engine = None;
        self.is_on = stays_on;
        self.is_paused = false;
        self.waiting.clear();
        self.sessions.fill(None);
        if stays_on {
            // Until the next process knows what others do.
            self.fast.iter().for_each(ModelTable::keep_relays);
        } else {
            self.fast = self.fast.is_some().then(ModelTable::default);
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.engine.is_some() && !self.is_paused
    }

    pub(super) fn is_ready(&self, now: u64) -> bool {
        let status = self.engine.as_ref().and_then(|engine| engine.cluster_status(self.time(now)));
        self.runs() && status.is_none_or(|status| status.state == NodeState::Ready)
    }

    /// Who is there, for this node.
    pub(super) fn sees(&self, now: u64) -> Vec<String> {
        let status = self.engine.as_ref().and_then(|engine| engine.cluster_status(self.time(now)));
        let Some(status) = status else { return Vec::new() };
        let members = status.members.iter();
        let members =
            members.map(|peer| format!("{} {:?} {:?}", peer.node, peer.presence, peer.state));
        members.chain([format!("itself {:?}", status.state)]).collect()
    }

    /// The flows that are this node's.
    pub(super) fn owns(&self) -> Vec<String> {
        let Some(engine) = &self.engine else { return Vec::new() };
        let flows = engine.flows(0, u32::MAX).0.into_iter();
        let say = |flow: gabion_engine::FlowReport| {
            let (from, to) = (flow.original.source, flow.original.destination);
            format!("node {} owns {from:?} > {to:?} {:?}", self.id(), flow.state)
        };
        flows.map(say).collect()
    }

    /// What this machine's monotonic clock says.
    pub(super) fn time(&self, now: u64) -> Time {
        let since = u128::from(now.saturating_sub(self.clock.booted));
        let passed = since * u128::from(self.clock.rate) / 1_000_000;
        Time::from_nanos(self.clock.base + passed as u64)
    }

    /// When that clock will say so.
    fn moment(&self, time: Time) -> u64 {
        let passed = u128::from(time.as_nanos().saturating_sub(self.clock.base));
        self.clock.booted + (passed * 1_000_000 / u128::from(self.clock.rate)) as u64 + 1
    }

    /// What of a packet's way the kernel goes by itself, whatever its process does.
    pub(super) fn pass(&self, now: u64, input: &Input) -> Option<Output> {
        let (table, time) = (self.fast.as_ref()?, self.time(now));
        let moved = match input {
            Input::Frame { from, bytes } => table.pass(time, *from, bytes)?,
            Input::Wrapped { from, bytes, .. } => {
                table.unwrap(time, NodeId(*from as u8 + 1), bytes)?
            }
            Input::Handed { .. }
            | Input::Sync { .. }
            | Input::Up { .. }
            | Input::Lost { .. }
            | Input::Policy(_)
            | Input::Draining(_)
            | Input::Timer => return None,
        };
        Some(match moved {
            Moved::Out(out, bytes) => Output::Frame { out, bytes },
            Moved::ToPeer(to, bytes) => {
                let stride = bytes.len();
                Output::Wrapped(Wrapped { to, bytes, stride })
            }
        })
    }

    pub(super) fn keep(&mut self, input: Input) {
        if self.waiting.len() < RING {
            self.waiting.push(input);
        }
    }

    /// Takes one input, and says what leaves because of it.
    ///
    /// # Errors
    /// What must not happen.
    pub(super) fn take(&mut self, now: u64, input: Input) -> Result<Vec<Output>, String> {
        let time = self.time(now);
        self.take_over();
        if let Some(table) = &self.fast {
            table.confirm(time + BETWEEN);
        }
        let mut forwarded = None;
        match input {
            Input::Frame { from, mut bytes } => {
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
                if let Verdict::Forward { out } = engine.handle_frame(time, from, &mut frame) {
                    forwarded = Some(Output::Frame { out, bytes });
                }
            }
            Input::Handed { from, mut bytes } => {
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
                if let Verdict::Forward { out } = engine.handle_from_worker(time, from, &mut frame)
                {
                    forwarded = Some(Output::Frame { out, bytes });
                }
            }
            Input::Wrapped { from, bytes, is_corrupt } => {
                forwarded = self.take_wrapped(time, from, bytes, is_corrupt)?;
            }
            Input::Sync { from, session, counter, bytes, is_corrupt } => {
                if is_corrupt || !self.opens(now, from, session, counter) {
                    self.corrupt += 1;
                    return Ok(Vec::new());
                }
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                engine.handle_peer(time, NodeId(from as u8 + 1), &bytes);
            }
            Input::Up { peer, number, session } => self.hold_session(now, peer, number, session),
            Input::Lost { peer, is_gone } => {
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                let session = if is_gone { Session::Gone } else { Session::Lost };
                if !is_gone {
                    self.sessions[peer] = None;
                }
                engine.handle_session(time, NodeId(peer as u8 + 1), session);
            }
            Input::Policy(number) => {
                self.policy = number;
                self.generation += 1;
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                engine.set_rules(Generation(self.generation), policy::rules(number));
            }
            Input::Draining(is_draining) => {
                self.is_draining = is_draining;
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                engine.set_draining(time, is_draining);
            }
            Input::Timer => {
                let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
                engine.handle_timeout(time);
            }
        }
        self.drain(time, forwarded)
    }

    /// A process that knows what others do has its kernel do what it says.
    fn take_over(&mut self) {
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.has_joined()) else {
            return;
        };
        if std::mem::take(&mut self.takes_over) {
            let table = ModelTable::default();
            engine.use_fast_path(Box::new(table.clone()));
            self.fast = Some(table);
        }
    }

    fn take_wrapped(
        &mut self,
        time: Time,
        from: usize,
        mut bytes: Vec<u8>,
        is_corrupt: bool,
    ) -> Result<Option<Output>, String> {
        let Some(engine) = &mut self.engine else { return Ok(None) };
        let verdict = engine.handle_wrapped(time, NodeId(from as u8 + 1), &mut bytes);
        if is_corrupt && !matches!(verdict, Verdict::Drop(_)) {
            return Err(format!("S7: a corrupt wrapped packet is taken: {verdict:?}"));
        }
        let Verdict::Forward { out } = verdict else { return Ok(None) };
        Ok(Some(Output::Frame { out, bytes: bytes[WRAPPED_FRAME..].to_vec() }))
    }

    fn hold_session(&mut self, now: u64, peer: usize, number: u64, session: Session) {
        let Session::Up { incarnation, .. } = session else { return };
        let time = self.time(now);
        let Some(engine) = &mut self.engine else { return };
        let earlier =
            self.sessions[peer].take().filter(|ends| ends.peer_incarnation == incarnation);
        let before = earlier.as_ref().map(|ends| (ends.number, now + OVERLAP));
        let seen = earlier.map(|ends| ends.seen).unwrap_or_default();
        let ends = Ends { number, peer_incarnation: incarnation, before, counter: 0, seen };
        self.sessions[peer] = Some(ends);
        engine.handle_session(time, NodeId(peer as u8 + 1), session);
    }

    /// Whether a sealed datagram is authentic and new.
    fn opens(&mut self, now: u64, from: usize, session: u64, counter: u64) -> bool {
        let Some(ends) = &mut self.sessions[from] else { return false };
        let is_before = ends.before.is_some_and(|(number, until)| number == session && now < until);
        if session != ends.number && !is_before {
            return false;
        }
        let seen = ends.seen.entry(session).or_default();
        let newest = seen.last().copied().unwrap_or(0);
        let is_new = counter + WINDOW > newest && seen.insert(counter);
        if seen.len() > 2 * WINDOW as usize {
            *seen = seen.split_off(&newest.saturating_sub(WINDOW));
        }
        is_new
    }

    fn drain(&mut self, time: Time, forwarded: Option<Output>) -> Result<Vec<Output>, String> {
        let Some(engine) = &mut self.engine else { return Ok(Vec::new()) };
        let mut outputs = Vec::new();
        let mut datagram = Vec::new();
        while let Some(event) = engine.poll_event() {
            if let Event::NeighbourWanted { interface, address } = event {
                let address = address.to_ip();
                let known = Neighbour::Reachable { mac: words::mac_of(address) };
                engine.handle_neighbour(time, interface, address, known);
            }
        }
        // What is said of a flow leaves before its packet.
        while let Some(to) = engine.poll_peer(time, &mut datagram) {
            let to = usize::from(to.0) - 1;
            let bytes = std::mem::take(&mut datagram);
            if let Some(ends) = &mut self.sessions[to] {
                ends.counter += 1;
                let (session, counter) = (ends.number, ends.counter);
                outputs.push(Output::Sync { to, session, counter, bytes });
            }
            if outputs.len() > TALKATIVE {
                return Err("S6: there is no end to what a node says".to_owned());
            }
        }
        while let Some(wrapped) = engine.poll_wrapped() {
            outputs.push(Output::Wrapped(wrapped.clone()));
            engine.recycle(wrapped);
        }
        outputs.extend(forwarded);
        while let Some(sent) = engine.poll_transmit() {
            outputs.push(Output::Frame { out: sent.out, bytes: sent.bytes });
        }
        Ok(outputs)
    }

    /// When the engine wants to be called.
    pub(super) fn timeout(&self, now: u64) -> Option<u64> {
        let due = self.engine.as_ref()?.poll_timeout()?;
        // As a shell that sleeps in steps.
        Some(self.moment(due).max(now + 100_000))
    }
}
