//! The shapes of `--json`: stable, exact numbers, RFC 3339 times, absent where there is nothing.
//!
//! Written by hand, so that a change of the wire format does not change what scripts read.

use super::output::say;
use gabion_api::v1;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Prints one JSON document.
pub(crate) fn print_json(value: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(value).expect("own shapes serialise");
    say(text)
}

#[derive(Debug, Serialize)]
pub(crate) struct RevisionJson {
    pub(crate) number: u64,
    pub(crate) in_force: bool,
    pub(crate) digest: String,
    pub(crate) committed_at: Option<String>,
    pub(crate) author: String,
    pub(crate) comment: String,
    pub(crate) rules: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct DiagnosticJson {
    pub(crate) severity: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) lint: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) help: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) length: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct TestJson {
    pub(crate) name: String,
    pub(crate) passed: bool,
    pub(crate) expected: String,
    pub(crate) actual: String,
    pub(crate) line: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct EndpointJson {
    pub(crate) address: String,
    pub(crate) port: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct TranslationJson {
    pub(crate) source: Option<EndpointJson>,
    pub(crate) destination: Option<EndpointJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct UsageJson {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct FlowJson {
    pub(crate) id: u64,
    pub(crate) protocol: String,
    pub(crate) source: Option<EndpointJson>,
    pub(crate) destination: Option<EndpointJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) translated: Option<TranslationJson>,
    pub(crate) from_zone: String,
    pub(crate) to_zone: String,
    pub(crate) rule: String,
    pub(crate) nat_rules: Vec<String>,
    pub(crate) state: String,
    pub(crate) original: UsageJson,
    pub(crate) reply: UsageJson,
    pub(crate) age_seconds: Option<f64>,
    pub(crate) expires_in_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CounterJson {
    pub(crate) name: String,
    pub(crate) value: u64,
    pub(crate) help: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct RuleCountersJson {
    pub(crate) name: String,
    pub(crate) action: String,
    pub(crate) line: u32,
    pub(crate) hits: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) last_hit: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TableJson {
    pub(crate) name: String,
    pub(crate) used: u64,
    pub(crate) limit: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct InterfaceJson {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) ring_drops: u64,
    pub(crate) hooks: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct KernelCounterJson {
    pub(crate) name: String,
    pub(crate) value: u64,
    pub(crate) moved: bool,
    pub(crate) help: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct CountersJson {
    pub(crate) verdicts: Vec<CounterJson>,
    pub(crate) drops: Vec<CounterJson>,
    pub(crate) rules: Vec<RuleCountersJson>,
    pub(crate) tables: Vec<TableJson>,
    pub(crate) interfaces: Vec<InterfaceJson>,
    pub(crate) events_lost: u64,
    pub(crate) flows_evicted: u64,
    pub(crate) answers_sent: u64,
    pub(crate) answers_limited: u64,
    pub(crate) kernel: Vec<KernelCounterJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct StepJson {
    pub(crate) stage: String,
    pub(crate) outcome: String,
    pub(crate) detail: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct ExplanationJson {
    pub(crate) packet: String,
    pub(crate) verdict: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) rule: String,
    pub(crate) rule_line: u32,
    pub(crate) rule_source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) translated: Option<TranslationJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) out_interface: String,
    pub(crate) steps: Vec<StepJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EventJson {
    pub(crate) kind: &'static str,
    pub(crate) at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flow: Option<FlowJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) packet: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) interface: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    pub(crate) revision: u64,
    pub(crate) suppressed: u64,
}

/// RFC 3339 in UTC.
pub(crate) fn time_text(at: Option<&prost_types::Timestamp>) -> Option<String> {
    let at = at?;
    let time = OffsetDateTime::from_unix_timestamp(at.seconds).ok()?;
    let time = time.replace_nanosecond(u32::try_from(at.nanos).ok()?).ok()?;
    time.format(&Rfc3339).ok()
}

fn seconds(duration: Option<&prost_types::Duration>) -> Option<f64> {
    let duration: std::time::Duration = (*duration?).try_into().ok()?;
    Some(duration.as_secs_f64())
}

impl From<v1::Revision> for RevisionJson {
    fn from(revision: v1::Revision) -> Self {
        Self {
            number: revision.number,
            in_force: revision.in_force,
            committed_at: time_text(revision.committed_at.as_ref()),
            digest: revision.digest,
            author: revision.author,
            comment: revision.comment,
            rules: revision.rules,
        }
    }
}

impl From<v1::Diagnostic> for DiagnosticJson {
    fn from(diagnostic: v1::Diagnostic) -> Self {
        let severity = match diagnostic.severity() {
            v1::diagnostic::Severity::Warning => "warning",
            v1::diagnostic::Severity::Error | v1::diagnostic::Severity::Unspecified => "error",
        };
        Self {
            severity,
            lint: diagnostic.lint,
            message: diagnostic.message,
            help: diagnostic.help,
            line: diagnostic.line,
            column: diagnostic.column,
            length: diagnostic.length,
        }
    }
}

impl From<v1::TestResult> for TestJson {
    fn from(test: v1::TestResult) -> Self {
        Self {
            name: test.name,
            passed: test.passed,
            expected: test.expected,
            actual: test.actual,
            line: test.line,
        }
    }
}

impl From<v1::Endpoint> for EndpointJson {
    fn from(endpoint: v1::Endpoint) -> Self {
        Self { address: endpoint.address, port: endpoint.port }
    }
}

impl From<v1::Translation> for TranslationJson {
    fn from(translation: v1::Translation) -> Self {
        Self {
            source: translation.source.map(Into::into),
            destination: translation.destination.map(Into::into),
        }
    }
}

impl From<v1::Usage> for UsageJson {
    fn from(usage: v1::Usage) -> Self {
        Self { packets: usage.packets, bytes: usage.bytes }
    }
}

impl From<v1::Flow> for FlowJson {
    fn from(flow: v1::Flow) -> Self {
        Self {
            id: flow.id,
            age_seconds: seconds(flow.age.as_ref()),
            expires_in_seconds: seconds(flow.expires_in.as_ref()),
            protocol: flow.protocol,
            source: flow.source.map(Into::into),
            destination: flow.destination.map(Into::into),
            translated: flow.translated.map(Into::into),
            from_zone: flow.from_zone,
            to_zone: flow.to_zone,
            rule: flow.rule,
            nat_rules: flow.nat_rules,
            state: flow.state,
            original: flow.original.unwrap_or_default().into(),
            reply: flow.reply.unwrap_or_default().into(),
        }
    }
}

impl From<v1::Counter> for CounterJson {
    fn from(counter: v1::Counter) -> Self {
        Self { name: counter.name, value: counter.value, help: counter.help }
    }
}

impl From<v1::CountersResponse> for CountersJson {
    fn from(counters: v1::CountersResponse) -> Self {
        let rule = |rule: v1::RuleCounters| RuleCountersJson {
            last_hit: time_text(rule.last_hit.as_ref()),
            name: rule.name,
            action: rule.action,
            line: rule.line,
            hits: rule.hits,
            packets: rule.packets,
            bytes: rule.bytes,
        };
        let table = |table: v1::TableUse| TableJson {
            name: table.name,
            used: table.used,
            limit: table.limit,
        };
        let interface = |interface: v1::InterfaceCounters| InterfaceJson {
            name: interface.name,
            device: interface.device,
            received: interface.received,
            sent: interface.sent,
            ring_drops: interface.ring_drops,
            hooks: interface.hooks,
        };
        let kernel = |v1::KernelCounter { name, help, value, moved }| KernelCounterJson {
            name,
            value,
            moved,
            help,
        };
        Self {
            verdicts: counters.verdicts.into_iter().map(Into::into).collect(),
            drops: counters.drops.into_iter().map(Into::into).collect(),
            rules: counters.rules.into_iter().map(rule).collect(),
            tables: counters.tables.into_iter().map(table).collect(),
            interfaces: counters.interfaces.into_iter().map(interface).collect(),
            events_lost: counters.events_lost,
            flows_evicted: counters.flows_evicted,
            answers_sent: counters.answers_sent,
            answers_limited: counters.answers_limited,
            kernel: counters.kernel.into_iter().map(kernel).collect(),
        }
    }
}

impl ExplanationJson {
    pub(crate) fn new(packet: &str, explained: v1::ExplainResponse) -> Self {
        let step = |step: v1::Step| StepJson {
            stage: step.stage,
            outcome: step.outcome,
            detail: step.detail,
        };
        Self {
            packet: packet.to_owned(),
            verdict: explained.verdict,
            reason: explained.reason,
            rule: explained.rule,
            rule_line: explained.rule_line,
            rule_source: explained.rule_source,
            translated: explained.translated.map(Into::into),
            out_interface: explained.out_interface,
            steps: explained.steps.into_iter().map(step).collect(),
        }
    }
}

impl From<v1::Event> for EventJson {
    fn from(event: v1::Event) -> Self {
        Self {
            kind: kind_label(event.kind()),
            at: time_text(event.at.as_ref()),
            flow: event.flow.map(Into::into),
            reason: event.reason,
            rule: event.rule,
            packet: event.packet,
            interface: event.interface,
            message: event.message,
            revision: event.revision,
            suppressed: event.suppressed,
        }
    }
}

/// The name of an event's kind, as `gabion watch --kind` takes it.
pub(crate) const fn kind_label(kind: v1::event::Kind) -> &'static str {
    match kind {
        v1::event::Kind::Unspecified => "unknown",
        v1::event::Kind::FlowOpened => "flow-opened",
        v1::event::Kind::FlowClosed => "flow-closed",
        v1::event::Kind::Denied => "denied",
        v1::event::Kind::Policy => "policy",
        v1::event::Kind::Node => "node",
        v1::event::Kind::Suppressed => "suppressed",
    }
}
