//! Live flows under a new policy: asked again, kept with the translation that they have, or revoked.

use std::fmt;

use gabion_rules::{RuleId, Transport};

use crate::admit::icmp_transport;
use crate::event::CloseReason;
use crate::flows::{Admission, DestinationChoice, Flow, Side, Slot, SourceChoice, Tracker};
use crate::judge::{Case, Outcome, Plan, Witness};
use crate::nat;
use crate::translate::Lease;
use crate::{
    Direction, DropReason, Endpoint, Engine, Family, FlowKey, Generation, InterfaceId, Time, Usage,
};

/// Flows that are asked again or end per turn, so that packets never wait for a long table.
pub(crate) const FLOWS_PER_TURN: u32 = 2_048;

/// What the policy and the network in force say of a live flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Permitted,
    /// The flow is gone.
    Revoked,
    /// No route leads to its target now, so that the rules can not be asked. Its packets do not
    /// pass, but routes come back.
    Unroutable,
}

/// A monitor rule counts new flows, not questions asked again.
pub(crate) struct Nobody;

impl Witness for Nobody {
    fn monitor(&mut self, _: RuleId) {}

    fn step(&mut self, _: &'static str, _: Outcome, _: fmt::Arguments<'_>) {}
}

impl Engine {
    /// Whether the policy in force permits the flow; asked once per policy, and once per network
    /// whether the node still has the address that it was translated to.
    pub(crate) fn still_permitted(&mut self, now: Time, slot: Slot) -> Standing {
        let flow = &self.flows[slot];
        let is_current = self.generation().is_some_and(|generation| flow.is_of(generation));
        if is_current && flow.epoch() == self.epoch {
            return Standing::Permitted;
        }
        let Some(flow) = self.flows.read(slot) else { return Standing::Revoked };
        match self.judge_again(&flow) {
            Ok(admission) => {
                self.flows.set_admission(slot, &admission);
                self.flows[slot].set_epoch(self.epoch);
                Standing::Permitted
            }
            Err(Standing::Unroutable) => Standing::Unroutable,
            Err(Standing::Permitted | Standing::Revoked) => {
                self.remove_flow(now, slot, CloseReason::Revoked);
                Standing::Revoked
            }
        }
    }

    /// Goes on asking about flows of an earlier policy or network, a bounded number at a time.
    pub(crate) fn sweep(&mut self, now: Time) {
        let Some(from) = self.sweep else { return };
        let end = from.saturating_add(FLOWS_PER_TURN).min(self.flows.slots());
        for slot in (from..end).map(Slot) {
            if self.flows.get(slot).is_some() {
                self.review(now, slot);
            }
        }
        self.sweep = (end < self.flows.slots()).then_some(end);
    }

    fn review(&mut self, now: Time, slot: Slot) {
        self.take_usage(now, slot);
        if self.has_expired(now, slot) {
            return;
        }
        if self.still_permitted(now, slot) == Standing::Permitted {
            self.renew_judgement(now, slot);
        }
    }

    /// The admission that the flow would get now, or why it gets none.
    pub(crate) fn judge_again(&self, flow: &Flow) -> Result<Admission, Standing> {
        let generation = self.generation().ok_or(Standing::Revoked)?;
        if self.has_lost_address(flow) {
            return Err(Standing::Revoked);
        }
        if flow.admission.generation == generation {
            return Ok(flow.admission);
        }
        self.judge_anew(flow)
    }

    /// A flow that was begun elsewhere or earlier, before any rule of this node is asked about it; `None` where an
    /// interface is of no zone.
    pub(crate) fn unjudged_flow(
        &mut self,
        keys: [FlowKey; 2],
        ingress: [InterfaceId; 2],
        tracker: Tracker,
    ) -> Option<Flow> {
        let [original, reply] = keys;
        let [from, to] = ingress.map(|interface| self.topology.zone(interface));
        let external = reply.destination.address;
        Some(Flow {
            id: self.next_flow_id(),
            original,
            reply,
            sides: ingress.map(|ingress| Side { ingress, hop: None, usage: Usage::default() }),
            admission: Admission {
                generation: Generation(0),
                from: from?,
                to: to?,
                rule: RuleId(0),
                destination: DestinationChoice::AsSent,
                source: SourceChoice::AsSent,
            },
            tracker,
            half_open: false,
            expendable: false,
            logged: false,
            lease: Lease::Nothing,
            guest_of: None,
            is_from_own_address: external != original.source.address
                && self.topology.is_own(external),
            epoch: self.epoch,
            opened: Time::ZERO,
            expires: Time::ZERO,
        })
    }

    /// As [`judge_again`](Self::judge_again), for a flow that no rule in force has been asked about.
    pub(crate) fn judge_anew(&self, flow: &Flow) -> Result<Admission, Standing> {
        let generation = self.generation().ok_or(Standing::Revoked)?;
        let case = Case {
            from: flow.side(Direction::Original).ingress,
            key: flow.original,
            transport: transport_of_key(&flow.original),
            pinned: Some(flow.reply.source),
        };
        let plan = self.judge(&mut Nobody, &case).map_err(|refusal| {
            if refusal.reason == DropReason::NoRoute {
                Standing::Unroutable
            } else {
                Standing::Revoked
            }
        })?;
        let kept = self.same_target(flow, &plan) && self.may_keep_source(flow, &plan);
        if kept { Ok(plan.admission(generation)) } else { Err(Standing::Revoked) }
    }

    /// Answers to an address that the node no longer has come back to somebody else.
    fn has_lost_address(&self, flow: &Flow) -> bool {
        flow.is_from_own_address && !self.topology.is_own(flow.reply.destination.address)
    }

    fn same_target(&self, flow: &Flow, plan: &Plan) -> bool {
        let target = plan.towards(&flow.original).destination;
        let target = if flow.original.is_icmp_query() {
            // The identifier that stands for the port may be a translated one.
            Endpoint { port: flow.reply.source.port, ..target }
        } else {
            target
        };
        let kind = |choice: DestinationChoice| match choice {
            DestinationChoice::AsSent | DestinationChoice::Rule(_) => 0,
            DestinationChoice::Mapping => 1,
            DestinationChoice::Filtered => 2,
        };
        target == flow.reply.source && kind(flow.admission.destination) == kind(plan.destination)
    }

    fn may_keep_source(&self, flow: &Flow, plan: &Plan) -> bool {
        let external = flow.reply.destination;
        let external_has_ports = flow.original.has_ports();
        let own = self.topology.own_address(plan.outward, external.address.family());
        match plan.source {
            SourceChoice::AsSent => external == flow.original.source,
            SourceChoice::Hairpin => own == Some(external.address),
            SourceChoice::Rule(id) => {
                let Some(policy) = &self.policy else { return false };
                policy.rules.source_nat_by_id(id).is_some_and(|nat| {
                    // The rule's ports are for protocols whose ports NAT changes.
                    let port = if external_has_ports { external.port } else { 0 };
                    let chosen = Endpoint { port, ..external };
                    external != flow.original.source
                        && nat::permits(&nat.address, &nat.ports, chosen, own)
                })
            }
        }
    }
}

/// The transport as it was when the flow's first packet came: ICMP flows begin with an echo request.
fn transport_of_key(key: &FlowKey) -> Transport {
    let (source_port, destination_port) = (key.source.port, key.destination.port);
    match (key.protocol, key.source.address.family()) {
        (6, _) => Transport::Tcp { source_port, destination_port },
        (17, _) => Transport::Udp { source_port, destination_port },
        (1, Family::Ipv4) => icmp_transport(1, 8, 0),
        (58, Family::Ipv6) => icmp_transport(58, 128, 0),
        (protocol, _) => Transport::Other { protocol },
    }
}
