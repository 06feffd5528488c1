//! The first packet of a flow: limits, judgement, translation, and the flow's entry.

use std::fmt;

use gabion_rules::{FloodLimits, RuleId, Transport};

use crate::event::{CloseReason, Event, FlowId};
use crate::flows::{DestinationChoice, Flow, Side, Slot, SourceChoice, Tracker};
use crate::half_open::Newcomer;
use crate::judge::{Answer, Case, Outcome, Plan, Refusal, Witness};
use crate::neighbours::NeighbourId;
use crate::packet::{Packet, Segment, TcpSegment, protocol};
use crate::quotas::Want;
use crate::reply::IcmpError;
use crate::tcp::TcpTracker;
use crate::translate::{Lease, Translated};
use crate::{DropReason, Endpoint, Engine, FlowKey, InterfaceId, Time, Usage};

/// Hears of monitor rules and of nothing else.
struct MonitorsOnly<'a>(&'a mut Vec<RuleId>);

impl Witness for MonitorsOnly<'_> {
    fn monitor(&mut self, rule: RuleId) {
        self.0.push(rule);
    }

    fn step(&mut self, _: &'static str, _: Outcome, _: fmt::Arguments<'_>) {}
}

impl Engine {
    /// Admits the first packet of a flow, or says why not.
    pub(crate) fn admit(
        &mut self,
        now: Time,
        from: InterfaceId,
        packet: &Packet,
        key: FlowKey,
    ) -> Result<Slot, Refusal> {
        begins_flow(&packet.segment)?;
        if packet.homes.destination.is_some() {
            // Only as an answer (RFC 6092 REC-27).
            return Err(DropReason::ExtensionHeader.into());
        }
        let transport = transport_of(packet, &key);
        let mut monitors = std::mem::take(&mut self.monitors);
        let case = Case { from, key, transport, pinned: None };
        let judged = self.judge(&mut MonitorsOnly(&mut monitors), &case);
        self.count_rules(now, &mut monitors, &judged);
        self.monitors = monitors;
        let plan = judged?;
        if packet.hop_limit <= 1 {
            // Before the flow is made: a traceroute leaves no state behind.
            return Err(Refusal::answered(DropReason::TtlExpired, IcmpError::TimeExceeded));
        }
        Self::check_translatable(packet, &plan)?;
        let slot = self.establish(now, from, packet, key, &plan).map_err(|reason| {
            // RFC 5508 REQ-8.
            let told = is_told(reason, plan.source);
            let answer = if let Segment::Tcp(syn) = &packet.segment
                && reason == DropReason::SynChallenged
            {
                Some(Answer::Challenge(self.ask_source(now, from, &key, syn)))
            } else {
                told.then_some(Answer::Icmp(IcmpError::Prohibited))
            };
            Refusal { reason, answer, decided: None }
        })?;
        match plan.destination {
            DestinationChoice::Filtered => Err(DropReason::NatFiltered.into()),
            DestinationChoice::AsSent | DestinationChoice::Rule(_) | DestinationChoice::Mapping => {
                self.homes.remember(slot, packet.homes);
                Ok(slot)
            }
        }
    }

    fn count_rules(
        &mut self,
        now: Time,
        monitors: &mut Vec<RuleId>,
        judged: &Result<Plan, Refusal>,
    ) {
        let decided = match judged {
            Ok(plan) => Some(plan.decision.rule),
            Err(refusal) => refusal.decided.map(|(decided, _)| decided.rule),
        };
        for rule in monitors.drain(..).chain(decided) {
            if let Some(counters) = self.rule_counters.get_mut(rule.0 as usize) {
                counters.hits += 1;
                counters.last_hit = Some(now);
            }
        }
    }

    fn establish(
        &mut self,
        now: Time,
        from: InterfaceId,
        packet: &Packet,
        key: FlowKey,
        plan: &Plan,
    ) -> Result<Slot, DropReason> {
        let tracker = tracker_for(packet);
        let is_filtered = plan.destination == DestinationChoice::Filtered;
        if is_filtered && let Some(slot) = self.find_filtered(now, &key) {
            self.refresh(now, slot, &tracker);
            return Ok(slot);
        }
        let policy = self.policy.as_ref().ok_or(DropReason::NotReady)?;
        let generation = policy.generation;
        let flood = self.flood();
        let half_open = matches!(tracker, Tracker::Tcp(_));
        let makes_room = self.make_room(now, &flood, packet, &key, plan)?;
        let hop = self.hop(plan.hop)?;
        let Translated { external, lease } = self.translate_source(now, key, plan)?;
        let reply = plan.towards(&key).reply_to(external);
        let is_guest = plan.destination == DestinationChoice::Mapping;
        let guest_of = if is_guest { self.translator.enter(&key) } else { None };
        // What either side has sent before the other let it in ends here.
        for key in [&key, &reply] {
            if let Some(slot) = self.find_filtered(now, key) {
                self.remove_flow(now, slot, CloseReason::Reopened);
            }
        }
        if reply == key || self.flows.find(&reply).is_some() {
            self.translator.release(now, lease, &key, &reply);
            if let Some(id) = guest_of {
                self.translator.exit(now, id, false);
            }
            return Err(DropReason::NatConflict);
        }
        let admission = plan.admission(generation);
        let expires = now + self.timeout(Some(admission.rule), &tracker);
        let logged = self.journal.may_log(now, plan.decision.rule, plan.decision.log);
        let flow = Flow {
            id: self.next_flow_id(),
            original: key,
            reply,
            sides: [side(from, Some(hop)), side(plan.hop.out, None)],
            admission,
            tracker,
            half_open,
            expendable: !half_open,
            logged,
            lease,
            guest_of,
            is_from_own_address: self.is_own_translation(plan, external),
            epoch: self.epoch,
            opened: now,
            expires,
        };
        if let Some((slot, limit)) = makes_room {
            self.evict(now, slot, limit);
        }
        self.insert_flow(now, &flow)
    }

    /// Whether there may be one more flow, and the one that makes room for it, if one has to. What the datapath has
    /// done lately may show that this one stays, or that nobody is in the way.
    fn make_room(
        &mut self,
        now: Time,
        flood: &FloodLimits,
        packet: &Packet,
        key: &FlowKey,
        plan: &Plan,
    ) -> Result<Option<(Slot, DropReason)>, DropReason> {
        /// Flows that are asked for one packet.
        const TRIES: u32 = 32;
        for _ in 0..TRIES {
            let makes_room = self.keep_within_limits(now, flood, packet, key, plan);
            match makes_room.and_then(|makes_room| self.keep_within_table(makes_room)) {
                Ok(Some((slot, limit))) => {
                    self.take_usage(now, slot);
                    let flow = &self.flows[slot];
                    if flow.is_half_open() || flow.is_expendable() {
                        return Ok(Some((slot, limit)));
                    }
                }
                Err(_) if self.hurry_handshakes(now) => {}
                answer @ (Ok(None) | Err(_)) => return answer,
            }
        }
        Err(DropReason::FlowTableFull)
    }

    /// Whether the source may have one more flow, and the handshake that makes room for it, if one
    /// has to.
    fn keep_within_limits(
        &mut self,
        now: Time,
        flood: &FloodLimits,
        packet: &Packet,
        key: &FlowKey,
        plan: &Plan,
    ) -> Result<Option<Slot>, DropReason> {
        let source = key.source.address.into();
        match &packet.segment {
            Segment::Tcp(tcp) => {
                self.quotas.check(now, flood, source, Want::Handshake)?;
                let newcomer =
                    Newcomer { key: *key, destination: plan.target, sequence: tcp.sequence };
                self.half_open.admit(now, flood, &newcomer)
            }
            Segment::Udp { .. }
            | Segment::IcmpQuery { .. }
            | Segment::IcmpError { .. }
            | Segment::LinkLocal { .. }
            | Segment::Other { .. }
            | Segment::Later => self.quotas.check(now, flood, source, Want::Flow).map(|()| None),
        }
    }

    /// In a full table the oldest flow makes room that is over or has not shown that it lives: those that
    /// have stay. It takes a round trip to show it, and a flood of invented sources takes longer than
    /// that for a whole table.
    fn keep_within_table(
        &self,
        makes_room: Option<Slot>,
    ) -> Result<Option<(Slot, DropReason)>, DropReason> {
        if let Some(slot) = makes_room {
            return Ok(Some((slot, DropReason::HalfOpenLimit)));
        }
        if !self.flows.is_full() {
            return Ok(None);
        }
        let waiting =
            self.expendable.first().map(Slot).map(|slot| (slot, self.flows[slot].opened()));
        let oldest = waiting.into_iter().chain(self.half_open.oldest());
        let (slot, _) = oldest.min_by_key(|(_, since)| *since).ok_or(DropReason::FlowTableFull)?;
        Ok(Some((slot, DropReason::FlowTableFull)))
    }

    /// Ends a flow that nobody has answered, for one that came later.
    fn evict(&mut self, now: Time, slot: Slot, limit: DropReason) {
        self.remove_flow(now, slot, CloseReason::Evicted);
        self.counters.evicted += 1;
        self.meet_limit(now, limit);
    }

    pub(crate) fn insert_flow(&mut self, now: Time, flow: &Flow) -> Result<Slot, DropReason> {
        let slot = self.sharding.claim(flow).and_then(|()| {
            // Not by count, but no place is left for one of its keys.
            let slot = self.flows.insert(flow).ok_or(DropReason::FlowTableFull);
            slot.inspect_err(|_| self.sharding.release(flow))
        });
        let slot = slot.inspect_err(|_| {
            self.translator.release(now, flow.lease, &flow.original, &flow.reply);
            if let Some(id) = flow.guest_of {
                self.translator.exit(now, id, false);
            }
        })?;
        let source = flow.original.source.address.into();
        self.quotas.add_flow(now, source);
        if flow.half_open {
            self.half_open.add(now, slot, flow.reply.source);
            self.quotas.add_half_open(source);
        } else {
            self.expendable.append(slot.0);
        }
        if flow.logged {
            self.journal.push(Event::FlowOpened(flow.report()));
        }
        self.timers.set(&mut self.flows, slot.0, flow.expires);
        Ok(slot)
    }

    fn translate_source(
        &mut self,
        now: Time,
        key: FlowKey,
        plan: &Plan,
    ) -> Result<Translated, DropReason> {
        let towards = plan.towards(&key);
        let own = self.topology.own_address(plan.outward, key.source.address.family());
        match plan.source {
            SourceChoice::AsSent => Ok(Translated { external: key.source, lease: Lease::Nothing }),
            SourceChoice::Hairpin => {
                self.translator.choose_hairpin(now, &self.flows, &towards, own)
            }
            SourceChoice::Rule(id) => {
                let policy = self.policy.as_ref().ok_or(DropReason::NotReady)?;
                let nat = policy.rules.source_nat_by_id(id).ok_or(DropReason::NatNoAddress)?;
                let sent_to = key.destination.address;
                self.translator.choose(now, &self.flows, nat, &towards, sent_to, own)
            }
        }
    }

    fn is_own_translation(&self, plan: &Plan, external: Endpoint) -> bool {
        plan.source != SourceChoice::AsSent && self.topology.is_own(external.address)
    }

    pub(crate) fn next_flow_id(&mut self) -> FlowId {
        self.last_flow_id += u64::from(self.sharding.workers());
        FlowId(self.last_flow_id)
    }
}

fn side(ingress: InterfaceId, hop: Option<NeighbourId>) -> Side {
    Side { ingress, hop, usage: Usage::default() }
}

/// Who is translated is told of a quota (RFC 6888 REQ-11); the sources of others may be invented.
fn is_told(reason: DropReason, source: SourceChoice) -> bool {
    let is_subscriber = matches!(source, SourceChoice::Rule(_));
    let is_full =
        [DropReason::NatPortsExhausted, DropReason::NatPortQuota, DropReason::MappingTableFull];
    is_full.contains(&reason)
        || is_subscriber && matches!(reason, DropReason::SourceQuota | DropReason::SourceRate)
}

/// Whether a packet that belongs to no flow may begin one.
pub(crate) fn begins_flow(segment: &Segment) -> Result<(), DropReason> {
    match segment {
        Segment::Tcp(tcp) if !is_opening(tcp) => Err(DropReason::TcpNotSyn),
        Segment::IcmpQuery { request: false, .. } => Err(DropReason::IcmpUnsolicited),
        Segment::IcmpError { .. } => Err(DropReason::IcmpErrorUnmatched),
        Segment::LinkLocal { .. } => Err(DropReason::IcmpType),
        Segment::Later => Err(DropReason::FragmentInvalid),
        Segment::Tcp(_)
        | Segment::IcmpQuery { .. }
        | Segment::Udp { .. }
        | Segment::Other { .. } => Ok(()),
    }
}

pub(crate) fn is_opening(tcp: &TcpSegment) -> bool {
    let flags = tcp.flags;
    flags.syn && !flags.ack && !flags.rst && !flags.fin
}

fn tracker_for(packet: &Packet) -> Tracker {
    match (&packet.segment, packet.protocol) {
        (Segment::Tcp(tcp), _) => Tracker::Tcp(TcpTracker::open(tcp)),
        (Segment::Udp { .. }, _) | (Segment::Other { .. }, protocol::UDP_LITE) => {
            Tracker::Udp { replied: false }
        }
        (Segment::Other { .. }, protocol::SCTP | protocol::DCCP) => {
            Tracker::Association { replied: false }
        }
        (Segment::IcmpQuery { .. }, _) => Tracker::Icmp { replied: false, both_ask: false },
        (Segment::IcmpError { .. } | Segment::LinkLocal { .. } | Segment::Later, _)
        | (Segment::Other { .. }, _) => Tracker::Other { replied: false },
    }
}

/// The transport header as rules match it.
pub(crate) fn transport_of(packet: &Packet, key: &FlowKey) -> Transport {
    let (source_port, destination_port) = (key.source.port, key.destination.port);
    match packet.segment {
        Segment::Tcp(_) => Transport::Tcp { source_port, destination_port },
        Segment::Udp { .. } => Transport::Udp { source_port, destination_port },
        Segment::IcmpQuery { kind, code, .. } | Segment::IcmpError { kind, code } => {
            icmp_transport(key.protocol, kind, code)
        }
        Segment::LinkLocal { kind } => icmp_transport(key.protocol, kind, 0),
        Segment::Other { .. } | Segment::Later => Transport::Other { protocol: key.protocol },
    }
}

pub(crate) const fn icmp_transport(protocol: u8, kind: u8, code: u8) -> Transport {
    if protocol == 1 { Transport::Icmp { kind, code } } else { Transport::Icmpv6 { kind, code } }
}
