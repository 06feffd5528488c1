//! Nanoseconds per first packet, by class, family and number of rules.

use std::hint::black_box;
use std::time::Instant;

use gabion_benches::rulesets::{
    Class, Family, Hostile, Popularity, Rule, generate, hits, policy_text,
};
use gabion_rules::{Query, RuleSet};
use serde::Serialize;

/// One rule set and one kind of packets.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    packets: &'static str,
    /// One question after the other, without a clock between.
    mean_ns: f64,
    /// Of single questions, less what reading the clock takes.
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    memory_kib: usize,
    build_ms: f64,
}

const COUNTS: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// Different packets of a trace: more than any cache keeps apart by accident.
const PACKETS: usize = 100_000;

pub(crate) fn measure(wanted: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let families = [(Family::V4, "4"), (Family::V6, "6")];
    for (class, (family, digit)) in Class::ALL.iter().flat_map(|c| families.map(|f| (*c, f))) {
        for count in COUNTS {
            let name = format!("ns/classify/{}{digit}/{count}", class.label());
            if wanted(&name) {
                measure_set(&name, &generate(class, family, count, 1), &mut rows);
            }
        }
    }
    for hostile in Hostile::ALL {
        for count in [10_000, 100_000] {
            // A rule of lists has a hundred networks on either side.
            let count = if hostile == Hostile::Lists { count / 50 } else { count };
            let name = format!("ns/classify/hostile-{}/{count}", hostile.label());
            if wanted(&name) {
                measure_set(&name, &hostile.generate(count, 1), &mut rows);
            }
        }
    }
    rows
}

fn measure_set(name: &str, rules: &[Rule], rows: &mut Vec<Row>) {
    let text = policy_text(rules);
    let start = Instant::now();
    let loaded = gabion_rules::load("rules.yaml", &text, None);
    let rule_set = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}")).rule_set;
    let build_ms = start.elapsed().as_secs_f64() * 1e3;
    for popularity in Popularity::ALL {
        let trace = hits(rules, popularity, PACKETS, 2);
        let mean_ns = (0..3).map(|_| mean(&rule_set, &trace)).fold(f64::INFINITY, f64::min);
        let times = singles(&rule_set, &trace);
        let at = |quantile: usize| times[(times.len() - 1) * quantile / 1_000];
        rows.push(Row {
            name: name.to_owned(),
            packets: popularity.label(),
            mean_ns,
            p50_ns: at(500),
            p99_ns: at(990),
            max_ns: at(1_000),
            memory_kib: rule_set.matcher_bytes() >> 10,
            build_ms,
        });
    }
}

pub(crate) fn mean(rule_set: &RuleSet, trace: &[Query]) -> f64 {
    let start = Instant::now();
    for query in trace {
        black_box(rule_set.decide(query, &mut |_| {}));
    }
    start.elapsed().as_secs_f64() * 1e9 / trace.len() as f64
}

/// Sorted.
fn singles(rule_set: &RuleSet, trace: &[Query]) -> Vec<u64> {
    let nanos = |start: Instant| u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let clock = (0..1_000).map(|_| nanos(Instant::now())).min().unwrap_or(0);
    let time = |query: &Query| {
        let start = Instant::now();
        black_box(rule_set.decide(black_box(query), &mut |_| {}));
        nanos(start).saturating_sub(clock)
    };
    let mut times: Vec<u64> = trace.iter().map(time).collect();
    times.sort_unstable();
    times
}

pub(crate) fn print(rows: &[Row]) {
    let header = ["", "packets", "mean ns", "p50", "p99", "max", "KiB", "text to rules, ms"];
    crate::print_table(
        &header,
        rows.iter().map(|row| {
            let words = [
                row.p50_ns.to_string(),
                row.p99_ns.to_string(),
                row.max_ns.to_string(),
                row.memory_kib.to_string(),
                format!("{:.0}", row.build_ms),
            ];
            let front = [row.name.clone(), row.packets.to_owned(), format!("{:.0}", row.mean_ns)];
            front.into_iter().chain(words).collect()
        }),
    );
}
