//! `drain`, `restart`, `join` and `partition`: what operators and networks do to nodes while connections live.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::balancer::{Mode, Transport};
use super::stage::Stage;
use super::survey::{Alive, Fate, Population, pause};
use super::traffic::{Mix, Told};
use crate::lab::report::{Findings, percentile};

/// Records of connections are copied once they are a second old.
const SETTLE: Duration = Duration::from_millis(2_500);
/// How long a cut lasts: longer than any time-out of the cluster. TCP tries again 1 s after it.
const CUT: Duration = Duration::from_secs(2);
const HEALED: Duration = Duration::from_secs(4);
/// What the cluster promises after a partition.
const CONVERGE: Duration = Duration::from_secs(5);
/// New connections a second beside the live ones, and how many there are at most.
const NEW_PER_SECOND: f64 = 20.0;
const NEW_MAX: u32 = 4_000;
/// New connections that may be under way in one moment.
const NEW_AT_ONCE: u64 = 2;

/// Drains the first node, and stops it where the load balancers let go of it.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn drain(stage: &mut Stage, population: &Population, mode: Mode) -> Result<Findings> {
    under_load(stage, population, |stage, findings| {
        let took = stage.drain(0)?;
        findings.time("drain_ms", Some(took));
        // A balancer that pins sends established TCP to the node for as long as the node exists.
        if mode == Mode::Steer {
            stage.members[0].end(Signal::TERM)?;
        }
        pause(SETTLE);
        Ok(())
    })
}

/// Drains, stops and starts all nodes, one after the other.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn restart(stage: &mut Stage, population: &Population) -> Result<Findings> {
    under_load(stage, population, |stage, findings| {
        let first = Instant::now();
        let mut took = Vec::new();
        for node in 0..stage.members.len() {
            let begin = Instant::now();
            stage.drain(node)?;
            stage.members[node].end(Signal::TERM)?;
            stage.wait_up(node, false)?;
            stage.start_nodes(node..node + 1)?;
            took.push(begin.elapsed());
        }
        findings.time("restart_ms", percentile(&took, 100.0));
        // What was lost at one node after the other, TCP says again after as long again.
        pause(SETTLE.max(first.elapsed()));
        Ok(())
    })
}

/// Starts the last node while the others work.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn join(stage: &mut Stage, population: &Population) -> Result<Findings> {
    under_load(stage, population, |stage, findings| {
        let last = stage.members.len() - 1;
        let begin = Instant::now();
        stage.start_nodes(last..last + 1)?;
        findings.time("join_ms", Some(begin.elapsed()));
        let [covered, established] = stage.coverage()?;
        let share = (established > 0).then(|| covered as f64 / established as f64);
        findings.share("coverage", share);
        // One that has begun just now has no copy yet.
        let missing = established.saturating_sub(covered + NEW_AT_ONCE);
        let seen = format!("{covered} of {established}");
        let is_covered = missing * 1_000 <= established;
        findings.check("coverage", "ready only with 99.9 % covered", is_covered, seen);
        pause(SETTLE);
        Ok(())
    })
}

/// Cuts the first node off from the others, first in one direction and then in both, and heals it.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn partition(stage: &mut Stage, population: &Population) -> Result<Findings> {
    let alive = Alive::open(stage, population)?;
    pause(SETTLE);
    let ways = alive.mark(stage);
    let nodes = stage.members.len();
    let there: Vec<_> = (1..nodes).map(|node| (0, node)).collect();
    let both: Vec<_> = there.iter().flat_map(|&(a, b)| [(a, b), (b, a)]).collect();
    let mut findings = Findings::default();
    let mut converged = Vec::new();
    for cuts in [there, both] {
        stage.relay.set(|conditions| conditions.cuts = cuts.into_iter().collect());
        pause(CUT);
        stage.relay.set(|conditions| conditions.cuts.clear());
        converged.push(stage.converge(4 * CONVERGE)?);
        pause(HEALED);
    }
    let drops = stage.drops();
    let survey = alive.end(ways)?;
    survey.figures(&mut findings, |fate| fate.ways.is_some_and(|[there, back]| there != back));
    survey.must_all_live(&mut findings);
    findings.note("drops", drops);
    let slowest = converged.iter().copied().collect::<Option<Vec<_>>>();
    let slowest = slowest.and_then(|times| times.into_iter().max());
    findings.time("converged_ms", slowest);
    let seen = slowest.map_or("not".to_owned(), |after| format!("after {after:.0?}"));
    findings.check("converged", "tables agree again", slowest.is_some(), seen.clone());
    let in_time = slowest.is_some_and(|after| after <= CONVERGE);
    findings.check_time("converged-time", "they do within 5 s", in_time, seen);
    Ok(findings)
}

/// Lets connections live and new ones come while `work` is done. None of either may be lost.
fn under_load(
    stage: &mut Stage,
    population: &Population,
    work: impl FnOnce(&mut Stage, &mut Findings) -> Result<()>,
) -> Result<Findings> {
    under_load_but(stage, population, |_| true, work)
}

/// The same where not all that live must live on.
pub(super) fn under_load_but(
    stage: &mut Stage,
    population: &Population,
    must_live: impl Fn(&Fate) -> bool,
    work: impl FnOnce(&mut Stage, &mut Findings) -> Result<()>,
) -> Result<Findings> {
    let alive = Alive::open(stage, population)?;
    pause(SETTLE);
    let ways = alive.mark(stage);
    let new = Mix { transports: vec![Transport::Tcp], ..population.mix.clone() };
    let newcomers = stage.begin_once(new.errands(NEW_MAX), NEW_PER_SECOND);
    let mut findings = Findings::default();
    work(stage, &mut findings)?;
    let told = newcomers.end()?;
    let survey = alive.end(ways)?;
    survey.figures(&mut findings, |_| true);
    survey.must_live(&mut findings, must_live);
    let failed: Vec<_> = told.iter().filter(|one| one.failure.is_some()).collect();
    findings.count("new", told.len() as u64);
    findings.count("new_failed", failed.len() as u64);
    let took: Vec<_> = told.iter().filter_map(|one| one.took).collect();
    findings.time("new_p99_ms", percentile(&took, 99.0));
    let first = failed.first().map(|one| explain(one)).unwrap_or_default();
    let seen = format!("{} of {} failed{first}", failed.len(), told.len());
    findings.check("new", "new connections meanwhile succeed", failed.is_empty(), seen);
    Ok(findings)
}

fn explain(one: &Told) -> String {
    format!("; the first: {}: {}", one.errand, one.failure.as_deref().unwrap_or_default())
}
