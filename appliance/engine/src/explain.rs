//! What would become of a packet, stage by stage: the same judgement, with somebody listening.

use std::fmt;
use std::net::IpAddr;

use gabion_rules::{NatId, Query, RuleId, Transport};

use crate::cluster::Whose;
use crate::flows::{DestinationChoice, SourceChoice};
use crate::judge::{Answer, Case, Outcome, Refusal, Witness};
use crate::{Address, DropReason, Endpoint, Engine, FlowKey, InterfaceId, Verdict, WorkerId};

/// What `Engine::explain` is asked: the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub from: InterfaceId,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
}

/// What would become of a packet now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub verdict: Verdict,
    /// The rule that was asked or, for a packet of a live flow, that admitted it.
    pub rule: Option<RuleId>,
    pub query: Option<Query>,
    /// What leaves the node, where NAT changes anything. A port that would be chosen at random is 0.
    pub translated: Option<FlowKey>,
}

/// One stage that the packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// ready, zone, flow, destination-nat, route, rules, source-nat.
    pub stage: &'static str,
    pub outcome: Outcome,
    pub detail: String,
}

#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Witness for Steps {
    fn monitor(&mut self, rule: RuleId) {
        let detail = format!("monitor rule {} would decide", rule.0);
        self.0.push(Step { stage: "rules", outcome: Outcome::Match, detail });
    }

    fn step(&mut self, stage: &'static str, outcome: Outcome, detail: fmt::Arguments<'_>) {
        self.0.push(Step { stage, outcome, detail: detail.to_string() });
    }
}

impl Engine {
    /// What would become of a packet now; changes nothing.
    pub fn explain(&self, probe: &Probe) -> Explanation {
        let mut steps = Steps::default();
        let key = key_of(probe);
        let outcome = self.explain_key(&mut steps, probe, key);
        let mut explanation = outcome.unwrap_or_else(|refusal| Explanation {
            steps: Vec::new(),
            verdict: match refusal.answer {
                Some(Answer::Refuse | Answer::Icmp(_) | Answer::Challenge(_)) => {
                    Verdict::Reject(refusal.reason)
                }
                Some(Answer::Unsolicited) | None => Verdict::Drop(refusal.reason),
            },
            rule: refusal.decided.map(|(decided, _)| decided.rule),
            query: refusal.decided.map(|(decided, _)| decided.query),
            translated: None,
        });
        explanation.steps = steps.0;
        explanation
    }

    /// The engine of this node that has the packet's flow, or would decide it.
    pub fn worker_of_probe(&self, probe: &Probe) -> WorkerId {
        self.worker_for(&key_of(probe))
    }

    fn explain_key(
        &self,
        steps: &mut Steps,
        probe: &Probe,
        key: FlowKey,
    ) -> Result<Explanation, Refusal> {
        if !self.is_open() {
            steps.step(
                "ready",
                Outcome::Drop,
                format_args!("the guard of the host is not in place"),
            );
            return Err(DropReason::NotReady.into());
        }
        if self.is_for_host(
            key.source.address,
            key.destination.address,
            key.protocol,
            ports_of(probe),
        ) {
            steps.step("zone", Outcome::Pass, format_args!("the host's own stack answers"));
            let (rule, query, translated) = (None, None, None);
            let (steps, verdict) = (Vec::new(), Verdict::Local);
            return Ok(Explanation { steps, verdict, rule, query, translated });
        }
        self.explain_zone(steps, probe, key)?;
        if let Some(known) = self.explain_flow(steps, &key) {
            return Ok(known);
        }
        let case = Case { from: probe.from, key, transport: probe.transport, pinned: None };
        let plan = self.judge(steps, &case)?;
        if plan.destination == DestinationChoice::Filtered {
            return Err(DropReason::NatFiltered.into());
        }
        let own = self.topology.own_address(plan.outward, key.source.address.family());
        let source = match plan.source {
            SourceChoice::AsSent => key.source,
            SourceChoice::Hairpin => {
                Endpoint { address: own.unwrap_or(key.source.address), port: 0 }
            }
            SourceChoice::Rule(id) => self.preview(id, &key, own),
        };
        let leaving = FlowKey { source, destination: plan.target, protocol: key.protocol };
        Ok(Explanation {
            steps: Vec::new(),
            verdict: Verdict::Forward { out: plan.hop.out },
            rule: Some(plan.decision.rule),
            query: Some(plan.query),
            translated: (leaving != key).then_some(leaving),
        })
    }

    fn preview(&self, id: NatId, key: &FlowKey, own: Option<Address>) -> Endpoint {
        let rules = self.policy.as_ref().map(|policy| &policy.rules);
        rules
            .and_then(|rules| rules.source_nat_by_id(id))
            .map_or(key.source, |nat| self.translator.preview(nat, key, own))
    }

    fn explain_zone(&self, steps: &mut Steps, probe: &Probe, key: FlowKey) -> Result<(), Refusal> {
        let checked = self
            .check_addresses(key.source.address, key.destination.address)
            .and_then(|()| self.check_source(probe.from, key.source.address));
        let (outcome, detail) = match checked {
            Ok(_) => (Outcome::Pass, "the source belongs to the zone it comes from"),
            Err(DropReason::NotReady) => (Outcome::Drop, "no policy is in force"),
            Err(DropReason::NoZone) => (Outcome::Drop, "no zone lists the interface"),
            Err(reason) => (Outcome::Drop, reason.help()),
        };
        steps.step("zone", outcome, format_args!("{detail}"));
        checked?;
        Ok(())
    }

    /// A packet of a live flow is not judged again.
    fn explain_flow(&self, steps: &mut Steps, key: &FlowKey) -> Option<Explanation> {
        let Some((slot, direction)) = self.flows.find(key) else {
            return self.explain_owner(steps, key);
        };
        let flow = self.flows.read(slot)?;
        if flow.admission.destination == DestinationChoice::Filtered {
            steps.step("flow", Outcome::Miss, format_args!("no packet passes by the flow"));
            return None;
        }
        let Ok(admission) = self.judge_again(&flow) else {
            // A real packet would end the flow first; below, what the flow holds is still seen.
            steps.step(
                "flow",
                Outcome::Miss,
                format_args!(
                    "the flow is no longer permitted: the packet ends it, and may then be dropped for \
                     another reason than is said here, as a NAT mapping may end with it"
                ),
            );
            return None;
        };
        let (id, state) = (flow.id.0, flow.tracker.state().label());
        steps.step("flow", Outcome::Match, format_args!("flow {id}, {state}: rules are not asked"));
        let leaving = flow.key(direction.reversed()).reversed();
        let out = flow.side(direction.reversed()).ingress;
        Some(Explanation {
            steps: Vec::new(),
            verdict: Verdict::Forward { out },
            rule: Some(admission.rule),
            query: None,
            translated: (leaving != *key).then_some(leaving),
        })
    }

    /// A packet of another node's flow is handed to it.
    fn explain_owner(&self, steps: &mut Steps, key: &FlowKey) -> Option<Explanation> {
        let cluster = self.cluster.as_ref();
        let whose = cluster.map(|cluster| cluster.peek_owner(&self.translator, key));
        match whose.unwrap_or(Whose::Nobodys) {
            Whose::Nobodys => {
                let detail = format_args!("no flow has these addresses and ports");
                steps.step("flow", Outcome::Miss, detail);
                None
            }
            Whose::Known(node) => {
                let detail = format_args!(
                    "no flow of this node's has these addresses and ports; node {node} knows whether another's \
                     has, and is asked about all but a TCP SYN"
                );
                steps.step("flow", Outcome::Miss, detail);
                None
            }
            Whose::Of(node) => {
                let detail = format_args!("a flow of node {node}'s: the packet is handed to it");
                steps.step("flow", Outcome::Match, detail);
                let (rule, query, translated) = (None, None, None);
                let (steps, verdict) = (Vec::new(), Verdict::ToPeer { node });
                Some(Explanation { steps, verdict, rule, query, translated })
            }
        }
    }
}

fn ports_of(probe: &Probe) -> Option<(u16, u16)> {
    match probe.transport {
        Transport::Tcp { source_port, destination_port }
        | Transport::Udp { source_port, destination_port } => Some((source_port, destination_port)),
        Transport::Icmp { .. } | Transport::Icmpv6 { .. } | Transport::Other { .. } => None,
    }
}

fn key_of(probe: &Probe) -> FlowKey {
    let (protocol, source_port, destination_port) = match probe.transport {
        Transport::Tcp { source_port, destination_port } => (6, source_port, destination_port),
        Transport::Udp { source_port, destination_port } => (17, source_port, destination_port),
        Transport::Icmp { .. } => (1, 0, 0),
        Transport::Icmpv6 { .. } => (58, 0, 0),
        Transport::Other { protocol } => (protocol, 0, 0),
    };
    FlowKey {
        source: Endpoint { address: Address::from(probe.source), port: source_port },
        destination: Endpoint { address: Address::from(probe.destination), port: destination_port },
        protocol,
    }
}
