//! `failover`: a node fails under live connections.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::balancer::Mode;
use super::member::Failing;
use super::report::Findings;
use super::stage::Stage;
use super::survey::{Alive, Fate, Part, Population, Survey, pause, sorts};

/// Records of connections are copied once they are a second old.
const SETTLE: Duration = Duration::from_millis(2_500);
/// How long connections have to find their way again; what hangs longer than that is stuck.
const RECOVER: Duration = Duration::from_secs(6);
/// What the cluster promises: the longest silence beyond the detection.
const BEYOND_DETECTION: Duration = Duration::from_millis(250);
const DETECTION: Duration = Duration::from_millis(500);

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
    const VICTIM: usize = 0;
    let alive = Alive::open(stage, population)?;
    pause(SETTLE);
    let ways = alive.mark(stage);
    let at = Instant::now();
    let lab = &stage.lab;
    stage.members[VICTIM].fail(lab, by)?;
    let detected = stage.detection(VICTIM, at, Duration::from_secs(3));
    pause(RECOVER.saturating_sub(at.elapsed()));
    let drops = stage.drops();
    let survey = alive.end(ways)?;

    let mut findings = Findings::default();
    let is_affected = |fate: &Fate| fate.part_of(VICTIM) != Part::None;
    survey.figures(&mut findings, is_affected);
    findings.time("detection_ms", detected.peers.or(detected.balancers));
    findings.time("detection_balancers_ms", detected.balancers);
    findings.time("detection_peers_ms", detected.peers);
    let moved = stage.balancers.iter().map(|balancer| balancer.table().moved()).sum();
    findings.count("moved", moved);
    findings.note("drops", drops);
    hold(&mut findings, &survey, detected.peers.or(detected.balancers), (by, mode), is_affected);
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

fn hold(
    findings: &mut Findings,
    survey: &Survey,
    detected: Option<Duration>,
    (by, mode): (Failing, Mode),
    is_affected: impl Fn(&Fate) -> bool,
) {
    let seen = detected.map_or("never".to_owned(), |after| format!("after {after:.0?}"));
    let in_time = detected.is_some_and(|after| after <= DETECTION);
    findings.check("detection", "the failure is noticed within 500 ms", in_time, seen);
    let must_live = |fate: &&Fate| mode == Mode::Steer || !is_affected(fate);
    let judged: Vec<_> = survey.tcp.iter().chain(&survey.datagrams).filter(must_live).collect();
    let lost: Vec<_> = judged.iter().filter(|fate| !fate.survived()).collect();
    let first = lost.first().map(|fate| fate.told()).unwrap_or_default();
    let sorts = sorts(lost.iter().map(|fate| **fate));
    let alive = judged.len() - lost.len();
    let seen = format!("{alive} of {} survived{sorts}{first}", judged.len());
    let what = match mode {
        Mode::Steer => "every connection goes on",
        Mode::Pin => "what avoids the failed node goes on",
    };
    findings.check("survived", what, lost.is_empty(), seen);
    if mode == Mode::Steer {
        let longest = survey.gaps(|_| true).into_iter().max().unwrap_or_default();
        let limit = detected.unwrap_or(DETECTION) + BEYOND_DETECTION;
        let seen = format!("{longest:.0?} with a limit of {limit:.0?}");
        findings.check("gap", "silence ends 250 ms after the detection", longest <= limit, seen);
    } else if by == Failing::PowerOff {
        let hanging = survey.tcp.iter().filter(|fate| is_affected(fate));
        let stuck = hanging.filter(|fate| fate.is_stuck()).count();
        let seen = format!("{stuck} hang");
        findings.check("reset", "what cannot go on is reset", stuck == 0, seen);
    }
}
