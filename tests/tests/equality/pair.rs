//! One engine alone, and one with the programs before it: the same happens to both, and both must do the same.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gabion_engine::{
    Checksum, DropReason, Engine, EngineConfig, Event, FlowReport, Frame, Generation, InterfaceId,
    Limits, Neighbour, Network, Offload, Time, Transmit, Verdict,
};
use gabion_rules::RuleSet;

use super::differences::{Difference, Excuses, judged_alone, same_frame};
use super::kernel::{Kernel, Ran};

/// A second engine and what comes before it.
#[derive(Debug)]
pub(crate) struct Pair<'k> {
    alone: Engine,
    both: Engine,
    kernel: &'k mut Kernel,
    now: Time,
    interfaces: Vec<[u8; 6]>,
    pub(crate) counts: Counts,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) frames: u64,
    pub(crate) forwarded: u64,
    pub(crate) moved: u64,
    pub(crate) excuses: Excuses,
}

/// What both made of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Option<Verdict>,
    /// What left, by which interface.
    pub(crate) left: Vec<Transmit>,
    pub(crate) events: Vec<Event>,
}

/// Of the timer wheel.
const TICK: Duration = Duration::from_millis(250);

/// In which the engine asks for the usage of all flows.
const ROUND: Duration = Duration::from_millis(1_100);

type Result<T> = std::result::Result<T, String>;

impl<'k> Pair<'k> {
    pub(crate) fn new(kernel: &'k mut Kernel, limits: Limits, fast_flows: usize) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let config = EngineConfig { limits, seed: [9; 32], cluster: None };
        let mut both = Engine::new(now, config.clone());
        both.use_fast_path(kernel.table(fast_flows));
        let alone = Engine::new(now, config);
        Self { alone, both, kernel, now, interfaces: Vec::new(), counts: Counts::default() }
    }

    /// Sends a frame in by an interface.
    pub(crate) fn frame(
        &mut self,
        from: InterfaceId,
        bytes: &[u8],
        offload: Offload,
    ) -> Result<Outcome> {
        self.counts.frames += 1;
        // The kernel makes no frames for a test whose sums are partial.
        let may_run = !matches!(offload.checksum, Checksum::Partial { .. });
        let ran =
            if may_run { self.kernel.run(self.now, from, bytes, &offload) } else { Ran::Missed };
        let Ran::Moved(moved) = ran else {
            let alone = handle(&mut self.alone, self.now, from, bytes, offload);
            let both = handle(&mut self.both, self.now, from, bytes, offload);
            return self.agree(None, alone, both);
        };
        self.counts.moved += 1;
        let excuses = &mut self.counts.excuses;
        let alone =
            handle(&mut self.alone, self.now, from, bytes, judged_alone(bytes, offload, excuses));
        let source = moved[6..12].to_vec();
        let out = self.interfaces.iter().position(|mac| mac[..] == source);
        let out = out.ok_or_else(|| format!("the program sends from {source:02x?}"))?;
        let out = InterfaceId(out as u16);
        let frame = Transmit { out, bytes: moved, offload: Offload::default() };
        let mut both =
            Outcome { verdict: Some(Verdict::Forward { out }), left: vec![frame], events: vec![] };
        drain(&mut self.both, &mut both);
        self.agree(Some(bytes), alone, both)
    }

    /// Does the same to both engines.
    pub(crate) fn act(&mut self, act: impl Fn(&mut Engine, Time)) -> Result<Outcome> {
        let now = self.now;
        let [alone, both] = [&mut self.alone, &mut self.both].map(|engine| {
            act(engine, now);
            let mut outcome = Outcome { verdict: None, left: Vec::new(), events: Vec::new() };
            drain(engine, &mut outcome);
            outcome
        });
        self.agree(None, alone, both)
    }

    pub(crate) fn set_network(&mut self, network: &Network) -> Result<Outcome> {
        self.take_usage()?;
        self.interfaces = network.interfaces.iter().map(|interface| interface.mac).collect();
        self.act(|engine, _| engine.set_network(network.clone()))
    }

    pub(crate) fn set_rules(
        &mut self,
        generation: Generation,
        rules: &Arc<RuleSet>,
    ) -> Result<Outcome> {
        self.take_usage()?;
        self.act(|engine, _| engine.set_rules(generation, Arc::clone(rules)))
    }

    pub(crate) fn neighbour(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        neighbour: Neighbour,
    ) -> Result<Outcome> {
        self.act(|engine, now| engine.handle_neighbour(now, interface, address, neighbour))
    }

    /// Lets time pass, and as much more as flows are overdue.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<()> {
        self.pass(time)?;
        // One tick may have others behind it.
        for _ in 0..64 {
            let flows = self.alone.flows(0, u32::MAX).0;
            if flows.iter().all(|flow| flow.expires > self.now) {
                return Ok(());
            }
            *self.counts.excuses.entry(Difference::Overdue).or_default() += 1;
            self.pass(TICK)?;
        }
        Err("flows whose time is up do not end".to_owned())
    }

    /// Both are called whenever one of them wants to be.
    fn pass(&mut self, time: Duration) -> Result<()> {
        let until = self.now + time;
        for _ in 0..100_000 {
            let due = [&self.alone, &self.both].map(Engine::poll_timeout);
            let due = due.into_iter().flatten().min().filter(|due| *due <= until);
            self.now = due.map_or(until, |due| due.max(self.now));
            if due.is_none() {
                return Ok(());
            }
            self.act(Engine::handle_timeout)?;
        }
        Err("the engines want to be called for ever".to_owned())
    }

    /// The round through all flows.
    fn take_usage(&mut self) -> Result<()> {
        *self.counts.excuses.entry(Difference::Change).or_default() += 1;
        self.wait(ROUND)
    }

    /// What both report of flows, rules and tables once the usage of all flows has been taken.
    pub(crate) fn compare_reports(&mut self) -> Result<()> {
        self.wait(ROUND)?;
        let reports = [&self.alone, &self.both].map(|engine| {
            let mut flows = engine.flows(0, u32::MAX).0;
            flows.sort_by_key(|flow| flow.id);
            flows
        });
        let [alone, both] = reports;
        if let Some((alone, both)) = alone.iter().zip(&both).find(|(alone, both)| alone != both) {
            return Err(format!("a flow\nalone: {alone:?}\nwith programs: {both:?}"));
        }
        equal("flows", &alone.len(), &both.len())?;
        equal("rules", &self.alone.rule_counters(), &self.both.rule_counters())?;
        equal("tables", &self.alone.table_use(), &self.both.table_use())?;
        let (alone, both) = (self.alone.counters(), self.both.counters());
        equal("forwarded", &alone.forwarded, &(both.forwarded + self.counts.moved))?;
        for reason in DropReason::ALL {
            equal(reason.label(), &alone.dropped(*reason), &both.dropped(*reason))?;
            equal(reason.label(), &alone.rejected(*reason), &both.rejected(*reason))?;
        }
        Ok(())
    }

    /// Whether both have the same flows, of which some have other external ports.
    pub(crate) fn differ_in_ports_alone(&self) -> bool {
        let [alone, both] = [&self.alone, &self.both].map(|engine| {
            let mut flows = engine.flows(0, u32::MAX).0;
            flows.sort_by_key(|flow| flow.id);
            flows
        });
        let has_other_port = |(alone, both): (&FlowReport, &FlowReport)| {
            let (one, other) = (alone.reply.destination, both.reply.destination);
            alone.source_nat.is_some() && one.address == other.address && one.port != other.port
        };
        let is_same = |(alone, both): (&FlowReport, &FlowReport)| {
            (alone.id, alone.original) == (both.id, both.original)
        };
        let pairs = || alone.iter().zip(&both);
        alone.len() == both.len() && pairs().all(is_same) && pairs().any(has_other_port)
    }

    fn agree(&mut self, came: Option<&[u8]>, alone: Outcome, both: Outcome) -> Result<Outcome> {
        self.counts.forwarded += u64::from(matches!(alone.verdict, Some(Verdict::Forward { .. })));
        let differs =
            |what: &str| Err(format!("{what}\nalone: {alone:?}\nwith programs: {both:?}"));
        if alone.verdict != both.verdict || alone.left.len() != both.left.len() {
            return differs("another verdict");
        }
        let (mut one, mut other) = (sorted(&alone.events), sorted(&both.events));
        if one != other {
            let others = other.clone();
            other.retain(|event| !one.contains(event));
            one.retain(|event| !others.contains(event));
            return Err(format!("other events\nalone: {one:#?}\nwith programs: {other:#?}"));
        }
        for (one, other) in alone.left.iter().zip(&both.left) {
            if one.out != other.out {
                return differs("another interface");
            }
            if let Err(what) = same_frame(came, &one.bytes, &other.bytes, &mut self.counts.excuses)
            {
                return differs(&what);
            }
        }
        Ok(alone)
    }
}

fn handle(
    engine: &mut Engine,
    now: Time,
    from: InterfaceId,
    bytes: &[u8],
    offload: Offload,
) -> Outcome {
    let mut bytes = bytes.to_vec();
    let mut frame = Frame { bytes: &mut bytes, offload };
    let verdict = engine.handle_frame(now, from, &mut frame);
    let offload = frame.offload;
    let mut outcome = Outcome { verdict: Some(verdict), left: Vec::new(), events: Vec::new() };
    if let Verdict::Forward { out } = verdict {
        outcome.left.push(Transmit { out, bytes, offload });
    }
    drain(engine, &mut outcome);
    outcome
}

fn drain(engine: &mut Engine, outcome: &mut Outcome) {
    outcome.left.extend(std::iter::from_fn(|| engine.poll_transmit()));
    outcome.events.extend(std::iter::from_fn(|| engine.poll_event()));
}

/// Flows whose time is up at one moment end in any order.
fn sorted(events: &[Event]) -> Vec<String> {
    let mut words: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    words.sort();
    words
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, alone: &T, both: &T) -> Result<()> {
    if alone == both {
        return Ok(());
    }
    Err(format!("{what}\nalone: {alone:?}\nwith programs: {both:?}"))
}
