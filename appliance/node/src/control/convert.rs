//! Between the node's own values and the API's messages.

use std::time::Duration;

use gabion_api::v1;
use gabion_datapath::ebpf::Exit;
use gabion_engine::{DropReason, RuleCounters, Time};
use gabion_rules::{Action, Diagnostic, Diagnostics, Lint, Loaded, Refused, Severity, TestOutcome};
use prost::Message as _;
use time::OffsetDateTime;

use super::Names;
use super::What;
use crate::config::DataInterface;
use crate::explain::{Explained, Leaving};
use crate::flow::{Flow, FlowFilter, FlowFilterError, Side, Traffic, protocol_label};
use crate::policy;
use crate::record::Record;
use crate::store::Revision;
use crate::worker::Snapshot;

/// Diagnostics that travel with a refusal: HTTP/2 trailers are not made for more.
const DETAILS_MAX: usize = 16;

pub(super) fn validation(result: Result<&Loaded, &Refused>) -> v1::ValidateResponse {
    match result {
        Ok(loaded) => v1::ValidateResponse {
            valid: true,
            diagnostics: loaded.warnings.iter().map(diagnostic).collect(),
            tests: loaded.tests.iter().map(test).collect(),
            rules: policy::rule_count(loaded),
            nat_rules: u32::try_from(loaded.rule_set.nat_rules().len()).unwrap_or(u32::MAX),
            digest: policy::digest(loaded),
        },
        Err(refused) => v1::ValidateResponse {
            diagnostics: refused.diagnostics.iter().map(diagnostic).collect(),
            tests: refused.tests.iter().map(test).collect(),
            ..v1::ValidateResponse::default()
        },
    }
}

fn test(test: &TestOutcome) -> v1::TestResult {
    v1::TestResult {
        name: test.name.clone(),
        passed: test.passed,
        expected: test.expected.clone(),
        actual: test.actual.clone(),
        line: test.line,
    }
}

pub(super) fn diagnostic(diagnostic: &Diagnostic) -> v1::Diagnostic {
    let severity = match diagnostic.severity {
        Severity::Error => v1::diagnostic::Severity::Error,
        Severity::Warning => v1::diagnostic::Severity::Warning,
    };
    v1::Diagnostic {
        severity: severity.into(),
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
        line: diagnostic.line,
        column: diagnostic.column,
        length: diagnostic.length,
        lint: diagnostic.lint.map_or("", Lint::label).to_owned(),
    }
}

/// The details of a refused commit: a `ValidateResponse`.
pub(super) fn details(diagnostics: &Diagnostics) -> tonic::codegen::Bytes {
    let first = diagnostics.iter().take(DETAILS_MAX).map(diagnostic).collect();
    let response = v1::ValidateResponse { diagnostics: first, ..Default::default() };
    response.encode_to_vec().into()
}

pub(super) fn revision(revision: &Revision, current: u64) -> v1::Revision {
    v1::Revision {
        number: revision.number,
        digest: revision.digest.clone(),
        committed_at: Some(timestamp(revision.committed_at)),
        author: revision.author.clone(),
        comment: revision.comment.clone(),
        rules: revision.rules,
        in_force: revision.number == current,
    }
}

/// Reads what flows are asked for.
///
/// # Errors
/// What of it is not understood.
pub fn filter(filter: v1::FlowFilter) -> Result<FlowFilter, FlowFilterError> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let port = u16::try_from(filter.port).map_err(|_| FlowFilterError::Port(filter.port))?;
    Ok(FlowFilter {
        protocol: given(filter.protocol).map(|t| FlowFilter::protocol(&t)).transpose()?,
        source: given(filter.source).map(|t| FlowFilter::prefix(&t)).transpose()?,
        destination: given(filter.destination).map(|t| FlowFilter::prefix(&t)).transpose()?,
        port: (port != 0).then_some(port),
        rule: given(filter.rule),
        zone: given(filter.zone),
        state: given(filter.state).map(|t| FlowFilter::state(&t)).transpose()?,
    })
}

pub(super) fn flow(flow: &Flow) -> v1::Flow {
    v1::Flow {
        protocol: protocol_label(flow.protocol),
        source: Some(endpoint(flow.source)),
        destination: Some(endpoint(flow.destination)),
        translated: flow.translated.map(|sides| v1::Translation {
            source: Some(endpoint(sides.source)),
            destination: Some(endpoint(sides.destination)),
        }),
        from_zone: flow.from_zone.clone(),
        to_zone: flow.to_zone.clone(),
        rule: flow.rule.clone(),
        nat_rules: flow.nat_rules.clone(),
        state: flow.state.to_owned(),
        original: Some(usage(flow.original)),
        reply: Some(usage(flow.reply)),
        age: Some(duration(flow.age)),
        expires_in: Some(duration(flow.expires_in)),
        id: flow.id,
    }
}

fn endpoint(side: Side) -> v1::Endpoint {
    v1::Endpoint { address: side.address.to_string(), port: side.port.into() }
}

fn usage(traffic: Traffic) -> v1::Usage {
    v1::Usage { packets: traffic.packets, bytes: traffic.bytes }
}

pub(super) fn counters(
    snapshot: &Snapshot,
    names: &Names,
    interfaces: &[DataInterface],
    wall: &dyn Fn(Time) -> OffsetDateTime,
) -> v1::CountersResponse {
    let counters = &snapshot.counters;
    let sum = |each: fn(&Snapshot, DropReason) -> u64| {
        DropReason::ALL.iter().map(|reason| each(snapshot, *reason)).sum::<u64>()
    };
    let dropped = sum(|snapshot, reason| snapshot.counters.dropped(reason));
    let rejected = sum(|snapshot, reason| snapshot.counters.rejected(reason));
    let counter = |name: &str, help: &str, value| v1::Counter {
        name: name.to_owned(),
        help: help.to_owned(),
        value,
    };
    let drops = DropReason::ALL.iter().map(|reason| {
        let value = counters.dropped(*reason) + counters.rejected(*reason);
        counter(reason.label(), reason.help(), value)
    });
    v1::CountersResponse {
        verdicts: vec![
            counter("frames-in", "Frames that came in by a data interface.", counters.frames_in),
            counter("forward", "Frames that were sent on.", counters.forwarded),
            counter("to-peers", "Frames handed to their flows' nodes.", counters.to_peers),
            counter("to-workers", "Frames handed to their flow's worker.", counters.to_workers),
            counter("local", "Frames left to the host's own stack.", counters.local),
            counter("answered", "Questions that the node answered (ARP, ND).", counters.answered),
            counter(
                "held",
                "Frames that wait for the rest of a datagram or a neighbour.",
                counters.held,
            ),
            counter("drop", "Frames that were dropped silently.", dropped),
            counter("reject", "Frames that were refused with an answer.", rejected),
        ],
        drops: drops.collect(),
        rules: rules(snapshot, names, wall),
        tables: snapshot
            .tables
            .iter()
            .map(|table| v1::TableUse {
                name: table.name.to_owned(),
                used: table.used,
                limit: table.limit,
            })
            .collect(),
        interfaces: interfaces
            .iter()
            .enumerate()
            .zip(&snapshot.ports)
            .map(|((place, interface), port)| v1::InterfaceCounters {
                name: interface.name.clone(),
                device: interface.device.clone(),
                received: port.received,
                sent: port.sent,
                ring_drops: port.ring_drops,
                hooks: hooks(snapshot, place),
            })
            .collect(),
        events_lost: counters.events_lost,
        flows_evicted: counters.evicted,
        answers_sent: counters.answers_sent,
        answers_limited: counters.answers_limited,
        kernel: snapshot.exits.iter().map(|(exit, value)| kernel_counter(*exit, *value)).collect(),
    }
}

fn kernel_counter(exit: Exit, value: u64) -> v1::KernelCounter {
    let (name, help) = (exit.label().to_owned(), exit.help().to_owned());
    v1::KernelCounter { name, help, value, moved: exit.is_moved() }
}

/// Of an interface; datapaths without programs have none for any.
fn hooks(snapshot: &Snapshot, interface: usize) -> Vec<String> {
    let hooks = snapshot.hooks.get(interface).into_iter().flatten();
    hooks.map(|hook| hook.label().to_owned()).collect()
}

fn rules(
    snapshot: &Snapshot,
    names: &Names,
    wall: &dyn Fn(Time) -> OffsetDateTime,
) -> Vec<v1::RuleCounters> {
    let rule = |(rule, counters): (&gabion_rules::Rule, &RuleCounters)| v1::RuleCounters {
        name: rule.name.clone(),
        action: action(rule.action).to_owned(),
        line: rule.line,
        hits: counters.hits,
        packets: counters.usage.packets,
        bytes: counters.usage.bytes,
        last_hit: counters.last_hit.map(|time| timestamp(wall(time))),
    };
    names.rules().iter().zip(&snapshot.rules).map(rule).collect()
}

pub(crate) const fn action(action: Option<Action>) -> &'static str {
    match action {
        Some(Action::Allow) => "allow",
        Some(Action::Drop) => "drop",
        Some(Action::Reject) => "reject",
        None => "monitor",
    }
}

pub(super) fn explained(explained: Explained) -> v1::ExplainResponse {
    let step = |step: crate::explain::Step| v1::Step {
        stage: step.stage,
        outcome: step.outcome,
        detail: step.detail,
    };
    let (rule, rule_line, rule_source) =
        explained.rule.map_or_else(Default::default, |rule| (rule.name, rule.line, rule.source));
    v1::ExplainResponse {
        steps: explained.steps.into_iter().map(step).collect(),
        verdict: explained.verdict.to_owned(),
        reason: explained.reason.to_owned(),
        rule,
        rule_line,
        rule_source,
        translated: explained.translated.map(leaving),
        out_interface: explained.out_interface,
    }
}

fn leaving(leaving: Leaving) -> v1::Translation {
    v1::Translation {
        source: leaving.source.map(endpoint),
        destination: Some(endpoint(leaving.destination)),
    }
}

pub(super) fn event(record: &Record) -> v1::Event {
    let kind = match record.what {
        What::FlowOpened { .. } => v1::event::Kind::FlowOpened,
        What::FlowClosed { .. } => v1::event::Kind::FlowClosed,
        What::Denied { .. } => v1::event::Kind::Denied,
        What::Suppressed { .. } | What::Lost { .. } => v1::event::Kind::Suppressed,
        What::Policy(_) => v1::event::Kind::Policy,
        What::Node { .. } | What::LimitReached { .. } | What::LimitOver { .. } => {
            v1::event::Kind::Node
        }
    };
    let mut event =
        v1::Event { kind: kind.into(), at: Some(timestamp(record.at)), ..v1::Event::default() };
    match &record.what {
        What::FlowOpened { flow: opened, .. } => {
            event.rule.clone_from(&opened.rule);
            event.flow = Some(flow(opened));
        }
        What::FlowClosed { flow: closed, reason } => {
            event.rule.clone_from(&closed.rule);
            event.flow = Some(flow(closed));
            event.reason = (*reason).to_owned();
        }
        What::Denied { reason, rule, packet, interface } => {
            event.reason = (*reason).to_owned();
            event.rule = rule.clone().unwrap_or_default();
            event.packet.clone_from(packet);
            event.interface.clone_from(interface);
        }
        What::Suppressed { rule, reason, records } => {
            event.rule = rule.clone().unwrap_or_default();
            event.reason = reason.unwrap_or_default().to_owned();
            event.suppressed = *records;
        }
        What::Lost { records } => event.suppressed = *records,
        What::Policy(change) => {
            event.message = change.line();
            event.revision = change.new_revision.unwrap_or(change.old_revision);
        }
        What::Node { message } => event.message.clone_from(message),
        What::LimitReached { limit } | What::LimitOver { limit, .. } => {
            (*limit).clone_into(&mut event.reason);
            event.message = record.what.line();
        }
    }
    event
}

/// This reader was too slow for so many records.
pub(super) fn missed(records: u64) -> v1::Event {
    v1::Event {
        kind: v1::event::Kind::Suppressed.into(),
        at: Some(timestamp(OffsetDateTime::now_utc())),
        message: "this reader was too slow".to_owned(),
        suppressed: records,
        ..v1::Event::default()
    }
}

pub(super) fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or(0),
    }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
