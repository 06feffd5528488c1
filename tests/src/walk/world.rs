//! One engine, what is known of its surroundings, and what must hold.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use gabion_engine::{
    DropReason, Engine, EngineConfig, FlowId, FlowReport, Frame, Generation, InterfaceId, Limits,
    Neighbour, Network, Offload, Outcome, Probe, Time, Transmit, Verdict, build,
};
use gabion_rules::{Action, NatQuery, Query, RuleSet, Transport, ZoneId};

use super::policies::{FILLED, POLICIES, TIGHT};
use super::seen::{self, Kind, Seen};
use super::steps::{NetworkChange, Packet, Step, told};
use crate::{network, words};

const LIMITS: Limits = Limits {
    flows: 64,
    mappings: 64,
    fragmented_datagrams: 4,
    fragments_per_datagram: 8,
    fragment_bytes: 65_536,
    parked_per_neighbour: 3,
    parked: 6,
    neighbours: 16,
    transmit_queue: 16,
    events: 64,
};

/// Frames that have left and may be answered.
const REMEMBERED: usize = 12;

/// The engine, its surroundings, and what has left.
#[derive(Debug)]
pub struct World {
    engine: Engine,
    now: Time,
    network: Network,
    policy: usize,
    generation: u64,
    open: bool,
    last_flow: FlowId,
    left: Vec<Transmit>,
    /// What left in the last step.
    last: Vec<Transmit>,
}

impl World {
    pub fn begin() -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let config = EngineConfig { limits: LIMITS, seed: [9; 32], cluster: None };
        let mut world = Self {
            engine: Engine::new(now, config),
            now,
            network: network::network(),
            policy: 0,
            generation: 0,
            open: false,
            last_flow: FlowId(0),
            left: Vec::new(),
            last: Vec::new(),
        };
        world.engine.set_network(world.network.clone());
        world.commit(0);
        world.take(&Step::Gate { open: true });
        world
    }

    pub fn left_last(&self) -> &[Transmit] {
        &self.last
    }

    /// The reasons for which anything was dropped or rejected so far.
    pub fn reasons(&self) -> BTreeSet<&'static str> {
        let counters = self.engine.counters();
        let met =
            |reason: &&DropReason| counters.dropped(**reason) + counters.rejected(**reason) > 0;
        DropReason::ALL.iter().filter(met).map(|reason| reason.label()).collect()
    }

    /// Sends a frame whose sums are right.
    pub fn send(&mut self, from: u16, bytes: Vec<u8>) -> Verdict {
        self.last.clear();
        let verdict = self.frame(from, bytes, Offload::default());
        self.check();
        verdict
    }

    /// Makes a neighbour known on each interface.
    pub fn learn(&mut self, address: &str, mac: [u8; 6]) {
        for out in [0, 1] {
            let known = Neighbour::Reachable { mac };
            let address = address.parse().unwrap();
            self.engine.handle_neighbour(self.now, InterfaceId(out), address, known);
        }
        self.drain(None);
    }

    pub fn take(&mut self, step: &Step) {
        self.last.clear();
        match step {
            Step::Packet { from, packet } => self.send_packet(*from, packet),
            Step::Garbage { from, packet, flips, cut } => {
                let mut bytes = packet.builder().frame();
                for (place, flip) in flips {
                    let place = place % bytes.len();
                    bytes[place] ^= flip;
                }
                bytes.truncate((*cut).max(1));
                // The engine leaves it to receivers to doubt the checksums of TCP and UDP.
                if seen::checksum_is_sound(&bytes) {
                    self.frame(*from, bytes, Offload::default());
                }
            }
            Step::Answer { of, more } => self.answer(*of, *more),
            Step::Error { about, kind, code, mtu } => self.complain(*about, *kind, *code, *mtu),
            Step::Wait(time) => self.wait(*time),
            Step::Commit(policy) => self.commit(*policy),
            Step::Network(change) => self.change_network(*change),
            Step::Neighbour { known, out, which } => self.neighbour(*known, *out, *which),
            Step::Gate { open } => {
                self.open = *open;
                if *open { self.engine.open() } else { self.engine.close() }
            }
        }
        self.drain(None);
        self.check();
    }

    fn send_packet(&mut self, from: u16, packet: &Packet) {
        let frames = packet.frames();
        let offload = packet.builder().offload();
        let whole = packet.cut.is_none();
        for bytes in frames {
            let told = whole.then(|| self.explain(from, &bytes)).flatten();
            let verdict = self.frame(from, bytes, offload);
            if let Some(told) = told {
                self.agrees(&told, verdict);
            }
        }
    }

    fn frame(&mut self, from: u16, mut bytes: Vec<u8>, offload: Offload) -> Verdict {
        let before = self.engine.counters().frames_in;
        let mut frame = Frame { bytes: &mut bytes, offload };
        let verdict = self.engine.handle_frame(self.now, InterfaceId(from), &mut frame);
        let offload = frame.offload;
        assert_eq!(self.engine.counters().frames_in, before + 1);
        if let Verdict::Forward { out } = verdict {
            self.leaves(Some(from), Transmit { out, bytes, offload });
        }
        self.drain(Some(from));
        self.check_new_flows();
        verdict
    }

    fn answer(&mut self, of: usize, more: u8) {
        let Some(frame) = self.left.get(of).cloned() else { return };
        let Some(seen) = seen::packet(&frame.bytes[14..]) else { return };
        let text = |endpoint: gabion_engine::Endpoint| match seen.kind {
            Kind::Query => endpoint.address.to_string(),
            _ => endpoint.to_string(),
        };
        let (from, to) = (text(seen.key.destination), text(seen.key.source));
        let payload = vec![3; usize::from(more) * 8];
        let builder = match (seen.key.protocol, seen.kind) {
            (6, Kind::Tcp { sequence, acknowledgement, syn, length }) => {
                let acknowledged = sequence.wrapping_add(length);
                let builder = build::tcp().window(64_000).ack(acknowledged);
                match more % 8 {
                    _ if syn && acknowledgement == 0 => builder.syn().seq(9_000),
                    0 => builder.seq(acknowledgement).fin(),
                    1 => builder.seq(acknowledgement).rst(),
                    2 => builder.seq(acknowledgement.wrapping_add(70_000)),
                    _ => builder.seq(acknowledgement).payload(&payload[..payload.len().min(400)]),
                }
            }
            (17, _) => build::udp().payload(&payload),
            (1 | 58, Kind::Query) => build::icmp_echo_reply().id(seen.key.source.port),
            _ => return,
        };
        let bytes = builder.from(&from).to(&to).frame();
        self.frame(frame.out.0, bytes, Offload::default());
    }

    fn complain(&mut self, about: usize, kind: u8, code: u8, mtu: u16) {
        let Some(frame) = self.left.get(about).cloned() else { return };
        if seen::packet(&frame.bytes[14..]).is_none() {
            return;
        }
        let [high, low] = mtu.to_be_bytes();
        let error = build::icmp_error_about(&frame.bytes, kind, code, [0, 0, high, low]);
        self.frame(frame.out.0, error.frame(), Offload::default());
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        for _ in 0..64 {
            if self.engine.poll_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            self.engine.handle_timeout(self.now);
        }
        panic!("the engine wants to be called for ever");
    }

    fn commit(&mut self, policy: usize) {
        self.policy = policy;
        self.generation += 1;
        self.engine.set_rules(Generation(self.generation), POLICIES[policy].clone());
    }

    fn change_network(&mut self, change: NetworkChange) {
        self.network = change.network();
        self.engine.set_network(self.network.clone());
    }

    fn neighbour(&mut self, known: bool, out: u16, which: usize) {
        let (address, neighbour) = told(known, which);
        self.engine.handle_neighbour(self.now, InterfaceId(out), address, neighbour);
    }

    fn drain(&mut self, from: Option<u16>) {
        while let Some(frame) = self.engine.poll_transmit() {
            self.leaves(from, frame);
        }
        while self.engine.poll_event().is_some() {}
    }

    /// Holds a frame that leaves against what may leave.
    fn leaves(&mut self, from: Option<u16>, frame: Transmit) {
        assert!(self.open, "nothing leaves a closed engine");
        words::describe(&frame.bytes, frame.offload);
        let answer = from == Some(frame.out.0) && self.is_own_making(&frame);
        if let Some(seen) = seen::packet(&frame.bytes[14..])
            && !answer
        {
            let flows = self.flows();
            let fits = |flow: &FlowReport| belongs(&seen, &frame.bytes[14..], flow);
            assert!(flows.iter().any(fits), "{seen:?} leaves, but belongs to none of {flows:#?}");
        }
        self.left.insert(0, frame.clone());
        self.left.truncate(REMEMBERED);
        self.last.push(frame);
    }

    /// An ICMP error, a RST or an answer to ND that goes back where the packet came from.
    fn is_own_making(&self, frame: &Transmit) -> bool {
        let Some(seen) = seen::packet(&frame.bytes[14..]) else { return true };
        let source = seen.key.source.address.to_ip();
        let own = self.network.interfaces.iter().flat_map(|interface| &interface.addresses);
        let own = own.map(ipnet_address).any(|address| address == source);
        let reset = matches!(seen.kind, Kind::Tcp { .. }) && frame.bytes[14..].len() <= 60;
        matches!(seen.kind, Kind::Error { .. }) && own || reset
    }

    fn check(&self) {
        let counters = self.engine.counters();
        assert_eq!(counters.frames_in, counters.decided() + counters.held, "one verdict each");
        for table in self.engine.table_use() {
            // A policy may lower this limit below what there is.
            if table.name != "half-open" {
                assert!(table.used <= table.limit, "{table:?}");
            }
        }
    }

    /// The live flows.
    pub fn flows(&self) -> Vec<FlowReport> {
        self.engine.flows(0, u32::MAX).0
    }

    fn rules(&self) -> &'static RuleSet {
        &POLICIES[self.policy]
    }

    /// Whatever flow is new must be one that the rules, asked by other means, permit.
    fn check_new_flows(&mut self) {
        let flows = self.flows();
        for flow in flows.iter().filter(|flow| flow.id > self.last_flow) {
            self.check_permitted(flow);
        }
        let newest = flows.iter().map(|flow| flow.id).max();
        self.last_flow = newest.unwrap_or(self.last_flow).max(self.last_flow);
    }

    fn check_permitted(&self, flow: &FlowReport) {
        let rules = self.rules();
        assert_eq!(flow.generation, Generation(self.generation));
        let (source, asked) = (flow.original.source, flow.original.destination);
        let target = flow.reply.source;
        assert!(rules.source_belongs(flow.from, source.address.to_ip()), "{flow:?}");
        assert_eq!(Some(flow.to), self.zone_towards(target.address.to_ip()), "{flow:?}");
        let transport = |port| transport(flow, port);
        let query = NatQuery {
            from: flow.from,
            source: source.address.to_ip(),
            destination: asked.address.to_ip(),
            transport: transport(asked.port),
        };
        let nat = rules.destination_nat(&query);
        assert_eq!(nat.map(|nat| nat.id), flow.destination_nat, "{flow:?}");
        if let Some(nat) = nat {
            assert!(nat.targets.contains(&target.address.to_ip()), "{flow:?}");
        }
        let query = Query {
            from: flow.from,
            to: flow.to,
            source: source.address.to_ip(),
            destination: target.address.to_ip(),
            transport: transport(target.port),
        };
        let decision = rules.decide(&query, &mut |_| {});
        assert_eq!((decision.action, decision.rule), (Action::Allow, flow.rule), "{flow:?}");
        let hairpin = flow.from == flow.to;
        if !hairpin {
            let nat = rules.source_nat(&query).map(|nat| nat.id);
            assert_eq!(nat, flow.source_nat, "{flow:?}");
            let external = flow.reply.destination.address;
            assert_eq!(nat.is_none(), external == source.address, "{flow:?}");
        }
    }

    /// By the longest prefix, found by looking at all.
    fn zone_towards(&self, address: IpAddr) -> Option<ZoneId> {
        let routes = self.network.routes.iter().filter(|route| route.prefix.contains(&address));
        let out = routes.max_by_key(|route| route.prefix.prefix_len())?.out?;
        let name = &self.network.interfaces[usize::from(out.0)].name;
        self.rules().zone_of_interface(name)
    }

    /// What `explain` says of a frame that may begin a flow.
    fn explain(&self, from: u16, bytes: &[u8]) -> Option<gabion_engine::Explanation> {
        let seen = seen::packet(&bytes[14..])?;
        let (source_port, destination_port) = (seen.key.source.port, seen.key.destination.port);
        let transport = match (seen.key.protocol, seen.kind) {
            (6, Kind::Tcp { .. }) if bytes[14..].get(transport_flags(bytes)) == Some(&2) => {
                Transport::Tcp { source_port, destination_port }
            }
            (17, _) => Transport::Udp { source_port, destination_port },
            (47 | 50 | 132, _) => Transport::Other { protocol: seen.key.protocol },
            _ => return None,
        };
        let zero = matches!(seen.key.protocol, 6 | 17) && source_port.min(destination_port) == 0;
        if zero || !self.open {
            return None;
        }
        let (source, destination) = (seen.key.source.address, seen.key.destination.address);
        let (source, destination) = (source.to_ip(), destination.to_ip());
        let probe = Probe { from: InterfaceId(from), source, destination, transport };
        Some(self.engine.explain(&probe))
    }

    /// A packet may meet a limit that `explain` does not look at, and nothing else.
    fn agrees(&self, told: &gabion_engine::Explanation, verdict: Verdict) {
        // The packet ended a revoked flow, and its mapping with it; `explain` ends nothing.
        let revoked =
            |step: &gabion_engine::Step| step.detail.starts_with("the flow is no longer permitted");
        if told.steps.iter().any(revoked) {
            return;
        }
        let live =
            told.steps.iter().any(|step| step.stage == "flow" && step.outcome == Outcome::Match);
        match (told.verdict, verdict) {
            (
                Verdict::Forward { out },
                Verdict::Forward { out: met } | Verdict::Queued { out: met },
            ) => {
                assert_eq!(out, met, "{told:#?}");
            }
            (
                Verdict::Drop(reason) | Verdict::Reject(reason),
                Verdict::Drop(met) | Verdict::Reject(met),
            ) => assert_eq!(reason, met, "{told:#?}"),
            (Verdict::Forward { .. }, Verdict::Held) | (Verdict::Local, Verdict::Local) => {}
            (Verdict::Forward { .. }, Verdict::Drop(met) | Verdict::Reject(met)) => {
                assert!(live || is_limit(met), "{met:?}: {told:#?}");
            }
            _ => panic!("{verdict:?}: {told:#?}"),
        }
    }

    /// Waits until all has run out, and looks for what is left.
    pub fn run_out(&mut self) {
        self.take(&Step::Network(NetworkChange::AsBuilt));
        self.take(&Step::Gate { open: true });
        for _ in 0..4 {
            self.take(&Step::Wait(Duration::from_secs(86_400)));
        }
        let lasting = ["neighbours"];
        for table in self.engine.table_use() {
            let empty = table.used == 0 || lasting.contains(&table.name);
            assert!(empty, "{table:?}");
        }
        assert_eq!(self.engine.counters().held, 0);
    }

    /// Every port of the pool, every place of a quota.
    pub fn everything_is_free_again(&mut self) {
        self.take(&Step::Commit(FILLED));
        let ask = |port: u16| {
            let from = format!("10.1.0.10:{port}");
            build::udp().from(&from).to("198.51.100.9:53").frame()
        };
        let mut ports = BTreeSet::new();
        for port in 6_000..6_008 {
            self.frame(1, ask(port), Offload::default());
            ports.extend(self.flows().iter().map(|flow| flow.reply.destination.port));
        }
        assert_eq!(ports, (2_000..2_008).collect(), "every port of the pool");
        let exhausted = Verdict::Reject(DropReason::NatPortsExhausted);
        assert_eq!(self.frame(1, ask(6_008), Offload::default()), exhausted);
        self.run_out();
        self.take(&Step::Commit(TIGHT));
        let syn = |port: u16| {
            let from = format!("198.51.100.9:{port}");
            build::tcp().from(&from).to("10.1.0.10:443").syn().seq(1).frame()
        };
        for port in 6_000..6_003 {
            self.frame(0, syn(port), Offload::default());
            self.frame(1, ask(port), Offload::default());
        }
        assert_eq!(self.flows().len(), 6, "three by each source, three half open");
        self.run_out();
    }
}

fn ipnet_address(prefix: &ipnet::IpNet) -> IpAddr {
    prefix.addr()
}

/// Where the flags of a TCP header without IP options stand, from the IP header on.
fn transport_flags(bytes: &[u8]) -> usize {
    if bytes[14] >> 4 == 4 { 20 + 13 } else { 40 + 13 }
}

/// Whether a packet that leaves is one of the flow's, or an error about one.
fn belongs(seen: &Seen, bytes: &[u8], flow: &FlowReport) -> bool {
    let leaving = [flow.reply.reversed(), flow.original.reversed()];
    let same_addresses = |key: &gabion_engine::FlowKey| {
        (key.source.address, key.destination.address)
            == (seen.key.source.address, seen.key.destination.address)
    };
    match seen.kind {
        Kind::Error { quote } => {
            // What its receiver has sent, as it sent it.
            let sent = bytes.get(quote..).and_then(seen::packet);
            sent.is_some_and(|sent| {
                (sent.key == flow.original || sent.key == flow.reply)
                    && sent.key.source.address == seen.key.destination.address
            })
        }
        _ if seen.later => leaving.iter().any(same_addresses),
        Kind::Tcp { .. } | Kind::Query | Kind::Plain => leaving.contains(&seen.key),
    }
}

fn transport(flow: &FlowReport, destination_port: u16) -> Transport {
    let source_port = flow.original.source.port;
    match flow.original.protocol {
        6 => Transport::Tcp { source_port, destination_port },
        17 => Transport::Udp { source_port, destination_port },
        1 => Transport::Icmp { kind: 8, code: 0 },
        58 => Transport::Icmpv6 { kind: 128, code: 0 },
        protocol => Transport::Other { protocol },
    }
}

/// What `explain` does not look at: tables, rates, the packet's size and hop limit, the neighbour.
fn is_limit(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::FlowTableFull
            | DropReason::MappingTableFull
            | DropReason::HalfOpenLimit
            | DropReason::SynChallenged
            | DropReason::SourceQuota
            | DropReason::SourceRate
            | DropReason::NatPortsExhausted
            | DropReason::NatPortQuota
            | DropReason::NatConflict
            | DropReason::NatNoAddress
            | DropReason::TtlExpired
            | DropReason::TooBig
            | DropReason::NeighbourUnresolved
            | DropReason::NeighbourQueueFull
            | DropReason::TransmitQueueFull
            | DropReason::NoRoute
    )
}
