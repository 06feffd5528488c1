//! `maintenance`: the platform announces that it will reboot machines, and does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::balancer::Mode;
use super::member::{Failing, Member};
use super::planned::under_load_but;
use super::platform::Platform;
use super::stage::Stage;
use super::survey::{Fate, Part, Population, pause};
use crate::lab::report::Findings;

/// For which machines an event is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Reboots {
    /// The first node's
    One,
    /// All nodes', for the same second
    All,
}

/// What Azure gives. Where balancers pin, nothing is acknowledged long before, as connections live on at the node.
const NOTICE: Duration = Duration::from_secs(15 * 60);
const NOTICE_PINNED: Duration = Duration::from_secs(25);
/// The node acknowledges 5 s before the time; its clock and the service's differ by the second that dates are written to.
const NEAR: Duration = Duration::from_secs(7);
/// How long it may take in any case.
const PATIENCE: Duration = Duration::from_secs(90);
/// For how long a machine is without power.
const AWAY: Duration = Duration::from_secs(2);
/// TCP tries again by then.
const SETTLE: Duration = Duration::from_secs(5);

/// Announces, waits for each node's word, takes its power away, and starts it again.
///
/// # Errors
/// If the lab itself fails, or an event is never acknowledged.
pub(super) fn run(
    stage: &mut Stage,
    population: &Population,
    mode: Mode,
    reboots: Reboots,
) -> Result<Findings> {
    let nodes = match reboots {
        Reboots::One => 1,
        Reboots::All => stage.members.len(),
    };
    ensure!(mode == Mode::Steer || nodes == 1, "--reboots all takes --balancer steer");
    // Where nothing is moved, what is pinned to a machine goes with it.
    let must_live = |fate: &Fate| mode == Mode::Steer || fate.part_of(0) == Part::None;
    under_load_but(stage, population, must_live, |stage, findings| {
        let platform = stage.platform.take().context("the lab has no metadata service")?;
        let begin = Instant::now();
        let notice = if mode == Mode::Pin { NOTICE_PINNED } else { NOTICE };
        platform.plan(0..nodes, notice);
        let mut seen = Seen::default();
        for node in 0..nodes {
            reboot(stage, &platform, node, &mut seen)?;
        }
        // The event is listed for minutes; a node that is back is of more use than one that drains again.
        pause(SETTLE);
        seen.last_drained = (0..nodes).all(|node| stage.is_up(node));
        findings.time("maintenance_ms", Some(begin.elapsed()));
        seen.hold(findings);
        if mode == Mode::Pin {
            let first = seen.acknowledged.first().copied().unwrap_or_default();
            let seen = format!("after {first:.1?} of {notice:?}");
            let has_waited = first + NEAR >= notice;
            findings.check("patient", "what is pinned has its time", has_waited, seen);
        }
        Ok(())
    })
}

/// What was seen of all reboots.
#[derive(Debug, Default)]
struct Seen {
    /// How long it took until each was acknowledged.
    acknowledged: Vec<Duration>,
    /// Who acknowledged what is not his, or too early.
    wrong: Vec<String>,
    /// Who did not serve while another drained or was away.
    absent: Vec<String>,
    last_drained: bool,
}

impl Seen {
    fn hold(&self, findings: &mut Findings) {
        findings.time("acknowledged_ms", self.acknowledged.first().copied());
        let told =
            |what: &[String]| what.first().cloned().unwrap_or_else(|| "so it was".to_owned());
        let what = "who owns nothing acknowledges its own event";
        findings.check("acknowledged", what, self.wrong.is_empty(), told(&self.wrong));
        let what = "the others do not drain meanwhile";
        findings.check("served", what, self.absent.is_empty(), told(&self.absent));
        let seen = if self.last_drained { "it serves" } else { "it is down" };
        let what = "who is back serves, its event still listed";
        findings.check("back", what, self.last_drained, seen.to_owned());
    }
}

/// How often each has drained.
fn drained(stage: &Stage) -> Vec<usize> {
    stage.members.iter().map(Member::drained_for_events).collect()
}

fn reboot(stage: &mut Stage, platform: &Platform, node: usize, seen: &mut Seen) -> Result<()> {
    let begin = Instant::now();
    let were = drained(stage);
    stage.wait_up_within(node, false, PATIENCE)?;
    let by = loop {
        if let Some(by) = platform.acknowledged_by(node) {
            break by;
        }
        let name = stage.members[node].name();
        ensure!(begin.elapsed() < PATIENCE, "{name} does not acknowledge its event");
        std::thread::sleep(Duration::from_millis(5));
    };
    seen.acknowledged.push(begin.elapsed());
    let status = stage.members[node].cluster()?.unwrap_or_default();
    let left = status.owned - status.closing;
    if by != node || left > 0 {
        let what = format!("that of node {} by {}, with {left} flows left", node + 1, by + 1);
        seen.wrong.push(what);
    }
    platform.begin(node);
    stage.members[node].fail(&stage.lab, Failing::PowerOff)?;
    pause(AWAY);
    let are = drained(stage);
    for other in (0..are.len()).filter(|other| *other != node && are[*other] != were[*other]) {
        seen.absent.push(format!("node {} drained for node {}'s event", other + 1, node + 1));
    }
    stage.members[node].power_on(&stage.lab)?;
    stage.start_nodes(node..node + 1)
}
