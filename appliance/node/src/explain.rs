//! What would become of a packet, in words: asked of the engine, or of a text that is not in force.

use std::net::IpAddr;
use std::sync::Arc;

use gabion_engine::{FlowKey, InterfaceId, Probe, Verdict};
use gabion_rules::{
    Action, Diagnostics, ExplainError, PacketText, ParsePacketError, RuleId, RuleSet,
};

use crate::config::DataInterface;
use crate::flow::Side;
use crate::policy::{InForce, Policies, line};
use crate::worker::{WorkerGone, WorkerHandle};

/// The answer, with names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    pub steps: Vec<Step>,
    /// allow, drop, reject or local.
    pub verdict: &'static str,
    /// A drop reason's label; empty when allowed.
    pub reason: &'static str,
    pub rule: Option<RuleAtLine>,
    pub translated: Option<Leaving>,
    /// Logical name; empty where nothing leaves or only a policy was asked.
    pub out_interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub stage: String,
    pub outcome: String,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleAtLine {
    pub name: String,
    pub line: u32,
    pub source: String,
}

/// A packet as it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// `None` where the node chooses it when the packet comes.
    pub source: Option<Side>,
    pub destination: Side,
}

/// Why a packet cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainPacketError {
    #[error(
        "the packet is not understood: {0}; write it like \"tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet\""
    )]
    Packet(#[from] ParsePacketError),
    #[error("the policy is refused: {0}")]
    Policy(Diagnostics),
    #[error(transparent)]
    Unknown(#[from] ExplainError),
    #[error("zone {0} has no interface on this node")]
    NoInterface(String),
    #[error("no policy is in force: commit one first")]
    NoPolicy,
    #[error(transparent)]
    Stopping(#[from] WorkerGone),
}

/// Asks the engine: flows, routes and all.
///
/// # Errors
/// [`ExplainPacketError`].
pub async fn explain_live(
    packet: &str,
    policies: &Policies,
    interfaces: &[DataInterface],
    worker: &WorkerHandle,
) -> Result<Explained, ExplainPacketError> {
    let packet: PacketText = packet.parse()?;
    let in_force = policies.in_force().ok_or(ExplainPacketError::NoPolicy)?;
    let from = entry(&packet.from, &in_force.loaded.rule_set, interfaces)?;
    let (source, destination, transport) = (packet.source, packet.destination, packet.transport);
    let probe = Probe { from, source, destination, transport };
    let (_, explanation) = worker.explain(probe).await?;
    let (verdict, reason, out) = match explanation.verdict {
        Verdict::Forward { out } | Verdict::Queued { out } => ("allow", "", Some(out)),
        Verdict::Local | Verdict::Answered => ("local", "", None),
        Verdict::Held | Verdict::ToPeer { .. } | Verdict::ToWorker { .. } => ("allow", "", None),
        Verdict::Drop(reason) => ("drop", reason.label(), None),
        Verdict::Reject(reason) => ("reject", reason.label(), None),
    };
    let step = |step: gabion_engine::Step| Step {
        stage: step.stage.to_owned(),
        outcome: step.outcome.label().to_owned(),
        detail: step.detail,
    };
    let out = out.and_then(|out| interfaces.get(usize::from(out.0)));
    Ok(Explained {
        steps: explanation.steps.into_iter().map(step).collect(),
        verdict,
        reason,
        rule: explanation.rule.and_then(|id| rule_of(&in_force, id)),
        translated: explanation.translated.map(leaving),
        out_interface: out.map_or_else(String::new, |interface| interface.name.clone()),
    })
}

/// Asks a text alone: routes are its zones' networks, and there are no flows.
///
/// # Errors
/// [`ExplainPacketError`].
pub async fn explain_text(
    packet: &str,
    text: String,
    policies: &Policies,
) -> Result<Explained, ExplainPacketError> {
    let packet: PacketText = packet.parse()?;
    let loaded = policies.load(text.clone()).await;
    let loaded = loaded.map_err(|refused| ExplainPacketError::Policy(refused.diagnostics))?;
    let rules = Arc::clone(&loaded.rule_set);
    let explanation = rules.explain(&packet)?;
    let step = |step: gabion_rules::Step| Step {
        stage: step.stage.label().to_owned(),
        outcome: step.outcome.label().to_owned(),
        detail: step.detail,
    };
    let (verdict, reason) = match (explanation.action, explanation.rule) {
        (Action::Allow, _) => ("allow", ""),
        (Action::Drop, Some(_)) => ("drop", "rule-drop"),
        (Action::Drop, None) => ("drop", ""),
        (Action::Reject, _) => ("reject", "rule-reject"),
    };
    Ok(Explained {
        steps: explanation.steps.into_iter().map(step).collect(),
        verdict,
        reason,
        rule: explanation.rule.and_then(|id| at_line(&rules, &text, id)),
        translated: explanation.translated.map(|translated| Leaving {
            source: translated.source.map(|address| Side { address, port: 0 }),
            destination: Side {
                address: translated.destination,
                port: translated.destination_port.unwrap_or(0),
            },
        }),
        out_interface: String::new(),
    })
}

/// The interface by which a packet comes in: named itself, or the first of its zone.
fn entry(
    name: &str,
    rules: &RuleSet,
    interfaces: &[DataInterface],
) -> Result<InterfaceId, ExplainPacketError> {
    let number = |name: &str| {
        let index = interfaces.iter().position(|interface| interface.name == name)?;
        u16::try_from(index).ok().map(InterfaceId)
    };
    if let Some(zone) = rules.zones().iter().find(|zone| zone.name == name) {
        let first = zone.interfaces.iter().find_map(|name| number(name));
        return first.ok_or_else(|| ExplainPacketError::NoInterface(name.to_owned()));
    }
    number(name).ok_or_else(|| ExplainError::UnknownZone(name.to_owned()).into())
}

fn rule_of(in_force: &InForce, id: RuleId) -> Option<RuleAtLine> {
    at_line(&in_force.loaded.rule_set, &in_force.text, id)
}

fn at_line(rules: &RuleSet, text: &str, id: RuleId) -> Option<RuleAtLine> {
    let rule = rules.rules().get(usize::try_from(id.0).ok()?)?;
    let source = line(text, rule.line).to_owned();
    Some(RuleAtLine { name: rule.name.clone(), line: rule.line, source })
}

/// A random port is shown as 0.
fn leaving(key: FlowKey) -> Leaving {
    let side = |address: IpAddr, port| Side { address, port };
    Leaving {
        source: Some(side(key.source.address.to_ip(), key.source.port)),
        destination: side(key.destination.address.to_ip(), key.destination.port),
    }
}
