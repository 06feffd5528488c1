//! A dialogue with one engine: a frame is sent, what leaves is read back in words, and every counter
//! that is not named must be unchanged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use gabion_engine::{
    Counters, DropReason, Engine, EngineConfig, Event, FastPath, Frame, Generation, InterfaceId,
    Limits, Neighbour, Network, Offload, Time, Transmit, Verdict,
};

use gabion_tests::network::network;
use gabion_tests::words;

pub(super) use gabion_tests::network::NODE_MAC;

/// Two interfaces, a client's network and a server's; neighbours are known.
pub(super) struct Dialogue {
    pub engine: Engine,
    pub now: Time,
    network: Network,
    generation: u64,
    /// Answer the engine's questions for neighbours at once.
    pub resolve: bool,
    pub events: Vec<Event>,
    /// The frames of the last step as they left.
    pub sent: Vec<(String, Vec<u8>)>,
}

impl Dialogue {
    /// A node with this policy, between `ext` (203.0.113.1/24, 2600:1::1/64, the default routes) and
    /// `int` (10.1.0.1/16, 2600:2::1/64).
    pub(super) fn new(policy: &str) -> Self {
        Self::with_limits(policy, Limits { flows: 1_024, mappings: 1_024, ..Limits::default() })
    }

    pub(super) fn with_limits(policy: &str, limits: Limits) -> Self {
        Self::with_config(policy, EngineConfig { limits, seed: [7; 32], cluster: None })
    }

    /// The same with a datapath that moves flows by itself.
    pub(super) fn offloading(policy: &str, table: Box<dyn FastPath>) -> Self {
        let mut dialogue = Self::new(policy);
        dialogue.engine.use_fast_path(table);
        dialogue
    }

    fn with_config(policy: &str, config: EngineConfig) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let mut dialogue = Self {
            engine: Engine::new(now, config),
            now,
            network: network(),
            generation: 0,
            resolve: true,
            events: Vec::new(),
            sent: Vec::new(),
        };
        dialogue.engine.set_network(dialogue.network.clone());
        dialogue.commit(policy);
        dialogue.engine.open();
        dialogue
    }

    /// Puts another policy in force.
    pub(super) fn commit(&mut self, policy: &str) {
        let loaded = match gabion_rules::load("scenario.yaml", policy, None) {
            Ok(loaded) => loaded,
            Err(diagnostics) => panic!("the scenario's policy: {diagnostics}"),
        };
        self.generation += 1;
        self.engine.set_rules(Generation(self.generation), loaded.rule_set);
    }

    pub(super) fn change_network(&mut self, change: impl FnOnce(&mut Network)) {
        change(&mut self.network);
        self.engine.set_network(self.network.clone());
    }

    /// Sends `frame` in by `from`. `leaving` are the frames that must leave, in words, and `counted`
    /// the counters that must have moved, each by one unless it says `name=n`.
    #[track_caller]
    pub(super) fn step(&mut self, from: &str, frame: &[u8], leaving: &[&str], counted: &[&str]) {
        self.step_offloaded(from, frame, Offload::default(), leaving, counted);
    }

    #[track_caller]
    pub(super) fn step_offloaded(
        &mut self,
        from: &str,
        frame: &[u8],
        offload: Offload,
        leaving: &[&str],
        counted: &[&str],
    ) {
        let before = count(self.engine.counters());
        let mut bytes = frame.to_vec();
        let mut frame = Frame { bytes: &mut bytes, offload };
        let verdict = self.engine.handle_frame(self.now, interface(from), &mut frame);
        let offload = frame.offload;
        let mut sent = self.drain();
        if let Verdict::Forward { out } = verdict {
            sent.insert(0, Transmit { out, bytes, offload });
        }
        self.check(&before, sent, leaving, counted);
    }

    /// Sends `frame` and leaves the judgement to the test: see `sent` and `left`.
    pub(super) fn send(&mut self, from: &str, frame: &[u8]) {
        let mut bytes = frame.to_vec();
        let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        let verdict = self.engine.handle_frame(self.now, interface(from), &mut frame);
        let mut sent = self.drain();
        if let Verdict::Forward { out } = verdict {
            sent.insert(0, Transmit { out, bytes, offload: Offload::default() });
        }
        self.sent = sent.into_iter().map(|sent| (name(sent.out).to_owned(), sent.bytes)).collect();
    }

    /// The frames of the last step, in words.
    pub(super) fn left(&self) -> Vec<String> {
        self.sent
            .iter()
            .map(|(out, bytes)| format!("{out}: {}", words::describe(bytes, Offload::default())))
            .collect()
    }

    /// Lets time pass, with the same expectations.
    #[track_caller]
    pub(super) fn wait(&mut self, time: Duration, leaving: &[&str], counted: &[&str]) {
        let before = count(self.engine.counters());
        self.now = self.now + time;
        self.engine.handle_timeout(self.now);
        let sent = self.drain();
        self.check(&before, sent, leaving, counted);
    }

    /// Tells the engine about a neighbour, with the same expectations.
    #[track_caller]
    pub(super) fn neighbour(
        &mut self,
        on: &str,
        address: &str,
        neighbour: Neighbour,
        leaving: &[&str],
        counted: &[&str],
    ) {
        let before = count(self.engine.counters());
        let address: IpAddr = address.parse().unwrap();
        self.engine.handle_neighbour(self.now, interface(on), address, neighbour);
        let sent = self.drain();
        self.check(&before, sent, leaving, counted);
    }

    #[track_caller]
    fn check(
        &mut self,
        before: &BTreeMap<String, u64>,
        sent: Vec<Transmit>,
        leaving: &[&str],
        counted: &[&str],
    ) {
        let words: Vec<String> = sent
            .iter()
            .map(|sent| {
                format!("{}: {}", name(sent.out), words::describe(&sent.bytes, sent.offload))
            })
            .collect();
        assert_eq!(words, leaving, "what left; counters: {:?}", self.moved(before));
        let mut expected: Vec<String> = counted.iter().map(|name| (*name).to_owned()).collect();
        expected.sort();
        assert_eq!(self.moved(before), expected, "counters");
        self.sent = sent.into_iter().map(|sent| (name(sent.out).to_owned(), sent.bytes)).collect();
        let counters = self.engine.counters();
        assert_eq!(counters.frames_in, counters.decided() + counters.held, "one verdict each");
    }

    fn moved(&self, before: &BTreeMap<String, u64>) -> Vec<String> {
        let after = count(self.engine.counters());
        after
            .iter()
            .filter_map(|(name, now)| match now.checked_sub(before[name]) {
                Some(0) => None,
                Some(1) => Some(name.clone()),
                Some(more) => Some(format!("{name}={more}")),
                None => Some(format!("{name}=-{}", before[name] - now)),
            })
            .collect()
    }

    fn drain(&mut self) -> Vec<Transmit> {
        let mut sent = Vec::new();
        loop {
            while let Some(transmit) = self.engine.poll_transmit() {
                sent.push(transmit);
            }
            let Some(event) = self.engine.poll_event() else { return sent };
            if let (Event::NeighbourWanted { interface, address }, true) = (&event, self.resolve) {
                let mac = words::mac_of(address.to_ip());
                let known = Neighbour::Reachable { mac };
                self.engine.handle_neighbour(self.now, *interface, address.to_ip(), known);
            }
            self.events.push(event);
        }
    }

    /// The live flows, as `state rule original | reply`.
    pub(super) fn flows(&self) -> Vec<String> {
        let (flows, next) = self.engine.flows(0, u32::MAX);
        assert_eq!(next, None);
        let side = |key: &gabion_engine::FlowKey| format!("{} > {}", key.source, key.destination);
        flows
            .iter()
            .map(|flow| {
                format!("{} {} | {}", flow.state.label(), side(&flow.original), side(&flow.reply))
            })
            .collect()
    }
}

/// Every counter by name, verdicts and reasons alike. `held` is a gauge.
fn count(counters: &Counters) -> BTreeMap<String, u64> {
    let verdicts = [
        ("forwarded", counters.forwarded),
        ("to-peers", counters.to_peers),
        ("to-workers", counters.to_workers),
        ("local", counters.local),
        ("answered", counters.answered),
        ("held", counters.held),
    ];
    let reasons = DropReason::ALL.iter().flat_map(|reason| {
        [("drop", counters.dropped(*reason)), ("reject", counters.rejected(*reason))]
            .map(|(verdict, count)| (format!("{verdict}:{}", reason.label()), count))
    });
    verdicts.into_iter().map(|(name, count)| (name.to_owned(), count)).chain(reasons).collect()
}

fn interface(name: &str) -> InterfaceId {
    match name {
        "ext" => InterfaceId(0),
        "int" => InterfaceId(1),
        "spare" => InterfaceId(2),
        other => panic!("no interface is called {other}"),
    }
}

fn name(interface: InterfaceId) -> &'static str {
    ["ext", "int", "spare"][usize::from(interface.0)]
}
