//! One flood: what it did to good clients, to the node's tables, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use gabion_api::v1::CountersResponse;

use super::attack::{self, Kind};
use super::clients::{self, Attempts, Health, Live};
use super::network::{ATTACKER, CLIENT};
use crate::lab::scenario::{Figure, Late};
use crate::lab::stage::Stage;

/// A known client fetches a page so often, and a new one.
const KNOWN_EVERY: Duration = Duration::from_millis(200);
const NEW_EVERY: Duration = Duration::from_millis(40);

/// How often the node is asked for its counters meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The part of the rate that the attacker has to reach.
const OFFERED: f64 = 0.8;

/// What was seen of one flood.
#[derive(Debug)]
struct Trial {
    offered: f64,
    known: Attempts,
    new: Attempts,
    live: Health,
    peaks: BTreeMap<String, (u64, u64)>,
    recovery: Duration,
    evicted: u64,
    drops: Vec<(String, u64)>,
}

/// Floods the node and reports; what must hold on any machine is checked.
///
/// # Errors
/// If the live connection died, a table went beyond its limit, the node is not ready, hardly any good client got
/// through, or [`Late`] if the machine cannot send that fast.
pub(super) fn run(stage: &mut Stage, kind: Kind, number: u16) -> Result<String> {
    let trial = Trial::run(stage, kind, number)?;
    for (name, (peak, limit)) in &trial.peaks {
        ensure!(peak <= limit, "{name}: {peak} entries with a limit of {limit}");
    }
    stage.wait_ready()?;
    let seen = trial.told();
    stage.figures = trial.figures();
    if kind != Kind::Nothing && trial.offered < OFFERED * f64::from(stage.load.packets_per_second) {
        // Entries age while the attacker is waiting for its turn: neither limits nor clients were put to the test.
        return Err(Late(format!("too slow a machine for this rate: {seen}")).into());
    }
    // What is published is measured with more room.
    ensure!(trial.known.per_cent() >= 50.0, "hardly any known client got through: {seen}");
    let least = if kind == Kind::SynTwice { 0.0 } else { 50.0 };
    ensure!(trial.new.per_cent() >= least, "hardly any new client got through: {seen}");
    Ok(seen)
}

impl Trial {
    fn run(stage: &mut Stage, kind: Kind, number: u16) -> Result<Self> {
        let load = stage.load;
        drain(stage)?;
        let (stop_flood, stop) = (Arc::default(), Arc::<AtomicBool>::default());
        let live = Live::open(stage)?.keep(&stop);
        let before = stage.counters()?;
        let flood = {
            let stop = Arc::clone(&stop_flood);
            stage.lab.namespace(ATTACKER).spawn(move || attack::send(kind, load, &stop))
        };
        // Tables fill before anybody good comes.
        std::thread::sleep(load.time / 8);
        let first = number.wrapping_mul(4_096);
        let known = clients::known(stage, KNOWN_EVERY, &stop);
        let new = clients::newcomers(stage, first, NEW_EVERY, &stop);
        let peaks = watch(stage, &flood);
        stop_flood.store(true, Ordering::Relaxed);
        let (sent, took) = joined(flood)?;
        let recovery = recover(stage, first.wrapping_add(4_000));
        stop.store(true, Ordering::Relaxed);
        let (known, new) = (joined(known)?, joined(new)?);
        let (_, live) = joined(live)?;
        let after = stage.counters()?;
        Ok(Self {
            offered: sent as f64 / took.as_secs_f64(),
            known,
            new,
            live,
            peaks: peaks?,
            recovery: recovery?,
            evicted: after.flows_evicted - before.flows_evicted,
            drops: risen(&before, &after),
        })
    }

    fn told(&self) -> String {
        format!(
            "{:.1} kpps; known {:.1} %, new {:.1} % got through; {} echoes, none lost",
            self.offered / 1_000.0,
            self.known.per_cent(),
            self.new.per_cent(),
            self.live.echoes
        )
    }

    fn figures(&self) -> Vec<Figure> {
        let number = |column, value: f64, digits: usize| Figure {
            column,
            text: format!("{value:.digits$}"),
            value: value.into(),
        };
        let time = |column, value: Option<f64>| match value {
            Some(value) => number(column, value, 1),
            None => Figure { column, text: "-".to_owned(), value: serde_json::Value::Null },
        };
        let peak = |column, table: &str| {
            let peak = self.peaks.get(table).map_or(0, |(peak, _)| *peak);
            Figure { column, text: peak.to_string(), value: peak.into() }
        };
        let drops: Vec<_> =
            self.drops.iter().map(|(name, rise)| format!("{name} {rise}")).collect();
        vec![
            number("kpps", self.offered / 1_000.0, 1),
            number("known %", self.known.per_cent(), 1),
            time("p50 ms", self.known.percentile(50)),
            time("p99 ms", self.known.percentile(99)),
            number("new %", self.new.per_cent(), 1),
            time("new p50", self.new.percentile(50)),
            time("new p99", self.new.percentile(99)),
            number("live gap ms", self.live.longest.as_secs_f64() * 1_000.0, 1),
            peak("flows", "flows"),
            peak("half-open", "half-open"),
            number("recovery ms", self.recovery.as_secs_f64() * 1_000.0, 0),
            Figure {
                column: "evicted",
                text: self.evicted.to_string(),
                value: self.evicted.into(),
            },
            Figure {
                column: "dropped",
                text: drops.join(", "),
                value: self.drops.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect(),
            },
        ]
    }
}

/// Waits until what an earlier flood has left is gone.
fn drain(stage: &mut Stage) -> Result<()> {
    const LONGEST: Duration = Duration::from_secs(20);
    let begin = Instant::now();
    let is_empty = |counters: CountersResponse| {
        let flows = counters.tables.iter().find(|table| table.name == "flows");
        flows.is_none_or(|flows| flows.used * 50 < flows.limit)
    };
    while !is_empty(stage.counters()?) {
        ensure!(begin.elapsed() < LONGEST, "tables are still full after {LONGEST:?}");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// The fullest that each table was while the flood went on, with its limit.
fn watch<T>(stage: &mut Stage, flood: &JoinHandle<T>) -> Result<BTreeMap<String, (u64, u64)>> {
    let mut peaks: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    while !flood.is_finished() {
        for table in stage.counters()?.tables {
            let peak = peaks.entry(table.name).or_default();
            *peak = (peak.0.max(table.used), table.limit);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(peaks)
}

/// How long after the flood a newcomer's first SYN is good enough again.
fn recover(stage: &Stage, first: u16) -> Result<Duration> {
    /// Less than the time after which a SYN is repeated.
    const AT_ONCE: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    let mut tried = 0;
    while begin.elapsed() < LONGEST {
        let took = begin.elapsed();
        let source = clients::newcomer(first.wrapping_add(tried));
        let page =
            stage.lab.namespace(CLIENT).enter(move || Ok(clients::fetch(source, AT_ONCE).is_ok()));
        if page? {
            return Ok(took);
        }
        tried = (tried + 1) % 90;
    }
    Err(anyhow!("{LONGEST:?} after the flood nobody gets through at once"))
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a part of the flood panicked")).context("flood")?
}

/// Drop reasons that have risen, the most frequent first.
fn risen(before: &CountersResponse, after: &CountersResponse) -> Vec<(String, u64)> {
    let old: BTreeMap<_, _> =
        before.drops.iter().map(|drop| (drop.name.as_str(), drop.value)).collect();
    let mut risen: Vec<_> = after
        .drops
        .iter()
        .map(|drop| {
            let old = old.get(drop.name.as_str()).copied().unwrap_or(0);
            (drop.name.clone(), drop.value.saturating_sub(old))
        })
        .filter(|(_, rise)| *rise > 0)
        .collect();
    risen.sort_by_key(|(_, rise)| std::cmp::Reverse(*rise));
    risen
}
