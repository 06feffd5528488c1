//! What it costs that a connection's packets come to another node than its owner: the same two nodes on the same way
//! from client to server, once as a cluster in which the first hands everything to the second, once each for itself.
//!
//! Everything on one CPU and in turn, as in the comparison with the kernel's firewall. Beside it stand a node alone,
//! and the kernel forwarding by one hop and by two: what a hop takes here.

mod network;

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::arms::{Appliance, rules};
use crate::lab::Lab;
use crate::load::Metric;
use crate::machine::{self, Machine, Ticks};
use crate::ratio::{Interval, median};
use crate::report::{Outcome, STEAL_MAX};
use crate::{Interrupt, Options};
use network::{Arm, Way};

/// P12: the share of the throughput that is left, and how many hops' time is added.
const RATE_GATE: f64 = 0.8;
const HOPS_GATE: f64 = 3.0;
/// The plain path against itself must lie within this of 1.
const CONTROL_SPREAD_MAX: f64 = 0.05;

/// By what `--only` says; with their names.
const METRICS: [(&str, &str, Metric); 3] = [
    ("stream-gso", "rate/stream/tcp4/gso", Metric::StreamGso { streams: 1 }),
    ("stream-1500", "rate/stream/tcp4/1500", Metric::Stream1500 { streams: 1 }),
    ("round-trip", "p50/round-trip/tcp4/1-byte", Metric::RoundTrip),
];

/// Nothing is translated: the cheapest path there is, so that what is added shows most.
fn policy() -> String {
    let rules = rules(10);
    format!(
        "apiVersion: gabion/v1
zones:
  outside: {{ interfaces: [ext] }}
  inside: {{ interfaces: [int], networks: [10.1.0.0/24] }}
settings:
  default: {{ action: drop }}
rules:
{rules}"
    )
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    load_after: f64,
    seconds_per_sample: u32,
    metrics: Vec<Measured>,
}

/// All samples of one metric, in groups of one of each arm.
#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    unit: &'static str,
    is_time: bool,
    groups: Vec<BTreeMap<&'static str, f64>>,
    dropped: usize,
}

/// Measures and prints; the exit code says whether the gates are met.
///
/// # Errors
/// If the network or a node does not come up, or a sample fails.
pub(crate) fn compare(
    options: &Options,
    machine: &Machine,
    appliance: &Appliance,
    interrupt: &Interrupt,
) -> anyhow::Result<Outcome> {
    let lab = Lab::begin()?;
    let ways = &Way::ALL;
    let arms = ways
        .iter()
        .map(|&way| Arm::set_up(&lab, way, &policy(), appliance, interrupt))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let is_wanted =
        |id: &str| options.only.is_empty() || options.only.iter().any(|only| only == id);
    let metrics = METRICS
        .iter()
        .filter(|(id, _, _)| is_wanted(id))
        .map(|&(_, name, metric)| measure(name, metric, &arms, options, interrupt))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let report = Report {
        machine: machine.clone(),
        load_after: machine::load(),
        seconds_per_sample: options.seconds,
        metrics,
    };
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.print())
}

fn measure(
    name: &'static str,
    metric: Metric,
    arms: &[Arm],
    options: &Options,
    interrupt: &Interrupt,
) -> anyhow::Result<Measured> {
    let quantity = metric.quantities()[0];
    let is_time = quantity.is_time;
    // The kernel alone says what a hop takes; its rate is no matter.
    let arms: Vec<&Arm> = arms.iter().filter(|arm| is_time || !arm.way.is_kernel()).collect();
    let mut measured =
        Measured { name, unit: quantity.unit, is_time, groups: Vec::new(), dropped: 0 };
    for number in 0..=options.pairs {
        let (mut group, mut stolen) = (BTreeMap::new(), 0.0_f64);
        let mut order = arms.clone();
        if number % 2 == 1 {
            order.reverse();
        }
        // The first is cold, and not kept.
        let seconds = if number == 0 { 1 } else { options.seconds };
        for arm in order {
            let (ticks, wrapped) = (Ticks::now(), arm.wrapped()?);
            let values = metric
                .ready(&arm.place, interrupt)
                .and_then(|mut ready| ready.sample(seconds, interrupt))
                .with_context(|| format!("{name} in arm {}", arm.way.label()))?;
            stolen = stolen.max(Ticks::now().stolen_since(ticks));
            let handed_over = arm.wrapped()? - wrapped;
            ensure!(
                (handed_over > 1_000) == arm.way.is_wrapped(),
                "{handed_over} packets were handed over in arm {}",
                arm.way.label()
            );
            group.extend(values.first().map(|&value| (arm.way.label(), value)));
        }
        eprintln!("{name} {number} of {}: {group:.2?} {}", options.pairs, quantity.unit);
        if stolen > STEAL_MAX {
            measured.dropped += 1;
        } else if number > 0 {
            measured.groups.push(group);
        }
    }
    Ok(measured)
}

impl Measured {
    fn each(&self, of: impl Fn(&BTreeMap<&'static str, f64>) -> Option<f64>) -> Vec<f64> {
        self.groups.iter().filter_map(of).collect()
    }

    fn ratio(&self, of: Way, to: Way) -> Option<Interval> {
        Interval::of(&self.each(|group| Some(group.get(of.label())? / group.get(to.label())?)))
    }

    /// One way, how many of the kernel's hops one arm takes longer than another.
    fn hops_more(&self, of: Way, than: Way) -> Option<Interval> {
        let value = |group: &BTreeMap<_, f64>, way: Way| group.get(way.label()).copied();
        let hop = median(
            &self.each(|group| Some(value(group, Way::TwoHops)? - value(group, Way::Hop)?)),
        )?;
        Interval::of(&self.each(|group| Some((value(group, of)? - value(group, than)?) / hop)))
    }

    fn is_void(&self) -> bool {
        let within = |control: Interval| {
            control.lies_within(1.0 - CONTROL_SPREAD_MAX, 1.0 + CONTROL_SPREAD_MAX)
        };
        !self.ratio(Way::Control, Way::Plain).is_some_and(within)
    }

    fn print(&self) -> Outcome {
        println!(
            "\n{} ({}), {} groups (-{})",
            self.name,
            self.unit,
            self.groups.len(),
            self.dropped
        );
        for way in Way::ALL {
            let values = self.each(|group| group.get(way.label()).copied());
            if let Some(middle) = median(&values) {
                println!("  {:<10} {middle:>8.2}   {}", way.label(), way.is_what());
            }
        }
        let say = |label: &str, interval: Option<Interval>| {
            if let Some(Interval { median, low, high }) = interval {
                println!("  {label:<22} {median:.3}  [{low:.3}, {high:.3}]");
            }
        };
        say("wrapped / plain", self.ratio(Way::Wrapped, Way::Plain));
        say("wide / plain", self.ratio(Way::WrappedWide, Way::Plain));
        say("control / plain", self.ratio(Way::Control, Way::Plain));
        say("wrapped / single", self.ratio(Way::Wrapped, Way::Single));
        say("plain / single", self.ratio(Way::Plain, Way::Single));
        say("hops, wrapped - plain", self.hops_more(Way::Wrapped, Way::Plain));
        say("hops, plain - single", self.hops_more(Way::Plain, Way::Single));
        say("hops, wrapped - single", self.hops_more(Way::Wrapped, Way::Single));
        let is_met = if self.is_time {
            self.hops_more(Way::Wrapped, Way::Plain).is_some_and(|more| more.high <= HOPS_GATE)
        } else {
            self.ratio(Way::Wrapped, Way::Plain).is_some_and(|ratio| ratio.low >= RATE_GATE)
        };
        match (self.is_void(), is_met) {
            (true, _) => Outcome::Void,
            (false, true) => Outcome::Met,
            (false, false) => Outcome::Missed,
        }
    }
}

impl Report {
    fn print(&self) -> Outcome {
        let Machine { cpu, cpus, kernel, commit, iperf3, load_before, .. } = &self.machine;
        println!("{cpu}, {cpus} CPUs, Linux {kernel}, commit {commit}, {iperf3}");
        println!(
            "{} s a sample, load {load_before:.1} before, {:.1} after; all on one CPU, endpoints included",
            self.seconds_per_sample, self.load_after
        );
        let mut all = Outcome::Met;
        for metric in &self.metrics {
            let outcome = metric.print();
            println!("  {outcome:?}");
            if all == Outcome::Met || outcome == Outcome::Void {
                all = outcome;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_policy_is_valid_and_translates_nothing() {
        let loaded = gabion_rules::load("forwarding.yaml", &policy(), None).unwrap();
        assert_eq!(loaded.rule_set.zones().len(), 2);
    }

    #[test]
    fn hops_are_counted_one_way_by_what_the_kernel_takes() {
        let group = BTreeMap::from([
            ("hop", 10.0),
            ("two-hops", 14.0),
            ("single", 20.0),
            ("plain", 30.0),
            ("wrapped", 36.0),
        ]);
        let groups = vec![group; 3];
        let measured = Measured { name: "", unit: "us", is_time: true, groups, dropped: 0 };
        assert_eq!(measured.hops_more(Way::Wrapped, Way::Plain).unwrap().median, 1.5);
        assert_eq!(measured.hops_more(Way::Wrapped, Way::Single).unwrap().median, 4.0);
    }
}
