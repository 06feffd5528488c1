//! Virtual time, and everything that happens in it, one thing after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use gabion_engine::Wrapped;

use crate::random::Random;
use crate::walk::{Kind as Seen, read_packet};
use crate::words;

use super::Company;
use super::balancer::Balancer;
use super::company::Board;
use super::conversation::Course;
use super::host::Host;
use super::invariants::{HANGS, Watch};
use super::node::{Input, Node, Output};
use super::policy::{EXT, INT};
use super::schedule::{END, FAULTS_UNTIL, MILLISECOND, SECOND, Schedule, Weather};

/// Outside and inside: hosts, balancers and interfaces have the same numbers.
pub(super) const SIDES: usize = 2;

#[derive(Debug, Clone)]
pub(super) enum Event {
    HostWakes(usize),
    NodeWakes(usize),
    ToBalancer { side: usize, frame: Vec<u8> },
    ToNode { node: usize, input: Input },
    ToHost { side: usize, frame: Vec<u8> },
    Probe { side: usize, node: usize },
    Meet { one: usize, other: usize },
    Fault(usize),
    Flap { from: usize, to: usize, until: u64 },
    Begin(usize),
    Ask(usize),
    Stray,
    Look,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) schedule: Schedule,
    /// The members: workers of the machines, one after the other.
    pub(super) nodes: Vec<Node>,
    /// By machine: what its workers share.
    pub(super) boards: Vec<Board>,
    pub(super) courses: Vec<Course>,
    pub(super) watch: Watch,
    pub(super) tracing: bool,
    pub(super) told: Vec<String>,
    owned: BTreeSet<String>,
    pub(super) random: Random,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    pub(super) number: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) hosts_wake: Vec<u64>,
    pub(super) balancers: Vec<Balancer>,
    pub(super) cut: Vec<Vec<bool>>,
    pub(super) weather: Weather,
    pub(super) sessions: u64,
    /// The number of the session that two nodes have last agreed on.
    pub(super) agreed: BTreeMap<(usize, usize), (u64, [u64; 2], u8)>,
    pub(super) steps: u64,
}

/// The client's port of a conversation.
pub(super) fn client_port(conversation: usize) -> u16 {
    20_000 + conversation as u16
}

/// So long something is on its way from one worker of a machine to another.
const BESIDE: u64 = 10_000;

/// Ports of strangers who belong to no conversation.
pub(super) const STRANGERS: u16 = 40_000;

impl World {
    pub(super) fn new(schedule: Schedule, company: Company) -> Self {
        let mut random = Random::new(schedule.seed ^ 0x5eed);
        let nodes = schedule.nodes;
        let has_fast_path = schedule.seed & super::FAST_PATH != 0;
        let mut world = Self {
            now: MILLISECOND,
            nodes: (0..schedule.workers.iter().sum())
                .map(|index| Node::new(index, &schedule.workers, has_fast_path))
                .collect(),
            boards: (0..nodes).map(|_| Board::default()).collect(),
            courses: vec![Course::default(); schedule.plans.len()],
            watch: Watch::new(nodes, schedule.plans.len()),
            tracing: false,
            told: Vec::new(),
            owned: BTreeSet::new(),
            events: BTreeMap::new(),
            number: 0,
            hosts: vec![
                Host::new(
                    ["198.51.100.9", "2600:9::9"],
                    ["198.51.100.1", "fe80::1"],
                    random.next(),
                ),
                Host::new(["10.1.0.10", "2600:2::10"], ["10.1.0.1", "fe80::1"], random.next()),
            ],
            hosts_wake: vec![u64::MAX; SIDES],
            balancers: (0..SIDES)
                .map(|_| Balancer::new(random.next(), schedule.mode, nodes))
                .collect(),
            cut: vec![vec![false; nodes]; nodes],
            weather: schedule.weathers[0],
            sessions: 0,
            agreed: BTreeMap::new(),
            random,
            schedule,
            steps: 0,
        };
        world.prepare(company);
        world
    }

    fn prepare(&mut self, company: Company) {
        for side in 0..SIDES {
            for port in [443, 8_443] {
                for _ in 0..self.schedule.plans.len() + 8 {
                    self.hosts[side].listen(port);
                }
            }
            for node in 0..self.schedule.nodes {
                self.at(self.now + self.random.clone().below(SECOND), Event::Probe { side, node });
            }
        }
        for node in 0..self.nodes.len() {
            let machine = self.nodes[node].machine;
            if self.schedule.starts[machine] {
                let mut random = Random::new(self.random.next());
                self.nodes[node].start(self.now, company, &self.boards[machine], &mut random);
                self.at(self.now, Event::NodeWakes(node));
            }
            for other in node + 1..self.nodes.len() {
                self.at(self.now + 10 * MILLISECOND, Event::Meet { one: node, other });
            }
        }
        for (place, plan) in self.schedule.plans.clone().iter().enumerate() {
            self.at(plan.starts, Event::Begin(place));
        }
        for (place, (at, _)) in self.schedule.faults.clone().iter().enumerate() {
            self.at(*at, Event::Fault(place));
        }
        self.at(SECOND, Event::Stray);
        self.at(SECOND, Event::Look);
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number), event);
    }

    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            self.told.push(format!("{:>12.6} {}", self.now as f64 / 1e9, what()));
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The invariant that does not hold, and what was seen.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let mut has_ended = false;
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at >= END {
                break;
            }
            if at >= FAULTS_UNTIL && !has_ended {
                has_ended = true;
                self.end_faults();
            }
            self.now = self.now.max(at);
            self.steps += 1;
            self.take(event)?;
        }
        self.now = END;
        self.judge()
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::HostWakes(side) => {
                if self.hosts_wake[side] <= self.now {
                    self.hosts_wake[side] = u64::MAX;
                    self.run_host(side)?;
                }
            }
            Event::NodeWakes(node) => {
                if self.nodes[node].wakes_at <= self.now || self.nodes[node].wakes_at == u64::MAX {
                    self.nodes[node].wakes_at = u64::MAX;
                    self.give(node, Input::Timer)?;
                }
            }
            Event::ToBalancer { side, frame } => self.balance(side, frame),
            Event::ToNode { node, input } => self.give(node, input)?,
            Event::ToHost { side, frame } => self.arrive(side, frame)?,
            Event::Probe { side, node } => {
                let is_well =
                    self.workers_of(node).all(|worker| self.nodes[worker].is_ready(self.now));
                let was = self.balancers[side].is_up(node);
                self.balancers[side].probed(node, is_well);
                if was != self.balancers[side].is_up(node) {
                    self.tell(|| format!("balancer {side} finds node {} {is_well}", node + 1));
                }
                let next = self.now + 300 * MILLISECOND + self.random.below(50 * MILLISECOND);
                self.at(next, Event::Probe { side, node });
            }
            Event::Meet { one, other } => self.meet(one, other),
            Event::Fault(place) => {
                let (at, fault) = self.schedule.faults[place];
                if at < FAULTS_UNTIL {
                    self.suffer(fault);
                }
            }
            Event::Flap { from, to, until } => {
                let cut = &mut self.cut[from][to];
                *cut = !*cut && self.now < until;
                if self.now < until {
                    self.at(self.now + 50 * MILLISECOND, Event::Flap { from, to, until });
                }
            }
            Event::Begin(number) => self.begin(number)?,
            Event::Ask(number) => self.ask(number),
            Event::Stray => self.stray(),
            Event::Look => {
                self.look()?;
                self.at(self.now + 50 * MILLISECOND, Event::Look);
            }
        }
        Ok(())
    }

    // Balancers and nodes.

    fn balance(&mut self, side: usize, frame: Vec<u8>) {
        let Some(seen) = read_packet(&frame[14..]) else { return };
        let (is_tcp, opens) = match seen.kind {
            Seen::Tcp { syn, acknowledgement, .. } => (true, syn && acknowledgement == 0),
            Seen::Query | Seen::Error { .. } | Seen::Plain => (false, false),
        };
        let Some(node) = self.balancers[side].pick(seen.key, is_tcp, opens) else { return };
        self.tell(|| format!("balancer {side} -> node {}: {}", node + 1, say(&frame)));
        self.watch.steered(self.now, node, &seen.key);
        let from = if side == 0 { EXT } else { INT };
        let at = self.now + 50_000 + self.random.below(100_000);
        let doors = self.workers_of(node);
        let door = match doors.len() as u64 {
            1 => doors.start,
            workers => doors.start + self.random.below(workers) as usize,
        };
        self.at(at, Event::ToNode { node: door, input: Input::Frame { from, bytes: frame } });
    }

    pub(super) fn give(&mut self, index: usize, input: Input) -> Result<(), String> {
        if !self.nodes[index].is_on {
            return Ok(());
        }
        // The kernel is the machine's.
        let passed = self
            .workers_of(self.nodes[index].machine)
            .find_map(|worker| Some((worker, self.nodes[worker].pass(self.now, &input)?)));
        if let Some((worker, output)) = passed {
            return self.leave(worker, output);
        }
        let node = &mut self.nodes[index];
        if node.engine.is_none() {
            return Ok(());
        }
        if node.is_paused {
            if !matches!(input, Input::Timer) {
                node.keep(input);
            }
            return Ok(());
        }
        if node.busy_until > self.now {
            let at = node.busy_until;
            self.at(at, Event::ToNode { node: index, input });
            return Ok(());
        }
        if node.is_slow {
            node.busy_until = self.now + 500_000;
        }
        if self.tracing {
            self.tell_input(index, &input);
        }
        let before = self.nodes[index].engine.as_ref().map(|engine| engine.counters().clone());
        let saw = if self.tracing { self.nodes[index].sees(self.now) } else { Vec::new() };
        let outputs = self.nodes[index].take(self.now, input)?;
        if self.tracing {
            self.tell_drops(index, before);
            let sees = self.nodes[index].sees(self.now);
            if sees != saw {
                self.tell(|| format!("node {} sees {}", index + 1, sees.join(", ")));
            }
        }
        self.watch.step(&self.nodes[index])?;
        for output in outputs {
            self.leave(index, output)?;
        }
        let machine = self.nodes[index].machine;
        let first = self.workers_of(machine).start;
        while let Some((to, from, bytes)) = self.boards[machine].take_handed() {
            let node = first + usize::from(to.0);
            self.tell(|| format!("node {} hands to {}: {}", index + 1, node + 1, say(&bytes)));
            let input = Input::Handed { from, bytes };
            self.at(self.now + BESIDE, Event::ToNode { node, input });
        }
        self.wake(index);
        Ok(())
    }

    /// The members that are workers of a machine.
    pub(super) fn workers_of(&self, machine: usize) -> Range<usize> {
        let first = self.schedule.workers[..machine].iter().sum();
        first..first + self.schedule.workers[machine]
    }

    /// Whether nothing gets from one to the other.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.nodes[from].machine][self.nodes[to].machine]
    }

    pub(super) fn is_beside(&self, one: usize, other: usize) -> bool {
        self.nodes[one].machine == self.nodes[other].machine
    }

    fn wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if let Some(due) = node.timeout(self.now)
            && due < node.wakes_at
        {
            node.wakes_at = due;
            self.at(due, Event::NodeWakes(index));
        }
    }

    fn leave(&mut self, index: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Frame { out, bytes } => {
                let side = usize::from(out.0);
                self.tell(|| format!("node {} sends by {side}: {}", index + 1, say(&bytes)));
                self.watch.leaves(&self.nodes[index], out, &bytes, &self.schedule.plans)?;
                self.deliver(side, bytes);
            }
            Output::Sync { to, session, counter, bytes } => {
                self.carry(index, to, &bytes, |bytes, is_corrupt| Input::Sync {
                    from: index,
                    session,
                    counter,
                    bytes,
                    is_corrupt,
                });
            }
            Output::Wrapped(Wrapped { to, bytes, stride }) => {
                let to = usize::from(to.0) - 1;
                for piece in bytes.chunks(stride.max(1)) {
                    self.tell(|| {
                        format!("node {} wraps for {}: {} bytes", index + 1, to + 1, piece.len())
                    });
                    self.carry(index, to, piece, |bytes, is_corrupt| Input::Wrapped {
                        from: index,
                        bytes,
                        is_corrupt,
                    });
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, side: usize, frame: Vec<u8>) {
        let at = self.now + MILLISECOND / 5 + self.random.below(MILLISECOND);
        self.at(at, Event::ToHost { side, frame });
    }

    /// Over the link between two nodes, in whatever weather there is.
    pub(super) fn carry(
        &mut self,
        from: usize,
        to: usize,
        bytes: &[u8],
        input: impl Fn(Vec<u8>, bool) -> Input,
    ) {
        if self.is_beside(from, to) {
            let input = input(bytes.to_vec(), false);
            self.at(self.now + BESIDE, Event::ToNode { node: to, input });
            return;
        }
        let weather = self.weather;
        if self.is_cut(from, to)
            || bytes.len() + 28 > weather.mtu
            || self.random.happens(weather.loss)
        {
            return;
        }
        let copies = 1 + u64::from(self.random.happens(weather.twice));
        for _ in 0..copies {
            let mut bytes = bytes.to_vec();
            let is_corrupt = self.random.happens(weather.corrupt);
            if is_corrupt {
                let at = self.random.below(bytes.len().min(covered(&bytes)) as u64) as usize;
                bytes[at] ^= 1 << self.random.below(8);
            }
            let delay = 100_000 + self.random.below(100_000);
            let late = if weather.delay == 0 { 0 } else { self.random.exponential(weather.delay) };
            let input = input(bytes, is_corrupt);
            self.at(self.now + delay + late, Event::ToNode { node: to, input });
        }
    }

    // What must hold.

    fn look(&mut self) -> Result<(), String> {
        if self.tracing {
            self.tell_owners();
        }
        self.watch.look(self.now, &self.nodes, &self.schedule.plans, &self.courses)
    }

    fn judge(&self) -> Result<(), String> {
        for (number, (plan, course)) in self.schedule.plans.iter().zip(&self.courses).enumerate() {
            let verdict = self.watch.fate(number, plan, course, &self.schedule);
            let is_stuck = self.hosts.iter().any(|host| host.is_stuck(self.now, number));
            if let Err(what) = verdict
                && !(is_stuck && what == HANGS)
            {
                let hosts = self.hosts.iter().map(|host| host.describe(number)).collect::<Vec<_>>();
                return Err(format!(
                    "{what}: conversation {number}: {plan:?} {course:?} {hosts:?}"
                ));
            }
        }
        self.watch.converged(self.now, &self.nodes)
    }

    fn tell_input(&mut self, index: usize, input: &Input) {
        let what = match input {
            Input::Frame { .. } | Input::Handed { .. } | Input::Sync { .. } | Input::Timer => {
                return;
            }
            Input::Wrapped { from, bytes, is_corrupt } => {
                format!(
                    "a packet wrapped by {}: {} bytes, corrupt {is_corrupt}",
                    from + 1,
                    bytes.len()
                )
            }
            Input::Up { peer, number, session } => {
                format!("session {number} with {} {session:?}", peer + 1)
            }
            Input::Lost { peer, is_gone: false } => format!("{} refuses", peer + 1),
            Input::Lost { peer, is_gone: true } => format!("{} has gone", peer + 1),
            Input::Policy(number) => format!("policy {number}"),
            Input::Draining(is_draining) => format!("draining {is_draining}"),
        };
        self.tell(|| format!("node {} takes {what}", index + 1));
    }

    /// Whose the conversations are, where that has changed.
    fn tell_owners(&mut self) {
        let owned: BTreeSet<String> = self.nodes.iter().flat_map(Node::owns).collect();
        let before = std::mem::replace(&mut self.owned, owned.clone());
        for flow in owned.difference(&before) {
            self.tell(|| flow.clone());
        }
        for flow in before.difference(&owned) {
            self.tell(|| format!("no more: {flow}"));
        }
    }

    fn tell_drops(&mut self, index: usize, before: Option<gabion_engine::Counters>) {
        let Some((before, engine)) = before.zip(self.nodes[index].engine.as_ref()) else { return };
        let after = engine.counters();
        let more = |reason: &&gabion_engine::DropReason| {
            after.dropped(**reason) > before.dropped(**reason)
        };
        let reasons: Vec<_> = gabion_engine::DropReason::ALL.iter().filter(more).collect();
        if !reasons.is_empty() {
            let told = format!("node {} drops: {reasons:?}", index + 1);
            self.tell(|| told);
        }
    }
}

/// What of a datagram is authenticated at least: of one that a kernel has wrapped, the header (docs/cluster.md section 7).
/// What stands there in a sync datagram is covered too.
fn covered(bytes: &[u8]) -> usize {
    const FLAGS: usize = 12;
    const FLOW: u8 = 1 << 4;
    if bytes.get(FLAGS).is_some_and(|flags| flags & FLOW != 0) { 32 } else { 100 }
}

fn say(frame: &[u8]) -> String {
    words::describe(frame, gabion_engine::Offload::default())
}
