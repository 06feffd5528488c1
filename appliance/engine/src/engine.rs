//! The table of contents of a packet's life.

use std::net::IpAddr;
use std::sync::Arc;

use gabion_rules::{Query, RuleId, RuleSet};

use crate::counters::{Counters, RuleCounters, TableUse};
use crate::event::{Event, FlowId, FlowReport, Generation, Usage};
use crate::network::Network;
use crate::{FlowKey, Frame, InterfaceId, Limits, Offload, Time, Verdict};

/// One engine per worker thread: `&mut self`, no locks inside.
///
/// After each batch of `handle_*` calls drain `poll_transmit`, `poll_flow_change` and `poll_event`,
/// in this order, and call `handle_timeout` at the time that `poll_timeout` names.
#[derive(Debug)]
pub struct Engine {}

/// What is fixed for an engine's life.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub limits: Limits,
    /// From the system's random source: hash keys and port choice follow from it.
    pub seed: [u8; 32],
    /// Whether the datapath moves packets of installed flows itself and wants `FlowChange`s.
    pub offload: bool,
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

/// A flow that the datapath is to move by itself, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowChange {
    Install { flow: FlowReport },
    Remove { id: FlowId },
}

/// What `Engine::explain` is asked: the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub from: InterfaceId,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: gabion_rules::Transport,
}

/// What would become of a packet now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub verdict: Verdict,
    /// Where rules were asked (or had been, when the flow was admitted).
    pub rule: Option<RuleId>,
    pub query: Option<Query>,
    /// What leaves the node, where NAT changes anything.
    pub translated: Option<FlowKey>,
}

/// One stage that the packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// sanity, flow, destination-nat, route, rules, source-nat, forward.
    pub stage: &'static str,
    pub outcome: Outcome,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Match,
    Miss,
    Translate,
    Drop,
}

impl Engine {
    /// An engine without rules: every frame is dropped as `not-ready` until `set_rules`,
    /// `set_network` and `open` have been called.
    pub fn new(_now: Time, _config: EngineConfig) -> Self {
        unimplemented!()
    }

    /// Decides one frame and rewrites it in place where it is to be forwarded.
    pub fn handle_frame(
        &mut self,
        _now: Time,
        _from: InterfaceId,
        _frame: &mut Frame<'_>,
    ) -> Verdict {
        unimplemented!()
    }

    pub fn handle_timeout(&mut self, _now: Time) {
        unimplemented!()
    }

    pub fn handle_neighbour(
        &mut self,
        _now: Time,
        _interface: InterfaceId,
        _address: IpAddr,
        _neighbour: Neighbour,
    ) {
        unimplemented!()
    }

    /// What an offloading datapath has moved of a flow since it last said so.
    pub fn handle_flow_usage(&mut self, _now: Time, _id: FlowId, _original: Usage, _reply: Usage) {
        unimplemented!()
    }

    /// Puts a policy in force. Live flows are asked again: those that it permits, with the
    /// translation that they have, go on; the others are closed as `revoked`. Counters of rules
    /// that keep their name go on.
    pub fn set_rules(&mut self, _now: Time, _generation: Generation, _rules: Arc<RuleSet>) {
        unimplemented!()
    }

    pub fn set_network(&mut self, _now: Time, _network: Network) {
        unimplemented!()
    }

    /// Lets packets pass: the guard of the host stack is in place.
    pub fn open(&mut self) {
        unimplemented!()
    }

    /// Drops everything as `not-ready` until `open`: the guard is gone.
    pub fn close(&mut self) {
        unimplemented!()
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        unimplemented!()
    }

    pub fn poll_flow_change(&mut self) -> Option<FlowChange> {
        unimplemented!()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// When `handle_timeout` is wanted next; may be in the past.
    pub fn poll_timeout(&self) -> Option<Time> {
        unimplemented!()
    }

    /// What would become of a packet now; changes nothing.
    pub fn explain(&self, _now: Time, _probe: &Probe) -> Explanation {
        unimplemented!()
    }

    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }

    /// Indexed by `RuleId` of the rule set in force.
    pub fn rule_counters(&self) -> &[RuleCounters] {
        unimplemented!()
    }

    pub fn table_use(&self) -> Vec<TableUse> {
        unimplemented!()
    }

    /// At most `limit` flows from slot `from` on, and the slot to go on from, `None` at the end:
    /// a million flows are listed without stopping the packets.
    pub fn flows(&self, _from: u32, _limit: u32) -> (Vec<FlowReport>, Option<u32>) {
        unimplemented!()
    }
}
