//! What is said about a run: a table for people, one JSON object for programs.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, TableStyle};
use serde::Serialize;

use crate::lab::ArmKind;
use crate::load::{CLIENTS, CONGESTION_CONTROL, Metric};
use crate::machine::{Machine, PacketThreadShare};
use crate::ratio::{Interval, median};

/// Pairs in which the hypervisor took more of the CPU than this are dropped.
pub(crate) const STEAL_MAX: f64 = 0.01;
/// The A/A control must lie within this of 1, or the numbers beside it mean nothing.
const CONTROL_SPREAD_MAX: f64 = 0.05;
/// P3: the appliance's share of the peer's rate, one stream in superframes, userspace datapath.
const STREAM_GSO_GATE: f64 = 0.6;

/// One sample of each arm, taken one after the other.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Group {
    pub(crate) values: BTreeMap<&'static str, f64>,
    /// The largest share of the CPU that the hypervisor took during a sample.
    pub(crate) stolen: f64,
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) load_after: f64,
    pub(crate) seconds_per_sample: u32,
    /// Other than the defaults.
    pub(crate) node_settings: Vec<String>,
    pub(crate) metrics: Vec<MetricReport>,
}

/// What came out for one metric.
#[derive(Debug, Serialize)]
pub(crate) struct MetricReport {
    name: &'static str,
    unit: &'static str,
    offered: &'static str,
    pairs: usize,
    pairs_dropped: usize,
    medians: BTreeMap<&'static str, f64>,
    /// Of ratios within pairs.
    gabion_to_peer: Option<Interval>,
    gabion_to_direct: Option<Interval>,
    peer_to_peer: Option<Interval>,
    /// The A/A control is too wide: claim nothing.
    void: bool,
    gate: Option<Gate>,
    /// gabiond's packet thread, in the median.
    packet_thread: Option<PacketThreadShare>,
    groups: Vec<Group>,
    #[serde(skip)]
    decimals: usize,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Gate {
    at_least: f64,
    /// By the lower end of the interval.
    met: bool,
}

/// How a run ended, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Met,
    Missed,
    Void,
}

impl MetricReport {
    pub(crate) fn new(metric: Metric, groups: Vec<Group>, shares: &[PacketThreadShare]) -> Self {
        let (kept, dropped): (Vec<&Group>, Vec<&Group>) =
            groups.iter().partition(|group| group.stolen <= STEAL_MAX);
        let ratio = |of: ArmKind, to: ArmKind| {
            let ratios: Vec<f64> = kept
                .iter()
                .filter_map(|g| Some(g.values.get(of.label())? / g.values.get(to.label())?))
                .collect();
            Interval::of(&ratios)
        };
        let medians = ArmKind::ALL.iter().filter_map(|kind| {
            let values: Vec<f64> =
                kept.iter().filter_map(|g| g.values.get(kind.label()).copied()).collect();
            Some((kind.label(), median(&values)?))
        });
        let gabion_to_peer = ratio(ArmKind::Gabion, ArmKind::Peer);
        let peer_to_peer = ratio(ArmKind::Control, ArmKind::Peer);
        let within = |control: Interval| {
            control.lies_within(1.0 - CONTROL_SPREAD_MAX, 1.0 + CONTROL_SPREAD_MAX)
        };
        let gate = (metric == Metric::StreamGso).then_some(gabion_to_peer).flatten();
        Self {
            name: metric.name(),
            unit: metric.unit(),
            offered: metric.offered(),
            pairs: kept.len(),
            pairs_dropped: dropped.len(),
            medians: medians.collect(),
            gabion_to_peer,
            gabion_to_direct: ratio(ArmKind::Gabion, ArmKind::Direct),
            peer_to_peer,
            void: !peer_to_peer.is_some_and(within),
            gate: gate
                .map(|ratio| Gate { at_least: STREAM_GSO_GATE, met: ratio.low >= STREAM_GSO_GATE }),
            packet_thread: middle_of(shares),
            groups,
            decimals: metric.decimals(),
        }
    }

    fn row(&self) -> Vec<String> {
        let median = |kind: ArmKind| {
            self.medians
                .get(kind.label())
                .map_or_else(|| "-".to_owned(), |value| format!("{value:.*}", self.decimals))
        };
        let interval = |ratio: Option<Interval>| {
            ratio.map_or_else(
                || "-".to_owned(),
                |r| format!("{:.3}  [{:.3}, {:.3}]", r.median, r.low, r.high),
            )
        };
        let gate = match (self.void, self.gate) {
            (true, _) => "void".to_owned(),
            (false, Some(Gate { at_least, met: true })) => format!(">= {at_least}: met"),
            (false, Some(Gate { at_least, met: false })) => format!(">= {at_least}: MISSED"),
            (false, None) => String::new(),
        };
        vec![
            format!("{} ({})", self.name, self.unit),
            median(ArmKind::Direct),
            median(ArmKind::Peer),
            median(ArmKind::Gabion),
            interval(self.gabion_to_peer),
            interval(self.peer_to_peer),
            format!("{} (-{})", self.pairs, self.pairs_dropped),
            gate,
        ]
    }
}

fn middle_of(shares: &[PacketThreadShare]) -> Option<PacketThreadShare> {
    let middle = |field: fn(&PacketThreadShare) -> f64| {
        median(&shares.iter().map(field).collect::<Vec<_>>())
    };
    Some(PacketThreadShare {
        on_cpu: middle(|share| share.on_cpu)?,
        waiting_for_cpu: middle(|share| share.waiting_for_cpu)?,
        scheduled_per_second: middle(|share| share.scheduled_per_second)?,
    })
}

impl Report {
    pub(crate) fn outcome(&self) -> Outcome {
        if self.metrics.iter().any(|metric| metric.void) {
            return Outcome::Void;
        }
        let missed = |metric: &MetricReport| metric.gate.is_some_and(|gate| !gate.met);
        if self.metrics.iter().any(missed) { Outcome::Missed } else { Outcome::Met }
    }

    pub(crate) fn print(&self) {
        let machine = &self.machine;
        println!("machine      {}, {} CPUs, kernel {}", machine.cpu, machine.cpus, machine.kernel);
        let mut mitigations = machine.mitigations.iter();
        if let Some((name, state)) = mitigations.next() {
            println!("mitigations  {name}: {state}");
        }
        for (name, state) in mitigations {
            println!("             {name}: {state}");
        }
        println!("commit       {}", machine.commit);
        println!("peer         {}, conntrack, masquerade, 10 rules", machine.nftables);
        println!(
            "load         {}, {CONGESTION_CONTROL}; {} s a sample, {CLIENTS} clients; load average {:.1} before, {:.1} after",
            machine.iperf3, self.seconds_per_sample, machine.load_before, self.load_after
        );
        for setting in &self.node_settings {
            println!("gabiond      {setting}");
        }
        println!("{}", self.table());
        println!(
            "Medians; ratios are medians of pairs with a 95 % interval. All on one CPU, endpoints included."
        );
        for metric in &self.metrics {
            if let Some(share) = metric.packet_thread {
                println!(
                    "{}: gabiond's packet thread has the CPU for {:.0} % of the time, waits for it {:.0} %, and is scheduled {:.0} times a second",
                    metric.name,
                    share.on_cpu * 100.0,
                    share.waiting_for_cpu * 100.0,
                    share.scheduled_per_second
                );
            }
        }
        if self.outcome() == Outcome::Void {
            println!(
                "VOID: the peer against itself is wider than 5 %: the machine is too busy; run again."
            );
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        table.set_header([
            "metric/action/family/case",
            "direct",
            "peer",
            "gabion",
            "gabion/peer",
            "peer/peer",
            "pairs",
            "gate",
        ]);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for column in 1..=6 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for metric in &self.metrics {
            table.add_row(metric.row());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn group(peer: f64, gabion: f64, control: f64, stolen: f64) -> Group {
        Group {
            values: BTreeMap::from([("peer", peer), ("gabion", gabion), ("control", control)]),
            stolen,
        }
    }

    fn outcome(groups: Vec<Group>) -> Outcome {
        let report = Report {
            machine: Machine::look(),
            load_after: 0.0,
            seconds_per_sample: 1,
            node_settings: Vec::new(),
            metrics: vec![MetricReport::new(Metric::StreamGso, groups, &[])],
        };
        report.outcome()
    }

    #[test]
    fn the_gate_is_held_by_the_lower_end() {
        assert_eq!(outcome(vec![group(10.0, 7.0, 10.1, 0.0); 12]), Outcome::Met);
        assert_eq!(outcome(vec![group(10.0, 5.0, 10.1, 0.0); 12]), Outcome::Missed);
    }

    #[test]
    fn a_wide_control_voids_the_run() {
        assert_eq!(outcome(vec![group(10.0, 7.0, 10.6, 0.0); 12]), Outcome::Void);
        assert_eq!(outcome(Vec::new()), Outcome::Void);
    }

    #[test]
    fn pairs_with_steal_are_dropped() {
        let mut groups = vec![group(10.0, 7.0, 10.0, 0.0); 12];
        groups.extend(vec![group(10.0, 1.0, 5.0, 0.02); 30]);
        let report = MetricReport::new(Metric::StreamGso, groups, &[]);
        assert_eq!((report.pairs, report.pairs_dropped), (12, 30));
        assert_eq!(report.gabion_to_peer.unwrap().low, 0.7);
    }
}
