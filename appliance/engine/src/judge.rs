//! What the policy says about the first packet of a flow. Reads, never writes: admission acts on the
//! answer, live flows are held against it when the policy changes, and `explain` prints it.

use std::fmt;

use gabion_rules::{
    Action, Decision, LogMode, NatQuery, Query, RuleId, RuleSet, Transport, ZoneId,
};

use crate::event::{Decided, Generation};
use crate::flows::{self, Admission, DestinationChoice, SourceChoice};
use crate::network::NextHop;
use crate::reply::IcmpError;
use crate::{Address, DropReason, Endpoint, Engine, FlowKey, InterfaceId};

/// How a stage went for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Match,
    Miss,
    Translate,
    Drop,
}

impl Outcome {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Match => "match",
            Self::Miss => "miss",
            Self::Translate => "translate",
            Self::Drop => "drop",
        }
    }
}

/// Whoever wants to know the steps that lead to a judgement.
pub(crate) trait Witness {
    fn monitor(&mut self, rule: RuleId);
    fn step(&mut self, stage: &'static str, outcome: Outcome, detail: fmt::Arguments<'_>);
}

/// The packet that is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) from: InterfaceId,
    pub(crate) key: FlowKey,
    pub(crate) transport: Transport,
    /// The target that a live flow has already: kept if the policy would allow to choose it.
    pub(crate) pinned: Option<Endpoint>,
}

/// A packet may pass, in this way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) query: Query,
    pub(crate) decision: Decision,
    pub(crate) destination: DestinationChoice,
    /// Where the packet goes after destination NAT.
    pub(crate) target: Endpoint,
    pub(crate) source: SourceChoice,
    /// The interface whose address is the node's own in source NAT.
    pub(crate) outward: InterfaceId,
    pub(crate) hop: NextHop,
}

impl Plan {
    /// Under this policy.
    pub(crate) fn admission(&self, generation: Generation) -> Admission {
        Admission {
            generation,
            from: self.query.from,
            to: self.query.to,
            rule: self.decision.rule,
            destination: self.destination,
            source: self.source,
        }
    }

    /// Whether the packet leaves with the addresses that it came with.
    pub(crate) fn is_as_sent(&self) -> bool {
        self.destination == DestinationChoice::AsSent && self.source == SourceChoice::AsSent
    }

    /// The packet's key behind destination NAT; one that no mapping lets in stays as it was sent.
    pub(crate) fn towards(&self, key: &FlowKey) -> FlowKey {
        match self.destination {
            DestinationChoice::Filtered => *key,
            DestinationChoice::AsSent | DestinationChoice::Rule(_) | DestinationChoice::Mapping => {
                FlowKey { destination: self.target, ..*key }
            }
        }
    }
}

/// A packet may not pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) answer: Option<Answer>,
    /// Where a rule was asked: what, and how it wants to be logged.
    pub(crate) decided: Option<(Decided, LogMode)>,
}

/// What the sender of a refused packet is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// RST for TCP, "administratively prohibited" for all else.
    Refuse,
    /// "Port unreachable", but only when the inside has had time to open the connection itself (RFC
    /// 5382 REQ-4).
    Unsolicited,
    Icmp(IcmpError),
    /// An acknowledgement of this, which was never sent.
    Challenge(u32),
}

impl Refusal {
    pub(crate) const fn silent(reason: DropReason) -> Self {
        Self { reason, answer: None, decided: None }
    }

    pub(crate) const fn answered(reason: DropReason, error: IcmpError) -> Self {
        Self { reason, answer: Some(Answer::Icmp(error)), decided: None }
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::silent(reason)
    }
}

impl Engine {
    /// Judges a packet that belongs to no flow: destination NAT, route, rules, source NAT.
    pub(crate) fn judge<W: Witness>(&self, witness: &mut W, case: &Case) -> Result<Plan, Refusal> {
        let policy = self.policy.as_ref().ok_or(DropReason::NotReady)?;
        let rules = &*policy.rules;
        let from = self.topology.zone(case.from).ok_or(DropReason::NoZone)?;
        let (destination, target) = self.choose_destination(witness, rules, from, case)?;
        let (hop, to) = self.choose_route(witness, rules, from, target, destination, case)?;
        let query = query(from, to, case, target);
        let decision = rules.decide(&query, &mut |rule| witness.monitor(rule));
        let decided = Decided { generation: policy.generation, rule: decision.rule, query };
        witness_decision(witness, rules, &decision);
        let refuse = |reason, answer| {
            Err(Refusal { reason, answer, decided: Some((decided, decision.log)) })
        };
        match decision.action {
            Action::Allow => {}
            Action::Drop => return refuse(DropReason::RuleDrop, None),
            Action::Reject => return refuse(DropReason::RuleReject, Some(Answer::Refuse)),
        }
        let (source, outward) =
            self.choose_source(witness, rules, &query, destination, case, hop)?;
        check_local(rules, &query, &case.key, target, source)?;
        Ok(Plan { query, decision, destination, target, source, outward, hop })
    }

    fn choose_destination<W: Witness>(
        &self,
        witness: &mut W,
        rules: &RuleSet,
        from: ZoneId,
        case: &Case,
    ) -> Result<(DestinationChoice, Endpoint), Refusal> {
        let stage = "destination-nat";
        let key = &case.key;
        let query = NatQuery {
            from,
            source: key.source.address.to_ip(),
            destination: key.destination.address.to_ip(),
            transport: case.transport,
        };
        if let Some(nat) = rules.destination_nat(&query) {
            let port =
                nat.target_port.filter(|_| !key.is_icmp_query()).unwrap_or(key.destination.port);
            let pinned = case.pinned.map(|pinned| pinned.address.to_ip());
            let address = pinned.filter(|pinned| nat.targets.contains(pinned)).or_else(|| {
                // The source picks the target: retransmitted first packets meet the same one.
                let pick = flows::hash(self.target_seed, key) % nat.targets.len().max(1) as u64;
                nat.targets.get(pick as usize).copied()
            });
            let address = address.ok_or(DropReason::NatNoAddress)?;
            let target = Endpoint { address: Address::from(address), port };
            let (name, line) = (&nat.name, nat.line);
            witness.step(
                stage,
                Outcome::Translate,
                format_args!("rule {name} (line {line}): to {target}"),
            );
            return Ok((DestinationChoice::Rule(nat.id), target));
        }
        if let Some(id) = self.translator.mappings.find_external(key.protocol, key.destination) {
            return self.enter_by_mapping(witness, rules, from, case, id);
        }
        witness.step(stage, Outcome::Pass, format_args!("no rule matches"));
        Ok((DestinationChoice::AsSent, key.destination))
    }

    fn choose_route<W: Witness>(
        &self,
        witness: &mut W,
        rules: &RuleSet,
        from: ZoneId,
        target: Endpoint,
        destination: DestinationChoice,
        case: &Case,
    ) -> Result<(NextHop, ZoneId), Refusal> {
        let stage = "route";
        let address = target.address;
        if self.topology.is_own(address) {
            witness.step(stage, Outcome::Drop, format_args!("{address} is the node itself"));
            return Err(DropReason::ToNode.into());
        }
        if destination == DestinationChoice::AsSent && self.topology.is_pooled(address) {
            // Wherever it is routed: an address of a pool is nobody's but by a mapping.
            witness.step(
                stage,
                Outcome::Drop,
                format_args!("{address} is of a pool, with no mapping"),
            );
            return Err(self.filtered(rules, from, case, None));
        }
        let Some(hop) = self.topology.next_hop(address) else {
            witness.step(stage, Outcome::Drop, format_args!("no route to {address}"));
            return Err(Refusal::answered(DropReason::NoRoute, IcmpError::NoRoute));
        };
        if destination == DestinationChoice::AsSent && self.topology.answers_for(hop.out, address) {
            // The node itself claims the address on that link, and has nobody behind this port.
            witness.step(stage, Outcome::Drop, format_args!("{address} is translated, not here"));
            return Err(self.filtered(rules, from, case, None));
        }
        let Some(to) = self.topology.zone(hop.out) else {
            witness.step(stage, Outcome::Drop, format_args!("the interface is in no zone"));
            return Err(DropReason::NoZoneOut.into());
        };
        let out = self.topology.interface(hop.out).map_or("?", |interface| &interface.name);
        let zone = rules.zones().get(usize::from(to.0)).map_or("?", |zone| &zone.name);
        let hairpin = if hop.out == case.from { ", the way it came" } else { "" };
        witness.step(
            stage,
            Outcome::Pass,
            format_args!("{address} via {} out {out} (zone {zone}){hairpin}", hop.address),
        );
        Ok((hop, to))
    }

    /// NAT admits nobody from there. A SYN may be one half of a simultaneous open and is told so
    /// later, unless the rules would drop it silently (RFC 5382 REQ-4a); where nobody is `internal`,
    /// their default says how they deal with what they do not know.
    pub(crate) fn filtered(
        &self,
        rules: &RuleSet,
        from: ZoneId,
        case: &Case,
        internal: Option<Endpoint>,
    ) -> Refusal {
        let silent = Refusal::silent(DropReason::NatFiltered);
        if !matches!(case.transport, Transport::Tcp { .. }) {
            return silent;
        }
        let action = match internal {
            None => rules.default_action(),
            Some(internal) => {
                let hop = self.topology.next_hop(internal.address);
                let Some(to) = hop.and_then(|hop| self.topology.zone(hop.out)) else {
                    return silent;
                };
                let query = query(from, to, case, internal);
                rules.decide(&query, &mut |_| {}).action
            }
        };
        match action {
            Action::Drop => silent,
            Action::Allow | Action::Reject => {
                Refusal { answer: Some(Answer::Unsolicited), ..silent }
            }
        }
    }

    fn choose_source<W: Witness>(
        &self,
        witness: &mut W,
        rules: &RuleSet,
        query: &Query,
        destination: DestinationChoice,
        case: &Case,
        hop: NextHop,
    ) -> Result<(SourceChoice, InterfaceId), Refusal> {
        let stage = "source-nat";
        let hairpin = hop.out == case.from;
        let outward = match destination {
            DestinationChoice::Mapping | DestinationChoice::Filtered => {
                self.outward(rules, query.from, case)
            }
            DestinationChoice::Rule(_) if hairpin => self.outward(rules, query.from, case),
            DestinationChoice::Rule(_) | DestinationChoice::AsSent => None,
        };
        let written = rules.source_nat(query).map(|nat| (hop.out, nat));
        let chosen = match destination {
            DestinationChoice::Rule(_) => written.or(outward),
            DestinationChoice::Mapping
            | DestinationChoice::Filtered
            | DestinationChoice::AsSent => outward.or(written),
        };
        if let Some((out, nat)) = chosen {
            let (name, line) = (&nat.name, nat.line);
            let hairpin = if hairpin { ", hairpin" } else { "" };
            let detail = format_args!("rule {name} (line {line}){hairpin}");
            witness.step(stage, Outcome::Translate, detail);
            return Ok((SourceChoice::Rule(nat.id), out));
        }
        if hairpin && destination != DestinationChoice::AsSent {
            witness.step(stage, Outcome::Translate, format_args!("hairpin, to the node's address"));
            return Ok((SourceChoice::Hairpin, hop.out));
        }
        witness.step(stage, Outcome::Pass, format_args!("no rule matches"));
        Ok((SourceChoice::AsSent, hop.out))
    }
}

/// RFC 6092 REC-7: unique local addresses never come from, go to or show themselves in a zone that
/// does not list its networks, which is an outside one. Translated, they may.
fn check_local(
    rules: &RuleSet,
    query: &Query,
    key: &FlowKey,
    target: Endpoint,
    source: SourceChoice,
) -> Result<(), DropReason> {
    let outside = |zone: ZoneId| {
        rules.zones().get(usize::from(zone.0)).is_none_or(|zone| zone.networks.is_empty())
    };
    let (from_outside, to_outside) = (outside(query.from), outside(query.to));
    let shown = from_outside || to_outside && source == SourceChoice::AsSent;
    if shown && key.source.address.is_unique_local() {
        return Err(DropReason::MartianSource);
    }
    let reached = from_outside && key.destination.address.is_unique_local()
        || to_outside && target.address.is_unique_local();
    if reached { Err(DropReason::MartianDestination) } else { Ok(()) }
}

fn witness_decision<W: Witness>(witness: &mut W, rules: &RuleSet, decision: &Decision) {
    let (name, line) = rules
        .rules()
        .get(decision.rule.0 as usize)
        .map_or(("?", 0), |rule| (rule.name.as_str(), rule.line));
    let (outcome, action) = match decision.action {
        Action::Allow => (Outcome::Match, "allow"),
        Action::Drop => (Outcome::Drop, "drop"),
        Action::Reject => (Outcome::Drop, "reject"),
    };
    witness.step("rules", outcome, format_args!("rule {name} (line {line}): {action}"));
}

/// What the rules are asked about a packet that goes to `target`.
pub(crate) fn query(from: ZoneId, to: ZoneId, case: &Case, target: Endpoint) -> Query {
    Query {
        from,
        to,
        source: case.key.source.address.to_ip(),
        destination: target.address.to_ip(),
        transport: retarget(case.transport, target.port),
    }
}

/// The transport as the rules see it: with the port that destination NAT has chosen.
fn retarget(transport: Transport, port: u16) -> Transport {
    match transport {
        Transport::Tcp { source_port, .. } => {
            Transport::Tcp { source_port, destination_port: port }
        }
        Transport::Udp { source_port, .. } => {
            Transport::Udp { source_port, destination_port: port }
        }
        other @ (Transport::Icmp { .. } | Transport::Icmpv6 { .. } | Transport::Other { .. }) => {
            other
        }
    }
}
