//! A simulator of a cluster: engines, clients and servers, load balancers, the links between nodes, and
//! their clocks, in one thread and in virtual time. All of it follows from one seed.

mod balancer;
mod company;
mod conversation;
mod host;
mod invariants;
mod misfortune;
mod node;
mod policy;
mod programs;
mod schedule;
mod talk;
mod world;

use schedule::Schedule;
use world::World;

/// Events that are shown before what should not have happened.
const SHOWN: usize = 60;

/// Shows that many.
const SHOWN_VARIABLE: &str = "GABION_SIMULATE_SHOW";

/// What a schedule was like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    pub steps: u64,
    pub conversations: usize,
    pub over: usize,
    /// Packets that went by the table of the fast path.
    pub moved: u64,
}

/// Seeds with this bit are of nodes whose kernel moves settled flows by itself.
pub const FAST_PATH: u64 = 1 << 40;

/// Seeds with this bit are of nodes some of which have several workers.
pub const WORKERS: u64 = 1 << 41;

/// The seeds that a hunt goes through: every second one is of nodes with a fast path, every third one of workers.
pub fn seed_of(number: u64) -> u64 {
    let fast = if number.is_multiple_of(2) { FAST_PATH } else { 0 };
    let workers = if number.is_multiple_of(3) { WORKERS } else { 0 };
    number | fast | workers
}

/// Runs one schedule.
///
/// # Errors
/// What should not have happened, with the last events before it.
pub fn simulate(seed: u64) -> Result<Report, String> {
    run(&Schedule::draw(seed), Company::Peers)
}

/// Runs one node alone, to show that hosts, balancers and links are sound.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_alone(seed: u64) -> Result<Report, String> {
    run(&Schedule::draw_alone(seed), Company::None)
}

/// The tree that a seed is to be run on again: what it does changes with the code.
pub fn commit() -> String {
    let tree = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"];
    let said = std::process::Command::new("git").args(tree).output();
    let said = said.ok().filter(|output| output.status.success());
    said.map_or_else(
        || "an unknown commit".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    None,
    Peers,
}

fn run(schedule: &Schedule, company: Company) -> Result<Report, String> {
    let mut world = World::new(schedule.clone(), company);
    if world.run().is_ok() {
        let over = world.courses.iter().filter(|course| course.is_over()).count();
        let tables = world.nodes.iter().filter_map(|node| node.fast.as_ref());
        let moved = tables.map(crate::fast_path::ModelTable::moved).sum();
        let (steps, conversations) = (world.steps, world.courses.len());
        return Ok(Report { steps, conversations, over, moved });
    }
    // Once more, with words: it is the same.
    let mut world = World::new(schedule.clone(), company);
    world.tracing = true;
    let what = world.run().err().unwrap_or_else(|| "not the same again".to_owned());
    let shown = std::env::var(SHOWN_VARIABLE).ok().and_then(|text| text.parse().ok());
    let told = &world.told[world.told.len().saturating_sub(shown.unwrap_or(SHOWN))..];
    let (nodes, mode, severity) = (&schedule.workers, schedule.mode, schedule.severity);
    let at = world.now as f64 / 1e9;
    Err(format!(
        "{severity:?} {mode:?} workers of nodes {nodes:?} at {at:.6} s: {what}\nfaults {:?}\n{}",
        schedule.faults,
        told.join("\n")
    ))
}
