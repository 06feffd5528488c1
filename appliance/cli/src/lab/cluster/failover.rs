//! `failover`: a node fails under live connections.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::balancer::Mode;
use super::member::Failing;
use super::stage::Stage;
use super::survey::{Alive, Fate, Part, Population, Survey, pause, sorts};
use crate::lab::report::{Findings, percentile};

/// Records of connections are copied once they are a second old.
const SETTLE: Duration = Duration::from_millis(2_500);
/// How long connections have to find their way again; what hangs longer than that is stuck.
const RECOVER: Duration = Duration::from_secs(6);
/// TCP waits twice as long from each repetition to the next: behind an outage as long again as that was, and a little.
const REPEATED: Duration = Duration::from_secs(1);
/// How long a daemon is away that comes back, where the balancer waits for it: TCP tries again within 3.2 s after that.
const OUTAGE: Duration = Duration::from_secs(2);
/// How long a frozen one stands still: Azure's freezes take less than ten seconds.
const FROZEN: Duration = Duration::from_secs(6);
/// What the cluster promises: the longest silence beyond the detection.
const BEYOND_DETECTION: Duration = Duration::from_millis(250);
/// Four that are missed, and one to say so.
const DETECTION_HEARTBEATS: u32 = 5;
/// Where a connection stands its copy knows a moment after its last packet, on a busy machine a longer one. One
/// that was in the midst of an exchange when all that knew it died cannot be reset, as nobody hears it.
const MIDST: Duration = Duration::from_millis(20);

/// The node that fails.
const VICTIM: usize = 0;

/// Makes the first node fail and says what became of the connections.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn run(
    stage: &mut Stage,
    population: &Population,
    by: Failing,
    mode: Mode,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let alive = Alive::open(stage, population)?;
    pause(SETTLE);
    let ways = alive.mark(stage);
    let at = Instant::now();
    let lab = &stage.lab;
    stage.members[VICTIM].fail(lab, by)?;
    let detected = stage.detection(VICTIM, at, Duration::from_secs(3));
    let comes_back = by == Failing::Freeze || (mode == Mode::Pin && by != Failing::PowerOff);
    let mut recover = RECOVER;
    if comes_back {
        let outage = if by == Failing::Freeze { FROZEN } else { OUTAGE };
        pause(outage.saturating_sub(at.elapsed()));
        come_back(stage, by)?;
        let outage = at.elapsed();
        findings.time("outage_ms", Some(outage));
        recover = recover.max(outage * 2 + REPEATED);
    }
    pause(recover.saturating_sub(at.elapsed()));
    if by == Failing::Freeze {
        hold_one_owner(&mut findings, stage, population)?;
    }
    let drops = stage.drops();
    let at_servers = stage.live_at_servers();
    let survey = alive.end(ways)?;
    let is_affected = |fate: &Fate| fate.part_of(VICTIM) != Part::None;
    survey.figures(&mut findings, is_affected);
    let whole = survey.gaps(|fate| fate.ways == Some([VICTIM; 2]));
    findings.time("gap_whole_p50_ms", percentile(&whole, 50.0));
    findings.time("gap_whole_max_ms", percentile(&whole, 100.0));
    findings.time("detection_ms", detected.peers.or(detected.balancers));
    findings.time("detection_balancers_ms", detected.balancers);
    findings.time("detection_peers_ms", detected.peers);
    let moved = stage.balancers.iter().map(|balancer| balancer.table().moved()).sum();
    findings.count("moved", moved);
    findings.note("drops", drops);
    let resets = survey.tcp.iter().filter_map(|fate| fate.state.ended);
    let last_reset = resets.map(|ended| ended.saturating_duration_since(at)).max();
    findings.time("reset_max_ms", last_reset);
    let must_live = match (mode, comes_back) {
        (Mode::Steer, _) | (Mode::Pin, true) => MustLive::All,
        (Mode::Pin, false) => MustLive::Elsewhere,
    };
    let limit = DETECTION_HEARTBEATS * stage.heartbeat;
    hold_detection(&mut findings, detected, limit);
    hold(&mut findings, &survey, must_live);
    if mode == Mode::Steer {
        let noticed = detected.peers.max(detected.balancers).unwrap_or(limit);
        hold_gap(&mut findings, &survey, noticed, population.pace);
    }
    if (by, mode) == (Failing::PowerOff, Mode::Pin) {
        hold_resets(&mut findings, &survey, at, at_servers);
        hold_reset_time(&mut findings, detected.peers.unwrap_or(limit), last_reset);
    }
    Ok(findings)
}

/// When a failure was noticed, from its beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Detected {
    /// By the other nodes.
    pub(super) peers: Option<Duration>,
    /// By the later of the load balancers.
    pub(super) balancers: Option<Duration>,
}

/// Starts the daemon again, or lets it go on; its machine was there all the while.
fn come_back(stage: &mut Stage, by: Failing) -> Result<()> {
    match by {
        Failing::Kill => stage.start_nodes(VICTIM..VICTIM + 1),
        Failing::Stop | Failing::Freeze => stage.members[VICTIM].resume(),
        Failing::PowerOff => Ok(()),
    }
}

/// Which connections nothing may happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MustLive {
    All,
    /// Those that avoid the failed node.
    Elsewhere,
}

fn hold_detection(findings: &mut Findings, detected: Detected, limit: Duration) {
    let noticed = detected.peers.or(detected.balancers);
    let seen = noticed.map_or("never".to_owned(), |after| format!("after {after:.0?}"));
    let in_time = noticed.is_some_and(|after| after <= limit);
    findings.check_time("detection", "it is noticed within five heartbeats", in_time, seen);
}

fn hold(findings: &mut Findings, survey: &Survey, must_live: MustLive) {
    let is_affected = |fate: &Fate| fate.part_of(VICTIM) != Part::None;
    let must = |fate: &&Fate| must_live == MustLive::All || !is_affected(fate);
    let judged: Vec<_> = survey.tcp.iter().chain(&survey.datagrams).filter(must).collect();
    let lost: Vec<_> = judged.iter().filter(|fate| !fate.survived()).collect();
    let first = lost.first().map(|fate| fate.told()).unwrap_or_default();
    let which = sorts(lost.iter().map(|fate| **fate));
    let alive = judged.len() - lost.len();
    let seen = format!("{alive} of {} survived{which}{first}", judged.len());
    let what = match must_live {
        MustLive::All => "every connection goes on",
        MustLive::Elsewhere => "what avoids the failed node goes on",
    };
    findings.check("survived", what, lost.is_empty(), seen);
}

fn hold_gap(findings: &mut Findings, survey: &Survey, noticed: Duration, pace: Duration) {
    let longest = survey.gaps(|_| true).into_iter().max().unwrap_or_default();
    // Packets find their way once both have noticed. An answer is due a pace after the last one.
    let limit = noticed + BEYOND_DETECTION;
    let overdue = longest.saturating_sub(pace);
    let seen = format!("{overdue:.0?} overdue with a limit of {limit:.0?}");
    findings.check_time("gap", "silence ends 250 ms after the detection", overdue <= limit, seen);
}

/// Where nothing moves connections, those of a machine that has gone are reset, on both sides.
fn hold_resets(findings: &mut Findings, survey: &Survey, at: Instant, at_servers: usize) {
    let stuck = survey.tcp.iter().filter(|fate| fate.is_stuck());
    let (excused, hanging): (Vec<_>, Vec<_>) =
        stuck.partition(|fate| fate.was_in_the_midst(at, MIDST));
    findings.count("stuck_in_the_midst", excused.len() as u64);
    let seen = format!("{} hang{}", hanging.len(), sorts(hanging.iter().copied()));
    let what = "what cannot go on is reset, but for what was in the midst of an exchange";
    findings.check("reset", what, hanging.is_empty(), seen);
    let open = survey.tcp.iter().filter(|fate| fate.state.ended.is_none()).count();
    let lost = survey.tcp.iter().filter(|fate| !fate.survived() && !fate.is_stuck());
    let unheard = lost.filter(|fate| fate.was_in_the_midst(at, MIDST)).count();
    let seen = format!(
        "{at_servers} are open at the servers, {open} at the clients, whose {unheard} others were in the midst of an exchange"
    );
    findings.check("reset-both", "both sides are told", at_servers <= open + unheard, seen);
}

/// A node that has stood still keeps nothing that others have taken over.
fn hold_one_owner(findings: &mut Findings, stage: &Stage, population: &Population) -> Result<()> {
    let owned: u64 = stage.statuses()?.iter().map(|status| status.owned - status.closing).sum();
    let flows = population.flows();
    findings.count("owned", owned);
    let seen = format!("{owned} of {flows}");
    findings.check("one-owner", "each flow has one owner", owned == flows, seen);
    Ok(())
}

fn hold_reset_time(findings: &mut Findings, noticed: Duration, last: Option<Duration>) {
    let limit = noticed + BEYOND_DETECTION;
    let in_time = last.is_none_or(|last| last <= limit);
    let seen = last.map_or("none was reset".to_owned(), |last| {
        format!("the last after {last:.0?} with a limit of {limit:.0?}")
    });
    findings.check_time("reset-time", "it is reset 250 ms after the detection", in_time, seen);
}
