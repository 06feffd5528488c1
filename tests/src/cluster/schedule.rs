//! What a seed stands for: how many nodes, what they are asked to carry, and what befalls them.

use crate::random::Random;

use super::conversation::{Kind, Plan};

pub(super) const MILLISECOND: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000 * MILLISECOND;

/// When faults begin, when they have all ended, when everything must be as if there had been none, and
/// when the last conversations must be over.
pub(super) const FAULTS_FROM: u64 = 4 * SECOND;
pub(super) const FAULTS_UNTIL: u64 = 26 * SECOND;
pub(super) const SETTLED: u64 = 38 * SECOND;
pub(super) const END: u64 = 46 * SECOND;

/// How much may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The links between nodes lose and delay a little; no node fails. No connection may be slow.
    Calm,
    /// One node fails at a time, with time to recover. No connection that has been replicated may be lost.
    Single,
    /// Anything at any time. Nothing may be wrong; afterwards everything must be well.
    Harsh,
}

/// What a load balancer does with an established TCP connection whose node fails its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It stays where it is, as Azure's does.
    Pin,
    Steer,
}

/// What the links between nodes do, in either direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Of a thousand datagrams.
    pub(super) loss: u64,
    pub(super) twice: u64,
    pub(super) corrupt: u64,
    /// Mean of what is added to the fixed delay, in nanoseconds.
    pub(super) delay: u64,
    /// Larger datagrams do not arrive.
    pub(super) mtu: usize,
}

impl Weather {
    pub(super) const FAIR: Self = Self { loss: 0, twice: 0, corrupt: 0, delay: 0, mtu: 1_500 };

    /// Whether everything arrives, and in order.
    pub(super) const fn is_fair(&self) -> bool {
        self.loss == 0 && self.corrupt == 0 && self.delay == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies; the machine refuses what comes for it.
    Kill(usize),
    PowerOff(usize),
    /// Starts what is not running; a node that joins is one that did not run from the start.
    Start(usize),
    Pause(usize),
    /// One worker of a node.
    Hang {
        node: usize,
        worker: usize,
    },
    Resume(usize),
    Cut {
        from: usize,
        to: usize,
    },
    Mend {
        from: usize,
        to: usize,
    },
    /// Cut and mended in turn, each 50 ms.
    Flap {
        from: usize,
        to: usize,
        until: u64,
    },
    Slow(usize),
    Quick(usize),
    Weather(usize),
    /// All nodes get the other policy, each a little later than the one before.
    Policy(usize),
    Drain(usize),
    Undrain(usize),
    Rekey,
}

#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    /// How many workers each has: these are the cluster's members.
    pub(super) workers: Vec<usize>,
    pub(super) mode: Mode,
    pub(super) severity: Severity,
    pub(super) weathers: Vec<Weather>,
    pub(super) faults: Vec<(u64, Fault)>,
    pub(super) plans: Vec<Plan>,
    /// Whether a node is there from the start.
    pub(super) starts: Vec<bool>,
}

impl Schedule {
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = random.pick(&[2, 2, 3, 3, 4]);
        let severity = random.pick(&[
            Severity::Calm,
            Severity::Single,
            Severity::Single,
            Severity::Harsh,
            Severity::Harsh,
        ]);
        let mut schedule = Self {
            seed,
            nodes,
            workers: vec![1; nodes],
            mode: random.pick(&[Mode::Pin, Mode::Steer]),
            severity,
            weathers: vec![weather(&mut random, severity)],
            faults: Vec::new(),
            plans: Vec::new(),
            starts: vec![true; nodes],
        };
        match severity {
            Severity::Calm => {
                if random.is_one_in(2) {
                    schedule.faults.push((10 * SECOND, Fault::Rekey));
                }
            }
            Severity::Single => schedule.draw_single(&mut random),
            Severity::Harsh => schedule.draw_harsh(&mut random),
        }
        schedule.faults.sort_by_key(|(at, _)| *at);
        schedule.draw_plans(&mut random);
        if seed & super::WORKERS != 0 {
            schedule.draw_workers(&mut random);
        }
        schedule
    }

    /// One node, which has nobody to talk to, and nothing that befalls it.
    pub(super) fn draw_alone(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut schedule = Self {
            seed,
            nodes: 1,
            workers: vec![1],
            mode: Mode::Steer,
            severity: Severity::Calm,
            weathers: vec![Weather::FAIR],
            faults: Vec::new(),
            plans: Vec::new(),
            starts: vec![true],
        };
        schedule.draw_plans(&mut random);
        schedule
    }

    /// Some nodes have several workers, one of which may stand still while the others go on.
    fn draw_workers(&mut self, random: &mut Random) {
        for workers in &mut self.workers {
            *workers = random.pick(&[1, 2, 2, 3]);
        }
        let node = random.below(self.nodes as u64) as usize;
        self.workers[node] = random.pick(&[2, 3]);
        if self.severity == Severity::Harsh {
            for _ in 0..random.below(3) {
                let worker = random.below(self.workers[node] as u64) as usize;
                let at = random.between(FAULTS_FROM, FAULTS_UNTIL - 5 * SECOND);
                let lasts = random.between(100 * MILLISECOND, 4 * SECOND);
                self.faults.push((at, Fault::Hang { node, worker }));
                self.faults.push((at + lasts, Fault::Resume(node)));
            }
            self.faults.sort_by_key(|(at, _)| *at);
        }
    }

    fn draw_single(&mut self, random: &mut Random) {
        let mut at = FAULTS_FROM + random.below(3 * SECOND);
        if random.is_one_in(6) {
            let node = random.below(self.nodes as u64) as usize;
            self.starts[node] = false;
            self.faults.push((at, Fault::Start(node)));
            at += 6 * SECOND;
        }
        while at < FAULTS_UNTIL - 6 * SECOND {
            let node = random.below(self.nodes as u64) as usize;
            let lasts = random.between(SECOND, 4 * SECOND);
            let (begin, end) = match random.below(6) {
                0 | 1 => (Fault::Kill(node), Fault::Start(node)),
                2 => (Fault::PowerOff(node), Fault::Start(node)),
                3 => (Fault::Pause(node), Fault::Resume(node)),
                4 => (Fault::Drain(node), Fault::Undrain(node)),
                _ => (Fault::Rekey, Fault::Rekey),
            };
            self.faults.push((at, begin));
            self.faults.push((at + lasts, end));
            // Until it has started, joined, and been found well by the balancers.
            at += lasts + 6 * SECOND + random.below(2 * SECOND);
        }
    }

    fn draw_harsh(&mut self, random: &mut Random) {
        for _ in 0..3 {
            self.weathers.push(weather(random, Severity::Harsh));
        }
        for _ in 0..random.between(2, 14) {
            let at = random.between(FAULTS_FROM, FAULTS_UNTIL - SECOND);
            let node = random.below(self.nodes as u64) as usize;
            let other = (node + random.between(1, self.nodes as u64) as usize) % self.nodes;
            let end = (at + random.between(100 * MILLISECOND, 6 * SECOND)).min(FAULTS_UNTIL);
            let (from, to) = (node, other);
            let (begin, end_fault) = match random.below(12) {
                0 => (Fault::Kill(node), Fault::Start(node)),
                1 => (Fault::PowerOff(node), Fault::Start(node)),
                2 | 3 => (Fault::Pause(node), Fault::Resume(node)),
                4 | 5 => (Fault::Cut { from, to }, Fault::Mend { from, to }),
                6 => (Fault::Flap { from, to, until: end }, Fault::Mend { from, to }),
                7 => (Fault::Slow(node), Fault::Quick(node)),
                8 => (Fault::Weather(random.between(1, 4) as usize), Fault::Weather(0)),
                9 => (Fault::Policy(1), Fault::Policy(0)),
                10 => (Fault::Drain(node), Fault::Undrain(node)),
                _ => (Fault::Rekey, Fault::Rekey),
            };
            self.faults.push((at, begin));
            self.faults.push((end, end_fault));
        }
    }

    fn draw_plans(&mut self, random: &mut Random) {
        for _ in 0..random.between(6, 16) {
            let starts = random.between(2 * SECOND, FAULTS_UNTIL - 2 * SECOND);
            let lasts = random.between(SECOND, 24 * SECOND).min(SETTLED - starts);
            let kind = Kind::any(random);
            self.plans.push(Plan::draw(random, kind, starts, lasts));
        }
        // Afterwards everything works, for everybody.
        for kind in Kind::ALL {
            let starts = SETTLED + random.below(SECOND);
            self.plans.push(Plan::draw(random, kind, starts, SECOND));
        }
    }
}

fn weather(random: &mut Random, severity: Severity) -> Weather {
    match severity {
        Severity::Calm | Severity::Single => Weather {
            loss: random.pick(&[0, 10, 50]),
            twice: random.pick(&[0, 10, 100]),
            corrupt: random.pick(&[0, 0, 5]),
            delay: random.pick(&[0, MILLISECOND, 5 * MILLISECOND]),
            mtu: 1_500,
        },
        Severity::Harsh => Weather {
            loss: random.pick(&[0, 50, 200, 500, 900]),
            twice: random.pick(&[0, 50, 200]),
            corrupt: random.pick(&[0, 1, 10]),
            delay: MILLISECOND * random.pick(&[0, 1, 10, 50, 200, 500]),
            mtu: random.pick(&[1_500, 1_500, 1_500, 1_400, 600]),
        },
    }
}
