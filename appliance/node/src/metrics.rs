//! `/metrics` for Prometheus: counters as the packet thread had them when it was asked.
//!
//! One task accepts, one for each connection answers. The packet thread copies its counters between
//! two turns, at most once each `SNAPSHOT_AGE`, however many scrape.

mod cluster;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gabion_datapath::PortCounters;
use gabion_datapath::ebpf::Hook;
use gabion_engine::DropReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::azure::{self, Counts, Notice};
use crate::cluster::Member;
use crate::config::DataInterface;
use crate::control::{ServeError, action};
use crate::generations::Names;
use crate::http::{self, Response, Status};
use crate::policy::{Policies, Surroundings};
use crate::readiness::Obstacle;
use crate::worker::{Snapshot, WorkerShare};

const CONNECTIONS: usize = 8;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(10);
const SNAPSHOT_AGE: Duration = Duration::from_millis(500);
/// OpenMetrics 1.0, section "Protocol negotiation"; Prometheus has taken it since 2.5.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[error("metrics.listen {address}: {source}; free the address or change metrics.listen")]
pub struct ListenMetricsError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens the socket, to be served later.
///
/// # Errors
/// When the address is taken or not the host's.
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, ListenMetricsError> {
    let error = |source| ListenMetricsError { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// Where the numbers come from.
#[derive(Debug)]
pub struct Metrics {
    pub around: Surroundings,
    pub policies: Arc<Policies>,
    /// `None`: the node stands alone.
    pub member: Option<Member>,
    /// `None`: nobody asks what the platform has planned.
    pub events: Option<Arc<Counts>>,
    /// The last snapshot, and when it was taken.
    pub last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Metrics {
    /// Serves until cancelled.
    ///
    /// # Errors
    /// When the runtime refuses the socket.
    pub async fn serve(self, listener: std::net::TcpListener) -> Result<(), ServeError> {
        let listener = TcpListener::from_std(listener)?;
        let metrics = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let Ok((stream, _)) = listener.accept().await else {
                // Mostly: out of descriptors, which passes.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let metrics = Arc::clone(&metrics);
            tokio::spawn(async move {
                let _place = place;
                http::answer(stream, DEADLINE, async |request: &http::Request| {
                    metrics.answer(&request.path).await
                })
                .await;
            });
        }
    }

    async fn answer(&self, path: &str) -> Response {
        if path != "/metrics" {
            let body = "metrics are at /metrics\n".to_owned();
            return Response { status: Status::NotFound, content_type: http::TEXT, body };
        }
        let Some(snapshot) = self.snapshot().await else {
            let body = "the node is stopping\n".to_owned();
            return Response { status: Status::ServiceUnavailable, content_type: http::TEXT, body };
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page {
            names: self.around.generations.names(snapshot.generation),
            snapshot,
            interfaces: self.around.interfaces.clone(),
            revision: self.policies.in_force().map_or(0, |policy| policy.revision.number),
            obstacles: self.around.readiness.obstacles(),
            limits: self.around.readiness.limits_reached(),
            uptime: self.around.readiness.uptime(),
            member: self.member.clone(),
            events: self.events.clone(),
            planned: self.around.readiness.notices(),
        }));
        let mut body = String::new();
        text::encode(&mut body, &registry).expect("writing to a text does not fail");
        Response { status: Status::Ok, content_type: CONTENT_TYPE, body }
    }

    async fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let mut last = self.last.lock().await;
        if let Some((at, snapshot)) = &*last
            && at.elapsed() < SNAPSHOT_AGE
        {
            return Some(Arc::clone(snapshot));
        }
        let fresh = Arc::new(self.around.worker.snapshot().await.ok()?);
        *last = Some((Instant::now(), Arc::clone(&fresh)));
        Some(fresh)
    }
}

/// One answer.
#[derive(Debug)]
struct Page {
    snapshot: Arc<Snapshot>,
    names: Names,
    interfaces: Vec<DataInterface>,
    revision: u64,
    obstacles: Vec<Obstacle>,
    limits: Vec<DropReason>,
    uptime: Duration,
    member: Option<Member>,
    events: Option<Arc<Counts>>,
    planned: Vec<Notice>,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(&mut encoder);
        self.node(&mut out)?;
        self.frames(&mut out)?;
        self.rules(&mut out)?;
        self.tables(&mut out)?;
        self.workers(&mut out)?;
        self.interfaces(&mut out)?;
        self.cluster(&mut out)?;
        self.events(&mut out)
    }
}

impl Page {
    fn node(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let ready = u64::from(self.obstacles.is_empty());
        out.one_gauge("gabion_ready", "1 when the node may be given traffic", ready)?;
        let reasons = Obstacle::LABELS.map(|label| {
            let in_the_way = self.obstacles.iter().any(|obstacle| obstacle.label() == label);
            ([("reason", label)], u64::from(in_the_way))
        });
        out.gauge("gabion_not_ready", "1 for each reason that stands in the way", reasons)?;
        let reached = DropReason::ALL
            .iter()
            .filter(|reason| reason.is_limit())
            .map(|limit| ([("limit", limit.label())], u64::from(self.limits.contains(limit))));
        out.gauge("gabion_limit_reached", "1 for each limit that is reached now", reached)?;
        let revision = self.revision;
        out.one_gauge("gabion_policy_revision", "The revision in force, 0 for none", revision)?;
        let uptime = self.uptime.as_secs();
        out.one_gauge("gabion_uptime_seconds", "Seconds since the daemon started", uptime)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        out.gauge("gabion_build", "1, with the version", [(version, 1)])
    }

    fn frames(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let counters = &self.snapshot.counters;
        out.one_counter("gabion_frames_in", "Frames that came in", counters.frames_in)?;
        let verdicts = [
            ("forward", counters.forwarded),
            ("to-peers", counters.to_peers),
            ("to-workers", counters.to_workers),
            ("local", counters.local),
            ("answered", counters.answered),
        ];
        let verdicts = verdicts.map(|(verdict, value)| ([("verdict", verdict)], value));
        out.counter("gabion_frames", "Frames that were not dropped, by verdict", verdicts)?;
        let drops = DropReason::ALL.iter().flat_map(|reason| {
            let labels = |answer| [("reason", reason.label()), ("verdict", answer)];
            [
                (labels("drop"), counters.dropped(*reason)),
                (labels("reject"), counters.rejected(*reason)),
            ]
        });
        out.counter("gabion_drops", "Frames that were dropped, by reason", drops)?;
        out.one_gauge("gabion_frames_held", "Frames that wait", counters.held)?;
        let answers = [("sent", counters.answers_sent), ("limited", counters.answers_limited)];
        let answers = answers.map(|(outcome, value)| ([("outcome", outcome)], value));
        out.counter("gabion_answers", "ICMP errors and RSTs of the node's own", answers)?;
        let evicted = counters.evicted;
        out.one_counter(
            "gabion_flows_evicted",
            "Flows that made room for others at a limit",
            evicted,
        )?;
        let lost = counters.events_lost;
        out.one_counter("gabion_events_lost", "Events that found the queue full", lost)
    }

    fn rules(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let rules = || self.names.rules().iter().zip(&self.snapshot.rules);
        let hits = rules().map(|(rule, counters)| {
            ([("rule", rule.name.as_str()), ("action", action(rule.action))], counters.hits)
        });
        out.counter("gabion_rule_hits", "First packets that a rule decided or saw", hits)?;
        let packets = rules()
            .map(|(rule, counters)| ([("rule", rule.name.as_str())], counters.usage.packets));
        out.counter("gabion_rule_packets", "Packets of the flows that a rule allowed", packets)?;
        let bytes =
            rules().map(|(rule, counters)| ([("rule", rule.name.as_str())], counters.usage.bytes));
        out.counter("gabion_rule_bytes", "Bytes of the flows that a rule allowed", bytes)
    }

    fn tables(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let tables = || self.snapshot.tables.iter();
        let used = tables().map(|table| ([("table", table.name)], table.used));
        out.gauge("gabion_table_used", "Entries in a table", used)?;
        let limit = tables().map(|table| ([("table", table.name)], table.limit));
        out.gauge("gabion_table_limit", "Entries that a table takes", limit)
    }

    fn workers(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        type Kind = (&'static str, &'static str, fn(&WorkerShare) -> u64);
        let shares = |value: fn(&WorkerShare) -> u64| {
            let shares = self.snapshot.shares.iter().enumerate();
            shares.map(move |(worker, share)| ([("worker", worker.to_string())], value(share)))
        };
        let kinds: [Kind; 2] = [
            ("gabion_worker_frames_in", "Frames that a worker got", |share| share.frames_in),
            ("gabion_worker_handed_over", "Frames handed to other workers", |share| {
                share.handed_over
            }),
        ];
        for (name, help, value) in kinds {
            out.counter(name, help, shares(value))?;
        }
        out.gauge("gabion_worker_flows", "Flows of a worker", shares(|share| share.flows))
    }

    fn events(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let Some(counts) = &self.events else { return Ok(()) };
        let planned = azure::tally(&self.planned).into_iter().map(|(kind, is_own, count)| {
            ([("type", kind), ("vm", if is_own { "this" } else { "other" })], count)
        });
        out.gauge("gabion_scheduled_events", "Events that Azure has planned", planned)?;
        let help = "Events that this node has acknowledged, so that they may begin";
        let acknowledged = counts.acknowledged();
        out.one_counter("gabion_scheduled_events_acknowledged", help, acknowledged)?;
        let asked = counts.asked().map(|(outcome, count)| ([("outcome", outcome)], count));
        out.counter("gabion_metadata_requests", "Questions to the metadata service", asked)
    }

    fn interfaces(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        type Kind = (&'static str, &'static str, fn(&PortCounters) -> u64);
        let kinds: [Kind; 6] = [
            ("gabion_interface_received", "Frames received", |port| port.received),
            ("gabion_interface_sent", "Frames sent", |port| port.sent),
            ("gabion_interface_ring_drops", "Frames lost: ring full", |port| port.ring_drops),
            ("gabion_interface_truncated", "Frames too large for a slot", |port| port.truncated),
            ("gabion_interface_vlan_tagged", "Frames with a VLAN tag", |port| port.vlan_tagged),
            ("gabion_interface_send_drops", "Frames not sent", |port| port.transmit_drops),
        ];
        for (name, help, value) in kinds {
            let ports =
                self.interfaces.iter().zip(&self.snapshot.ports).map(|(interface, port)| {
                    let labels = [
                        ("interface", interface.name.as_str()),
                        ("device", interface.device.as_str()),
                    ];
                    (labels, value(port))
                });
            out.counter(name, help, ports)?;
        }
        let exits = &self.snapshot.exits;
        if exits.is_empty() {
            return Ok(());
        }
        let help =
            "Frames that programs in the kernel have seen: moved, or left to the engine and why";
        let exits = exits.iter().map(|(exit, count)| ([("exit", exit.label())], *count));
        out.counter("gabion_fast_path_frames", help, exits)?;
        let hooks =
            self.interfaces.iter().zip(&self.snapshot.hooks).flat_map(|(interface, hooks)| {
                let labels = |hook: &Hook| {
                    [
                        ("interface", interface.name.as_str()),
                        ("device", interface.device.as_str()),
                        ("hook", hook.label()),
                    ]
                };
                hooks.iter().map(move |hook| (labels(hook), 1))
            });
        out.gauge("gabion_fast_path_hook", "1 where a program stands at the interface", hooks)
    }
}

/// What a counter without exemplar has no labels of.
type NoLabels = [(&'static str, &'static str); 0];

struct Out<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Out<'_, '_> {
    fn one_counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabels, u64, u64>(&value, None)
    }

    fn one_gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabels, u64, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
