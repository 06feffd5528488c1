//! A model of ownership, terms and registration (docs/cluster.md), searched through in every order of events.
//!
//! Messages are lost, doubled and reordered without bound; crashes, pauses, wrong opinions and steps within
//! the bounds below. `GABION_MODEL_DEPTH` and `GABION_MODEL_FAULTS` raise these.

mod heal;
mod node;
mod world;

use stateright::{Checker, HasDiscoveries, Model};

use node::{Conflict, Join, Release, Rules, Tombstone};
use world::{Bounds, Cluster};

/// What docs/cluster.md says.
const RULES: Rules = Rules {
    nodes: 2,
    keys: 1,
    ports: false,
    conflict: Conflict::Largest,
    tombstone: Tombstone::Birth,
    release: Release::AllHeard,
    join: Join::AllMembers,
};
const THREE: Rules = Rules { nodes: 3, ..RULES };
const PORTS: Rules = Rules { ports: true, ..RULES };

const CALM: Bounds = Bounds { crashes: 0, pauses: 0, suspicions: 0, lives: [1, 0] };
const CRASH: Bounds = Bounds { crashes: 1, ..CALM };
const PAUSE: Bounds = Bounds { pauses: 1, ..CALM };
const DOUBT: Bounds = Bounds { suspicions: 1, ..CALM };

const fn two_flows(bounds: Bounds) -> Bounds {
    Bounds { lives: [1, 1], ..bounds }
}

/// The properties that do not hold on some path of at most so many steps.
fn broken(rules: Rules, mut bounds: Bounds, depth: usize) -> Vec<String> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let depth = number("GABION_MODEL_DEPTH").unwrap_or(depth);
    if let Some(faults) = number("GABION_MODEL_FAULTS") {
        bounds.crashes *= faults as u8;
        bounds.pauses *= faults as u8;
        bounds.suspicions *= faults as u8;
    }
    let checker = Cluster { rules, bounds }
        .checker()
        .threads(2)
        .target_max_depth(depth)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    println!("{} states to depth {}", checker.unique_state_count(), checker.max_depth());
    let found = checker.discoveries().into_iter().filter(|(name, _)| name.starts_with('S'));
    let told = found.map(|(name, path)| {
        let end = format!("{:?}", path.last_state());
        let steps: Vec<_> =
            path.into_actions().iter().map(|step| format!("  {step:?}\n")).collect();
        format!("{name}\n{}{end}\n", steps.concat())
    });
    told.collect()
}

#[track_caller]
fn holds(rules: Rules, bounds: Bounds, depth: usize) {
    let broken = broken(rules, bounds, depth);
    assert!(broken.is_empty(), "{}", broken.concat());
}

#[track_caller]
fn fails(rules: Rules, bounds: Bounds, depth: usize, what: &str) {
    let broken = broken(rules, bounds, depth);
    assert!(broken.iter().any(|name| name.starts_with(what)), "the model is too weak: {broken:?}");
}

#[test]
fn two_nodes_agree_whatever_befalls_one() {
    for bounds in [CRASH, PAUSE, DOUBT] {
        holds(RULES, bounds, 40);
    }
}

#[test]
fn three_nodes_agree_whatever_befalls_one() {
    holds(Rules { keys: 2, ..THREE }, CALM, 40);
    for bounds in [CRASH, PAUSE, DOUBT] {
        holds(THREE, bounds, 11);
        holds(Rules { keys: 2, ..THREE }, bounds, 9);
    }
}

#[test]
fn two_flows_keep_their_ports_whatever_befalls_a_node() {
    for bounds in [CRASH, PAUSE, DOUBT] {
        holds(PORTS, two_flows(bounds), 12);
        holds(Rules { ports: true, ..THREE }, two_flows(bounds), 8);
    }
}

#[test]
fn the_next_connection_of_an_address_is_not_taken_for_the_last() {
    let again = Bounds { lives: [2, 0], ..CALM };
    holds(RULES, again, 40);
    fails(Rules { tombstone: Tombstone::Key, ..RULES }, again, 12, "S3");
}

#[test]
fn who_came_first_must_not_decide() {
    fails(Rules { keys: 2, conflict: Conflict::FirstCome, ..THREE }, CALM, 12, "S4");
}

#[test]
fn ports_must_rest_until_all_have_heard_of_the_end() {
    fails(Rules { release: Release::AtOnce, ..PORTS }, two_flows(DOUBT), 12, "S2");
}

#[test]
fn ports_must_rest_until_all_members_have_been_heard() {
    let cut_off = Bounds { suspicions: 1, ..two_flows(CRASH) };
    fails(Rules { join: Join::View, ..PORTS }, cut_off, 12, "S2");
}
