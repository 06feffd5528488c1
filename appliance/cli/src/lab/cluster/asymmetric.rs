//! `asymmetric` and `race`: new connections whose two directions go through different nodes.

use std::time::Duration;

use anyhow::Result;

use super::balancer::{Balancer, Transport};
use super::stage::Stage;
use super::traffic::{Errand, Told};
use crate::lab::report::{Findings, percentile};

/// A connection that took longer lost a packet of its handshake: Linux repeats after one second.
const SLOW: Duration = Duration::from_millis(500);

/// Opens all connections at a rate and says what became of them.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn run(stage: &Stage, errands: Vec<Errand>, per_second: f64) -> Result<Findings> {
    let before = stage.forwarded()?;
    let told = stage.begin_once(errands, per_second).wait()?;
    let forwarded = stage.forwarded()?.saturating_sub(before);
    let ways = |one: &Told| stage.ways(&one.errand, one.local, one.seen_as);
    let asymmetric = |one: &&Told| ways(one).is_some_and(|[there, back]| there != back);
    let connections = told.len();
    let apart = told.iter().filter(asymmetric).count();
    let failed: Vec<_> = told.iter().filter(|one| one.failure.is_some()).collect();
    let tcp = || told.iter().filter(|one| one.errand.transport == Transport::Tcp);
    let slow = tcp().filter(|one| one.took.is_some_and(|took| took > SLOW)).count();
    let took: Vec<_> = tcp().filter_map(|one| one.took).collect();
    let repeated: u64 = told.iter().map(|one| one.repeated).sum();

    let mut findings = Findings::default();
    findings.count("connections", connections as u64);
    findings.count("asymmetric", apart as u64);
    findings.count("forwarded", forwarded);
    findings.count("failed", failed.len() as u64);
    findings.count("slow", slow as u64);
    findings.time("p50_ms", percentile(&took, 50.0));
    findings.time("p99_ms", percentile(&took, 99.0));
    findings.time("max_ms", percentile(&took, 100.0));
    findings.count("repeated", repeated);
    let flaps = stage.balancers.iter().flat_map(Balancer::changes).filter(|change| !change.is_up);
    findings.count("probe_failures", flaps.count() as u64);
    let carried = stage.relay.carried();
    findings.count("sync_frames", carried.frames);
    findings.count("sync_bytes", carried.bytes);
    findings.count("sync_lost", carried.lost);
    let first = failed.first().map(|one| {
        let why = one.failure.as_deref().unwrap_or_default();
        format!("{}, through {:?}: {why}", one.errand, ways(one))
    });
    findings.check("failed", "no connection fails", failed.is_empty(), {
        let first = first.map(|first| format!("; the first: {first}")).unwrap_or_default();
        format!("{} of {connections} failed{first}", failed.len())
    });
    let slowest = tcp().filter(|one| one.took > Some(SLOW)).max_by_key(|one| one.took);
    let slowest = slowest.map(|one| {
        format!("; the slowest: {} as {:?}, through {:?}", one.errand, one.local, ways(one))
    });
    let slowest = slowest.unwrap_or_default();
    let seen = format!("{slow} of {} took more than {SLOW:?} to connect{slowest}", took.len());
    findings.check_time("slow", "none is delayed", slow == 0, seen);
    if stage.members.len() > 1 {
        let seen = format!("{apart} of {connections}");
        findings.check("asymmetric", "answers come by another node", apart * 4 > connections, seen);
    }
    Ok(findings)
}
