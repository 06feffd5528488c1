//! What is said about a run: a page for people, plots, and one JSON object for programs.

mod page;
mod plot;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::cases::{Bound, Case};
use crate::lab::{ArmKind, System};
use crate::load::Quantity;
use crate::machine::{Machine, PacketThreadShare};
use crate::profile::{ProgramShare, Stage};
use crate::ratio::{Interval, median};

/// Pairs in which the hypervisor took more of the CPU than this are dropped.
pub(crate) const STEAL_MAX: f64 = 0.01;
/// The A/A control must lie within this of 1, or the numbers beside it mean nothing.
const CONTROL_SPREAD_MAX: f64 = 0.05;

/// One sample of each arm, taken one after the other.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Group {
    /// By arm, a value for each quantity.
    pub(crate) values: BTreeMap<String, Vec<f64>>,
    /// The largest share of the CPU that the hypervisor took during a sample.
    pub(crate) stolen: f64,
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) load_after: f64,
    pub(crate) seconds_per_sample: u32,
    /// Other than the defaults.
    pub(crate) node_settings: Vec<String>,
    pub(crate) measured: Vec<Measured>,
    /// Of the programs alone; none without an arm that has them.
    pub(crate) stages: Vec<Stage>,
}

/// What came out for one quantity.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// metric/action/family/case
    pub(crate) name: String,
    unit: &'static str,
    is_time: bool,
    offered: String,
    /// In the order of the samples of even pairs.
    arms: Vec<String>,
    base: String,
    control: String,
    pairs: usize,
    pairs_dropped: usize,
    medians: BTreeMap<String, f64>,
    /// Of ratios to the base within pairs.
    ratios: BTreeMap<String, Interval>,
    /// The A/A control is too wide: claim nothing.
    void: bool,
    gates: Vec<GateResult>,
    /// gabiond's packet thread by arm, in the median.
    threads: BTreeMap<String, PacketThreadShare>,
    /// Bytes that each flow has taken, by arm, where there were enough to say.
    pub(crate) memory: BTreeMap<String, f64>,
    /// What programs did by arm, in a sample beside those that count.
    pub(crate) programs: BTreeMap<String, Vec<ProgramShare>>,
    samples: Vec<Group>,
    #[serde(skip)]
    decimals: usize,
}

#[derive(Debug, Clone, Serialize)]
struct GateResult {
    id: &'static str,
    arm: String,
    bound: String,
    ratio: Interval,
    met: bool,
}

/// How a run ended, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Met,
    Missed,
    Void,
}

impl Bound {
    fn holds(self, ratio: Interval) -> bool {
        match self {
            Self::AtLeast(least) => ratio.low >= least,
            Self::AtMost(most) => ratio.high <= most,
            Self::Within(spread) => ratio.lies_within(1.0 - spread, 1.0 + spread),
        }
    }

    /// How far the control may be from 1.
    fn spread(self) -> f64 {
        match self {
            Self::AtLeast(_) | Self::AtMost(_) => CONTROL_SPREAD_MAX,
            Self::Within(spread) => spread,
        }
    }

    fn label(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::Within(spread) => format!("1 ± {spread}"),
        }
    }
}

impl Measured {
    /// Of the quantity `at` of a comparison.
    pub(crate) fn new(
        case: &Case,
        at: usize,
        quantity: Quantity,
        samples: &[Group],
        shares: &BTreeMap<String, Vec<PacketThreadShare>>,
    ) -> Self {
        let (kept, dropped): (Vec<&Group>, Vec<&Group>) =
            samples.iter().partition(|group| group.stolen <= STEAL_MAX);
        let value = |group: &Group, arm: &str| group.values.get(arm)?.get(at).copied();
        let (base, control) = (case.base.label(), case.control.label());
        let mut medians = BTreeMap::new();
        let mut ratios = BTreeMap::new();
        for arm in case.arms.iter().map(|arm| arm.label()) {
            let values: Vec<f64> = kept.iter().filter_map(|group| value(group, &arm)).collect();
            let to_base =
                kept.iter().filter_map(|group| Some(value(group, &arm)? / value(group, &base)?));
            let to_base: Vec<f64> = to_base.collect();
            medians.extend(median(&values).map(|middle| (arm.clone(), middle)));
            if arm != base {
                ratios.extend(Interval::of(&to_base).map(|ratio| (arm, ratio)));
            }
        }
        // What must be so near to 1 can not be told by a control that is not.
        let spread = case.gates.iter().map(|gate| gate.bound.spread());
        let spread = spread.fold(CONTROL_SPREAD_MAX, f64::min);
        let is_steady = |control: &Interval| control.lies_within(1.0 - spread, 1.0 + spread);
        // Gates are about the first quantity; the others are there to be seen.
        let gates = case.gates.iter().filter(|_| at == 0).filter_map(|gate| {
            let ratio = *ratios.get(&gate.arm.label())?;
            let (arm, bound) = (gate.arm.label(), gate.bound.label());
            Some(GateResult { id: gate.id, arm, bound, ratio, met: gate.bound.holds(ratio) })
        });
        let threads =
            shares.iter().filter_map(|(arm, shares)| Some((arm.clone(), middle_of(shares)?)));
        Self {
            name: format!("{}/{}", quantity.what, case.name),
            unit: quantity.unit,
            is_time: quantity.is_time,
            offered: case.metric.offered(),
            arms: case.arms.iter().map(|arm| arm.label()).collect(),
            pairs: kept.len(),
            pairs_dropped: dropped.len(),
            void: !ratios.get(&control).is_some_and(is_steady),
            gates: gates.collect(),
            threads: threads.collect(),
            memory: BTreeMap::new(),
            programs: BTreeMap::new(),
            samples: samples.to_vec(),
            decimals: quantity.decimals,
            base,
            control,
            medians,
            ratios,
        }
    }

    /// What an arm takes more than the bare kernel for each thing that is counted, in nanoseconds.
    fn beyond_direct(&self, arm: &str) -> Option<f64> {
        let direct = ArmKind::of(System::Direct).label();
        let (value, direct) = (self.medians.get(arm)?, self.medians.get(&direct)?);
        match self.unit {
            "1/s" => Some((1.0 / value - 1.0 / direct) * 1e9),
            "us" => Some((value - direct) * 1e3),
            _ => None,
        }
    }
}

fn middle_of(shares: &[PacketThreadShare]) -> Option<PacketThreadShare> {
    let middle = |field: fn(&PacketThreadShare) -> f64| {
        median(&shares.iter().map(field).collect::<Vec<_>>())
    };
    Some(PacketThreadShare {
        on_cpu: middle(|share| share.on_cpu)?,
        in_kernel: middle(|share| share.in_kernel)?,
        waiting_for_cpu: middle(|share| share.waiting_for_cpu)?,
        scheduled_per_second: middle(|share| share.scheduled_per_second)?,
    })
}

impl Report {
    pub(crate) fn outcome(&self) -> Outcome {
        if self.measured.iter().any(|measured| measured.void) {
            return Outcome::Void;
        }
        let mut gates = self.measured.iter().flat_map(|measured| &measured.gates);
        if gates.any(|gate| !gate.met) { Outcome::Missed } else { Outcome::Met }
    }

    /// The page for people, as Markdown.
    pub(crate) fn page(&self) -> String {
        page::of(self)
    }

    /// Writes page, plots and all samples into a directory.
    ///
    /// # Errors
    /// When it can not be written to.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let samples = serde_json::to_string_pretty(self)? + "\n";
        let mut files = vec![("report.md", self.page()), ("results.json", samples)];
        files.push((plot::RATIOS, plot::ratios(&self.measured)));
        files.extend(plot::frames(&self.measured).map(|plot| (plot::FRAMES, plot)));
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cases;

    fn group(base: f64, gabion: f64, control: f64, stolen: f64) -> Group {
        let values = [("peer", base), ("gabion-ebpf", gabion), ("peer-again", control)];
        let values = values.map(|(arm, value)| (arm.to_owned(), vec![value]));
        Group { values: BTreeMap::from(values), stolen }
    }

    pub(super) fn report(groups: &[Group]) -> Report {
        let case = cases::all().into_iter().find(|case| case.id == "stream-gso").unwrap();
        let quantity = case.metric.quantities()[0];
        Report {
            machine: Machine::look(),
            command: "peer".to_owned(),
            load_after: 0.0,
            seconds_per_sample: 1,
            node_settings: Vec::new(),
            stages: Vec::new(),
            measured: vec![Measured::new(&case, 0, quantity, groups, &BTreeMap::new())],
        }
    }

    #[test]
    fn the_gate_is_held_by_the_lower_end() {
        let outcome = |groups: &[Group]| report(groups).outcome();
        assert_eq!(outcome(&vec![group(10.0, 10.7, 10.1, 0.0); 12]), Outcome::Met);
        assert_eq!(outcome(&vec![group(10.0, 9.0, 10.1, 0.0); 12]), Outcome::Missed);
    }

    #[test]
    fn bounds_are_held_by_the_far_end() {
        let ratio = Interval { median: 0.9, low: 0.89, high: 0.91 };
        assert!(!Bound::AtLeast(0.9).holds(ratio) && Bound::AtLeast(0.89).holds(ratio));
        assert!(!Bound::AtMost(0.9).holds(ratio) && Bound::AtMost(0.91).holds(ratio));
        assert!(!Bound::Within(0.1).holds(ratio) && Bound::Within(0.11).holds(ratio));
    }

    #[test]
    fn a_wide_control_voids_the_run() {
        assert_eq!(report(&vec![group(10.0, 11.0, 10.6, 0.0); 12]).outcome(), Outcome::Void);
        assert_eq!(report(&[]).outcome(), Outcome::Void);
    }

    #[test]
    fn pairs_with_steal_are_dropped() {
        let mut groups = vec![group(10.0, 7.0, 10.0, 0.0); 12];
        groups.extend(vec![group(10.0, 1.0, 5.0, 0.02); 30]);
        let report = report(&groups);
        let measured = &report.measured[0];
        assert_eq!((measured.pairs, measured.pairs_dropped), (12, 30));
        assert_eq!(measured.ratios["gabion-ebpf"].low, 0.7);
    }

    #[test]
    fn page_and_plots_say_what_was_measured() {
        let report = report(&vec![group(10.0, 10.7, 10.1, 0.0); 12]);
        let page = report.page();
        for part in ["rate/stream/tcp4-snat/gso", "P2a", "1.070", "met", "peer-again"] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
        let plot = plot::ratios(&report.measured);
        assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"));
        assert!(plot.contains("gabion-ebpf"));
    }
}
