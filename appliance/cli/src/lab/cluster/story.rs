//! `story`: what `make demo` tells. Two nodes, asymmetric traffic, and everything that may happen to a node.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::balancer::Transport;
use super::member::{Failing, Member};
use super::show::{Cell, NodeRow, Picture, Screen};
use super::stage::Stage;
use super::survey::{Alive, Population};
use super::traffic::{Mix, State};
use crate::lab::report::Findings;

/// Between two pictures.
const FRAME: Duration = Duration::from_millis(150);
/// New connections a second beside the live ones, and how many there are at most.
const NEW_PER_SECOND: f64 = 10.0;
const NEW_MAX: u32 = 2_000;

/// Plays the story on a screen and says what became of the connections.
///
/// # Errors
/// If the lab itself fails.
pub(super) fn run(
    stage: &mut Stage,
    population: &Population,
    screen: &mut Screen,
) -> Result<Findings> {
    screen.say(&format!("{} connections are opened", population.connections));
    let alive = Alive::open(stage, population)?;
    let new = Mix { transports: vec![Transport::Tcp], ..population.mix.clone() };
    let newcomers = stage.begin_once(new.errands(NEW_MAX), NEW_PER_SECOND);
    watch(stage, &alive, screen, 4);
    let ways = alive.mark(stage);

    let name = stage.members[0].name();
    screen.say(&format!("kill -9: {name}'s daemon"));
    let at = Instant::now();
    stage.members[0].fail(&stage.lab, Failing::Kill)?;
    let detected = stage.detection(0, at, Duration::from_secs(1));
    watch(stage, &alive, screen, 6);

    screen.say(&format!("{name} is started again, and learns what it missed before it says ready"));
    stage.start_nodes(0..1)?;
    watch(stage, &alive, screen, 4);

    let last = stage.members.len() - 1;
    let name = stage.members[last].name();
    screen.say(&format!("drain: {name} hands its connections over"));
    stage.drain(last)?;
    watch(stage, &alive, screen, 3);
    screen.say(&format!("{name} is stopped"));
    stage.members[last].end(Signal::TERM)?;
    watch(stage, &alive, screen, 4);
    screen.end();

    let told = newcomers.end()?;
    let survey = alive.end(ways)?;
    let mut findings = Findings::default();
    survey.figures(&mut findings, |_| true);
    findings.time("detection_ms", detected.peers.or(detected.balancers));
    let failed = told.iter().filter(|one| one.failure.is_some()).count();
    findings.count("new", told.len() as u64);
    findings.count("new_failed", failed as u64);
    survey.must_all_live(&mut findings);
    let seen = format!("{failed} of {} failed", told.len());
    findings.check("new", "new connections meanwhile succeed", failed == 0, seen);
    Ok(findings)
}

/// Draws pictures for some seconds.
fn watch(stage: &Stage, alive: &Alive, screen: &mut Screen, seconds: u64) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        screen.draw(&picture(stage, alive));
        std::thread::sleep(FRAME);
    }
}

fn picture(stage: &Stage, alive: &Alive) -> Picture {
    let cell = |state: &State| Cell {
        ways: stage.ways(&state.errand, state.local, state.seen_as),
        silence: state.last.elapsed(),
        is_lost: state.ending.is_some(),
    };
    let cells = alive.look().iter().map(cell).collect();
    let nodes = stage.members.iter().enumerate().map(|(node, member)| row(stage, node, member));
    Picture { nodes: nodes.collect(), cells }
}

fn row(stage: &Stage, node: usize, member: &Member) -> NodeRow {
    let status = if member.is_running() { member.cluster().ok().flatten() } else { None };
    let state = match &status {
        Some(status) => status.state.clone(),
        None if member.is_running() => "alone".to_owned(),
        None => "gone".to_owned(),
    };
    let status = status.unwrap_or_default();
    NodeRow {
        name: member.name(),
        is_up: stage.balancers.iter().all(|balancer| balancer.table().is_up(node)),
        state,
        owned: status.owned,
        copies: status.replicas,
        forwarded: status.members.iter().map(|peer| peer.wrapped_out).sum(),
    }
}
