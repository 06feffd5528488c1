//! The table of contents of a packet's life.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use gabion_rules::{RuleId, RuleSet, Settings};

use crate::cluster::{Cluster, FindPassage, Passage};
use crate::counters::{Counters, RuleCounters};
use crate::event::{Event, Generation};
use crate::fast_path::Offloading;
use crate::flows::FlowTable;
use crate::follow::Followed;
use crate::fragments::Fragments;
use crate::half_open::HalfOpen;
use crate::hash::subkey;
use crate::homes::HomesOfFlows;
use crate::identification::Identifications;
use crate::journal::Journal;
use crate::judge::Refusal;
use crate::links::Queue;
use crate::neighbours::Neighbours;
use crate::network::{Network, Topology};
use crate::packet::{Packet, Parsed, Segment};
use crate::pressure::Pressure;
use crate::quotas::Quotas;
use crate::ration::Ration;
use crate::shards::Sharding;
use crate::timers::TimerWheel;
use crate::translate::Translator;
use crate::unsolicited::Unsolicited;
use crate::{
    Address, ClusterConfig, DropReason, Frame, InterfaceId, Limits, Offload, Time, Verdict,
};

/// One engine per worker thread: `&mut self`, no locks inside.
///
/// After each batch of `handle_*` calls drain `poll_transmit` and `poll_event`, in this order, and call
/// `handle_timeout` at the time that `poll_timeout` names.
#[derive(Debug)]
pub struct Engine {
    pub(crate) limits: Limits,
    pub(crate) offloading: Offloading,
    open: bool,
    pub(crate) policy: Option<Policy>,
    pub(crate) defaults: Settings,
    pub(crate) network: Network,
    pub(crate) topology: Topology,
    /// Counts topologies: next hops of an earlier one are looked up again.
    pub(crate) epoch: u32,
    pub(crate) fragments: Fragments,
    pub(crate) flows: FlowTable,
    pub(crate) homes: HomesOfFlows,
    pub(crate) timers: TimerWheel,
    pub(crate) translator: Translator,
    pub(crate) identifications: Identifications,
    pub(crate) quotas: Quotas,
    pub(crate) half_open: HalfOpen,
    /// Flows that make room first when the table is full: see `Flow::expendable`.
    pub(crate) expendable: Queue,
    pub(crate) neighbours: Neighbours,
    pub(crate) outbox: VecDeque<Transmit>,
    pub(crate) journal: Journal,
    pub(crate) pressure: Pressure,
    pub(crate) answers: Ration,
    pub(crate) unsolicited: Unsolicited,
    pub(crate) counters: Counters,
    pub(crate) rule_counters: Vec<RuleCounters>,
    pub(crate) last_flow_id: u64,
    /// Keys the choice among the targets of destination NAT.
    pub(crate) target_seed: [u8; 16],
    /// The slot from which flows are to be asked again, after a policy change.
    pub(crate) sweep: Option<u32>,
    /// Kept for its capacity.
    pub(crate) monitors: Vec<RuleId>,
    /// `None` for a node that stands alone.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) sharding: Sharding,
}

/// The policy in force.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) generation: Generation,
    pub(crate) rules: Arc<RuleSet>,
}

/// What is fixed for an engine's life.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub limits: Limits,
    /// From the system's random source: hash keys and port choice follow from it.
    pub seed: [u8; 32],
    /// `None` for a node that stands alone.
    pub cluster: Option<ClusterConfig>,
}

/// A frame to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    pub out: InterfaceId,
    pub bytes: Vec<u8>,
    pub offload: Offload,
}

/// What the kernel says about a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    Reachable {
        mac: [u8; 6],
    },
    /// It did not answer.
    Failed,
    /// The entry is gone; nothing is known.
    Gone,
}

// The order of the stages.
impl Engine {
    /// Decides one frame and rewrites it in place where it is to be forwarded.
    pub fn handle_frame(&mut self, now: Time, from: InterfaceId, frame: &mut Frame<'_>) -> Verdict {
        let parsed = Packet::parse(frame);
        self.handle_parsed(now, from, frame, parsed)
    }

    /// Decides a frame with what it was parsed into.
    pub(crate) fn handle_parsed(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        parsed: Result<Parsed, DropReason>,
    ) -> Verdict {
        self.counters.frames_in += 1;
        let verdict = self.decide(now, from, frame, parsed);
        self.counters.count(verdict, 1);
        if let Verdict::Drop(reason) | Verdict::Reject(reason) = verdict
            && reason.is_limit()
        {
            self.meet_limit(now, reason);
        }
        self.count_given_way(now);
        verdict
    }

    fn decide(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        parsed: Result<Parsed, DropReason>,
    ) -> Verdict {
        if !self.open || self.policy.is_none() {
            return Verdict::Drop(DropReason::NotReady);
        }
        match parsed {
            Ok(Parsed::Arp(arp)) => self.handle_arp(from, &arp),
            Ok(Parsed::Ip(packet)) => self.handle_packet(now, from, frame, &packet),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn handle_packet(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        packet: &Packet,
    ) -> Verdict {
        if matches!(packet.segment, Segment::LinkLocal { .. }) {
            return self.handle_link_local(from, frame.bytes, packet);
        }
        let ports = match packet.segment {
            Segment::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            Segment::Udp { source_port, destination_port } => Some((source_port, destination_port)),
            Segment::IcmpQuery { .. }
            | Segment::IcmpError { .. }
            | Segment::LinkLocal { .. }
            | Segment::Other { .. }
            | Segment::Later => None,
        };
        if self.is_for_host(packet.source, packet.destination, packet.protocol, ports) {
            return Verdict::Local;
        }
        if let Err(reason) = self.check(from, frame.bytes, packet) {
            // Others' frames are no news on a shared link.
            if reason != DropReason::OtherHost {
                self.log_invalid(now, from, packet, reason);
            }
            return Verdict::Drop(reason);
        }
        self.pass_or_refuse(now, from, frame, packet, Self::find_passage)
    }

    /// Passes a packet by the flow that `find` finds, a fragment once its datagram is whole.
    pub(crate) fn pass_or_refuse(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        packet: &Packet,
        find: impl FindPassage,
    ) -> Verdict {
        if packet.fragment.is_some() {
            return self.handle_fragment(now, from, frame, packet, find);
        }
        self.pass(now, from, frame, packet, find)
            .unwrap_or_else(|refusal| self.refuse(now, from, frame.bytes, packet, &refusal))
    }

    pub(crate) fn pass(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        packet: &Packet,
        find: impl FindPassage,
    ) -> Result<Verdict, Refusal> {
        if let Segment::IcmpError { .. } = packet.segment {
            return self.pass_icmp_error(now, from, frame, packet);
        }
        match find(self, now, from, packet)? {
            Passage::Here(slot, direction) => {
                let exit = self.exit(now, slot, direction, packet, &frame.offload);
                // Where it can not leave, too: it has moved the flow's state.
                self.offer(now, slot);
                Ok(self.leave(slot, direction, frame, packet, &exit?))
            }
            Passage::Elsewhere(errand) => self.hand_over(now, from, frame, packet, errand),
            Passage::Worker(to) => self.give(to, from, frame),
        }
    }

    /// A packet's flow: a live one, one that the rules admit now, or one of another node's.
    pub(crate) fn find_passage(
        &mut self,
        now: Time,
        from: InterfaceId,
        packet: &Packet,
    ) -> Result<Passage, Refusal> {
        let key = packet.key().ok_or(DropReason::FragmentInvalid)?;
        if let Some(worker) = self.hear_source(now, &key, packet)? {
            return Ok(Passage::Worker(worker));
        }
        if let Some((slot, direction)) =
            self.flows.find(&key).or_else(|| self.adopt_for(now, &key, packet, None))
        {
            if let Some(errand) = self.doubted(now, slot, key) {
                return Ok(Passage::Elsewhere(errand));
            }
            if self.follow(now, slot, direction, from, packet)? == Followed::Pass {
                self.note_leg(now, slot, direction, None);
                return Ok(self.passage(slot, direction));
            }
        }
        if let Some(worker) = self.other_worker(packet, &key) {
            return Ok(Passage::Worker(worker));
        }
        if let Some(errand) = self.consult(now, from, packet, key) {
            return Ok(Passage::Elsewhere(errand));
        }
        self.begin(now, from, packet, key, None)
    }
}

// The outside world.
impl Engine {
    /// One without rules: all is dropped as `not-ready` until `set_rules`, `set_network` and `open`.
    pub fn new(now: Time, config: EngineConfig) -> Self {
        let EngineConfig { limits, seed, cluster } = config;
        let translator = Translator::new(&limits, seed, subkey(&seed, 2), cluster.as_ref());
        let cluster =
            cluster.map(|config| Cluster::new(now, config, limits.flows, subkey(&seed, 12)));
        Self {
            limits,
            offloading: Offloading::default(),
            open: false,
            policy: None,
            defaults: Settings::default(),
            network: Network::default(),
            topology: Topology::default(),
            epoch: 1,
            fragments: Fragments::new(&limits, subkey(&seed, 0)),
            flows: FlowTable::new(limits.flows, subkey(&seed, 1)),
            homes: HomesOfFlows::new(limits.flows, subkey(&seed, 11)),
            timers: TimerWheel::new(now),
            identifications: Identifications::new(subkey(&seed, 9)),
            translator,
            quotas: Quotas::new(limits.flows, subkey(&seed, 3)),
            half_open: HalfOpen::new(limits.flows, [5, 13].map(|number| subkey(&seed, number))),
            expendable: Queue::new(limits.flows),
            neighbours: Neighbours::new(&limits),
            outbox: VecDeque::with_capacity(limits.transmit_queue as usize),
            journal: Journal::new(limits.events),
            pressure: Pressure::new(),
            answers: Ration::new(subkey(&seed, 6)),
            unsolicited: Unsolicited::new(subkey(&seed, 7)),
            counters: Counters::new(),
            rule_counters: Vec::new(),
            last_flow_id: 0,
            target_seed: subkey(&seed, 4),
            sweep: None,
            monitors: Vec::new(),
            cluster,
            sharding: Sharding::default(),
        }
    }

    /// Has the system give the memory of the flow table now, and not flow by flow; calls `turn` now
    /// and then. To be called once before the first packet, after huge pages have been asked for.
    pub fn take_memory(&mut self, turn: impl FnMut()) {
        self.flows.take_memory(turn);
    }

    pub fn handle_timeout(&mut self, now: Time) {
        self.expire_flows(now);
        self.expire_fragments(now);
        let lost = self.neighbours.expire(now);
        self.counters.release(Verdict::Drop(DropReason::NeighbourUnresolved), u64::from(lost));
        self.end_pressure(now);
        self.answer_unsolicited(now);
        self.journal.handle_timeout(now);
        self.sweep(now);
        self.gather_handshakes(now);
        self.gather_usage(now);
        self.turn_cluster(now);
    }

    pub fn handle_neighbour(
        &mut self,
        now: Time,
        interface: InterfaceId,
        address: IpAddr,
        neighbour: Neighbour,
    ) {
        let address = Address::from(address);
        match neighbour {
            // RFC 1812 section 3.3.2: a group is nobody's link address.
            Neighbour::Reachable { mac } if mac[0] & 1 == 1 => {}
            Neighbour::Reachable { mac } => self.release_parked(now, interface, address, mac),
            Neighbour::Failed => {
                let lost = self.neighbours.fail(now, interface, address);
                let verdict = Verdict::Drop(DropReason::NeighbourUnresolved);
                self.counters.release(verdict, u64::from(lost));
            }
            Neighbour::Gone => self.neighbours.forget(interface, address),
        }
        self.tell_neighbour(interface, address);
    }

    /// Lets packets pass: the guard of the host stack is in place.
    pub fn open(&mut self) {
        self.open = true;
        self.tell_judgement();
    }

    /// Drops everything as `not-ready` until `open`, what waits for a neighbour too: the guard is gone.
    pub fn close(&mut self) {
        self.open = false;
        self.tell_judgement();
        self.unsolicited.clear();
        let lost = self.neighbours.drop_parked();
        self.counters.release(Verdict::Drop(DropReason::NotReady), u64::from(lost));
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.open
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.journal.pop();
        self.counters.events_lost = self.journal.lost();
        event
    }

    /// When `handle_timeout` is wanted next; may be in the past.
    pub fn poll_timeout(&self) -> Option<Time> {
        let sweep = self.sweep.map(|_| Time::ZERO);
        [
            self.timers.poll_timeout(),
            self.fragments.poll_timeout(),
            self.neighbours.poll_timeout(),
            self.unsolicited.poll_timeout(),
            self.journal.poll_timeout(),
            self.pressure.poll_timeout(),
            self.cluster_timeout(),
            self.usage_timeout(),
            sweep,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
