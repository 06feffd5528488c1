//! From the text of a policy to rules in force, and the same with one rule more.

use std::sync::Arc;
use std::time::Instant;

use gabion_benches::rulesets::{Class, Family, Rule, generate, policy_text};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// One rule set.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    text_kib: usize,
    /// Of all repetitions the fastest and the middle one.
    least_ms: f64,
    median_ms: f64,
    /// The least that the CPU was at work on it: what others on the machine distort less.
    cpu_ms: f64,
}

const REPETITIONS: usize = 5;

pub(crate) fn measure(wanted: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for class in Class::ALL {
        for count in [1, 1_000, 10_000, 100_000] {
            let name = format!("ms/install/{}4/{count}", class.label());
            if wanted(&name) {
                rows.push(measure_set(name, &generate(class, Family::V4, count, 1)));
            }
        }
    }
    rows
}

fn measure_set(name: String, rules: &[Rule]) -> Row {
    let text = policy_text(rules);
    let (mut times, mut cpu_times) = (Vec::new(), Vec::new());
    let mut in_force = None;
    for _ in 0..REPETITIONS {
        let (start, cpu_start) = (Instant::now(), cpu_ms());
        let loaded = gabion_rules::load("rules.yaml", &text, None);
        let loaded = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        // What the packets see is this exchange; the old one is freed by whoever pushed.
        let old = in_force.replace(Arc::clone(&loaded.rule_set));
        times.push(start.elapsed().as_secs_f64() * 1e3);
        cpu_times.push(cpu_ms() - cpu_start);
        drop(old);
    }
    times.sort_unstable_by(f64::total_cmp);
    let (least_ms, median_ms) = (times[0], times[times.len() / 2]);
    let cpu_ms = cpu_times.into_iter().fold(f64::INFINITY, f64::min);
    Row { name, text_kib: text.len() >> 10, least_ms, median_ms, cpu_ms }
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

pub(crate) fn print(rows: &[Row]) {
    crate::print_table(
        &["", "text KiB", "least ms", "median ms", "CPU ms"],
        rows.iter().map(|row| {
            let text = row.text_kib.to_string();
            vec![
                row.name.clone(),
                text,
                format!("{:.1}", row.least_ms),
                format!("{:.1}", row.median_ms),
                format!("{:.1}", row.cpu_ms),
            ]
        }),
    );
}
