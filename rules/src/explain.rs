//! What would become of a packet, stage by stage, from the policy alone: routes are the zones'
//! networks, and no flow exists yet.

use std::net::IpAddr;

use crate::{
    Action, Decision, DestinationNat, NatId, NatQuery, PacketText, Query, RuleId, RuleSet,
    SourceAddress, SourceNat, Transport, ZoneId, ZoneLookup,
};

/// The stages of a packet's life that the policy governs, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Whether the source may come in from its zone.
    Sanity,
    DestinationNat,
    /// Which zone the destination lies in.
    Route,
    Rules,
    SourceNat,
}

impl Stage {
    /// As in the API, the logs and the tool.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sanity => "sanity",
            Self::DestinationNat => "destination-nat",
            Self::Route => "route",
            Self::Rules => "rules",
            Self::SourceNat => "source-nat",
        }
    }
}

/// What a stage did with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepOutcome {
    Pass,
    Match,
    Miss,
    Translate,
    Drop,
}

impl StepOutcome {
    /// As in the API, the logs and the tool.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Match => "match",
            Self::Miss => "miss",
            Self::Translate => "translate",
            Self::Drop => "drop",
        }
    }
}

/// One stage that the packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub stage: Stage,
    pub outcome: StepOutcome,
    pub detail: String,
    /// The line of the policy that decided, if one did.
    pub line: Option<u32>,
}

/// What would become of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub action: Action,
    /// `None` where the packet ends before the rules are asked.
    pub rule: Option<RuleId>,
    /// The NAT rules that apply, destination first; of a packet that is not allowed, those that
    /// were met.
    pub nat: Vec<NatId>,
    /// How the packet leaves, where it is allowed and NAT changes it.
    pub translated: Option<Translated>,
}

/// The endpoints of a packet as it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// `None` where the node chooses it: its own address, or one of a pool of several. The port is
    /// always the node's choice.
    pub source: Option<IpAddr>,
    pub destination: IpAddr,
    /// `None` where the protocol has none.
    pub destination_port: Option<u16>,
}

/// Why a packet cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    #[error("the policy has no zone or interface `{0}`")]
    UnknownZone(String),
    #[error("{address} may lie in {}: add `out ZONE` to the packet", .zones.join(" or "))]
    AmbiguousRoute { address: IpAddr, zones: Vec<String> },
}

impl RuleSet {
    /// What would become of a packet that begins a flow. Of several targets of destination NAT the
    /// first is taken; [`explain_target`](Self::explain_target) takes another.
    ///
    /// # Errors
    ///
    /// The packet names a zone that the policy does not have, or the zones' networks do not tell
    /// where the packet goes.
    pub fn explain(&self, packet: &PacketText) -> Result<Explanation, ExplainError> {
        self.explain_target(packet, 0)
    }

    /// As [`explain`](Self::explain) with the given target, counted from 0 and round, of the
    /// destination NAT rule that applies.
    ///
    /// # Errors
    ///
    /// As [`explain`](Self::explain).
    pub fn explain_target(
        &self,
        packet: &PacketText,
        target: usize,
    ) -> Result<Explanation, ExplainError> {
        let from = self.zone_or_interface(&packet.from)?;
        let mut steps = Vec::new();
        steps.push(self.explain_source(from, packet.source));
        if steps.iter().any(|step| step.outcome == StepOutcome::Drop) {
            return Ok(ended(steps, Action::Drop));
        }
        let destination_nat = self.packet_destination_nat(from, packet);
        let (destination, transport) = translate(packet, destination_nat, target);
        steps.push(explain_destination_nat(destination_nat, destination, &transport));
        let Some(to) = self.explain_route(packet, destination, &mut steps)? else {
            return Ok(ended(steps, Action::Drop));
        };
        let query = Query { from, to, source: packet.source, destination, transport };
        let decision = self.explain_rules(&query, &mut steps);
        let is_allowed = decision.action == Action::Allow;
        let source_nat = if is_allowed { self.source_nat(&query) } else { None };
        if is_allowed {
            steps.push(explain_source_nat(source_nat));
        }
        let nat = [destination_nat.map(|rule| rule.id), source_nat.map(|rule| rule.id)];
        let nat: Vec<NatId> = nat.into_iter().flatten().collect();
        let translated = (is_allowed && !nat.is_empty()).then(|| Translated {
            source: source_nat.map_or(Some(packet.source), only_address),
            destination,
            destination_port: destination_port(&transport),
        });
        let (action, rule) = (decision.action, Some(decision.rule));
        Ok(Explanation { steps, action, rule, nat, translated })
    }

    /// How many targets the destination NAT rule for `packet` has; 1 where none applies.
    pub(crate) fn target_count(&self, packet: &PacketText) -> usize {
        let from = self.zone_or_interface(&packet.from);
        let rule = from.ok().and_then(|from| self.packet_destination_nat(from, packet));
        rule.map_or(1, |rule| rule.targets.len())
    }

    fn packet_destination_nat(&self, from: ZoneId, packet: &PacketText) -> Option<&DestinationNat> {
        let &PacketText { source, destination, transport, .. } = packet;
        self.destination_nat(&NatQuery { from, source, destination, transport })
    }

    fn zone_or_interface(&self, name: &str) -> Result<ZoneId, ExplainError> {
        let zone = self.zone_named(name).or_else(|| self.zone_of_interface(name));
        zone.ok_or_else(|| ExplainError::UnknownZone(name.to_owned()))
    }

    fn explain_source(&self, from: ZoneId, source: IpAddr) -> Step {
        let zone = &self.zones()[usize::from(from.0)].name;
        let (outcome, detail) = if self.source_belongs(from, source) {
            (StepOutcome::Pass, format!("{source} may come from {zone}"))
        } else {
            (StepOutcome::Drop, format!("{source} does not belong to the networks of {zone}"))
        };
        Step { stage: Stage::Sanity, outcome, detail, line: None }
    }

    /// `None` where the destination lies in no zone.
    fn explain_route(
        &self,
        packet: &PacketText,
        destination: IpAddr,
        steps: &mut Vec<Step>,
    ) -> Result<Option<ZoneId>, ExplainError> {
        let name = |zone: ZoneId| self.zones()[usize::from(zone.0)].name.as_str();
        let lookup = match &packet.out {
            Some(out) => ZoneLookup::Zone(
                self.zone_named(out).ok_or_else(|| ExplainError::UnknownZone(out.clone()))?,
            ),
            None => self.zone_of_address(destination),
        };
        let (zone, outcome, detail) = match lookup {
            ZoneLookup::Zone(zone) => {
                (Some(zone), StepOutcome::Pass, format!("{destination} lies in {}", name(zone)))
            }
            ZoneLookup::Nowhere => {
                (None, StepOutcome::Drop, format!("{destination} lies in no zone"))
            }
            ZoneLookup::Ambiguous(zones) => {
                let zones = zones.into_iter().map(|zone| name(zone).to_owned()).collect();
                return Err(ExplainError::AmbiguousRoute { address: destination, zones });
            }
        };
        steps.push(Step { stage: Stage::Route, outcome, detail, line: None });
        Ok(zone)
    }

    fn explain_rules(&self, query: &Query, steps: &mut Vec<Step>) -> Decision {
        let rule = |id: RuleId| &self.rules()[id.0 as usize];
        let stage = Stage::Rules;
        let mut monitored = Vec::new();
        let decision = self.decide(query, &mut |id| monitored.push(id));
        for id in monitored {
            let detail = format!("{} monitors", rule(id).name);
            steps.push(Step {
                stage,
                outcome: StepOutcome::Pass,
                detail,
                line: Some(rule(id).line),
            });
        }
        let rule = rule(decision.rule);
        let (outcome, verb) = match decision.action {
            Action::Allow => (StepOutcome::Match, "allows"),
            Action::Drop => (StepOutcome::Drop, "drops"),
            Action::Reject => (StepOutcome::Drop, "rejects"),
        };
        let detail = format!("{} {verb}", rule.name);
        steps.push(Step { stage, outcome, detail, line: Some(rule.line) });
        decision
    }
}

fn ended(steps: Vec<Step>, action: Action) -> Explanation {
    Explanation { steps, action, rule: None, nat: Vec::new(), translated: None }
}

/// The packet's destination and transport after destination NAT.
fn translate(
    packet: &PacketText,
    rule: Option<&DestinationNat>,
    target: usize,
) -> (IpAddr, Transport) {
    let Some(rule) = rule else { return (packet.destination, packet.transport) };
    let target = rule.targets.iter().cycle().nth(target % rule.targets.len().max(1));
    let port = |port| rule.target_port.unwrap_or(port);
    let transport = match packet.transport {
        Transport::Tcp { source_port, destination_port } => {
            Transport::Tcp { source_port, destination_port: port(destination_port) }
        }
        Transport::Udp { source_port, destination_port } => {
            Transport::Udp { source_port, destination_port: port(destination_port) }
        }
        Transport::Icmp { .. } | Transport::Icmpv6 { .. } | Transport::Other { .. } => {
            packet.transport
        }
    };
    (target.copied().unwrap_or(packet.destination), transport)
}

fn explain_destination_nat(
    rule: Option<&DestinationNat>,
    destination: IpAddr,
    transport: &Transport,
) -> Step {
    let stage = Stage::DestinationNat;
    let Some(rule) = rule else { return no_rule(stage) };
    let port = destination_port(transport).map(|port| format!(" port {port}")).unwrap_or_default();
    let choice = match rule.targets.len() {
        1 => String::new(),
        count => format!(", one of {count} targets"),
    };
    let detail = format!("{} sends it to {destination}{port}{choice}", rule.name);
    Step { stage, outcome: StepOutcome::Translate, detail, line: Some(rule.line) }
}

fn no_rule(stage: Stage) -> Step {
    Step { stage, outcome: StepOutcome::Miss, detail: "no rule".to_owned(), line: None }
}

fn explain_source_nat(rule: Option<&SourceNat>) -> Step {
    let stage = Stage::SourceNat;
    let Some(rule) = rule else { return no_rule(stage) };
    let address = match (&rule.address, only_address(rule)) {
        (_, Some(address)) => address.to_string(),
        (SourceAddress::OwnAddress, None) => "the node's own address".to_owned(),
        (SourceAddress::Pool(_), None) => "an address of its pool".to_owned(),
    };
    let (first, last) = (rule.ports.start(), rule.ports.end());
    let detail = format!("{} gives it {address}, ports {first}-{last}", rule.name);
    Step { stage, outcome: StepOutcome::Translate, detail, line: Some(rule.line) }
}

/// The address that a rule gives, where it has only one to give.
fn only_address(rule: &SourceNat) -> Option<IpAddr> {
    match &rule.address {
        SourceAddress::OwnAddress => None,
        SourceAddress::Pool(ranges) => match &**ranges {
            [only] if only.start() == only.end() => Some(*only.start()),
            _ => None,
        },
    }
}

fn destination_port(transport: &Transport) -> Option<u16> {
    match transport {
        Transport::Tcp { destination_port, .. } | Transport::Udp { destination_port, .. } => {
            Some(*destination_port)
        }
        Transport::Icmp { .. } | Transport::Icmpv6 { .. } | Transport::Other { .. } => None,
    }
}
