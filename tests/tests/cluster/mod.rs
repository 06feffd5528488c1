//! The simulator's part of `make test`: what it has found once, and schedules that nobody has seen.
//!
//! `make simulate SECONDS=600` goes on for longer; `cargo run -p gabion-tests --bin simulate -- --seed N` shows
//! one again.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gabion_tests::cluster::{FAST_PATH, commit, seed_of, simulate, simulate_alone};

/// So long schedules are begun, each of which passes or fails by its seed alone: a fast machine sees more of
/// them. They begin with the same one each time, so that a change fails by its own doing;
/// `GABION_SIMULATE_FROM` and `make simulate` go hunting.
const TIME: Duration = Duration::from_secs(60);

/// Seeds that have shown a bug, and which.
const FOUND: &[(u64, &str)] = &[
    (7, "the director's own rules decided about a reply whose registration was on its way"),
    (15, "a claim that was granted and asked again was answered with not-mine"),
    (18, "a copy of a flow that had ended with its second owner was adopted at a blind RST"),
    (38, "a packet that was decided anew from its copy was counted twice"),
    (
        94,
        "a blind packet to a published server's own address made the director forget its connection",
    ),
    (113, "a node that was drained while it joined never gave out ports of shared addresses"),
    (512, "a connection was reset as if its other node were dead, after that had drained"),
    (690, "a copy was thrown away when the second key's holder was another"),
    (98, "an owner that died between a connection's end and its oblivion left a copy of it alive"),
    (5228, "a node that had stood still took its peers for dead, as they had not heard of it"),
    (5334, "what was sent before an adoption could not be acknowledged after it"),
    (5430, "a heartbeat that was overtaken by the next took a living peer's word back"),
    (6348, "a loss that one side did not see left a flow with two owners"),
    (6370, "the same with three nodes"),
    (2126, "an offer of a flow that had ended was found late, and taken"),
    (30177, "the copies of a node that stood still brought back what had ended meanwhile"),
    (30579, "packets that had waited while their node stood still brought back what had ended"),
    (51611, "an answer was taken for a question, and stood in the way of what it answered"),
    (300394, "a node that had stood still took offers of flows that had ended meanwhile"),
    (1708, "a node asked where a connection stands that its rules had come to forbid"),
    (4729, "the same of a copy"),
    (300922, "an offer of a connection that the other half had seen the end of was taken"),
    (
        400795,
        "a packet that had waited for seconds brought a connection back that had ended behind a cut",
    ),
    (302118, "an answer of which four asks were lost was taken for a question"),
    (900150, "three heartbeats that were lost in a row were a death"),
    (3000668, "an answer was dropped before its registration had been said for the fourth time"),
    (5000067, "a node that had stood still dropped what others handed it of its own flows"),
    (5000480, "the same with three nodes"),
    (5000693, "the same of one half of a connection"),
    (5000556, "a SYN that had waited for seconds made a flow that an old connection gave way to"),
    (
        1693,
        "two nodes that had opened one connection gave way to each other, one of them to a hint",
    ),
    (
        8000056,
        "one SYN had become two connections of two nodes, and the one that the client was not in was kept, as an offer \
         was taken for a repeated one, and as nobody asked which answer the client had taken",
    ),
    (
        9002104,
        "a node that had given a flow away believed its hint, and not who had registered it since",
    ),
    (7101045, "two nodes that had a copy of one connection waited for each other to take it over"),
    (60319, "a packet that the owner himself handed over, late, made another take the flow over"),
    (
        1_099_602_927_970,
        "a connection that went by a machine that was back was reset by a node that had not heard of it yet",
    ),
];

#[track_caller]
fn passes(seed: u64) {
    if let Err(what) =
        std::panic::catch_unwind(|| simulate(seed)).unwrap_or_else(|_| Err("a panic".to_owned()))
    {
        panic!(
            "seed {seed} of {}: {what}\nagain: cargo run -p gabion-tests --bin simulate -- --seed {seed}",
            commit()
        );
    }
}

#[test]
fn one_node_alone_carries_everything() {
    for seed in 0..4 {
        simulate_alone(seed).unwrap();
        let report = simulate_alone(seed | FAST_PATH).unwrap();
        assert!(report.moved > 100, "{report:?}");
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    for (seed, what) in FOUND {
        println!("{seed}: {what}");
        passes(*seed);
    }
}

#[test]
fn nothing_is_lost_whatever_befalls_a_cluster() {
    let chosen =
        std::env::var("GABION_SIMULATE_FROM").ok().and_then(|text| text.parse::<u64>().ok());
    let first = chosen.unwrap_or(1);
    println!("schedules from seed {first} of {}", commit());
    let (started, next) = (Instant::now(), AtomicU64::new(first));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while started.elapsed() < TIME {
                    passes(seed_of(next.fetch_add(1, Ordering::Relaxed)));
                }
            });
        }
    });
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let count = next.into_inner() - first;
    println!("{count} schedules, {:.0} a minute", count as f64 / minutes);
}
